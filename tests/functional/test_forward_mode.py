"""Derivatives of solves carried forward, against differences, and against those carried backward."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

import dynamicblocks as db
from dynamicblocks.solving import compiled_steps

KIND = torch.float64
METHODS = ["euler", "midpoint", "heun2", "rk4", "alf", "reversible_heun", "two_step_midpoint", "adams_bashforth"]
T = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=KIND)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(KIND)

    def forward(self, t, y):
        return self.net(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1))


def weights(field):
    return {name: each.detach() for name, each in field.named_parameters()}


def moved(x, v, h):
    if isinstance(x, dict):
        return {name: moved(x[name], v[name], h) for name in x}
    return x + h * v


def directions(*inputs):
    return tuple(
        {name: torch.randn_like(each) for name, each in x.items()} if isinstance(x, dict) else torch.randn_like(x)
        for x in inputs
    )


def check(function, *inputs, tolerance=1e-7):
    """Forward derivatives along a random direction are central differences, and agree with backward ones."""
    v, h = directions(*inputs), 1e-6
    value, found = jvp(function, inputs, v)
    torch.testing.assert_close(value, function(*inputs), rtol=1e-12, atol=1e-12)
    there, back = (function(*(moved(x, d, step) for x, d in zip(inputs, v, strict=True))) for step in (h, -h))
    torch.testing.assert_close(found, (there - back) / (2 * h), rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(jvp(function, inputs, v)[1], found.detach(), rtol=1e-12, atol=1e-12)
    w = torch.randn_like(value)
    gradients = vjp(function, *inputs)[1](w)
    pairs = [
        (g[name], d[name]) if isinstance(d, dict) else (g, d)
        for g, d in zip(gradients, v, strict=True)
        for name in (d if isinstance(d, dict) else [None])
    ]
    torch.testing.assert_close(sum((g * d).sum() for g, d in pairs), (w * found).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_state_weights_and_times(method):
    field, y0, end = Field(), torch.randn(3, 2, dtype=KIND), torch.tensor(1.3, dtype=KIND)

    def solved(y0, params, end):
        return db.odeint(lambda t, y: functional_call(field, params, (t, y)), y0, T * end, method=method)

    check(solved, y0, weights(field), end)


@pytest.mark.parametrize("options", [
    {"step_size": 0.27}, {"step_size": 0.27, "interp": "cubic"}, {"step_size": 0.27, "perturb": True},
], ids=str)  # fmt: skip
def test_arguments_and_times_between_the_points_of_a_grid(options):
    field, y0, rate = Field(), torch.randn(2, 2, dtype=KIND), torch.tensor(0.7, dtype=KIND)

    def solved(y0, rate, shift):
        return db.solve(
            lambda t, y, rate: rate * field(t, y), y0, T + shift, args=(rate,), method="midpoint", options=options
        ).y

    check(solved, y0, rate, torch.tensor(0.1, dtype=KIND))


def test_steps_that_the_error_chose():
    field, y0 = Field(), torch.randn(2, 2, dtype=KIND)
    function = lambda y0, end: db.odeint(field, y0, T * end, rtol=1e-10, atol=1e-10)[-1]  # noqa: E731
    check(function, y0, torch.tensor(1.1, dtype=KIND), tolerance=1e-6)


def test_a_dense_solution_at_a_time():
    field, y0 = Field(), torch.randn(2, 2, dtype=KIND)
    check(lambda y0, t: db.odeint_dense(field, y0, 0.0, 1.0)(t), y0, torch.tensor(0.4, dtype=KIND), tolerance=1e-6)


def test_levels_of_forward_ad_with_weights_in_a_module():
    field, y0, (v,) = Field(), torch.randn(3, 2, dtype=KIND), directions(torch.zeros(3, 2, dtype=KIND))
    params = weights(field)
    (along,) = directions(params)
    expected = jvp(
        lambda y, p: db.solve(lambda t, y: functional_call(field, p, (t, y)), y, T, method="rk4").y,
        (y0, params),
        (v, along),
    )[1]
    with forward_ad.dual_level():
        for name, each in params.items():
            owner, _, leaf = name.rpartition(".")
            delattr(field.get_submodule(owner), leaf)
            setattr(field.get_submodule(owner), leaf, forward_ad.make_dual(each, along[name]))
        found = forward_ad.unpack_dual(db.solve(field, forward_ad.make_dual(y0, v), T, method="rk4").y).tangent
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_jacobians_and_batches_of_them():
    field, y0 = Field(), torch.randn(4, 2, dtype=KIND)

    def flow(y0, end):
        return db.odeint(field, y0, T * end if isinstance(end, torch.Tensor) else T, method="rk4")[-1]

    one = y0[0]
    torch.testing.assert_close(jacfwd(flow)(one, 1), jacrev(flow)(one, 1), rtol=1e-11, atol=1e-12)
    each = torch.stack([jacrev(flow)(y, 1) for y in y0])
    torch.testing.assert_close(vmap(jacfwd(lambda y: flow(y, 1)))(y0), each, rtol=1e-11, atol=1e-12)
    # Of times: one level above the other, in either order.
    end = torch.tensor(0.9, dtype=KIND)
    mixed = [
        outer(lambda e, inner=inner: inner(flow, 1)(one, e))(end)
        for outer in (jacfwd, jacrev)
        for inner in (jacfwd, jacrev)
    ]
    for found in mixed[1:]:
        torch.testing.assert_close(found, mixed[0], rtol=1e-9, atol=1e-10)


def test_a_loss_that_holds_a_forward_derivative_is_trained():
    """As of MeanFlow: d/dt of a solve to the time t, differentiated for the weights."""
    field, y0, one = Field(), torch.randn(3, 2, dtype=KIND), torch.tensor(1.0, dtype=KIND)
    (v,) = directions(y0)

    def loss(params):
        flow = lambda y, end: db.odeint(  # noqa: E731
            lambda t, y: functional_call(field, params, (t, y)), y, T * end, method="heun2"
        )[-1]
        return jvp(flow, (y0, one), (v, one))[1].square().sum()

    params = weights(field)
    check(loss, params, tolerance=1e-6)
    field.zero_grad()
    loss(dict(field.named_parameters())).backward()
    for name, found in grad(loss)(params).items():
        torch.testing.assert_close(field.get_parameter(name).grad, found, rtol=1e-11, atol=1e-12)


def test_a_compiled_grid_runs_as_it_is_there_and_compiled_afterwards():
    field, y0 = Field(), torch.randn(2, 2, dtype=KIND)
    function = lambda y0: db.odeint(field, y0, T, method="euler", options={"compile": True})  # noqa: E731
    (v,), plain = directions(y0), lambda y0: db.odeint(field, y0, T, method="euler")
    torch.testing.assert_close(jvp(function, (y0,), (v,)), jvp(plain, (y0,), (v,)), rtol=1e-12, atol=1e-12)
    assert not any(programs.failed for programs, _ in compiled_steps._kept.values())


def late(t, y):
    return t - 0.5


REFUSED = {
    "checkpoint": lambda f, y: db.solve(f, y, T, method="rk4", gradient="checkpoint").y,
    "adjoint": lambda f, y: db.solve(f, y, T, method="rk4", gradient="adjoint").y,
    "reversible": lambda f, y: db.solve(f, y, T, method="alf", gradient="reversible").y,
    "odeint_adjoint": lambda f, y: db.odeint_adjoint(f, y, T, method="rk4", adjoint_params=()),
    "compiled": lambda f, y: db.odeint(f, y, T, options={"compile": True}),
    "compiled adjoint": lambda f, y: db.solve(f, y, T, compile=True, gradient="adjoint").y,
    "batched": lambda f, y: db.solve(f, y, T, batched=True).y,
    "implicit": lambda f, y: db.odeint(f, y, T, method="implicit_euler"),
    "esdirk": lambda f, y: db.odeint(f, y, T, method="kvaerno3"),
    "event": lambda f, y: db.odeint_event(f, y, T[0], event_fn=late)[1],
    "event of solve": lambda f, y: db.solve(f, y, T, event_fn=late).event_y,
    "scipy": lambda f, y: db.odeint(f, y, T, method="scipy_solver"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("of", ["state", "weights", "state without gradients"])
def test_what_has_no_forward_derivatives_says_so(name, of):
    """Whatever moves: weights that a function merely closes over are seen by nobody."""
    field, y0 = Field(), torch.randn(2, 2, dtype=KIND)
    params = weights(field)
    call = REFUSED[name]
    if of == "weights":
        function = lambda p: call(lambda t, y: functional_call(field, p, (t, y)), y0)  # noqa: E731
        inputs = (params,)
    else:
        function, inputs = (lambda y: call(field, y)), (y0,)
    if of == "state without gradients":
        field.requires_grad_(False)
    with pytest.raises(db.ConfigurationError, match=r"forward mode"):
        jvp(function, inputs, directions(*inputs))
