"""Data sets and batches."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import dynamicblocks as db
from dynamicblocks.data import Augmentation, ImageBatches, MemorySplit, load_dataset
from dynamicblocks.data.images.augmentation import cut_out, flipped, resized, shifted, turned
from dynamicblocks.data.images.splits import stratified
from dynamicblocks.tasks import DataConfig


def test_digits_are_split_without_overlap_in_proportion():
    data = load_dataset("digits")
    parts = (data.train, data.validation, data.test)
    assert sum(len(part) for part in parts) == 1797
    images = torch.cat([part.images for part in parts]).flatten(1)
    assert images.dtype == torch.uint8
    assert images.max() == 16
    for part in parts:
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        assert shares.min() > 0.08
        assert shares.max() < 0.12


def test_the_split_is_the_same_every_time_and_its_test_images_never_change():
    first, again, other = load_dataset("digits"), load_dataset("digits"), load_dataset("digits", 0.3, split_seed=7)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.images, other.test.images)
    assert not torch.equal(first.validation.images[:50], other.validation.images[:50])


def test_digits_are_those_of_scikit_learn_with_the_split_that_it_makes():
    data, known = load_dataset("digits"), load_digits()
    _, test = train_test_split(np.arange(1797), test_size=0.2, stratify=known.target, random_state=0)
    assert np.array_equal(data.test.images[:, 0].numpy(), known.images[np.sort(test)])
    assert np.array_equal(data.test.labels.numpy(), known.target[np.sort(test)])
    assert data.classes == tuple(str(name) for name in known.target_names)


def test_splits_are_those_of_scikit_learn_number_for_number():
    draws, made = np.random.RandomState(0), 0
    for seed in range(120):
        classes = draws.randint(1, 9)
        labels = 3 * draws.choice(classes, size=draws.randint(4, 300), p=draws.dirichlet(np.full(classes, 3.0)))
        if seed % 3 == 0:  # classes of equal sizes, where lots are drawn
            labels = draws.permutation(np.repeat(np.arange(classes), draws.randint(2, 40)))
        fraction = float(draws.choice([0.1, 0.25, 1 / 3, 0.5, draws.uniform(0.01, 0.99)]))
        try:
            parts = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
        except ValueError:
            with pytest.raises(ValueError, match=r"single image|cannot both hold"):
                stratified(labels, fraction, seed)
            continue
        made += 1
        for mine, theirs in zip(stratified(labels, fraction, seed), parts, strict=True):
            assert np.array_equal(mine, np.sort(theirs))
    assert made > 80


@pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, float("nan")])
def test_bad_validation_shares(validation):
    with pytest.raises(db.ConfigurationError, match=r"must be in \(0, 1\)"):
        load_dataset("digits", validation)


def test_a_validation_split_that_cannot_hold_every_class():
    with pytest.raises(db.ConfigurationError, match="all 10 classes"):
        load_dataset("digits", 0.001)


def test_some_training_images_are_a_fixed_list_and_leave_the_others_as_they_are():
    whole, some, fewer = load_dataset("digits"), load_dataset("digits", train_images=100), DataConfig(train_images=40)
    places = np.random.RandomState(0).permutation(len(whole.train))[:100]
    assert torch.equal(some.train.images, whole.train.images[places])
    assert torch.equal(some.train.labels, whole.train.labels[places])
    assert torch.equal(fewer.load().train.labels, some.train.labels[:40])
    assert torch.equal(some.validation.images, whole.validation.images)
    assert torch.equal(some.test.images, whole.test.images)
    listed = [load_dataset("digits", train_images=100, split_seed=seed).note for seed in (0, 0, 1)]
    assert listed[0] == listed[1] != listed[2]
    assert "trained on 100 of 1,293 training images, split seed 0, list " in listed[0]


@pytest.mark.parametrize(("count", "message"), [(1294, "at most the 1293"), (0, "train_images"), (2.5, "train_images")])
def test_numbers_of_training_images_that_cannot_be(count, message):
    with pytest.raises(db.ConfigurationError, match=message):
        load_dataset("digits", train_images=count)


SHIFT = Augmentation(shift=1)


def make_batches(count=10, **options):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    split = MemorySplit(images, torch.arange(count))
    return ImageBatches(split, **{"batch_size": 4, "mean": [0.0], "std": [1.0], **options})


def test_an_epoch_shows_each_image_once_at_most_in_an_order_of_its_own():
    batches = make_batches()
    epochs = [torch.cat([labels for _, labels in batches.training(epoch)]) for epoch in range(2)]
    assert [len(set(labels.tolist())) for labels in epochs] == [8, 8]
    assert not torch.equal(*epochs)
    for images, labels in batches.training(0):
        assert torch.equal(images[:, 0, 0, 0], labels.float())


def test_an_epoch_can_be_entered_in_its_middle():
    batches = make_batches(20, augmentation=Augmentation(shift=1), seed=3)
    whole, rest = list(batches.training(5)), list(batches.training(5, first_step=3))
    assert len(whole) == 5
    for (images, labels), (same_images, same_labels) in zip(whole[3:], rest, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_processes_share_every_batch():
    whole = list(make_batches(augmentation=SHIFT).training(0))
    parts = [list(make_batches(augmentation=SHIFT, rank=rank, world=2).training(0)) for rank in range(2)]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(images[0::2], parts[0][step][0])
        assert torch.equal(labels[1::2], parts[1][step][1])
    seen = torch.cat([y for rank in range(2) for _, y in make_batches(rank=rank, world=2).evaluation()])
    assert sorted(seen.tolist()) == list(range(10))


def test_normalised_training_images_have_mean_zero_and_variance_one():
    data = load_dataset("digits")
    batches = ImageBatches(data.train, 64, data.mean, data.std)
    pixels = torch.cat([images for images, _ in batches.evaluation()])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)


def test_shifts_move_images_with_zeros_behind():
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 2] = 9
    places = set()
    for seed in range(80):
        moved = shifted(image, 1, torch.Generator().manual_seed(seed))
        assert moved.sum() == 9
        places.add(tuple(moved[0, 0].nonzero()[0].tolist()))
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_flips_mirror_about_half_of_the_images():
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3).expand(400, 1, 2, 3)
    found = flipped(images, torch.Generator().manual_seed(0))
    mirrored = (found == torch.tensor([[2, 1, 0], [5, 4, 3]])).flatten(1).all(dim=1)
    assert 150 < mirrored.sum() < 250
    assert torch.equal(found[~mirrored], images[~mirrored])


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_cutouts_are_squares_with_their_centre_in_the_image(side):
    images = torch.ones(500, 2, 9, 9)
    hidden = cut_out(images, side, torch.Generator().manual_seed(0)) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    heights, widths = hidden[:, 0].any(dim=2).sum(dim=1), hidden[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(hidden[:, 0].sum(dim=(1, 2)), heights * widths)
    assert (heights.max(), widths.max()) == (side, side)
    assert hidden.any(dim=1).any(dim=0).all()


def most(*_, **__):
    """Draws at the upper end of [0, 1]."""
    return torch.ones(2, 3)


def test_turns_and_magnifications_are_about_the_centre(monkeypatch):
    images = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(turned(images, 0.0, 0.0, torch.Generator()), images)
    monkeypatch.setattr("dynamicblocks.data.images.augmentation.torch.rand", most)
    quarter = turned(images, 90.0, 0.0, torch.Generator())
    torch.testing.assert_close(quarter, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=1e-5)
    square = torch.zeros(3, 1, 8, 8)
    square[:, :, 2:6, 2:6] = 1
    double = turned(square, 0.0, 1.0, torch.Generator())
    assert double.mean() == pytest.approx(1, abs=0.25)
    assert double[:, :, 1:7, 1:7].min() == pytest.approx(1)


def test_changed_training_images_are_resumed_alike():
    everything = Augmentation(shift=1, flip=True, cutout=2, turn=20.0, scale=0.2)
    batches = make_batches(20, augmentation=everything, seed=3)
    whole, rest = list(batches.training(5)), list(batches.training(5, first_step=3))
    assert torch.equal(whole[3][0], rest[0][0])


def test_smaller_images_are_smoothed_not_sampled():
    stripes = torch.zeros(1, 1, 8, 12)
    stripes[..., ::2] = 1
    small = resized(stripes, 4)
    assert small.shape == (1, 1, 4, 6)
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.1, rtol=0)
    assert resized(stripes, 8) is stripes


def test_training_images_can_be_smaller_for_a_while():
    batches = make_batches(progressive=((0.0, 2), (0.5, 3)))
    for progress, side in ((0.0, 2), (0.49, 2), (0.5, 3), (0.99, 3)):
        assert next(batches.training(0, progress=progress))[0].shape == (4, 1, side, side)
    assert next(make_batches().training(0, progress=0.3))[0].shape == (4, 1, 4, 4)
    assert next(batches.evaluation())[0].shape == (4, 1, 4, 4)


@pytest.mark.parametrize("progressive", [((0.1, 2),), ((0.0, 2), (0.0, 3)), ((0.0, 2), (1.0, 3)), ((0.0, 0),)])
def test_impossible_progressions(progressive):
    with pytest.raises(db.ConfigurationError, match=r"data\.progressive"):
        DataConfig(progressive=progressive)


def test_bad_batches():
    with pytest.raises(db.ConfigurationError, match="multiple of 3 processes"):
        make_batches(world=3)
    with pytest.raises(db.ConfigurationError, match="batch_size must be a whole number of at least 1, got 0"):
        make_batches(batch_size=0)
    with pytest.raises(db.ConfigurationError, match="turn must be zero or more and finite, got nan"):
        Augmentation(turn=float("nan"))
    with pytest.raises(db.ConfigurationError, match="shift must be a whole number of at least 0, got -1"):
        Augmentation(shift=-1)
