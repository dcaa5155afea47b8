"""What odeint says about input that it cannot use, and about solves that fail."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.solving import NotFiniteStateError, SolveError, StepLimitError, StepUnderflowError

T = torch.tensor([0.0, 1.0])
Y = torch.ones(2)


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (AssertionError, "torch.Tensor of times", {"t": [0.0, 1.0]}),
        (TypeError, "floating point Tensor", {"t": torch.tensor([0, 1])}),
        (AssertionError, "one dimensional", {"t": torch.zeros(2, 2)}),
        (AssertionError, "one dimensional", {"t": torch.zeros(0)}),
        (AssertionError, r"t\[1\] = 1 is followed by t\[2\] = 0.5", {"t": torch.tensor([0.0, 1.0, 0.5])}),
        (AssertionError, "strictly increasing or decreasing", {"t": torch.tensor([0.0, 0.0])}),
        (AssertionError, "strictly", {"t": torch.tensor([0.0, math.nan])}),
        (AssertionError, "finite", {"t": torch.tensor([0.0, math.inf])}),
        (AssertionError, "Tensor or a tuple", {"y0": [torch.ones(1)]}),
        (AssertionError, "Tensor or a tuple", {"y0": 1.0}),
        (ValueError, r"torch.int64. Use y0.float\(\)", {"y0": torch.ones(2, dtype=torch.int64)}),
        (ValueError, "did you mean 'dopri5'", {"method": "dopr5"}),
        (AssertionError, "rtol must be at least 0", {"rtol": -1.0}),
        (AssertionError, "atol must be at least 0 everywhere", {"atol": torch.tensor([1e-3, -1.0])}),
        (AssertionError, "cannot both be 0", {"rtol": 0.0, "atol": 0.0}),
        (AssertionError, "rtol must be at least 0, got nan", {"rtol": math.nan}),
        (AssertionError, "cannot require gradient", {"rtol": torch.tensor(1e-3, requires_grad=True)}),
        (AssertionError, "broadcast", {"atol": torch.ones(3)}),
        (AssertionError, "one for each of the 2 tensors", {"y0": (Y, Y), "rtol": (1e-3,)}),
        (TypeError, "rtol must be a number", {"rtol": "small"}),
        (ValueError, "safety", {"options": {"safety": 2.0}}),
        (ValueError, "grow by one of at least 1", {"options": {"ifactor": 0.5}}),
        (ValueError, "min_step must be", {"options": {"min_step": 2.0, "max_step": 1.0}}),
        (TypeError, "first_step must be a number", {"options": {"first_step": "long"}}),
        (TypeError, "step_t must be a torch.Tensor", {"options": {"step_t": [0.5]}}),
        (
            ValueError,
            "repeated",
            {"options": {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([0.5])}},
        ),
        (ValueError, "mutually exclusive", {"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": id}}),
        (ValueError, "step_size must be positive", {"method": "rk4", "options": {"step_size": 0.0}}),
        (ValueError, "did you mean 'linear'", {"method": "rk4", "options": {"interp": "liner"}}),
        (
            AssertionError,
            "end at the last 1, got 0 and 2",
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t * 2}},
        ),
        (
            AssertionError,
            "0.75 is followed by 0.25",
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: torch.tensor([0, 0.75, 0.25, 1])}},
        ),
        (
            TypeError,
            "one-dimensional tensor",
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: 3}},
        ),
        (ValueError, "len", {"t": torch.tensor([0.0, 1.0, 2.0]), "event_fn": decay}),
        (ValueError, "no events", {"event_fn": decay, "method": "scipy_solver"}),
        (AssertionError, "step_size", {"event_fn": decay, "method": "rk4"}),
    ],
)
def test_bad_arguments(kind, message, arguments):
    with pytest.raises(kind, match=message) as caught:
        db.odeint(decay, **{"y0": Y, "t": T, **arguments})
    assert isinstance(caught.value, db.ConfigurationError)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, y: y[:1], r"shape \(2,\), got \(1,\)"),
        (lambda t, y: (y, y), "return a tensor"),
        (lambda t, y: None, "return a tensor"),
        (lambda t, y: y * 1j, "complex"),
    ],
)
def test_fields_that_return_something_else(field, message, method):
    with pytest.raises(db.ConfigurationError, match=message):
        db.odeint(field, Y, T, method=method)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, y: y[:1], "2 tensors"),
        (lambda t, y: torch.ones(4), "2 tensors"),
        (lambda t, y: (y[0], y[1][:1]), r"\(2,\) at place 1, got \(1,\)"),
    ],
)
def test_fields_of_tuples_that_return_something_else(field, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.odeint(field, (Y, Y), T)


def test_options_of_another_method_are_named():
    with pytest.warns(UserWarning, match=r"unexpected options step_size; it takes .*max_num_steps"):
        db.odeint(decay, Y, T, options={"step_size": 0.1})
    with pytest.warns(UserWarning, match=r"unexpected options first_step; it takes step_size"):
        db.odeint(decay, Y, T, method="rk4", options={"first_step": 0.1})


def test_the_step_limit_names_where_and_keeps_what_was_solved():
    t = torch.tensor([0.0, 0.1, 0.2, 50.0])
    with pytest.raises(StepLimitError, match=r"max_num_steps exceeded: 30 steps .*dt = .*entry \[1\]") as caught:
        db.odeint(
            lambda t, y: torch.stack([-y[0], -3000 * (y[1] - torch.cos(t))]),
            torch.ones(2),
            t,
            rtol=1e-5,
            atol=1e-5,
            options={"max_num_steps": 30},
        )
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, db.SolverError)
    found = caught.value.circumstances
    assert found.times[0] == 0
    assert len(found.times) == len(found.states) < 4
    assert found.tally.evaluations > 30
    assert 0 < found.t < 50


def test_the_step_limit_counts_between_outputs():
    """As in torchdiffeq: many times of output do not need a higher limit."""
    t = torch.linspace(0, 50, 200)
    db.odeint(lambda t, y: torch.cos(t) * y, torch.ones(1), t, options={"max_num_steps": 30})


@pytest.mark.parametrize("kind", ["singular", "jump"])
def test_underflow_names_where(kind, float64):
    field = {
        "singular": lambda t, y: y * y,
        "jump": lambda t, y: torch.where(t < 0.5, 1.0, -1.0) / (t - 0.5).abs() ** 1.5 * y,
    }[kind]
    with pytest.raises((StepUnderflowError, NotFiniteStateError), match=r"t = |y0 is finite") as caught:
        db.odeint(field, torch.ones(1), torch.tensor([0.0, 2.0]))
    assert isinstance(caught.value, AssertionError)
    assert 0.4 < caught.value.circumstances.t < 1.1


class Weighted(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, weight]))

    def forward(self, t, y):
        return -self.weight * y


def test_weights_that_are_not_finite_are_named():
    with pytest.raises(NotFiniteStateError, match=r"slope .*\[1\]: nan.*1 of 1 parameters .* 'weight'") as caught:
        db.odeint(Weighted(math.nan), Y, T)
    assert "y0" not in str(caught.value)


def test_an_initial_state_that_is_not_finite_is_named():
    with pytest.raises(NotFiniteStateError, match=r"the state at t = 0.*\[0\]: inf.*y0 is not finite"):
        db.odeint(Weighted(1.0), torch.tensor([math.inf, 1.0]), T)


def test_a_step_into_nan_is_tried_again_shorter(float64):
    """sqrt(1 - t) has no value beyond 1; a long step looks there."""
    found = db.odeint(
        lambda t, y: torch.sqrt(1 - t) * torch.ones_like(y),
        torch.zeros(1),
        torch.tensor([0.0, 0.9]),
        options={"first_step": 5.0},
    )
    assert found[-1].item() == pytest.approx((1 - 0.1**1.5) / 1.5, abs=1e-6)


@pytest.mark.parametrize("interface", [db.odeint, db.odeint_adjoint])
def test_an_event_that_never_happens(interface):
    keywords = {"adjoint_params": ()} if interface is db.odeint_adjoint else {}
    with pytest.raises(db.SolverError, match="20000"):
        db.odeint_event(
            decay,
            Y,
            torch.tensor(0.0),
            event_fn=lambda t, y: y.sum() + 1,
            odeint_interface=interface,
            method="euler",
            options={"step_size": 1e-3},
            **keywords,
        )
    with pytest.raises(SolveError):
        db.odeint_event(
            decay,
            Y,
            torch.tensor(0.0),
            event_fn=lambda t, y: y.sum() + 1,
            odeint_interface=interface,
            options={"max_num_steps": 50, "max_step": 1.0},
            **keywords,
        )


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("adjoint_params", {"func": decay}),
        ("adjoint_options", {"adjoint_method": "rk4", "options": {"first_step": 0.1}}),
        ("did you mean 'rk4'", {"adjoint_method": "rk5"}),
        ("function or 'seminorm'", {"adjoint_options": {"norm": "halfnorm"}}),
    ],
)
def test_bad_arguments_of_the_adjoint(message, arguments):
    with pytest.raises(db.ConfigurationError, match=message):
        db.odeint_adjoint(**{"func": Weighted(1.0), "y0": Y, "t": T, **arguments})


def test_dense_solutions_need_an_adaptive_method_and_stay_inside():
    with pytest.raises(db.ConfigurationError, match="adaptive method"):
        db.odeint_dense(decay, Y, 0.0, 1.0, method="rk4")
    with pytest.raises(db.ConfigurationError, match="one tensor"):
        db.odeint_dense(decay, (Y, Y), 0.0, 1.0)
    solution = db.odeint_dense(decay, Y, 0.0, 1.0)
    with pytest.raises(db.ConfigurationError, match=r"from 0 to 1, got the time 1\.5"):
        solution(torch.tensor([0.5, 1.5]))


def test_states_on_several_devices():
    with pytest.raises(db.ConfigurationError, match="cpu, meta"):
        db.odeint(decay, (Y, torch.ones(2, device="meta")), T)
