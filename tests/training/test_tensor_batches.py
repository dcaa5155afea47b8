"""Batches that are rows of tensors: each sample once, as (seed, epoch, step) say, shared by processes."""

from itertools import islice

import pytest
import torch

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.task import Place
from dynamicblocks.training.tensor_batches import TensorBatches

ROWS = torch.arange(10)


def pairs(samples=10):
    """Two tensors whose rows know their number."""
    rows = torch.arange(samples)
    return rows, rows.double().view(-1, 1, 1).expand(-1, 2, 3)


def numbers(batches):
    return [batch[0].tolist() for batch in batches]


def test_an_epoch_shows_samples_once_in_full_batches():
    batches = TensorBatches(pairs(), 4, Place(seed=3))
    assert (batches.batch_size, batches.steps, batches.samples) == (4, 2, 10)
    seen = list(batches.training(0))
    assert [len(rows) for rows, _ in seen] == [4, 4]
    assert len({int(row) for rows, _ in seen for row in rows}) == 8
    for rows, values in seen:
        assert torch.equal(values, rows.float().view(-1, 1, 1).expand(-1, 2, 3))
        assert values.dtype == torch.float32
        assert rows.dtype == torch.int64


def test_what_is_seen_depends_on_seed_epoch_and_step_alone():
    first, again, other = (TensorBatches(pairs(), 3, Place(seed=seed)) for seed in (0, 0, 1))
    whole = numbers(first.training(5))
    assert numbers(first.training(4)) != whole
    assert numbers(other.training(5)) != whole
    torch.rand(1)  # nothing that was drawn before matters
    assert numbers(again.training(5, first_step=1)) == whole[1:]
    assert numbers(again.training(5, progress=0.5)) == whole


def test_evaluation_goes_through_all_samples_in_order():
    batches = TensorBatches(pairs(), 4, Place(), evaluation_size=6)
    assert numbers(batches.evaluation()) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert numbers(TensorBatches(pairs(), 4, Place()).evaluation()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(world):
    alone = TensorBatches(pairs(), 6, Place(seed=1))
    shares = [TensorBatches(pairs(), 6, Place(seed=1, rank=rank, world=world)) for rank in range(world)]
    for whole, *parts in zip(*(numbers(each.training(2)) for each in (alone, *shares)), strict=True):
        assert all(len(part) == 6 // world for part in parts)
        assert sorted(row for part in parts for row in part) == sorted(whole)
    evaluated = [row for each in shares for batch in numbers(each.evaluation()) for row in batch]
    assert sorted(evaluated) == ROWS.tolist()


def test_a_split_smaller_than_a_batch_is_one_batch():
    batches = TensorBatches(pairs(3), 64, Place())
    assert batches.steps == 1
    assert [sorted(rows) for rows in numbers(batches.training(0))] == [[0, 1, 2]]


def test_a_process_without_samples_evaluates_nothing_and_cannot_train():
    shares = [TensorBatches(pairs(1), 2, Place(rank=rank, world=2)) for rank in (0, 1)]
    assert [numbers(each.evaluation()) for each in shares] == [[[0]], []]
    for each in shares:
        with pytest.raises(ConfigurationError, match="1 samples cannot be shared by 2 processes"):
            next(each.training(0))


def test_numbers_keep_their_precision_where_the_place_has_it():
    tensors = (torch.rand(4, 2, dtype=torch.float64), torch.ones(4, dtype=torch.bool), torch.rand(4).half())
    wide = list(TensorBatches(tensors, 4, Place(dtype=torch.float64)).evaluation())
    assert torch.equal(wide[0][0], tensors[0])
    assert [each.dtype for each in wide[0]] == [torch.float64, torch.bool, torch.float64]


def test_images_are_stored_as_the_place_asks():
    tensors = (torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5), torch.zeros(4, 3, 5, 5, dtype=torch.int64))
    place = Place(channels_last=True)
    images, lines, masks = next(TensorBatches(tensors, 2, place).training(0))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert lines.is_contiguous()
    assert masks.is_contiguous()


def test_gradients_do_not_reach_the_data():
    values = torch.rand(4, 2, requires_grad=True)
    assert not next(TensorBatches((values,), 2, Place()).training(0))[0].requires_grad


def test_one_tensor_makes_tuples_of_one():
    assert [len(batch) for batch in islice(TensorBatches((ROWS,), 2).training(0), 2)] == [1, 1]


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ((torch.rand(4), torch.rand(5)), {}, r"of the same size in all and at least 1; got the shapes \(4,\), \(5,\)"),
        ((torch.rand(0, 3),), {}, r"at least 1; got the shapes \(0, 3\)"),
        ((torch.tensor(1.0),), {}, r"got the shapes \(\)"),
        ((), {}, "a tuple of tensors, got tuple"),
        (torch.rand(4), {}, "a tuple of tensors, got Tensor"),
        ((torch.rand(4), [1, 2, 3, 4]), {}, r"got tuple of \['Tensor', 'list'\]"),
        ((torch.rand(4),), {"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ((torch.rand(4),), {"evaluation_size": 0}, "evaluation_size must be a whole number"),
        ((torch.rand(4),), {"place": Place(world=3)}, "batch_size 2 must be a multiple of 3 processes"),
    ],
)
def test_what_cannot_be_is_said(tensors, options, message):
    with pytest.raises(ConfigurationError, match=message):
        TensorBatches(tensors, **{"batch_size": 2, "place": Place(), **options})
