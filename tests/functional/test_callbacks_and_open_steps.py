"""Callbacks that are carried in vain, and fields that end at the last time."""

import warnings

import pytest
import torch
from torch import nn

import dynamicblocks as db

T = torch.tensor([0.0, 0.5, 1.0])


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0))

    def forward(self, t, y):
        return -self.rate * y

    def callback_step(self, t, y, h): ...

    def callback_reject_step(self, t, y, h): ...

    def callback_accept_step_adjoint(self, t, y, h): ...


def warned(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(each.message) for each in caught if "does not call" in str(each.message)]


@pytest.mark.parametrize("method", ["rk4", "implicit_adams"])
def test_a_grid_calls_no_callback_of_rejected_steps(method):
    expected = [f"{method} does not call callback_reject_step of func; it calls callback_step"]
    field, y0 = Watched(), torch.ones(1)
    assert warned(lambda: db.odeint(field, y0, T, method=method)) == expected
    assert warned(lambda: db.solve(field, y0, T, method=method)) == expected
    assert warned(lambda: db.odeint_adjoint(field, y0, T, method=method)) == expected


def test_a_warning_is_given_once_for_each_pass():
    field, y0 = Watched(), torch.ones(1)

    def both():
        db.odeint_adjoint(field, y0, T, adjoint_method="euler", adjoint_options={"step_size": 0.1})[-1].backward()

    assert warned(both) == ["euler does not call callback_accept_step_adjoint of func; it calls callback_step_adjoint"]
    assert warned(lambda: db.odeint_adjoint(field, y0, T)[-1].backward()) == []


def test_callbacks_that_nobody_calls():
    field, y0 = Watched(), torch.ones(1)
    for run, what in (
        (lambda: db.odeint(field, y0, T, method="scipy_solver"), "scipy_solver"),
        (lambda: db.solve(field, y0[None], T, batched=True), "a solve with steps of its own for each sample"),
    ):
        (found,) = warned(run)
        assert found == f"{what} does not call callback_step, callback_reject_step of func; it calls no callbacks"
    assert warned(lambda: db.odeint(field, y0, T)) == []
    assert warned(lambda: db.odeint(lambda t, y: -y, y0, T, method="rk4")) == []


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("name", ["enforce_openset", "perturb"])
@pytest.mark.parametrize("method", ["euler", "rk4", "midpoint", "explicit_adams"])
@pytest.mark.parametrize(
    "kinds", [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16,) * 2]
)
def test_a_step_sees_only_what_is_inside_it(kinds, method, name, back):
    """Pieces of one value each on [n / 4, (n + 1) / 4); there is none at the last time."""
    values, seen = torch.tensor([1.0, -2.0, 4.0, 0.5]), []

    def field(t, y):
        place = (-t if back else t) * 4
        seen.append(place.item())
        return values[int(place.floor())] * torch.ones_like(y)

    times = torch.linspace(0, 1, 5, dtype=kinds[1])
    for needs in (False, True):
        seen.clear()
        t = (-times if back else times).requires_grad_(needs)
        y = db.odeint(field, torch.zeros(1, dtype=kinds[0]), t, method=method, options={name: True})
        sign = -1 if back else 1
        exact = [sign * each for each in (0, 0.25, -0.25, 0.75, 0.875)]
        # Adams methods remember other pieces.
        assert method == "explicit_adams" or y[:, 0].tolist() == pytest.approx(exact, abs=1e-2)
        assert min(seen) > 0
        assert max(seen) < 4
        assert all(each % 1 for each in seen)


def test_the_adjoint_stays_inside_its_steps(float64):
    rate, seen = torch.tensor([0.2, 0.6], requires_grad=True), []

    def field(t, y):
        seen.append(t.item())
        return rate[int(t * 2)] * y

    t = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    options = {"enforce_openset": True}
    y = db.odeint_adjoint(field, torch.ones(1), t, method="rk4", options=options, adjoint_params=(rate,))
    y[-1].sum().backward()
    assert max(seen) < 1
    assert 0.5 not in seen
    assert rate.grad.tolist() == pytest.approx([0.5 * y[-1].item()] * 2, rel=1e-3)
    assert t.grad[2].item() == pytest.approx(0.6 * y[-1].item(), rel=1e-6)
