"""Arrays of every kind, files that are damaged or not what they claim, and what is said of them."""

import numpy as np
import pytest
import torch

from dynamicblocks.data.densities import PointSet, load_density
from dynamicblocks.data.densities.files import read_points
from dynamicblocks.errors import ConfigurationError, StorageError


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_files_that_end_early(tmp_path, name):
    path, points = tmp_path / name, np.random.default_rng(0).normal(size=(50, 3))
    np.save(path, points) if name == "a.npy" else np.savez(path, points=points)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StorageError, match=f"{name}: expected .* got something else"):
        read_points(path)


def test_an_archive_that_unpacks_to_much_more_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("dynamicblocks.data.fields.files.ALWAYS_READ", 2**16)
    np.savez_compressed(tmp_path / "a.npz", points=np.zeros((90_000, 2)))
    with pytest.raises(StorageError, match=r"a\.npz, points: expected numbers that were .* more than 100 times"):
        read_points(tmp_path / "a.npz")


def test_tables_say_which_columns_are_wrong(tmp_path):
    rows = "\n".join(f"{row},7,{row * row},-1" for row in range(20))
    (tmp_path / "t.csv").write_text(f"a,still,b,too\n{rows}")
    with pytest.raises(ConfigurationError, match=r"columns 'still', 'too' are constant, 7 in each point \('still'\)"):
        load_density(f"csv:{tmp_path / 't.csv'}")
    with pytest.raises(ConfigurationError, match=r"column 'a' is among data.values and data.context"):
        load_density(f"csv:{tmp_path / 't.csv'}", values=("a", "b"), context="a")
    (tmp_path / "i.csv").write_text("a,b\n1,2\n3,inf\n")
    with pytest.raises(StorageError, match=r"line 3: column 'b' holds infinity"):
        load_density(f"csv:{tmp_path / 'i.csv'}")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(3, 2)[::-1],
        np.arange(6.0).reshape(3, 2).astype(">f8"),
        np.arange(6).reshape(3, 2).astype(np.uint64),
        np.arange(6.0).reshape(3, 2).astype(np.longdouble),
        np.broadcast_to(np.arange(2.0), (3, 2)),
        torch.arange(6.0).reshape(3, 2).half().requires_grad_(),
    ],
)
def test_arrays_of_every_kind_are_taken_as_they_are(array, recwarn):
    found = PointSet.of(array).points
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert found.tolist() == array.tolist()
    assert not recwarn


def test_arrays_are_not_shared_with_whoever_gave_them():
    given = np.ones((3, 2))
    found = PointSet.of(given)
    given[0, 0] = 2
    assert bool((found.points == 1).all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_pixels_are_whole_whatever_their_type(dtype):
    images = torch.arange(8, dtype=dtype).reshape(2, 1, 2, 2)
    found = PointSet.of(images, levels=8).points
    assert found.dtype == torch.float32
    assert torch.equal(found, images.float())
    with pytest.raises(ConfigurationError, match="0 to 6, but image 1 has 7 in channel 0, row 1, column 1"):
        PointSet.of(images, levels=7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_density(None), "must be text, got None"),
        (lambda: load_density("moons", seed=-1), "data.split_seed"),
        (lambda: load_density("moons", samples=10**12), "100,000 GB of memory"),
        (lambda: PointSet.of(torch.eye(2).to_sparse()), "dense"),
        (lambda: PointSet.of(torch.zeros(2, 1, 2, 2)), "levels=256"),
        (lambda: PointSet.of(torch.zeros(2, 1, 2, 2), levels=1), "levels must be"),
        (lambda: PointSet.of([[1.0, float("nan")], [float("nan"), 1.0]]), "and 1 more are not finite"),
    ],
)
def test_what_cannot_be_is_said(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_drawn_points_leave_the_numbers_of_others_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_density("swiss_roll", samples=10)
    assert torch.equal(torch.rand(1), expected)
