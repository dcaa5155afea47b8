"""What an integrator declares of its steps: that they are equal, look back, or cannot be taken back."""

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.integrators import Integrator, Leapfrog, as_integrator


class Equal(Integrator):
    """Euler's method, for steps of one size."""

    name, order, reads = "equal_euler", 1, ((0.0, "field"),)
    equal_steps = True

    def advance(self, stage, h, carry):
        return carry + h * stage(0.0, carry)


FLOAT32 = [torch.linspace(0, 3, 31).tolist(), torch.linspace(100, 101, 101).tolist()]


@pytest.mark.parametrize("times", [5, "uniform(0, 100, steps=1000)", *FLOAT32], ids=["5", "uniform", "0 to 3", "far"])
def test_equal_steps_are_equal_but_for_rounding(times):
    db.DynamicBlock("symmetric(3)", 1, times, Equal())


def test_unequal_steps_are_refused_where_they_are_made():
    message = r"equal_euler needs steps of one size, and these are between 0\.9\d* and 1\.\d* long"
    times = (0.0, 1.0, 2.00001, 3.0)
    with pytest.raises(db.ConfigurationError, match=message):
        db.DynamicBlock("symmetric(3)", 3, times, Equal())
    block = db.DynamicBlock("symmetric(3)", 3, integrator=Equal())
    with pytest.raises(db.ConfigurationError, match=message):
        block.replaced(times=times)
    with pytest.raises(db.ConfigurationError, match=message):
        db.with_integrator(db.DynamicBlock("symmetric(3)", 3, times), Equal())
    assert db.refine(block).steps == 6
    t = torch.tensor(times)
    with pytest.raises(db.ConfigurationError, match=message):
        db.odeint(lambda t, y: -y, torch.ones(1), t, method=Equal())
    for equal in (torch.linspace(0, 100, 10001), torch.linspace(3, 0, 11)):
        db.odeint(lambda t, y: -y, torch.ones(1), equal, method=Equal())


class Told(Leapfrog):
    """Notes the sizes of steps that are taken back, with those of the ones before."""

    def unstep(self, stage, h, carry, previous=None):
        Told.seen.append((h, previous))
        return super().unstep(stage, h, carry, previous)


def test_a_method_that_looks_back_is_told_the_step_before():
    block = db.DynamicBlock("symmetric(3)", 2, (0.0, 0.5, 0.75, 1.75), Told(), "reversible(max_drift=1e-4)")
    sizes = [(1.0, 0.25), (0.25, 0.5), (0.5, None)]
    y = torch.randn(2, 3, 4, 4, requires_grad=True)
    Told.seen = []
    block(y).sum().backward()
    assert Told.seen == sizes
    Told.seen = []
    db.analysis.drift(block, y)
    assert Told.seen == sizes
    Told.seen, t = [], torch.tensor([0.0, 0.5, 0.75, 1.75], dtype=torch.float64, requires_grad=True)
    db.odeint(lambda t, y: -y, y.double(), t, method=Told(), gradient="reversible").sum().backward()
    assert [tuple(each if each is None else float(each) for each in pair) for pair in Told.seen] == sizes[:2]


@pytest.mark.parametrize(
    ("integrator", "reason"),
    [
        ("euler", "the state before a step is the solution of an equation"),
        ("rk4", "the state before a step is the solution of an equation"),
        ("explicit_adams", "lets go of the oldest slope"),
        ("trapezoid", "its stages are found by iteration"),
        (Equal(), "none was written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "own",
)
def test_what_takes_no_steps_back_says_why(integrator, reason):
    with pytest.raises(db.ConfigurationError, match=rf"has no unstep, .*{reason}") as caught:
        db.DynamicBlock("symmetric(3, norm='none')", 2, integrator=integrator, gradient="reversible")
    assert "reversible('rk4')" in str(caught.value)
    assert "gradient='checkpoint'" in str(caught.value)
    with pytest.raises(db.ConfigurationError, match=rf"whose steps cannot, .*{reason}.*'checkpoint'"):
        db.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 3), method=integrator, gradient="reversible")
    method, stage = as_integrator(integrator), lambda c, y: -y
    with pytest.raises(db.ConfigurationError, match=reason):
        method.unstep(stage, 0.1, method.begin(stage, 0.1, torch.ones(1)))
