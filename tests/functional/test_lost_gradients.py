"""Fields that hold modules in other ways than as a module: their parameters get gradients, or an error says so."""

import functools

import pytest
import torch
from torch import nn

import dynamicblocks as db

T = torch.tensor([0.0, 0.5, 1.0])
OLD_TRANSFORMS = tuple(int(each) for each in torch.__version__.split(".")[:2]) < (2, 11)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([0.5, 1.5]))
        self.frozen = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def slope(self, t, y):
        return -self.frozen * self.rate * y

    def forward(self, scale, t, y):
        return scale * self.slope(t, y)


class Calling:
    """An object with modules inside, no module itself."""

    def __init__(self, inner):
        self.inner = [inner]

    def __call__(self, t, y):
        return self.inner[0].slope(t, y)

    def other(self, t, y):
        return self(t, y)


FORMS = {
    "method": lambda held: held.slope,
    "partial": lambda held: functools.partial(held, 1.0),
    "partial of a method": lambda held: functools.partial(held.slope),
    "partial with a module": lambda held: functools.partial(lambda inner, t, y: inner.slope(t, y), held),
    "object": Calling,
    "method of an object": lambda held: Calling(held).other,
}


def exact(held, y0):
    return (y0 * torch.exp(-held.rate)).sum()


@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("gradient", "method"),
    [("adjoint", "dopri5"), ("checkpoint", "dopri5"), ("reversible", "alf"), ("adjoint", "rk4")],
)
def test_what_a_function_holds_gets_its_gradient(gradient, method, form, needs, float64):
    held, y0 = Holder(), torch.tensor([2.0, 3.0], requires_grad=needs)
    options = {"step_size": 0.05} if method != "dopri5" else None
    (expected,) = torch.autograd.grad(exact(held, y0), held.rate)
    solvers = [
        lambda func: db.solve(func, y0, T, method=method, options=options, gradient=gradient).y,
        lambda func: db.odeint(func, y0, T, method=method, options=options, gradient=gradient),
    ]
    for solver in solvers:
        (found,) = torch.autograd.grad(solver(FORMS[form](held))[-1].sum(), held.rate)
        torch.testing.assert_close(found, expected, rtol=3e-3, atol=1e-4)


@pytest.mark.parametrize("needs", [False, True])
def test_a_tensor_that_is_closed_over_is_an_error_of_the_adjoint(needs, float64):
    held, y0 = Holder(), torch.tensor([2.0, 3.0], requires_grad=needs)
    with pytest.raises(db.ConfigurationError, match="the adjoint method would lose it"):
        db.solve(lambda t, y: held.slope(t, y), y0, T, gradient="adjoint").y[-1].sum().backward()
    with pytest.raises(db.ConfigurationError, match="the adjoint method would lose it"):
        db.odeint(lambda t, y: held.slope(t, y), y0, T, gradient="adjoint", method="euler")[-1].sum().backward()
    with torch.no_grad():
        y = db.solve(lambda t, y: held.slope(t, y), y0, T, gradient="adjoint").y
    assert not y.requires_grad


@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("gradient", ["adjoint", "checkpoint"])
def test_a_tensor_that_is_read_for_a_while_only(gradient, needs, float64):
    late, y0 = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=needs)

    def field(t, y):
        return -y * late if 0.4 < t < 0.6 else -y

    def run():
        y = db.solve(field, y0, torch.tensor([0.0, 1.0]), gradient=gradient, options={"max_step": 0.05}).y
        y[-1].sum().backward()
        return late.grad

    if needs or gradient == "adjoint":
        with pytest.raises(db.ConfigurationError, match="would lose it"):
            run()
    else:  # no state is known to need a gradient, so that the steps themselves are differentiated
        assert run().tolist() == pytest.approx([-0.2 * torch.exp(torch.tensor(-1.0)).item()] * 2, rel=0.05)


