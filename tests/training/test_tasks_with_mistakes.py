"""What a task of one's own may get wrong is said before, or as soon as, it does harm."""

from dataclasses import dataclass

import pytest
import torch

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.tensor_batches import TensorBatches
from tests.training.small_task import Small, plan, quiet


class Fewer(TensorBatches):
    """An epoch that ends before its time."""

    def training(self, *given):
        yield from list(super().training(*given))[:-2]


class Empty(TensorBatches):
    """No batches."""

    def training(self, *given):
        yield from ()

    def evaluation(self):
        yield from ()


@dataclass(frozen=True)
class Mistaken(Small):
    """With one mistake of a kind."""

    mistake: str = ""

    def batches(self, split, place):
        usual = super().batches(split, place)
        kinds = {("fewer", "train"): Fewer, ("empty", "train"): Empty, ("unmeasured", "validation"): Empty}
        return kinds.get((self.mistake, split), TensorBatches)(usual.tensors, self.batch_size, place)

    def loss(self, net, batch):
        loss, sums = super().loss(net, batch)
        return loss, sums[:1] if self.mistake == "one sum" else sums

    def score(self, net, batch):
        sums = self.loss(net, batch)[1]
        return torch.cat([sums, sums]) if self.mistake == "many sums" else sums

    def measured(self, sums):
        return {"error": 0.0} if self.mistake == "no loss" else super().measured(sums)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (
            "one sum",
            r"^sums that loss of the task \w+ gives must be a vector of 2 numbers .* got shape \(1,\)$",
        ),
        (
            "many sums",
            r"^sums that score of the task \w+ gives must be a vector of 2 numbers .* got shape \(4,\)$",
        ),
        ("no loss", r"^measured of the task \w+ must give all its figures, and lacks loss; it gives error$"),
        ("fewer", "^the batches of epoch 1 ended after 4 steps of 6: steps and training"),
        ("empty", "^an epoch of 24 samples has no batch"),
        ("unmeasured", "^there are no samples to measure a network on$"),
    ],
)
def test_a_mistake_of_a_task_is_named(mistake, said, tmp_path):
    with pytest.raises(ConfigurationError, match=said):
        quiet(Mistaken(mistake=mistake), plan(tmp_path)).run()
    before_the_run = mistake not in ("fewer", "unmeasured")
    assert before_the_run == (not (tmp_path / "run").exists())


def test_batches_may_be_a_list(tmp_path):
    @dataclass(frozen=True)
    class Listed(Small):
        def batches(self, split, place):
            batches = super().batches(split, place)
            read = type(batches).training
            kind = type("Listed", (TensorBatches,), {"training": lambda self, *given: list(read(self, *given))})
            return kind(batches.tensors, self.batch_size, place)

    assert quiet(Listed(), plan(tmp_path, max_steps=2)).run().test.samples == 4
