"""What is wrong with a task of one's own is said in a line, and where its batches show it, before a run begins."""

import pytest

from dynamicblocks.cli.main import main

FILE = """
from dataclasses import dataclass

import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.training import LOSS, Figure, Task, TensorBatches


@dataclass(frozen=True)
class Right(Task):
    figures = (LOSS, Figure("error"))
    sums = ("samples", "loss", "error")

    def load(self):
        return "numbers"

    def build(self):
        return nn.Sequential(db.DynamicBlock(nn.Linear(2, 2), "linear(2)", 2), nn.Linear(2, 1))

    def batches(self, split, place):
        numbers = torch.linspace(-1, 1, 16).view(8, 2)
        return TensorBatches((numbers, numbers.sum(1, keepdim=True)), 4, place)

    def loss(self, net, batch):
        error = net(batch[0]) - batch[1]
        sums = [error.new_tensor(len(error)), error.square().sum(), error.abs().sum()]
        return error.square().mean(), torch.stack(sums)


class Mapped:
    def __init__(self, batches):
        self.within, self.batch_size, self.steps, self.samples = batches, 4, 2, 8

    def training(self, *at):
        return ({"numbers": batch} for batch in self.within.training(*at))

    def evaluation(self):
        return ({"numbers": batch} for batch in self.within.evaluation())


@dataclass(frozen=True)
class Dictionaries(Right):
    def batches(self, split, place):
        return Mapped(super().batches(split, place))

    def loss(self, net, batch):
        return super().loss(net, batch["numbers"])


@dataclass(frozen=True)
class Named(Dictionaries):
    def inputs(self, batch):
        return batch["numbers"][0]


@dataclass(frozen=True)
class Nested(Dictionaries):
    def inputs(self, batch):
        return batch["numbers"]


@dataclass(frozen=True)
class Wrong(Right):
"""

LOSS = "    def loss(self, net, batch):\n        loss, sums = super().loss(net, batch)\n        return "
LINE = (FILE + "x").count("\n") + 1
FLAGS = ["--epochs", "1", "--hardware.accelerator", "cpu", "--run", "run"]


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """Trains a class of the file, whose last one has this body, and gives code and error."""
    monkeypatch.chdir(tmp_path)

    def train(name, body="    pass"):
        (tmp_path / "task.py").write_text(FILE + body + "\n")
        code = main(["train", "--task", f"task.py:{name}", *FLAGS, "--output", str(tmp_path)])
        return code, capsys.readouterr().err

    return train


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (LOSS + "loss, sums[:1]", "a vector of 3 numbers (samples, loss, error), got shape (1,)"),
        (LOSS + "loss, {}", "got a dict"),
        ("    def score(self, net, batch): return None", "sums that score of the task Wrong gives"),
        ("    def measured(self, sums): return {'loss': 1.0}", "lacks error; it gives loss"),
        ("    def loss(self, net, batch): return batch.nothing", f"line {LINE}): AttributeError: 'tuple' object"),
        ("    def build(self): return None", "must give a torch.nn.Module, got NoneType"),
        ("    def batches(self, split, place): return [1, 2]", "it gives a list without batch_size"),
        ("    def batches(self, split, place): return Mapped.__new__(Mapped)", "without batch_size, steps, samples"),
    ],
)
def test_a_task_that_breaks_its_word_is_refused_before_a_run_begins(body, message, trained, tmp_path):
    code, error = trained("Wrong", body)
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["load(self)", "build(self)", "batches(self, split, place)"])
def test_an_error_in_the_file_is_told_with_its_line(method, trained, tmp_path):
    code, error = trained("Wrong", f"    def {method}: return {{}}['gone']")
    assert code == 1
    assert error == f"error: {tmp_path / 'task.py'}, line {LINE}: KeyError: 'gone'; --debug shows the traceback\n"
    assert not (tmp_path / "run").exists()


def test_an_empty_split_is_refused(trained):
    body = "    def batches(self, split, place):\n        found = Mapped(super().batches(split, place))\n"
    code, error = trained("Wrong", body + "        found.samples = 0\n        return found")
    assert code == 2
    assert "the train split of the task Wrong holds 0 samples in 2 steps" in error


def test_batches_that_are_mappings_train_and_say_what_is_missing_where_it_is_needed(trained, tmp_path, capsys):
    assert trained("Dictionaries") == (0, "")
    again = [str(tmp_path / "run"), "--task", "task.py:Dictionaries"]
    assert main(["evaluate", *again]) == 0
    assert main(["compress", *again]) == 2
    assert "give the task a method inputs(batch)" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("Named", 0), ("Nested", 2)])
def test_compress_calls_the_network_with_what_the_task_says(name, code, trained, tmp_path, capsys):
    assert trained(name) == (0, "")
    assert main(["compress", str(tmp_path / "run"), "--task", f"task.py:{name}"]) == code
    assert ("cannot be called with what inputs of the task Nested gives, a tuple" in capsys.readouterr().err) == (
        code == 2
    )
