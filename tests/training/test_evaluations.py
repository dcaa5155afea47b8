"""Evaluations of an average training step, in the figures of each epoch."""

import pytest

from dynamicblocks.counting import counting
from tests.training.small_task import Small, assert_same, plan, quiet, stopped
from tests.training.test_checkpoint import left

ADAPTIVE = "dopri5(rtol=1e-3, atol=1e-3)"


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_evaluations_of_a_run_that_was_cut_off_are_those_of_one_that_was_not(gradient, tmp_path, monkeypatch):
    task = Small(integrator=ADAPTIVE, gradient=gradient)
    with counting() as count:  # of validation and test, too
        quiet(task, plan(tmp_path, "whole", checkpoint_steps=2)).run()
    cut = plan(tmp_path, "cut", checkpoint_steps=2)
    stopped(task, cut, 7, monkeypatch)
    again = quiet(task, cut, resume=tmp_path / "cut")
    again.run()
    assert_same(left(tmp_path / "whole"), left(tmp_path / "cut"))
    epochs = again.folder.metrics()
    assert 0 < sum(each["evaluations_forward"] for each in epochs) < count.forward
    assert all((each["evaluations_backward"] > 0) == (gradient == "checkpoint") for each in epochs)


def test_a_fixed_grid_evaluates_what_its_network_says(tmp_path):
    training = quiet(Small(integrator="midpoint"), plan(tmp_path, "fixed"))
    training.run()
    block_evaluations = {each["evaluations_forward"] for each in training.folder.metrics()}
    assert block_evaluations == {sum(block.evaluations for block in training.net.modules() if hasattr(block, "steps"))}
