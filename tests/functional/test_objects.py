"""Objects and strings with arguments in the place of names, in every face."""

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import METHODS, Adams, ReversibleHeun, as_integrator, list_integrators

T = torch.linspace(0, 1, 11, dtype=torch.float64)
Y = torch.tensor([1.0, -0.5], dtype=torch.float64)
THIRDS = db.RungeKutta(db.Tableau("thirds", 3, ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)))


def field(t, y):
    return torch.cos(t) * y - y**3


class Layer(nn.Module):
    def forward(self, t, y):
        return torch.cos(torch.as_tensor(t)) * y - y**3


def solved(method, **keywords):
    return db.solve(field, Y, T, method=method, **keywords).y


def test_an_object_is_the_method_of_its_name():
    assert torch.equal(solved(THIRDS), solved("heun3"))
    assert torch.equal(db.odeint(field, Y, T, method=THIRDS), db.odeint(field, Y, T, method="heun3"))
    assert torch.equal(solved(Adams(implicit=False)), solved("explicit_adams"))
    assert torch.equal(solved(ReversibleHeun()), solved("reversible_heun"))


def test_an_adaptive_object_brings_its_tolerances_and_its_controller():
    for made in (db.Adaptive("tsit5", rtol=1e-6, atol=1e-8), "tsit5(rtol=1e-6, atol=1e-8)"):
        expected = db.solve(field, Y, T, method="tsit5", rtol=1e-6, atol=1e-8)
        found = db.solve(field, Y, T, method=made)
        assert torch.equal(found.y, expected.y)
        assert found.statistics.accepted == expected.statistics.accepted
        expected = db.odeint(field, Y, T, method="tsit5", rtol=1e-6, atol=1e-8)
        assert torch.equal(db.odeint(field, Y, T, method=made), expected)
    fixed = db.Adaptive("dopri5", rtol=0.1, atol=0.1, first_step=0.05, max_step=0.05)
    assert db.solve(field, Y, T, method=fixed).statistics.accepted == 20
    with pytest.raises(db.StepLimitError, match="3 steps"):
        solved(db.Adaptive("dopri5", rtol=1e-9, max_steps=3))


def test_objects_in_batches_dense_solutions_events_and_the_adjoint():
    made = db.Adaptive("dopri5", rtol=1e-7, atol=1e-9)
    y0 = torch.stack([Y, 2 * Y])
    assert torch.equal(
        db.solve(field, y0, T, method=made, batched=True).y,
        db.solve(field, y0, T, rtol=1e-7, atol=1e-9, batched=True).y,
    )
    assert torch.equal(db.odeint_dense(field, Y, 0.0, 1.0, method=made)(T), db.odeint_dense(field, Y, 0.0, 1.0)(T))
    keywords = {"event_fn": lambda t, y: y[1] + 0.6, "method": made}
    assert db.odeint_event(field, Y, T[0], **keywords)[0] == pytest.approx(
        db.odeint_event(field, Y, T[0], event_fn=keywords["event_fn"])[0].item(), abs=1e-8
    )
    y = Y.clone().requires_grad_()
    one, two = (
        torch.autograd.grad(db.odeint_adjoint(field, y, T, method=method, adjoint_params=()).sum(), y)[0]
        for method in (made, "dopri5")
    )
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "mode", [db.Checkpoint(states=4), "checkpoint(states=4)", "checkpoint(segments=4)", db.Adjoint(), "reversible"]
)
def test_gradient_modes_are_objects_too(mode):
    method = "alf" if mode == "reversible" else "dopri5"

    def gradient(**keywords):
        y = Y.clone().requires_grad_()
        return torch.autograd.grad(db.solve(field, y, T, method=method, rtol=1e-8, atol=1e-8, **keywords).y.sum(), y)[0]

    torch.testing.assert_close(gradient(gradient=mode), gradient(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", [db.solve, db.odeint])
@pytest.mark.parametrize("method", [THIRDS, db.Adaptive("dopri5"), "dopri5(rtol=1e-4)", "rk4()"], ids=repr)
@pytest.mark.parametrize("beside", [{"rtol": 1e-3}, {"atol": torch.tensor(1e-3)}, {"options": {"step_size": 0.1}}])
def test_what_an_object_brings_is_not_given_beside_it(solver, method, beside):
    with pytest.raises(db.ConfigurationError, match=f"brings what it needs, so {next(iter(beside))} beside it"):
        solver(field, Y, T, method=method, **beside)


def test_options_beside_a_gradient_mode_that_is_an_object():
    with pytest.raises(db.ConfigurationError, match="leave states out of gradient_options"):
        solved("rk4", gradient=db.Checkpoint(), gradient_options={"states": 4})


@pytest.mark.parametrize("name", METHODS)
def test_blocks_take_every_method_or_say_why_not(name):
    if name in ("kvaerno5", "scipy_solver"):
        with pytest.raises(db.ConfigurationError, match=r"beyond the end of its steps|solves with SciPy"):
            db.DynamicBlock(Layer, 2, integrator=name)
        assert name not in list_integrators()
        return
    made = as_integrator(name)
    adaptive = isinstance(made, db.Adaptive)
    written = f"{name}(rtol=1e-7, atol=1e-7, max_steps=10000)" if adaptive else name
    block = db.DynamicBlock(Layer, "linear(3)", db.uniform(0, 1, steps=400), written)
    expected = db.odeint(field, Y[None], T, rtol=1e-10, atol=1e-12)[-1]
    within = 1e-5 if adaptive else 1e-8 if made.order > 2 else 1e-2 / 4**made.order
    torch.testing.assert_close(block(Y[None]), expected, rtol=0, atol=within)
    assert as_integrator(block.integrator.shorthand) == block.integrator


@pytest.mark.parametrize("name", ["explicit_adams", "implicit_adams"])
def test_adams_methods_begin_anew_where_theta_jumps(name):
    """On two steps for each constant piece nothing can be remembered: all steps are rk4's."""
    torch.manual_seed(0)
    layer = lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh())  # noqa: E731
    block = db.DynamicBlock(layer, 4, db.uniform(0, 4, steps=8), "rk4").double()
    y = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(db.with_integrator(block, name)(y), block(y))
    # With many steps a piece, each piece is solved to the order of the method.
    fine = db.with_integrator(block, "rk4", steps=4000)(y)
    errors = [(db.with_integrator(block, name, steps=steps)(y) - fine).abs().max().item() for steps in (160, 320)]
    assert errors[0] / errors[1] > 2**3.7


def test_orders_of_adams_methods_are_arguments_in_blocks():
    block = db.DynamicBlock(Layer, "linear(2)", db.uniform(0, 1, steps=20), "explicit_adams(max_order=4)")
    assert block.integrator == Adams(implicit=False, max_order=4)
    assert repr(block.integrator.shorthand) == "'explicit_adams(max_order=4)'"


def test_reversible_heun_uses_a_slope_twice_where_the_field_does_not_jump():
    assert as_integrator("reversible_heun") == ReversibleHeun(reuse=False)
    assert as_integrator("reversible_heun(reuse=True)") == ReversibleHeun()
    assert db.solve(field, Y, T, method="reversible_heun").statistics.evaluations == 11
    assert db.solve(field, Y, T, method="reversible_heun()").statistics.evaluations == 20
