"""Signals at any instant, SIGKILL among them: what remains goes on, and ends bit for bit as if nothing had happened."""

import os
import random
import re
import shlex
import signal
from pathlib import Path

import pytest

from dynamicblocks.interruption import Interrupted
from tests.killed_runs import Commands, assert_same_runs
from tests.training.small_task import Small, plan, quiet

TASK = f"{Path(__file__).with_name('small_task.py')}:Small"
# Checkpoints at ends of epochs and within them; a refinement of the network, its optimiser and its average.
PLAN = ["--task", TASK, "--controls", "linear", "--epochs", "3", "--refine.epochs", "2", "--checkpoint_steps", "2"]
PLAN += ["--batch_size", "8", "--optimizer.ema", "0.9", "--hardware.accelerator", "cpu"]
TWO = ["--hardware.devices", "2"]
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
STEPS = 9


@pytest.fixture(scope="module")
def command():
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """For one process and for two: a run that nothing befell, and the number of its events."""
    found = {}

    def run(*options):
        if options not in found:
            folder = tmp_path_factory.mktemp("whole")
            done = command(folder, "train", *PLAN, *options, "--output", folder, "--run", "run")
            assert done["code"] == 0, done["err"]
            found[options] = folder / "run", done["events"]
        return found[options]

    return run


def struck(command, folder, asked, *options, **when):
    """A run that a signal reaches, and that is taken up again as one is told to; what the first command came to."""
    run, begin = folder / "run", ["train", *PLAN, *options, "--output", folder, "--run", "run"]
    first = command(folder, *begin, signal=asked, **when)
    said = said_by(first)
    assert first["code"] in (0, CODES[asked], *([1] if when.get("rank") else [])), first
    assert first["left"] == 0
    assert len(said) == (first["code"] > 0), first["err"]
    if asked != signal.SIGKILL:
        assert not list(folder.rglob("*.part"))
    if first["code"]:
        told = re.search("go on with: dynamicblocks (.*)", first["err"])
        # Where nothing is said, whether there is a run tells how to go on.
        again = ["train", "--resume", run, "--task", TASK] if run.exists() else begin
        assert bool(told) <= run.exists()
        again = shlex.split(told[1]) if told else again
        done = command(folder, *again)
        assert done["code"] == 0, (first["err"], done["err"])
    return first


def said_by(done):
    return [line for line in done["err"].splitlines() if line and not re.match("Init|---|distributed|All dist", line)]


@pytest.mark.parametrize(
    "when",
    [{"number": 2}, {"part": 0.15, "half": True}, {"part": 0.5, "half": True}, {"part": 0.97}],
    ids=["in the beginning", "in the first files", "in a checkpoint", "at the end"],
)
def test_a_killed_run_ends_as_if_nothing_had_happened(when, command, whole, tmp_path):
    run, events = whole()
    number = when.pop("number", None) or round(when.pop("part") * events)
    assert struck(command, tmp_path, signal.SIGKILL, number=number, **when)["code"] == -signal.SIGKILL
    assert_same_runs(run, tmp_path / "run")


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda asked: asked.name)
def test_a_signal_ends_the_step_and_says_how_to_go_on(asked, command, whole, tmp_path):
    run, _ = whole()
    first = struck(command, tmp_path, asked, steps=4)
    told = f"go on with: dynamicblocks train --resume {shlex.quote(str(tmp_path / 'run'))} --task {shlex.quote(TASK)}"
    assert said_by(first) == [f"interrupted; 4 of {STEPS} steps are done and stored; {told}"]
    assert first["code"] == CODES[asked]
    assert_same_runs(run, tmp_path / "run")


def test_a_second_keystroke_ends_at_once(command, whole, tmp_path):
    run, _ = whole()
    first = struck(command, tmp_path, signal.SIGINT, steps=4, twice=True)
    assert first["code"] == 130
    assert said_by(first)[0].startswith("interrupted at once; go on with: dynamicblocks train --resume ")
    assert_same_runs(run, tmp_path / "run")


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_signal_in_a_validation_stores_the_steps_before_it(epoch, tmp_path, monkeypatch):
    task, score = Small(), Small.score
    quiet(task, plan(tmp_path, "whole")).run()
    training = quiet(task, plan(tmp_path))

    def struck(self, net, batch):
        if training.steps_done == epoch * 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, net, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Small, "score", struck)
        with pytest.raises(Interrupted, match=f"; {epoch * 6} of 12 steps are done and stored; go on with: "):
            training.run()
    quiet(task, plan(tmp_path), resume=tmp_path / "run").run()
    assert_same_runs(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("asked", "rank", "code", "said"),
    [
        (signal.SIGTERM, 1, 143, f"interrupted; 4 of {STEPS} steps are done and stored; go on with: "),
        (signal.SIGINT, "all", 130, f"interrupted; 4 of {STEPS} steps are done and stored; go on with: "),
        (signal.SIGKILL, 1, 1, r"error: process 2 of 2 was killed by SIGKILL \(out of memory\?\); go on with: "),
        (signal.SIGKILL, 0, -9, None),
    ],
    ids=["SIGTERM to one", "SIGINT to both", "SIGKILL to the second", "SIGKILL to the first"],
)
def test_two_processes_end_together(asked, rank, code, said, command, whole, tmp_path):
    run, _ = whole(*TWO)
    first = struck(command, tmp_path, asked, *TWO, steps=4, rank=rank)
    assert first["code"] == code
    assert said is None or re.match(said, *said_by(first))
    assert_same_runs(run, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), tuple(TWO)], ids=["one process", "two processes"])
@pytest.mark.parametrize("asked", CODES, ids=lambda asked: asked.name)
def test_at_random_instants(asked, options, command, whole, tmp_path):
    run, events = whole(*options)
    draw = random.Random(f"{asked} {options}")
    for case in range(50 if asked == signal.SIGKILL and not options else 20 if not options else 8):
        folder = tmp_path / str(case)
        rank = draw.choice((0, 1, "all")) if options else 0
        if draw.random() < 0.3 or rank == 1:  # the second process writes nothing
            when = {"steps": draw.randint(1, STEPS)}
        else:
            when = {"number": draw.randint(1, events), "half": draw.random() < 0.5 and asked == signal.SIGKILL}
        struck(command, folder, asked, *options, rank=rank, **when)
        assert_same_runs(run, folder / "run")
