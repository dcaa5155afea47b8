"""Points of which densities are learnt: drawn, read and refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from dynamicblocks.data.densities import PointSet, density_sets, load_density, split_density, toy_sets
from dynamicblocks.data.densities.catalogue import CLASSES
from dynamicblocks.data.densities.files import read_points
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError, StorageError

# Drawn


@pytest.mark.parametrize("name", list(toy_sets))
def test_sets_in_the_plane_depend_on_their_seed_alone(name):
    first, labels = toy_sets[name](500, generator(1))
    again, _ = toy_sets[name](500, generator(1))
    other, _ = toy_sets[name](500, generator(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (500, 2)
    assert sorted(set(labels.tolist())) == list(range(CLASSES[name]))


def test_where_points_lie():
    points, which = toy_sets["eight_gaussians"](40_000, generator(0))
    angle = 2 * torch.pi * torch.arange(8) / 8
    for label in range(8):
        mine = points[which == label]
        centre = 5 * torch.stack((angle[label].cos(), angle[label].sin())).double()
        torch.testing.assert_close(mine.mean(0), centre, atol=0.03, rtol=0)
        assert mine.var(0).mean().item() == pytest.approx(0.1, rel=0.1)
    points, which = toy_sets["circles"](20_000, generator(0))
    radii = [points[which == label].norm(dim=1).mean().item() for label in range(2)]
    assert radii == pytest.approx([1, 0.5], abs=0.01)
    points, which = toy_sets["checkerboard"](20_000, generator(0))
    fields = ((points + 4) / 2).long()
    assert bool(((fields[:, 0] + fields[:, 1]) % 2 == 0).all())
    assert torch.equal(fields[:, 0], which)
    points, which = toy_sets["moons"](20_000, generator(0))
    # Half circles about (0, 0) and (1, 1/2), times 3, minus 1.
    for label, middle in enumerate(([-1.0, -1.0], [2.0, 0.5])):
        radius = (points[which == label] - torch.tensor(middle, dtype=torch.float64)).norm(dim=1)
        assert radius.mean().item() == pytest.approx(3.06, abs=0.05)


def test_drawn_points_come_in_splits_with_labels_if_asked():
    data = load_density("pinwheel", samples=300, context=("label",), seed=3)
    assert (len(data.train), data.train.context.shape) == (300, (300, 5))
    assert data.train.context_names == tuple(f"label={number}" for number in range(5))
    assert bool((data.train.context.sum(1) == 1).all())
    assert "300" in data.note
    assert not torch.equal(data.validation.points[:10], data.test.points[:10])
    assert load_density("8gaussians", samples=10).train.shape == (2,)


# Read


def write(path, text):
    path.write_text(text)
    return path


ROWS = "a,b,c,name\n" + "\n".join(f"{row},{row * row},{row % 3},r{row}" for row in range(30))


def test_a_table_is_points_and_their_context(tmp_path):
    write(tmp_path / "t.csv", ROWS)
    data = load_density("csv:t.csv", context=("c",), data_dir=str(tmp_path), seed=1)
    assert data.train.features == ("a", "b")
    assert data.train.context_names == ("c",)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 3, 3)
    together = torch.cat([each.points for each in (data.train, data.validation, data.test)])
    assert sorted(together[:, 0].tolist()) == list(range(30))
    assert torch.equal(together[:, 0] ** 2, together[:, 1])
    chosen = load_density(f"csv:{tmp_path / 't.csv'}", values=("b",))
    assert chosen.train.features == ("b",)


def test_parquet_tables(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"u": [1.0, 2.0, 3.0], "v": [4, 5, 6]}), tmp_path / "t.parquet")
    assert read_points(tmp_path / "t.parquet").points.tolist() == [[1, 4], [2, 5], [3, 6]]


def test_arrays(tmp_path):
    points, context = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.arange(20)
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "a.npz", points=points, context=context)
    assert np.array_equal(read_points(tmp_path / "a.npy").points.numpy(), points.astype(float))
    both = read_points(tmp_path / "a.npz", context=("angle",))
    assert both.context_names == ("angle",)
    assert both.context[:, 0].tolist() == list(range(20))
    assert load_density(f"npz:{tmp_path / 'a.npz'}").train.context_names == ("c0",)


def test_digits_are_whole_numbers_with_their_own_test_images():
    data = load_density("digits", context=("label",))
    assert data.train.shape == (1, 8, 8)
    assert data.train.levels == 17
    assert data.train.points.max() == 16
    assert (len(data.test), data.test.context.shape[1]) == (360, 10)
    assert load_density("digits").test.context is None


def image(path, size, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def test_a_folder_of_images_of_one_size(tmp_path):
    for number in range(12):
        image(tmp_path / f"{number}.png", (6, 4), "L")
    data = load_density(f"images:{tmp_path}")
    assert data.train.shape == (1, 4, 6)
    assert data.train.levels == 256
    image(tmp_path / "z.png", (4, 6))
    with pytest.raises(ConfigurationError, match=r"0\.png has 6 x 4 pixels and .*z\.png 4 x 6"):
        load_density(f"images:{tmp_path}")


# Handed over


def test_points_from_python():
    whole = PointSet.of(np.arange(8).reshape(4, 2), context=torch.arange(4), features=("u", "v"))
    assert whole.points.dtype == torch.float64
    assert whole.context.shape == (4, 1)
    part = whole.select(torch.tensor([2, 0]))
    assert part.points.tolist() == [[4, 5], [0, 1]]
    assert part.context.tolist() == [[2], [0]]
    assert part.features == ("u", "v")
    images = PointSet.of(torch.randint(3, (5, 1, 2, 2)), levels=3)
    assert images.shape == (1, 2, 2)
    assert images.features == ()


NAN = [[0.0, 1.0], [2.0, float("nan")], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_density("moon"), "moons"),
        (lambda: load_density("power.csv"), "did you mean csv:power.csv"),
        (lambda: load_density("tsv:power"), "csv:PATH"),
        (lambda: load_density("moons", samples=1), "data.samples"),
        (lambda: load_density("digits", samples=10), "drawn on the fly"),
        (lambda: load_density("moons", values=("a",)), "data.values"),
        (lambda: load_density("moons", context=("c",)), "label"),
        (lambda: PointSet.of(NAN), "row 1 has nan in column '?x1"),
        (lambda: PointSet.of([[0.0, float("inf")]]), "row 0 has inf"),
        (lambda: PointSet.of([[0.0], [1.0]], [[float("nan")], [1.0]]), "context must be finite"),
        (lambda: PointSet.of([1.0, 2.0]), r"\(n, features\), got \(2,\)"),
        (lambda: PointSet.of(torch.zeros(0, 2)), "there are no points"),
        (lambda: PointSet.of([[0.0, 1.0]], [[1.0], [2.0]]), "1 points have a context of 2 rows"),
        (lambda: PointSet.of([[0.0, 1.0]], features=("a",)), "must name 2 columns"),
        (lambda: PointSet.of([[0.0, 1.0]], features=("a", "a")), "different names"),
        (lambda: PointSet.of([["a", "b"]]), "real numbers"),
        (lambda: PointSet.of(torch.zeros(2, 2, dtype=torch.complex64)), "complex"),
        (lambda: PointSet.of(torch.full((2, 1, 2, 2), 3.0), levels=3), "whole numbers from 0 to 2"),
        (lambda: PointSet.of(torch.zeros(2, 4), levels=3), "channels, height, width"),
        (lambda: split_density(PointSet.of([[0.0, 1.0], [0.0, 2.0]] * 9), "mine", 0.1, 0.1, 0), "x0.* is constant, 0"),
        (
            lambda: split_density(PointSet.of(torch.randn(30, 2), torch.ones(30)), "mine", 0.1, 0.1, 0),
            "c0.* is constant, 1",
        ),
        (lambda: split_density(PointSet.of(torch.randn(3, 2)), "mine", 0.1, 0.1, 0), "leave 1 to train on"),
        (lambda: split_density(PointSet.of(torch.randn(30, 2)), "mine", 0.6, 0.6, 0), "leave 0 to train on"),
        (lambda: split_density(PointSet.of(torch.randn(30, 2)), "mine", 0.0, 0.1, 0), "data.validation"),
    ],
)
def test_what_cannot_be_is_said(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1,2\n3,\n", "line 3: column 'b': a number is missing"),
        ("a.csv", "a,b\n1,2\n3,x\n", "holds 'x'"),
        ("a.csv", "a,b\nx,y\n", "none of its columns"),
        ("a.csv", "", "empty"),
        ("a.npy", "not an array", "something else"),
        ("a.npz", "not an archive", "something else"),
    ],
)
def test_files_that_are_wrong(tmp_path, name, content, message):
    with pytest.raises(StorageError, match=message):
        read_points(write(tmp_path / name, content))


def test_more_files_that_are_wrong(tmp_path):
    with pytest.raises(StorageError, match="there is no column 'z'; there are 'a', 'b', 'c', 'name'"):
        read_points(write(tmp_path / "t.csv", ROWS), values=("z",))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StorageError, match="something else"):
        read_points(tmp_path / "object.npy")
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    with pytest.raises(StorageError, match="real numbers"):
        read_points(tmp_path / "text.npy")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(StorageError, match="there are x"):
        read_points(tmp_path / "other.npz")
    np.savez(tmp_path / "short.npz", points=np.zeros((3, 2)), context=np.zeros((2, 1)))
    with pytest.raises(StorageError, match="3 points have a context of 2 rows"):
        read_points(tmp_path / "short.npz")
    np.save(tmp_path / "nan.npy", np.array(NAN))
    with pytest.raises(StorageError, match="row 1 has nan"):
        read_points(tmp_path / "nan.npy")
    with pytest.raises(StorageError, match="none that is there"):
        read_points(tmp_path / "missing.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="no image in"):
        load_density(f"images:{tmp_path / 'empty'}")
    with pytest.raises(StorageError, match="there is no folder"):
        load_density(f"images:{tmp_path / 'nowhere'}")
    with pytest.raises(ConfigurationError, match=r"\.csv, \.parquet, \.npy, \.npz"):
        read_points(tmp_path / "a.txt")


def test_names():
    assert {"moons", "checkerboard", "digits", "mnist"} <= set(density_sets())
