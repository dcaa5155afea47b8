"""Which samples are in which batch."""

import pytest
import torch

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sampling import Sampling


def test_an_epoch_is_one_order_that_its_seed_and_number_decide():
    sampling = Sampling(10, 3, seed=1)
    first = [batch for _, batch in sampling.training(0)]
    assert [len(batch) for batch in first] == [3, 3, 3]
    assert len(torch.cat(first).unique()) == 9
    again, other, seeded = sampling.training(0), sampling.training(1), Sampling(10, 3, seed=2).training(0)
    assert all(torch.equal(batch, same) for batch, (_, same) in zip(first, again, strict=True))
    for different in (other, seeded):
        assert not all(torch.equal(batch, each) for batch, (_, each) in zip(first, different, strict=True))


def test_an_epoch_goes_on_at_any_step():
    sampling = Sampling(10, 3)
    rest = list(sampling.training(4, first_step=1))
    assert [step for step, _ in rest] == [1, 2]
    for (_, batch), (_, same) in zip(list(sampling.training(4))[1:], rest, strict=True):
        assert torch.equal(batch, same)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_batch_and_every_sample(world):
    parts = [Sampling(7, 6, evaluation_size=2, rank=rank, world=world) for rank in range(world)]
    ((_, whole),) = parts[0].training(0)
    shares = [part.mine(whole) for part in parts]
    assert {len(share) for share in shares} == {6 // world}
    assert sorted(torch.cat(shares).tolist()) == sorted(whole.tolist())
    seen = torch.cat([batch for part in parts for batch in part.evaluation()])
    assert sorted(seen.tolist()) == list(range(7))


def test_fewer_samples_than_a_batch_or_processes():
    ((step, batch),) = Sampling(2, 8).training(0)
    assert (step, len(batch)) == (0, 2)
    assert Sampling(1, 2, rank=1, world=2).evaluation() == []
    with pytest.raises(ConfigurationError, match="1 samples cannot be shared by 2 processes"):
        list(Sampling(1, 2, world=2).training(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2, "evaluation_size": 0}, "evaluation_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 3, "world": 2}, "batch_size 3 must be a multiple of 2 processes"),
    ],
)
def test_sizes_that_cannot_be(options, said):
    with pytest.raises(ConfigurationError, match=said):
        Sampling(10, **options)
