"""Solves with few kept states: the gradients of backpropagation, in bounded memory."""

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.checkpoint import EveryKth
from dynamicblocks.integrators import METHODS
from dynamicblocks.solving import StepLimitError
from dynamicblocks.solving.make_course import make_course
from dynamicblocks.solving.problem import make_problem
from dynamicblocks.solving.scheme import Scheme

METHOD_OPTIONS = {
    "dopri5": {},
    "bosh3": {},
    "dopri8": {},
    "kvaerno3": {},
    "rk4": {"step_size": 0.07},
    "implicit_midpoint": {"step_size": 0.1},
    "explicit_adams": {"step_size": 0.07, "interp": "cubic"},
    "implicit_adams": {"step_size": 0.02},
}


def live_bytes():
    """benchmarks/live_bytes.py, which is no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "live_bytes.py"
    spec = importlib.util.spec_from_file_location("live_bytes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LiveBytes


class Net(nn.Module):
    def __init__(self, width=4, **kwargs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, width))
        self.scale = 2.0

    def forward(self, t, y, rate=0.5):
        return self.scale * self.layers(y) - rate * y + torch.sin(3 * t)


def set_up(func, y0, t, method, options=(), rtol=1e-6, atol=1e-8, args=(), event=None, **known):
    """The course of a problem; ``event`` makes its event of it."""
    problem = make_problem(func, y0, t, args, **known)
    scheme = Scheme(METHODS[method], rtol, atol, dict(options))
    return make_course(scheme, problem, event=event)


def plain(course):
    return course.follow(course.problem.y0)


def checkpointed(course, states):
    return db.Checkpoint(states).run(course, course.problem.y0)


def gradients(found, inputs, retain=False):
    """Of a function of the states in which no two entries are alike."""
    states = found.stacked()
    weights = torch.linspace(0.5, 1.5, states.numel(), dtype=states.dtype).reshape(states.shape)
    loss = (weights * states).sum() + (states[-1] ** 2).sum()
    return states.detach(), torch.autograd.grad(loss, inputs, retain_graph=retain)


def compare(func, y0, t, method, inputs, states=3, tolerance=1e-12, args=(), options=None, loose=(), **known):
    options = METHOD_OPTIONS[method] if options is None else options
    set_again = lambda **known: set_up(func, y0, t, method, options, args=args, **dict(loose), **known)  # noqa: E731
    values, expected = gradients(plain(set_again()), inputs, retain=True)
    found, got = gradients(checkpointed(set_again(**known), states), inputs)
    torch.testing.assert_close(found, values, rtol=0, atol=1e-13)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", METHOD_OPTIONS)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_gradients_are_those_of_backpropagation(method, direction, float64):
    net, rate = Net(), torch.tensor(0.7, requires_grad=True)
    y0 = torch.randn(3, 4, requires_grad=True)
    t = (direction * torch.tensor([0.0, 0.31, 0.5, 1.7])).requires_grad_()
    # Newton's method stops where the tolerance lets it, at a place that rounding decides.
    tolerance = 1e-8 if method in ("kvaerno3", "implicit_midpoint") else 1e-12
    inputs = [y0, t, rate, *net.parameters()]
    loose = {"rtol": 1e-3, "atol": 1e-4} if method == "kvaerno3" else {}
    compare(net, y0, t, method, inputs, 3, tolerance, (rate,), loose=loose, tensors=[*net.parameters(), rate])


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_nested_states(method, float64):
    def field(t, state):
        return {"a": (-weight * state["b"][0],), "b": [state["a"][0] * t]}

    weight = torch.randn(3, requires_grad=True)
    y0 = {"a": (torch.randn(3, requires_grad=True),), "b": [torch.randn(3, requires_grad=True)]}
    t = torch.tensor([0.0, 0.4, 2.0])
    compare(field, y0, t, method, [y0["a"][0], y0["b"][0], weight], tensors=[weight])


def test_complex_states(float64):
    weight = torch.randn(2, 2, dtype=torch.complex128, requires_grad=True)
    y0 = torch.randn(2, dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 1.0], requires_grad=True)

    def run(solver):
        states = torch.stack(solver(set_up(lambda t, y: t * weight @ y, y0, t, "dopri5")).states)
        return torch.autograd.grad(states.abs().sum(), [y0, weight, t])

    results = run(plain), run(lambda course: checkpointed(course, 2))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("states", [2, 3, 5, 1000])
def test_any_number_of_states(states, float64):
    net, y0, t = Net(), torch.randn(4, requires_grad=True), torch.tensor([0.0, 1.0, 4.0])
    compare(net, y0, t, "dopri5", [y0, *net.parameters()], states=states)
    compare(net, y0, t, "rk4", [y0, *net.parameters()], states=states, options={"step_size": 0.1})


def test_tensors_that_func_closes_over_are_found(float64):
    weight, other = torch.randn(4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    made = (2 * weight).tanh()
    y0 = torch.randn(4, requires_grad=True)
    t = torch.tensor([0.0, 1.5])
    compare(lambda t, y: made @ y + other, y0, t, "dopri5", [y0, weight, other])
    compare(lambda t, y: other, y0, t, "dopri5", [y0, other])


def test_a_parameter_and_what_is_made_of_it_are_not_counted_twice(float64):
    net = Net()
    made = net.layers[0].weight.sum() ** 2 / 10
    shared = (made * torch.ones(2)).unbind()
    y0, t = torch.randn(4, requires_grad=True), torch.tensor([0.0, 1.5])
    compare(
        lambda t, y, a, b: net(t, y, a) + b * made,
        y0, t, "dopri5", [y0, *net.parameters()], args=shared, tensors=[*net.parameters(), made, *shared],
    )  # fmt: skip


def test_a_tensor_that_would_lose_its_gradient_raises(float64):
    weight, late = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    setting = lambda t, y: (late if t > 1 else weight) * y, torch.ones(4), torch.tensor([0.0, 2.0]), "dopri5"
    found = checkpointed(set_up(*setting), states=3)
    with pytest.raises(ConfigurationError, match=r"1 tensors that require a gradient .*shapes \(4,\).*would lose it"):
        found.states[-1].sum().backward()
    found = checkpointed(set_up(*setting, tensors=[weight, late]), states=3)
    found.states[-1].sum().backward()
    assert late.grad is not None


@pytest.mark.parametrize("method", ["dopri5", "kvaerno3"])
def test_jumps_kinks_and_hooks(method, float64):
    rate = torch.tensor(1.0, requires_grad=True)
    calls = []

    class Jumping:
        def __call__(self, t, y):
            return -rate * y if t < 0.7 else 3 * rate * torch.cos(y)

        def callback_step(self, t, y, h):
            calls.append(float(t))

    options = {"jump_t": torch.tensor([0.7]), "step_t": torch.tensor([0.31, 1.2])}
    loose = {"rtol": 1e-4, "atol": 1e-4}
    y0, t = torch.ones(2, requires_grad=True), torch.tensor([0.0, 0.5, 2.0])
    func = Jumping()
    # The problem's function is what carries callbacks.
    _, expected = gradients(plain(set_up(func, y0, t, method, options, **loose)), [y0, rate])
    count = len(calls)
    _, got = gradients(checkpointed(set_up(func, y0, t, method, options, **loose), states=2), [y0, rate])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert calls[:count] == calls[count:]


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_state_at_an_event_has_its_gradient(method, float64):
    net, y0, t = Net(), torch.randn(4, requires_grad=True), torch.tensor([0.0, 0.2, 9.0])
    options = {"step_size": 0.05} if method == "rk4" else {}

    def run(solver):
        return solver(set_up(net, y0, t, method, options, atol=1e-10, event=lambda t, y: 1.03 - t))

    expected = run(plain)
    found = run(lambda course: checkpointed(course, states=3))
    assert found.event_time == expected.event_time
    assert len(found.states) == len(expected.states) == 2
    inputs = [y0, *net.parameters()]
    for each in ("event_state", "states"):
        one, other = (
            torch.autograd.grad(
                (torch.stack(w.states) if each == "states" else w.event_state).sum(), inputs, retain_graph=True
            )
            for w in (found, expected)
        )
        for got, wanted in zip(one, other, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_an_event_at_the_first_time(float64):
    y0 = torch.ones(2, requires_grad=True)
    course = set_up(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]), "dopri5", event=lambda t, y: t)
    found = checkpointed(course, states=2)
    assert torch.equal(found.event_state, y0)
    assert torch.equal(found.states[0], y0)
    (slope,) = torch.autograd.grad((found.event_state + found.states[0]).sum(), y0)
    assert slope.tolist() == [2, 2]


def test_a_failed_solve_has_gradients_till_then(float64):
    y0 = torch.tensor([1.0], requires_grad=True)
    t = torch.tensor([0.0, 0.5, 0.9, 2.0])

    def failed(solver):
        course = set_up(lambda t, y: y * y, y0, t, "dopri5", {"max_num_steps": 60})
        with pytest.raises(StepLimitError) as caught:
            solver(course)
        return caught.value.circumstances

    expected = failed(plain)
    found = failed(lambda course: checkpointed(course, states=3))
    assert found.times == expected.times == [0.0, 0.5, 0.9]
    for one, other in zip(found.states, expected.states, strict=True):
        (got,), (wanted,) = (torch.autograd.grad(each.sum(), y0, retain_graph=True) for each in (one, other))
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.02), nn.Linear(16, 4))

    def forward(self, t, y):
        return self.layers(y)


@pytest.mark.parametrize(
    ("method", "options"), [("dopri5", {"max_step": 0.2, "min_step": 0.02}), ("rk4", {"step_size": 0.1})]
)
def test_random_fields_draw_the_same_again(method, options, float64):
    net, y0 = Dropping(), torch.randn(5, 4, requires_grad=True)
    t = torch.tensor([0.0, 0.45, 2.0])
    # Discovery, too, leaves the generator alone.
    inputs = [y0, *net.parameters()]
    results = []
    for states in (None, 2, 4):
        torch.manual_seed(3)
        course = set_up(net, y0, t, method, options, rtol=1e-5, atol=1e-5)
        found = plain(course) if states is None else checkpointed(course, states)
        after = torch.rand(3)
        values, got = gradients(found, inputs)
        results.append((values, after, torch.rand(3), *got))
        if method == "dopri5":
            assert course.problem.field.tally.rejected > 0
    for one in results[1:]:
        for got, wanted in zip(one, results[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


class Counting(nn.Module):
    """The field depends on a buffer that every evaluation moves."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("moved", torch.zeros(()))

    def forward(self, t, y):
        self.moved += 1
        return self.weight * self.norm(y) / (1 + 0.01 * self.moved)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_buffers_move_in_the_first_pass_only(method, float64):
    y0, t = torch.randn(6, 4, requires_grad=True), torch.tensor([0.0, 0.4, 1.0])
    options = METHOD_OPTIONS[method]
    results = []
    for states in (None, 2, 4):
        net = Counting()
        course = set_up(net, y0, t, method, options, rtol=1e-3, atol=1e-3)
        if states is None:
            found = plain(course)
            evaluations = course.problem.field.tally.evaluations
        else:
            found = checkpointed(course, states)
        assert net.norm.num_batches_tracked == net.moved == evaluations
        values, got = gradients(found, [y0, *net.parameters()])
        results.append((values, *got, *net.buffers()))
    for one in results[1:]:
        for got, wanted in zip(one, results[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_under_autocast():
    net, y0 = Net(), torch.randn(5, 4, requires_grad=True)
    t = torch.tensor([0.0, 1.0])
    results = []
    for states in (None, 2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            course = set_up(net, y0, t, "rk4", {"step_size": 0.1})
            found = plain(course) if states is None else checkpointed(course, states)
            # Casts without a graph must not be found by what comes later.
            again = net(t[0], y0).float().sum()
        values, got = gradients(found, [y0, *net.parameters()])
        results.append((values, *got, *torch.autograd.grad(again, list(net.parameters()))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=5e-2, atol=5e-2)


def test_second_derivatives_refuse_and_backward_can_be_repeated(float64):
    y0 = torch.ones(2, requires_grad=True)
    found = checkpointed(set_up(lambda t, y: -y * y, y0, torch.tensor([0.0, 1.0]), "dopri5"), states=2)
    once, twice = (torch.autograd.grad(found.states[-1].sum(), y0, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)
    (first,) = torch.autograd.grad(found.states[-1].sum(), y0, create_graph=True)
    with pytest.raises(ConfigurationError, match="no second derivatives"):
        first.sum().backward()


def test_without_gradients_nothing_is_kept(float64):
    net = Net()
    with torch.no_grad():
        found = checkpointed(set_up(net, torch.ones(4), torch.tensor([0.0, 1.0]), "dopri5"), states=2)
    assert not found.states[-1].requires_grad
    constant = set_up(lambda t, y: -y, torch.ones(4), torch.tensor([0.0, 1.0]), "dopri5")
    assert not checkpointed(constant, states=2).states[-1].requires_grad
    alone = set_up(net, torch.ones(4), torch.tensor([0.0]), "dopri5")
    assert len(checkpointed(alone, states=2).states) == 1


def test_too_few_states():
    course = set_up(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), "dopri5")
    with pytest.raises(ConfigurationError, match="at least 2"):
        checkpointed(course, states=1)


def test_kept_carries_are_spread():
    for most, count in itertools.product(range(2, 7), range(1, 40)):
        spread = EveryKth(most)
        for n in range(count):
            spread.keep(n, n)
        assert spread.carries == list(range(0, count, spread.every))
        assert most / 2 <= len(spread.carries) <= most or spread.every == 1


def peak(method, steps, states=None, width=1000):
    """The most bytes beyond the start, in states, of a solve and its backward pass."""
    weight = torch.full((width,), 0.1, requires_grad=True)
    y0 = torch.linspace(0, 1, width).requires_grad_()
    t = torch.tensor([0.0, 1.0])
    options = {"step_size": 1 / steps} if method == "rk4" else {"max_step": 1 / steps, "first_step": 1 / steps}
    with live_bytes()() as live:
        course = set_up(lambda t, y: torch.sin(weight * y), y0, t, method, options, rtol=1e-3, atol=1e-3)
        found = plain(course) if states is None else checkpointed(course, states)
        found.states[-1].sum().backward()
    return live.peak / (4 * width)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_memory_grows_with_the_levels_only(method):
    # A carry is the state, beside its slope where the method is adaptive. Of 16 times as many steps there are two
    # levels more, and each keeps all but one of its carries beside the one of the level above.
    carry = 1 if method == "rk4" else 2
    few, many = peak(method, 8, 4), peak(method, 128, 4)
    assert many - few <= 2 * 3 * carry + 1
    # A copy of the first state is part of both.
    assert peak(method, 128) - 1 > 30 * (many - 1)


@pytest.mark.slow
def test_memory_of_implicit_steps():
    # What Krylov spaces take depends on the step, too.
    assert peak("kvaerno3", 64) > 7 * peak("kvaerno3", 64, 4)
