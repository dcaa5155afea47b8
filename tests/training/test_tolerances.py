"""The same weights at several tolerances: held against the exact solution, with failures as rows, left as they were."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import Swept, draw_tolerances
from dynamicblocks.training import AtTolerance, Score, at_tolerances
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.hardware import make_fabric
from tests.training.small_task import Small

RATE = 1.7


class Decay(nn.Module):
    def forward(self, y):
        return -RATE * y


@dataclass(frozen=True)
class Exact(Small):
    """How far a network is from the solution of y' = -1.7 y, y(0) = 1 at t = 1."""

    def score(self, net, batch):
        return torch.tensor([len(batch), (net(batch) - math.exp(-RATE)).abs().sum().item()])

    def measured(self, sums):
        first, second = sums.values()
        return {"loss": second / first}


class Ones:
    batch_size, steps, samples = 4, 1, 8

    def training(self, epoch, first_step=0, progress=0.0):
        yield from ()

    def evaluation(self):
        yield torch.ones(4, 3, dtype=torch.float64)
        yield torch.ones(4, 3, dtype=torch.float64)


FABRIC = make_fabric(HardwareConfig(accelerator="cpu", precision="64-true"))


def net_of(integrator):
    return nn.Sequential(db.DynamicBlock(Decay, times=db.uniform(0, 1, steps=2), integrator=integrator))


def test_the_error_falls_with_the_tolerance_and_the_network_stays_as_it_was():
    net, seen = net_of("dopri5(rtol=0.01, atol=0.01, max_steps=50)"), []
    given = [1e-1, 1e-2, 1e-4, 1e-6, 1e-8]
    found = at_tolerances(Exact(), net, Ones(), FABRIC, given, seen=lambda: seen.append(1))
    assert [each.tolerance for each in found] == given
    assert [each.trained for each in found] == [False, True, False, False, False]
    assert len(seen) == 2 * len(given)
    evaluations = [each.evaluations for each in found]
    assert evaluations == sorted(evaluations)
    for each in found[2:]:
        assert each.score.loss < 30 * each.tolerance  # of a state of three numbers
    assert net[0].integrator.shorthand == "dopri5(rtol=0.01, atol=0.01, max_steps=50)"


def test_a_tolerance_without_a_solution_is_a_row():
    found = at_tolerances(Exact(), net_of("bosh3(max_steps=12)"), Ones(), FABRIC, [1e-2, 1e-10, 1e-1])
    assert [each.score is None for each in found] == [False, True, False]
    assert "max_steps" in found[1].failure
    assert found[1].as_record("samples") == {"tolerance": 1e-10, "trained": False, "failure": found[1].failure}


def test_blocks_on_a_grid_keep_their_steps():
    net = nn.Sequential(*net_of("euler"), *net_of("bosh3(first_step=0.25)"))
    other = db.with_tolerance(net, 1e-5, 1e-7)
    assert other[0].integrator.shorthand == "euler"
    assert other[1].integrator.shorthand == "bosh3(rtol=1e-05, atol=1e-07, first_step=0.25)"


@pytest.mark.parametrize("value", [0, -1e-3, math.nan, math.inf, True, "1e-3", None])
def test_tolerances_that_cannot_be(value):
    with pytest.raises(db.ConfigurationError, match="rtol must be"):
        db.with_tolerance(net_of("bosh3"), value)


def test_a_network_without_such_blocks_is_told():
    for net in (net_of("euler"), nn.Linear(1, 1)):
        with pytest.raises(db.ConfigurationError, match="chooses its own steps"):
            db.with_tolerance(net, 1e-3)
        with pytest.raises(db.ConfigurationError, match="chooses its own steps"):
            at_tolerances(Exact(), net, Ones(), FABRIC, [1e-3])


def test_the_picture_leaves_out_what_there_is_not(tmp_path):
    found = [
        AtTolerance(0.1, 7.0, Score({"loss": 1.0, "accuracy": 0.9}, 10, 1.0), trained=True),
        AtTolerance(1e-3, 9.0, Score({"loss": 1.0, "accuracy": math.nan}, 10, 1.0)),
        AtTolerance(1e-6, 0.0, None, "no"),
    ]
    draw_tolerances([Swept("net", found), Swept("none", found[2:])], tmp_path / "one.png", subject="test images")
    assert (tmp_path / "one.png").stat().st_size > 1000
