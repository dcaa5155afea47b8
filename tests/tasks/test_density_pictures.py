"""Pictures of densities, the table of manifestations, and the command that draws samples."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dynamicblocks.cli.main import main
from dynamicblocks.cli.sampled import context_of, solver_of
from dynamicblocks.data.densities import PointSet
from dynamicblocks.errors import ConfigurationError, UsageError
from dynamicblocks.flows import ContinuousTransform, Flow, make_base, wasserstein2
from dynamicblocks.functional import Solver
from dynamicblocks.tasks import Density, DensityConfig, DensityModel
from dynamicblocks.tasks import density_manifestation as manifestation
from dynamicblocks.tasks.density_facts import facts_of_points
from dynamicblocks.tasks.density_net import DensityNet
from dynamicblocks.tasks.density_pictures import draw_density, draw_points
from dynamicblocks.training import HardwareConfig, OptimizerConfig, TrainConfig, Training

RK4 = Solver("rk4", step_size=0.25)


def made(points, model=None, **options):
    """An untrained flow of these points, what is known of them, and the points."""
    torch.manual_seed(0)
    task = Density(DensityConfig("given"), DensityModel(hidden=(8,), **(model or {})), RK4, **options)
    known = facts_of_points(points)
    vars(task)["known"] = known
    return task.build().eval(), known, points


def plane(number=60, context=False):
    draws = torch.Generator().manual_seed(0)
    labels = torch.nn.functional.one_hot(torch.arange(number) % 3, 3) if context else None
    return PointSet.of(torch.randn(number, 2, generator=draws) * 3 + 1, labels)


def pixels(path):
    with Image.open(path) as image:
        return image.size, image.n_frames if path.suffix == ".gif" else 1, np.asarray(image.convert("RGB")).std()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(manifestation, "GRIDS", {"euler": (1, 3), "rk4": (1,)})
    monkeypatch.setattr(manifestation, "IMAGE_GRIDS", {"euler": (1, 3)})
    monkeypatch.setattr(manifestation, "TOLERANCES", (1e-1,))
    monkeypatch.setattr(manifestation, "IMAGE_TOLERANCES", ())
    monkeypatch.setattr("dynamicblocks.tasks.density_pictures.SIDE", 20)
    monkeypatch.setattr("dynamicblocks.tasks.density_particles.FRAMES", 3)
    monkeypatch.setattr("dynamicblocks.tasks.density_particles.PANELS", 2)


@pytest.mark.parametrize(
    ("points", "model", "names"),
    [
        (plane(), {}, {"density.png", "particles.png", "particles.gif"}),
        (plane(context=True), {}, {"density.png", "particles.png", "particles.gif"}),
        (plane(), {"flows": 2}, {"density.png"}),
        (PointSet.of(torch.randn(40, 1)), {}, {"particles.png", "particles.gif"}),
        (PointSet.of(torch.randn(40, 5)), {}, {"particles.png", "particles.gif"}),
        (PointSet.of(torch.randint(5, (20, 1, 4, 4)), levels=5), {}, {"particles.png", "particles.gif"}),
    ],
    ids=["plane", "conditional", "two flows", "line", "table", "images"],
)
@pytest.mark.usefixtures("few")
def test_every_kind_of_points_is_drawn(points, model, names, tmp_path):
    paths = draw_density(*made(points, model), tmp_path)
    assert {path.name for path in paths} == names | {"samples.png", "manifestation.png", "manifestation.csv"}
    for path in paths:
        if path.suffix != ".csv":
            size, frames, spread = pixels(path)
            assert min(size) > 100
            assert spread > 5
            assert frames == (3 if path.suffix == ".gif" else 1)


@pytest.mark.usefixtures("few")
def test_manifestations_are_what_the_solvers_give():
    net, known, points = made(plane())
    found = manifestation.manifest(net, known, points)
    rows = {(row.setting.method, row.setting.steps): row for row in found.rows}
    assert set(rows) == {("euler", 1), ("euler", 3), ("rk4", 1), ("dopri5", None)}
    assert [rows[key].evaluations for key in (("euler", 1), ("euler", 3), ("rk4", 1))] == [1, 3, 4]
    one = rows["euler", 3]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    held = points.select(order[:30]).points
    again = net.sample(30, seed=0, solver=Solver("euler", step_size=1 / 3)).double()
    assert torch.equal(one.samples, again)
    std = torch.tensor(known.std, dtype=torch.float64)
    assert one.distance == pytest.approx(wasserstein2(again / std, held / std))
    table = list(csv.DictReader(manifestation.table_of(found).splitlines()))
    assert [row["method"] for row in table] == ["euler", "euler", "rk4", "dopri5"]
    assert float(table[1]["w2"]) == pytest.approx(one.distance, rel=1e-5)


class Shift(torch.nn.Module):
    """Moves noise by six in one unit of time, to the left in one class and to the right in the other."""

    def __init__(self, sign):
        super().__init__()
        self.way = sign * torch.tensor([[6.0, 0.0], [-6.0, 0.0]])

    def forward(self, t, x, context):
        return context @ self.way


@pytest.mark.usefixtures("few")
def test_samples_of_the_wrong_class_are_far():
    labels = torch.nn.functional.one_hot(torch.arange(60) % 2, 2).float()
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    points = PointSet.of(noise + Shift(1)(0, noise, labels), labels)
    known = facts_of_points(points)
    found = {}
    for sign in (1, -1):
        flow = Flow(ContinuousTransform(Shift(sign), context=2, features=2), make_base("gaussian", (2,)))
        found[sign] = manifestation.manifest(DensityNet(flow, known).eval(), known, points)
    right, wrong = ([row.distance for row in found[sign].rows] for sign in (1, -1))
    assert max(right) < 1.5 * found[1].floor
    # All points move to those of the other class, which is a distance of sqrt(2), or to the other place, one of 2.
    assert min(wrong) > 1.3 > 1.5 * found[1].floor


@pytest.mark.usefixtures("few")
def test_what_is_too_dear_is_left_out():
    net, known, points = made(plane())
    found = manifestation.manifest(net, known, points, seconds=0.0)
    assert len(found.rows) + len(found.left_out) == 4
    assert len(found.left_out) >= 3


def test_samples_alone_are_drawn(tmp_path):
    for number, points in enumerate(
        (plane(), PointSet.of(torch.randn(30, 3)), PointSet.of(torch.randint(5, (9, 1, 4, 4)), levels=5))
    ):
        _, known, _ = made(points)
        path = tmp_path / f"{number}.png"
        assert draw_points(points.points, path, known)
        assert pixels(path)[2] > 5


# The command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of points without and with a context, and of images."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynamicblocks.tasks.density_pictures.draw_density", lambda *_: [])
        patch.setattr("dynamicblocks.data.densities.catalogue.DRAWN", (60, 20, 20))
        for name, data in (
            ("plain", DensityConfig("moons", batch_size=16, steps=1)),
            ("labels", DensityConfig("pinwheel", context=("label",), batch_size=16, steps=1)),
            ("images", DensityConfig("digits", batch_size=8, steps=1, test_batch_size=400)),
        ):
            hardware = HardwareConfig(accelerator="cpu", precision="32-true", compile=False)
            config = TrainConfig(
                optimizer=OptimizerConfig("adam", lr=0.01), epochs=1, output=str(place), run=name, hardware=hardware
            )
            task = Density(data, DensityModel(hidden=(4,)), Solver("rk4", step_size=0.5), "flow-matching")
            Training(task, config, console=Console(quiet=True)).run()
    return place


def sample(runs, name, *flags):
    try:
        return main(["sample", str(runs / name), "--device", "cpu", *map(str, flags)])
    except SystemExit as error:  # of what was written
        return error.code


def test_points_are_written_as_a_table_and_an_array(runs, tmp_path, capsys):
    flags = ("--number", 7, "--seed", 3, "--method", "euler", "--steps", 4)
    assert sample(runs, "plain", *flags, "--output", tmp_path / "a.csv") == 0
    assert "7 samples written to" in capsys.readouterr().out
    assert sample(runs, "plain", *flags, "--output", tmp_path / "b.npz") == 0
    table = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert table[0] == ["x0", "x1"]
    with np.load(tmp_path / "b.npz") as file:
        np.testing.assert_allclose(np.array(table[1:], dtype=float), file["points"], rtol=1e-8)
        assert file["points"].shape == (7, 2)
    assert (tmp_path / "a.png").is_file()
    assert (tmp_path / "b.png").is_file()


def test_another_solver_gives_other_points(runs, tmp_path):
    for name, flags in (
        ("one.csv", ("--method", "euler", "--steps", 1)),
        ("fine.csv", ("--method", "rk4", "--steps", 20)),
        ("exact.csv", ("--method", "dopri5", "--tolerance", 1e-7)),
    ):
        assert sample(runs, "plain", "--number", 5, *flags, "--output", tmp_path / name) == 0
    one, fine, exact = (
        np.loadtxt(tmp_path / f"{name}.csv", delimiter=",", skiprows=1) for name in ("one", "fine", "exact")
    )
    np.testing.assert_allclose(fine, exact, atol=1e-3)
    assert np.abs(one - exact).max() > 1e-3


def test_conditional_points_and_images(runs, tmp_path):
    assert sample(runs, "labels", "--context", "label=2", "--number", 4, "--output", tmp_path / "a.csv") == 0
    assert sample(runs, "labels", "--context", "0,0,1,0,0", "--number", 4, "--output", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    assert sample(runs, "images", "--number", 3, "--output", tmp_path / "c.npz") == 0
    with np.load(tmp_path / "c.npz") as file:
        assert file["points"].shape == (3, 1, 8, 8)
        assert set(np.unique(file["points"])) <= set(range(17))


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("plain", ("--steps", 3), "--steps is of --method"),
        ("plain", ("--method", "rk4"), "needs --steps"),
        ("plain", ("--method", "dopri5", "--steps", 3), "chooses its steps"),
        ("plain", ("--method", "rk4", "--steps", 3, "--tolerance", 0.1), "leave out --tolerance"),
        ("plain", ("--method", "rk44", "--steps", 3), "did you mean 'rk4'"),
        ("plain", ("--context", "1"), "leave out --context"),
        ("labels", (), "conditional"),
        ("labels", ("--context", "label=7"), "5 numbers"),
        ("labels", ("--context", "1,2"), "5 numbers"),
        ("plain", ("--times", "0:1:3"), "no times"),
        ("plain", ("--output", "new.txt"), ".csv, .npz or .png"),
        ("plain", ("--steps", 0, "--method", "euler"), "at least 1"),
    ],
)
def test_what_cannot_be_is_said(runs, capsys, name, flags, said):
    assert sample(runs, name, *flags) == 2
    assert said in capsys.readouterr().err


def test_points_with_their_context_are_read_again(runs, tmp_path, capsys):
    names = [f"label={number}" for number in range(5)]
    for name in ("a.csv", "b.npz"):
        assert sample(runs, "labels", "--context", "label=2", "--number", 4, "--output", tmp_path / name) == 0
        found = ["--output", str(tmp_path / f"of_{name}.csv"), "--device", "cpu"]
        assert main(["predict", str(runs / "labels"), str(tmp_path / name), *found]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [[row[name] for name in names] for row in rows] == [["0", "0", "1", "0", "0"]] * 4
    assert (tmp_path / "of_a.csv.csv").read_text().splitlines()[1:]
    assert sample(runs, "images", "--number", 4, "--output", tmp_path / "alone.png") == 0
    assert "Drawn: " in capsys.readouterr().out
    assert pixels(tmp_path / "alone.png")[2] > 5
    assert not list(tmp_path.glob("alone.[cn]*"))


def test_images_are_no_table(runs, tmp_path, capsys):
    assert sample(runs, "images", "--number", 2, "--output", tmp_path / "a.csv") == 2
    assert "name a .npz file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_solvers_and_contexts_as_they_are_written():
    assert solver_of("midpoint", 4, None, 2.0) == Solver("midpoint", step_size=0.5)
    assert solver_of("dopri5", None, 1e-3, 1.0).rtol == 1e-3
    with pytest.raises(UsageError):
        solver_of("euler", None, None, 1.0)
    assert context_of("0.5", ("hour",)).tolist() == [0.5]
    with pytest.raises(ConfigurationError, match="not conditional"):
        context_of("1", ())
