"""Batches of any number of steps an epoch: begun anywhere, shared by processes, in order in an evaluation."""

from itertools import pairwise

import torch

from dynamicblocks.tasks.rounds import Moment, Rounds
from dynamicblocks.training.task import Place


def rounds(samples=5, steps=7, rank=0, world=1, **more):
    place = Place(torch.device("cpu"), torch.float32, seed=3, rank=rank, world=world)
    return Rounds(samples, lambda rows, moment: (rows.tolist(), moment), 2, steps, place, **more)


def test_an_epoch_has_its_steps_and_goes_on_where_the_last_one_ended():
    batches = [batch for epoch in range(4) for batch in rounds().training(epoch)]
    assert [moment for _, moment in batches[7:9]] == [Moment(1, 0, 0.0), Moment(1, 1, 0.0)]
    # Two full batches are a time through the samples, without any twice.
    for one, two in list(pairwise(rows for rows, _ in batches))[::2]:
        assert len({*one, *two}) == 4
    assert list(rounds().training(1, first_step=4)) == batches[11:14]


def test_processes_share_each_batch():
    whole, first, second = (list(rounds(**more).training(0)) for more in ({}, {"world": 2}, {"world": 2, "rank": 1}))
    for (rows, _), (mine, _), (yours, _) in zip(whole, first, second, strict=True):
        assert rows == mine + yours


def test_an_evaluation_sees_each_sample_once_and_in_order():
    found = list(rounds(evaluation_size=3).evaluation())
    assert [rows for rows, _ in found] == [[0, 1, 2], [3, 4]]
    assert found[1][1] == Moment(None, 1, 1.0)
    assert rounds(evaluation_size=3).evaluation_steps == 2


def test_one_sample_alone_makes_every_batch():
    assert [rows for rows, _ in rounds(samples=1).training(0)] == [[0]] * 7
