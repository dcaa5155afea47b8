"""Gradients of steps that were made algebraically reversible: those of backpropagation, in memory that is flat."""

import pytest
import torch
from torch import nn

import dynamicblocks as db
from tests.gradients.test_checkpointed_solves import Net, live_bytes

ON_GRID = ["reversible('rk4')", "reversible('midpoint', coupling=0.99)"]
ADAPTIVE = ["reversible('dopri5(rtol=1e-6, atol=1e-8)')", "reversible('bosh3(rtol=1e-4, atol=1e-6)', coupling=0.99)"]


def compare(loss, inputs, modes=("reversible", "checkpoint"), tolerance=1e-9):
    """``loss`` makes a number by a gradient mode."""
    expected = torch.autograd.grad(loss("backprop"), inputs)
    assert all(each.abs().max() > 1e-4 for each in expected)
    for mode in modes:
        for one, other in zip(torch.autograd.grad(loss(mode), inputs), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def number(states):
    return (torch.linspace(0.5, 1.5, states.numel(), dtype=states.dtype).view_as(states) * states.sin()).sum()


@pytest.mark.parametrize("method", ON_GRID + ADAPTIVE)
@pytest.mark.parametrize("face", ["odeint", "solve"])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_gradients_are_those_of_backpropagation(method, face, direction, float64):
    net = Net()
    y0 = torch.randn(3, 4, requires_grad=True)
    t = (direction * torch.tensor([0.0, 0.11, 0.2, 0.42, 0.8, 1.5])).requires_grad_()
    options = {"step_size": 0.15} if method in ON_GRID else None

    def loss(mode):
        if face == "odeint":
            return number(db.odeint(net, y0, t, method=method, options=options, gradient=mode))
        return number(db.solve(net, y0, t, method=method, options=options, gradient=mode).y)

    compare(loss, [y0, t, *net.parameters()])


@pytest.mark.parametrize("method", ["reversible('rk4')", "reversible('dopri5')"])
def test_nested_states_args_and_events(method, float64):
    rate = torch.tensor(0.7, requires_grad=True)
    y0 = (torch.randn(3, requires_grad=True), torch.randn(2, requires_grad=True))
    t, options = torch.tensor([0.0, 0.4, 9.0]), {"step_size": 0.05} if "rk4" in method else None

    def loss(mode):
        found = db.solve(
            lambda t, y, rate: (-rate * y[0] * y[1].sum(), y[1].cos()), y0, t, args=(rate,), method=method,
            options=options, gradient=mode, event_fn=lambda t, y, rate: 1.23 - t,
        )  # fmt: skip
        return number(torch.cat(found.event_y)) + number(found.y[0][1])

    compare(loss, [*y0, rate])


@pytest.mark.parametrize("times", [[0.0, 0.3, 1.0, 1.7, 2.0], [2.0, 1.0, 0.3, 0.0]])
def test_a_field_that_jumps(times, float64):
    rate, y0 = torch.tensor(1.0, requires_grad=True), torch.ones(2, requires_grad=True)
    knots = torch.tensor([0.5, 1.5])

    def field(t, y):
        return -rate * y if t < 0.5 else torch.cos(rate * y * t) if t < 1.5 else rate * y

    compare(
        lambda mode: number(
            db.odeint(field, y0, torch.tensor(times), method="reversible('dopri5')", rtol=1e-6, atol=1e-8,
                      options={"jump_t": knots}, gradient=mode)
        ),
        [rate, y0], modes=["reversible"],
    )  # fmt: skip


@pytest.mark.parametrize("method", ["reversible('rk4')", "reversible('dopri5')"])
def test_random_numbers_are_refused(method):
    """On the way back the stages of a step are evaluated in another order."""
    y0 = torch.ones(3, requires_grad=True)
    noisy = lambda t, y: -y + 1e-9 * torch.rand_like(y)  # noqa: E731
    with pytest.raises(db.ConfigurationError, match=r"draws random numbers.*reversible\('"):
        db.odeint(noisy, y0, torch.linspace(0, 1, 4), method=method, gradient="reversible")
    with torch.no_grad():
        assert len(db.odeint(noisy, y0, torch.linspace(0, 1, 4), method=method, gradient="reversible")) == 4


def test_what_was_solved_before_a_failure_has_gradients(float64):
    y0, t, found = torch.ones(1, requires_grad=True), torch.linspace(0, 20, 41), []
    field = lambda t, y: torch.sin(t + y)  # noqa: E731
    for mode in ("backprop", "reversible"):
        with pytest.raises(db.StepLimitError) as raised:
            db.solve(field, y0, t, method="reversible('dopri5')", max_steps=12, gradient=mode)
        states = torch.stack(list(raised.value.circumstances.states))
        assert 3 < len(states) < len(t)
        found.append(torch.autograd.grad(states.sum(), y0)[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_the_adjoint_equation_is_solved_with_it_too(float64):
    net, y0, t = Net(), torch.randn(3, 4, requires_grad=True), torch.tensor([0.0, 0.5, 1.0])
    method = "reversible('dopri5(rtol=1e-8, atol=1e-8)')"
    for mode in ("adjoint", db.Adjoint(interpolant=True)):
        compare(
            lambda mode: number(db.odeint(net, y0, t, method=method, gradient=mode)),
            [y0, *net.parameters()], modes=[mode], tolerance=1e-5,
        )  # fmt: skip


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)

    def forward(self, t, y):
        return torch.tanh(self.norm(self.linear(y)) + t)


@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)"])
@pytest.mark.parametrize("integrator", [ON_GRID[0], "reversible('dopri5(rtol=1e-4, atol=1e-6)')"])
def test_blocks(controls, integrator, float64):
    times = db.graded(0, 1.5, steps=3, ratio=3)
    block = db.DynamicBlock(Layer, controls, times, integrator)
    y = torch.randn(8, 3, requires_grad=True)
    buffers = [buffer.clone() for buffer in block.buffers()]
    ends = []

    def loss(mode):
        for buffer, before in zip(block.buffers(), buffers, strict=True):
            buffer.copy_(before)
        value = number(block.replaced(gradient=mode).trajectory(y))
        ends.append([buffer.clone() for buffer in block.buffers()])
        return value

    compare(loss, [y, *block.parameters()], modes=["checkpoint"])
    assert all(torch.equal(one, two) for one, two in zip(*ends, strict=True))
    if integrator not in ON_GRID:
        exact = block.eval().replaced(integrator="dopri8(rtol=1e-8, atol=1e-8)")
        torch.testing.assert_close(block(y), exact(y), rtol=0, atol=1e-3)


@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)"])
def test_the_course_of_a_block_can_be_taken_back(controls, float64):
    block = db.DynamicBlock(Layer, controls, db.graded(0, 3, steps=5, ratio=3), "reversible('rk4')")
    y = torch.randn(8, 3, requires_grad=True)
    results = [
        torch.autograd.grad(number(mode.run(block.course(), y).states[-1]), [y, *block.parameters()])
        for mode in (db.Backprop(), db.Reversible())
    ]
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def peak(method, steps, mode, width=1000):
    """Bytes that live at most, in states."""
    weight = torch.full((width,), 0.1, requires_grad=True)
    y0, t = torch.linspace(0, 1, width).requires_grad_(), torch.tensor([0.0, 1.0])
    text = method.replace("STEP", repr(1 / steps))
    options = None if "STEP" in method else {"step_size": 1 / steps}
    with live_bytes()() as live:
        found = db.odeint(lambda t, y: torch.sin(weight * y), y0, t, method=text, options=options, gradient=mode)
        found[-1].sum().backward()
    return live.peak / (4 * width)


@pytest.mark.parametrize(
    "method",
    ["reversible('midpoint')", "reversible('adaptive_heun(first_step=STEP, max_step=STEP, max_steps=9999)')"],
)
def test_memory_is_flat(method):
    few = peak(method, 4, "reversible")
    assert peak(method, 40, "reversible") == pytest.approx(few, abs=1.0)
    assert peak(method, 40, "backprop") > 3 * few


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_the_mode_names_the_method_that_it_can_take(method):
    with pytest.raises(db.ConfigurationError, match=rf"got {method}\b.*The method \"reversible\('{method}'\)\""):
        db.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method=method, gradient="reversible")
    with pytest.raises(db.ConfigurationError, match=r"got gl4, whose .*The method \"reversible\('rk4'\)\""):
        db.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method="gl4", gradient="reversible")
