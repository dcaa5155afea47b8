"""Q-tips: geometry, classes, splits."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label, rotate

import dynamicblocks as db
from dynamicblocks.data.segmentation import load_pairs
from dynamicblocks.data.segmentation.qtips import draw_rods, lengths, qtips

ENDS = {1: (255, 255), 2: (255, 1), 3: (1, 1)}


def level(length, kind, size=64):
    """A rod that is not turned, drawn row by row."""
    image = np.full((size, size), 112, np.uint8)
    begin, row = (size - length) // 2, size // 2 - 1
    image[row : row + 2, begin : begin + length] = 128
    image[row : row + 2, begin : begin + 2] = ENDS[kind][0]
    image[row : row + 2, begin + length - 2 : begin + length] = ENDS[kind][1]
    return image


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("length", [32, 45, 59])
def test_a_rod_is_a_level_one_turned(length, kind):
    degrees = np.random.default_rng(length).uniform(-180, 180, 40)
    images, masks = draw_rods(np.full(40, length), np.full(40, kind - 1), degrees, 64)
    expected = [rotate(level(length, kind), angle, order=0, reshape=False, cval=112) for angle in degrees]
    assert np.array_equal(images, expected)
    assert np.array_equal(masks, np.where(images != 112, kind, 0))


def test_a_rod_that_is_not_turned_has_its_pixels_and_its_ends():
    for length in lengths(64):
        images, masks = draw_rods(np.array([length] * 3), np.arange(3), np.zeros(3), 64)
        for kind, image, mask in zip(ENDS, images, masks, strict=True):
            assert (mask == kind).sum() == 2 * length
            values, counts = np.unique(image[mask == kind], return_counts=True)
            of_ends = dict(zip(values.tolist(), counts.tolist(), strict=True))
            assert of_ends.pop(128) == 2 * length - 8
            assert of_ends == ({255: 4, 1: 4} if kind == 2 else {ENDS[kind][0]: 8})
            columns = np.flatnonzero(mask.any(axis=0))
            assert columns[-1] - columns[0] + 1 == length
            assert set(image[:, columns[0]].tolist()) == {112, ENDS[kind][0]}
            assert set(image[:, columns[-1]].tolist()) == {112, ENDS[kind][1]}


def test_the_rods_of_a_data_set():
    data = load_pairs("qtips")
    assert (len(data.train), len(data.validation), len(data.test)) == (1024, 128, 256)
    images, masks = next(data.train.stream([torch.arange(1024)])).numpy().swapaxes(0, 1)
    assert set(np.unique(images)) == {1, 112, 128, 255}
    kinds = masks.max(axis=(1, 2))
    assert min(np.bincount(kinds, minlength=4)[1:]) > 1024 / 3 - 60
    for image, mask, kind in zip(images, masks, kinds, strict=True):
        assert set(np.unique(mask)) == {0, kind}
        assert ((image != 112) == (mask == kind)).all()
        assert set(np.unique(image[mask == kind])) == {*ENDS[kind], 128}
        rods, count = label(mask, np.ones((3, 3)))
        assert count == 1
        height, width = (np.ptp(np.nonzero(rods)[axis]) for axis in (0, 1))
        assert 31 - 2 < np.hypot(height, width) < 59 + 2
        assert 64 - 12 <= mask.astype(bool).sum() <= 118 + 12
    counts = [int((masks == kind).sum()) for kind in range(4)]
    assert list(data.counts) == counts
    assert data.mean == pytest.approx((images.mean(),))
    assert data.std == pytest.approx((images.astype(float).std(),))
    # Lengths are uniform: a shortest and a longest one are both there.
    areas = masks.astype(bool).sum(axis=(1, 2))
    assert areas.min() < 68
    assert areas.max() > 114


@pytest.mark.parametrize("size", [32, 64])
def test_no_image_is_in_two_splits(size):
    made = qtips(size, 1024, seed=0)
    seen = [{image.tobytes() for image in images} for images, _ in made.values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_what_is_held_out_depends_on_the_seed_alone():
    few, many, other = qtips(32, 5, 0), qtips(32, 300, 0), qtips(32, 5, 1)
    for split in ("validation", "test"):
        assert np.array_equal(few[split][0], many[split][0])
        assert not np.array_equal(few[split][0], other[split][0])
    assert np.array_equal(few["train"][0], many["train"][0][:5])


def test_sizes_that_cannot_be():
    with pytest.raises(db.ConfigurationError, match="at least 32 pixels, got 16"):
        load_pairs("qtips", size=16)
    assert (lengths(64).start, lengths(64)[-1]) == (32, 59)