def test_the_adjoints_of_torchdiffeq_keep_their_rules(float64):
    held = Holder()
    with pytest.raises(ValueError, match=r"must be an instance of nn\.Module"):
        db.odeint_adjoint(held.slope, torch.ones(2), T)
    y = db.odeint_adjoint(held.slope, torch.ones(2), T, adjoint_params=())
    assert not y.requires_grad
    y = db.odeint_adjoint(held.slope, torch.ones(2), T, adjoint_params=held.parameters())
    assert y.requires_grad


def test_scipy_says_that_it_has_no_gradient(float64):
    held = Holder()
    for y0, func in ((torch.ones(2), held.slope), (torch.ones(2, requires_grad=True), lambda t, y: -y)):
        y = db.odeint(func, y0, T, method="scipy_solver")
        with pytest.raises(db.ConfigurationError, match="through which no gradient flows"):
            y[-1].sum().backward()
        with torch.no_grad():
            assert not db.odeint(func, y0, T, method="scipy_solver").requires_grad
    assert not db.odeint(lambda t, y: -y, torch.ones(2), T, method="scipy_solver").requires_grad
    y = db.odeint_adjoint(held.slope, torch.ones(2), T, method="scipy_solver", adjoint_params=(held.rate,))
    (found,) = torch.autograd.grad(y[-1].sum(), held.rate)
    torch.testing.assert_close(found, -torch.exp(-held.rate.detach()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "solve",
    [
        lambda y: db.odeint_adjoint(lambda t, y: -y, y, T, adjoint_params=()),
        lambda y: db.odeint(lambda t, y: -y, y, T, gradient="checkpoint"),
        lambda y: db.odeint(lambda t, y: -y, y, T, gradient="reversible", method="alf"),
        lambda y: db.solve(lambda t, y: -y, y[None], T, batched=True).y,
        lambda y: db.odeint(lambda t, y: -y, y, T, method="implicit_midpoint"),
        lambda y: db.odeint_event(lambda t, y: -y, y, T[0], event_fn=lambda t, y: y[0] - 0.5)[1],
        lambda y: db.odeint(lambda t, y: -y, y, T, method="scipy_solver"),
    ],
)
def test_transforms_that_a_solve_is_not_for_are_named(solve, float64):
    y = torch.ones(2)
    for transform in (
        lambda: torch.func.jacrev(solve)(y),
        lambda: torch.func.vjp(solve, y),
        lambda: torch.func.grad(lambda y: solve(y).sum())(y),
        lambda: torch.func.vmap(solve)(torch.ones(3, 2)),
    ):
        with pytest.raises(db.ConfigurationError, match=r"transform of torch\.func"):
            transform()


@pytest.mark.skipif(OLD_TRANSFORMS, reason="in transforms of PyTorch 2.6 (no longer of 2.11) no tensor is made a list")
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_transforms_of_explicit_methods_work(method, float64):
    def solve(y):
        return db.odeint(lambda t, y: -y, y, T, method=method)[-1]

    y = torch.tensor([1.0, 2.0])
    expected = solve(torch.ones(1)) * torch.eye(2)
    torch.testing.assert_close(torch.func.jacrev(solve)(y), expected, rtol=1e-6, atol=1e-8)

    if method == "dopri5":
        with pytest.raises(db.ConfigurationError, match="adaptive ones under all but vmap"):
            torch.func.vmap(solve)(torch.ones(3, 2))
    else:
        torch.testing.assert_close(torch.func.jacfwd(solve)(y), expected, rtol=1e-6, atol=1e-8)
        assert torch.func.vmap(solve)(torch.ones(3, 2)).shape == (3, 2)


def test_an_error_of_the_field_stays_what_it_is():
    with pytest.raises(RuntimeError, match="of the field's own") as caught:
        db.odeint(broken, torch.ones(2), T)
    assert type(caught.value) is RuntimeError


def broken(t, y):
    raise RuntimeError("of the field's own")
