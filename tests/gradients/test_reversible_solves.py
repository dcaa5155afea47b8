"""Solves by reversible steps: the gradients of backpropagation, in memory that the steps do not change."""

import pytest
import torch
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Reversible
from dynamicblocks.gradients.reversible import reversible_methods
from tests.gradients.test_checkpointed_solves import (
    Counting,
    Dropping,
    Net,
    checkpointed,
    gradients,
    live_bytes,
    plain,
    set_up,
)

METHODS = ["reversible_heun", "alf", "two_step_midpoint"]
GRIDS = [{}, {"step_size": 0.05}, {"step_size": 0.05, "interp": "cubic"}]


def reversed_back(course):
    return Reversible().run(course, course.problem.y0)


def compare(func, y0, t, method, inputs, options, args=(), tolerance=1e-9, **known):
    values, expected = gradients(plain(set_up(func, y0, t, method, options, args=args)), inputs)
    found, got = gradients(reversed_back(set_up(func, y0, t, method, options, args=args, **known)), inputs)
    torch.testing.assert_close(found, values, rtol=0, atol=1e-13)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", GRIDS)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_gradients_are_those_of_backpropagation(method, options, direction, float64):
    net, rate = Net(), torch.tensor(0.7, requires_grad=True)
    y0 = torch.randn(3, 4, requires_grad=True)
    t = (direction * torch.tensor([0.0, 0.11, 0.2, 0.42, 0.8])).requires_grad_()
    inputs = [y0, t, rate, *net.parameters()]
    compare(net, y0, t, method, inputs, options, args=(rate,), tensors=[*net.parameters(), rate])
    fixed = t.detach()
    compare(net, y0, fixed, method, [y0, rate], options, args=(rate,), tensors=[*net.parameters(), rate])


@pytest.mark.parametrize("method", METHODS)
def test_nested_states_and_tensors_that_func_closes_over(method, float64):
    def field(t, state):
        return (-weight * state[1], state[0] * t)

    weight = torch.randn(3, requires_grad=True)
    y0 = (torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True))
    compare(field, y0, torch.tensor([0.0, 0.4, 2.0]), method, [*y0, weight], {"step_size": 0.1})


def test_a_field_that_jumps(float64):
    rate = torch.tensor(1.0, requires_grad=True)
    y0, t = torch.ones(2, requires_grad=True), torch.linspace(0, 1, 11)

    def field(t, y):
        return -rate * y if t < 0.5 else 3 * rate * torch.cos(y)

    compare(field, y0, t, "alf", [y0, rate], {"perturb": True})
    course = set_up(field, y0, t, "reversible_heun", {"perturb": True})
    with pytest.raises(ConfigurationError, match="perturb"):
        reversed_back(course)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_other_methods_are_refused(method):
    course = set_up(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method)
    with pytest.raises(ConfigurationError, match=rf"\(reversible_heun, alf, two_step_midpoint\), got {method}"):
        reversed_back(course)
    assert reversible_methods() == ["reversible_heun", "alf", "two_step_midpoint"]


def test_a_tensor_that_would_lose_its_gradient_raises(float64):
    weight, late = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    t = torch.tensor([0.0, 2.0])
    course = set_up(lambda t, y: (late if t > 1 else weight) * y, torch.ones(4), t, "alf", {"step_size": 0.5})
    found = reversed_back(course)
    with pytest.raises(ConfigurationError, match="gradient='reversible' would lose it"):
        found.states[-1].sum().backward()


def test_second_derivatives_refuse(float64):
    y0 = torch.ones(2, requires_grad=True)
    course = set_up(lambda t, y: -y * y, y0, torch.tensor([0.0, 1.0]), "alf", {"step_size": 0.1})
    found = reversed_back(course)
    (first,) = torch.autograd.grad(found.states[-1].sum(), y0, create_graph=True)
    with pytest.raises(ConfigurationError, match="gradient='reversible' has no second derivatives"):
        first.sum().backward()


@pytest.mark.parametrize("method", METHODS)
def test_the_state_at_an_event(method, float64):
    net, y0, t = Net(), torch.randn(4, requires_grad=True), torch.tensor([0.0, 0.2, 9.0])
    results = []
    for solver in (plain, reversed_back):
        found = solver(set_up(net, y0, t, method, {"step_size": 0.05}, atol=1e-10, event=lambda t, y: 1.03 - t))
        assert found.event_time == pytest.approx(1.03)
        results.append(torch.autograd.grad(found.event_state.sum(), [y0, *net.parameters()]))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [Counting, Dropping])
def test_random_numbers_and_buffers_that_are_read(make, method, float64):
    """Also where a slope serves two steps, and is looked for in the other one."""
    y0, t = torch.randn(6, 4, requires_grad=True), torch.linspace(0, 0.5, 6)
    results = []
    for reverse in (False, True):
        torch.manual_seed(1)
        net = make()
        course = set_up(net, y0, t, method)
        found = reversed_back(course) if reverse else plain(course)
        buffers = [buffer.clone() for buffer in net.buffers()]
        values, got = gradients(found, [y0, *net.parameters()])
        results.append((values, *got, *buffers, torch.rand(3)))
        assert all(torch.equal(one, other) for one, other in zip(buffers, net.buffers(), strict=True))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_draws_of_evaluations_that_cannot_be_told_apart_are_refused():
    """The interpolation reads the field once more where the step reads it."""
    options = {"step_size": 0.05, "interp": "cubic"}
    course = set_up(Dropping(), torch.randn(6, 4), torch.tensor([0.0, 0.12, 0.5]), "reversible_heun", options)
    with pytest.raises(ConfigurationError, match="draws random numbers"):
        reversed_back(course).states[-1].sum().backward()


def test_statistics_of_normalisation_move_once_for_each_evaluation(float64):
    class Normal(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, t, y):
            return self.norm(y)

    net, y0, t = Normal(), torch.randn(6, 4, requires_grad=True), torch.linspace(0, 1, 11)
    course = set_up(net, y0, t, "reversible_heun")
    _, expected = gradients(plain(course), [y0, *net.parameters()])
    count = int(net.norm.num_batches_tracked)
    course = set_up(net, y0, t, "reversible_heun")
    _, got = gradients(reversed_back(course), [y0, *net.parameters()])
    assert int(net.norm.num_batches_tracked) == 2 * count == 22
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_under_autocast():
    net, y0, t = Net(), torch.randn(5, 4, requires_grad=True), torch.linspace(0, 1, 6)
    results = []
    for reverse in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            course = set_up(net, y0, t, "alf")
            found = reversed_back(course) if reverse else plain(course)
        results.append(gradients(found, [y0, *net.parameters()])[1])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=3e-2, atol=3e-2)


def peak(method, steps, mode="reversible", width=1000):
    weight = torch.full((width,), 0.1, requires_grad=True)
    y0 = torch.linspace(0, 1, width).requires_grad_()
    with live_bytes()() as live:
        course = set_up(
            lambda t, y: torch.sin(weight * y), y0, torch.tensor([0.0, 1.0]), method, {"step_size": 1 / steps}
        )
        if mode == "reversible":
            found = reversed_back(course)
        elif mode == "checkpoint":
            found = checkpointed(course, states=4)
        else:
            found = plain(course)
        found.states[-1].sum().backward()
    return live.peak / (4 * width)


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_flat(method):
    assert peak(method, 200) == pytest.approx(peak(method, 20), abs=1.0)
    assert peak(method, 200, "plain") > 10 * peak(method, 200)
