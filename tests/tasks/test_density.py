"""The task of densities: trained, resumed, read without data, predicted, drawn from; what cannot be is said before."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.data.densities.points import PointSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows import ContinuousTransform
from dynamicblocks.flows.images import Marginals
from dynamicblocks.functional import Solver
from dynamicblocks.tasks import Density, DensityConfig, DensityModel, PenaltyConfig, load_run
from dynamicblocks.tasks.density_facts import DensityFacts, facts_of_points
from dynamicblocks.training import HardwareConfig, OptimizerConfig, Place, TrainConfig, Training

DOUBLE = torch.float64
TINY = DensityModel(hidden=(8, 8))
SMALL = DensityConfig("moons", samples=60, batch_size=16, steps=3)
RK4 = Solver("rk4", step_size=0.25)
OBJECTIVES = ("likelihood", "flow-matching", "ot-flow-matching")


def _few(patch):
    patch.setattr("dynamicblocks.tasks.density_pictures.draw_density", lambda *_: [])
    patch.setattr("dynamicblocks.data.densities.catalogue.DRAWN", (60, 20, 20))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Pictures have tests of their own, and a few points are enough."""
    _few(monkeypatch)


def training(task, folder, **options):
    hardware = HardwareConfig(accelerator="cpu", precision="32-true", compile=False)
    usual = {"epochs": 2, "output": str(folder), "run": "run", "hardware": hardware}
    optimizer = OptimizerConfig("adam", lr=0.01, weight_decay=0.0)
    return Training(task, TrainConfig(**{"optimizer": optimizer, **usual, **options}), console=Console(quiet=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("density")
    with pytest.MonkeyPatch.context() as patch:
        _few(patch)
        training(Density(SMALL, TINY, RK4), place).run()
    return place / "run"


@pytest.fixture(scope="module")
def conditional():
    """A flow of points whose second number is about their context."""
    draws = torch.Generator().manual_seed(0)
    context = torch.randn(40, 1, generator=draws, dtype=DOUBLE) * 3 + 10
    points = torch.cat([torch.randn(40, 1, generator=draws, dtype=DOUBLE), context], 1)
    points = points + 0.1 * torch.randn(40, 2, generator=draws, dtype=DOUBLE)
    task = Density(replace(SMALL, name="given"), TINY, RK4).with_data((points, context))
    task.load()
    return task, task.build().eval()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_ends_with_its_figures_whatever_the_objective(objective, tmp_path):
    outcome = training(Density(SMALL, TINY, RK4, objective), tmp_path).run()
    found = json.loads((outcome.folder / "result.json").read_text())
    assert {"test_loss", "test_nll", "validation_nll"} <= found.keys()
    run = load_run(outcome.folder)
    told = run.predict(run.task.densities.test)
    assert found["test_nll"] == pytest.approx(-told.mean().item(), rel=1e-4)
    if objective == "likelihood":
        assert found["test_loss"] == found["test_nll"]


def test_an_untrained_flow_of_nothing_is_the_normal_density():
    """Where v = 0 the density is that of the standardised base, whatever the units."""
    points = torch.tensor([[1000.0, 0.1], [1002.0, 0.3], [1004.0, 0.2]] * 10, dtype=DOUBLE)
    points = points + torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    task = Density(replace(SMALL, name="given"), TINY).with_data(points)
    task.load()
    net = task.build().double()
    for weight in net.flow.parameters():
        torch.nn.init.zeros_(weight)
    mean, std = (torch.tensor(each, dtype=DOUBLE) for each in (task.known.mean, task.known.std))
    expected = torch.distributions.Normal(mean, std).log_prob(points).sum(1)
    torch.testing.assert_close(task.predict(net, points, Place(dtype=DOUBLE)), expected, rtol=1e-4, atol=1e-4)
    drawn = task.sample(net, 4000, Place(dtype=DOUBLE))
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=float(0.1 * std.max()))


def test_penalties_raise_the_loss_above_the_likelihood():
    task = Density(SMALL, TINY, RK4, penalties=PenaltyConfig(kinetic=0.5, jacobian=0.1))
    net = task.build().eval()
    sums = task.score(net, next(iter(task.batches("test", Place()).evaluation())))
    measured = task.measured(dict(zip(task.sums, sums.tolist(), strict=True)))
    assert measured["loss"] > measured["nll"]


@pytest.mark.parametrize("objective", ["likelihood", "ot-flow-matching"])
def test_figures_are_told_again_and_the_callers_random_numbers_go_on(objective):
    task = Density(SMALL, TINY, RK4, objective, trace="hutchinson")
    net, batches = task.build().eval(), task.batches("test", Place(seed=3))
    state = torch.get_rng_state()
    first, second = ([task.score(net, batch) for batch in batches.evaluation()] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    other = task.batches("test", Place(seed=4))
    assert torch.equal(first[0], task.score(net, next(iter(other.evaluation()))))


def test_draws_of_training_follow_from_seed_epoch_and_step():
    batches = Density(SMALL).batches("train", Place(seed=1))
    whole = list(batches.training(2))
    assert len(whole) == 3
    assert len({int(each.seed) for each in (*whole, *batches.training(3), *batches.evaluation())}) > 6
    (last,) = batches.training(2, first_step=2)
    assert torch.equal(last.points, whole[2].points)
    assert torch.equal(last.seed, whole[2].seed)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_goes_on_is_as_if_it_had_not_stopped(objective, tmp_path):
    task = Density(SMALL, TINY, RK4, objective, trace="hutchinson")
    whole = training(task, tmp_path / "whole").run().net
    broken = training(task, tmp_path, checkpoint_steps=1)
    step = broken._step

    def stop_after_four(batch):
        if broken.steps_done == 4:
            raise OSError("gone")
        step(batch)

    broken._step = stop_after_four
    with pytest.raises(OSError, match="gone"):
        broken.run()
    again = Training(task, broken.config, resume=tmp_path / "run", console=Console(quiet=True)).run()
    for one, other in zip(again.net.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_is_read_without_its_data_predicts_and_draws(folder, monkeypatch):
    monkeypatch.setattr(DensityConfig, "load", lambda _: pytest.fail("data are read"))
    run = load_run(folder)
    drawn = run.sample(5, seed=3)
    assert drawn.shape == (5, 2)
    assert torch.equal(drawn, run.sample(5, seed=3))
    assert not torch.equal(drawn, run.sample(5, seed=4))
    one_step = run.sample(5, seed=3, solver=Solver("euler", step_size=1.0))
    assert not torch.equal(drawn, one_step)
    with pytest.raises(ConfigurationError, match="sample of the task density takes no contxt"):
        run.sample(5, contxt=[1.0])
    told = run.predict(drawn)
    torch.testing.assert_close(told, run.predict(drawn.numpy(), batch_size=2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(told, run.net.flow.log_prob(drawn.float()).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("x", "more", "message"), [
    (torch.zeros(2, 3), {}, r"numbers \(n, 2\).*got shape \(2, 3\)"),
    (torch.tensor([[1.0, math.nan]]), {}, "got NaN"),
    (torch.zeros(1, 2), {"context": [1.0]}, "without a context"),
    (torch.zeros(1, 2), {"resize": True}, "not resized"),
    (torch.zeros(1, 2), {"times": [1.0]}, "takes no times"),
    ("points.txt", {}, "points are read from files that end in"),
    (PointSet.of(torch.rand(3, 2), features=("a", "b")), {}, "got points of a, b"),
])  # fmt: skip
def test_points_of_which_no_density_is_told(folder, x, more, message):
    with pytest.raises(ConfigurationError, match=message):
        load_run(folder).predict(x, **more)


def test_densities_and_points_of_a_context(conditional):
    task, net = conditional
    points, context = task.densities.test.points, task.densities.test.context
    told = task.predict(net, points, context=context)
    assert torch.equal(told, task.predict(net, task.densities.test))
    for row in range(len(points)):
        alone = task.predict(net, points[row], context=context[row])
        torch.testing.assert_close(alone, told[row : row + 1], rtol=1e-4, atol=1e-4)
    drawn = task.sample(net, 3, context=[10.0])
    assert torch.equal(drawn, task.sample(net, 3, context=torch.full((3, 1), 10.0)))
    assert not torch.equal(drawn, task.sample(net, 3, context=[4.0]))


@pytest.mark.parametrize(("context", "message"), [
    (None, r"conditional: give a context \(n, 1\) or \(1,\): c0"),
    (torch.zeros(3, 2), r"got \(3, 2\)"),
    (torch.zeros(2, 1), "here n is 3 or 1"),
    (torch.tensor([[math.inf]]), "finite"),
])  # fmt: skip
def test_contexts_that_are_none(conditional, context, message):
    task, net = conditional
    name = task.known.context_names[0]
    with pytest.raises(ConfigurationError, match=message.replace("c0", name)):
        task.sample(net, 3, context=context)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Density(DensityConfig("moon")).check(), "did you mean 'moons'"),
    (lambda: Density(objective="flow-match"), "did you mean 'flow-matching'"),
    (lambda: Density(model=DensityModel(field="concatsquish")), "did you mean 'concatsquash'"),
    (lambda: Density(model=DensityModel(base="gausian")), "did you mean 'gaussian'"),
    (lambda: Density(trace="exat"), "did you mean 'exact'"),
    (lambda: Density(objective="flow-matching", model=DensityModel(scales=2)), "model.scales 2: flow-matching fits"),
    (lambda: Density(objective="flow-matching", model=DensityModel(flows=2)), "model.flows 2: flow-matching fits"),
    (lambda: Density(objective="flow-matching", penalties=PenaltyConfig(kinetic=1.0)), "penalties.kinetic is added to"),
    (lambda: Density(solver=Solver("euler")), "give solver.step_size, such as 0.1"),
    (lambda: Density(SMALL, DensityModel(field="conv")).sketch(), "model.field conv is of images"),
    (lambda: Density(SMALL, DensityModel(scales=2)).sketch(), "model.scales 2 is of images"),
    (lambda: Density(SMALL, DensityModel(marginals=True)).sketch(), "model.marginals is of images"),
    (lambda: Density(SMALL, penalties=PenaltyConfig(hjb=1.0)).sketch(), "hjb is of fields with a potential"),
    (lambda: Density(DensityConfig("given")).sketch(), "handed over in Python"),
    (lambda: DensityConfig(validation=0.0), "data.validation must be a share"),
    (lambda: DensityConfig(steps=0), "data.steps"),
    (lambda: DensityConfig(values=("a", "b"), context=("b",)), "among data.values and data.context"),
    (lambda: PenaltyConfig(kinetic=-1.0), "penalties.kinetic"),
    (lambda: DensityModel(horizon=0.0), "model.horizon"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_training(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_an_exact_trace_of_many_numbers_is_refused_with_its_cost():
    known = facts_of_points(PointSet.of(torch.rand(9, 300, dtype=DOUBLE)))
    task = Density(trace="exact")
    vars(task)["known"] = known
    with pytest.raises(ConfigurationError, match="300 numbers it takes as many products"):
        task.build()
    closed = Density(model=DensityModel(field="potential"), trace="exact")
    vars(closed)["known"] = known
    closed.build()


@pytest.mark.parametrize(("change", "message"), [
    ({"shape": [3]}, "features among the facts"),
    ({"shape": [2**30]}, "shape among the facts"),
    ({"levels": 1}, "levels among the facts"),
    ({"mean": [0.0]}, "mean among the facts"),
    ({"std": [1.0, 0.0]}, "std among the facts"),
    ({"context_names": ["c", "d"]}, "context_mean among the facts"),
])  # fmt: skip
def test_facts_that_are_none(change, message):
    facts = DensityFacts((2,), None, ("a", "b"), (0.0, 1.0), (1.0, 2.0), ("c",), (0.0,), (1.0,))
    assert DensityFacts.of_file(json.loads(json.dumps(facts.stored()))) == facts
    with pytest.raises(ConfigurationError, match=message):
        DensityFacts.of_file({**facts.stored(), **change})


def test_points_from_python():
    draws = np.random.default_rng(0)
    task = Density(DensityConfig(batch_size=16, steps=2), TINY, objective="ot-flow-matching")
    run = db.fit(task, draws.normal(5, 2, (50, 3)), epochs=1)
    assert run.sample(4).shape == (4, 3)
    assert run.task.headline.name == "nll"
    with pytest.raises(ConfigurationError, match="handed over in Python"):
        load_run(run.folder.path).task.load()


def test_a_table_of_ones_own_end_to_end(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    rows = [",".join(f"{value:.6f}" for value in row) for row in draws.normal(size=(40, 3))]
    (tmp_path / "mine.csv").write_text("\n".join(["width,height,dose", *rows]) + "\n")
    small = ["--model.hidden", "8", "--data.steps", "2", "--data.batch_size", "8", "--epochs", "1"]
    where = ["--data.name", "csv:mine.csv", "--data.context", "dose", "--hardware.accelerator", "cpu"]
    assert not main(["train", "--task", "density", *where, *small, "--run", "r"])
    assert "negative log-likelihood" in capsys.readouterr().out
    assert not main(["predict", "runs/r", "mine.csv", "--output", "told.csv"])
    told = (tmp_path / "told.csv").read_text().splitlines()
    assert told[0] == "log_density"
    assert len(told) == 41
    assert not main(["evaluate", "runs/r"])
    capsys.readouterr()
    assert main(["train", "--task", "density", *where, *small, "--data.values", "widht"])
    assert "no column 'widht'; there are 'width', 'height', 'dose'" in capsys.readouterr().err


IMAGES = torch.randint(5, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("objective", "scales"), [("likelihood", 2), ("flow-matching", 1)])
def test_images_are_told_in_bits_a_dimension(objective, scales):
    model = DensityModel(hidden=(4,), scales=scales)
    labels = torch.nn.functional.one_hot(torch.arange(40) % 2, 2)
    given = PointSet.of(IMAGES, labels, levels=5, context_names=("label=0", "label=1"))
    task = Density(DensityConfig(batch_size=8, steps=2), model, RK4, objective)
    run = db.fit(task, given, epochs=1)
    found = json.loads((run.folder.path / "result.json").read_text())
    assert run.task.headline.name == "bits_per_dim"
    assert found["test_bits_per_dim"] == pytest.approx(found["test_nll"] / (16 * math.log(2)))
    drawn = run.sample(3, context=[1.0, 0.0])
    assert drawn.shape == (3, 1, 4, 4)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert run.predict(drawn, context=[1.0, 0.0]).shape == (3,)
    with pytest.raises(ConfigurationError, match="whole numbers from 0 to 4"):
        run.predict(drawn + 0.5, context=[1.0, 0.0])
    read = load_run(run.folder.path).task.known
    assert read == run.task.known
    assert len(read.mean) == 16


@pytest.mark.parametrize("marginals", [None, True, False])
def test_pixels_become_normal_by_their_frequencies_where_images_are_many(marginals, tmp_path):
    """Until it learns, a flow has the likelihood of independent pixels, and a run that is read counts as it did."""
    model = DensityModel(hidden=(4,), marginals=marginals)
    task = Density(DensityConfig(batch_size=8, steps=1), model, RK4, "flow-matching")
    run = db.fit(task, PointSet.of(IMAGES, levels=5), epochs=1, output=str(tmp_path), run="r")
    counted = [part for part in run.net.modules() if isinstance(part, Marginals)]
    assert bool(counted) is (marginals is not False)
    images = run.task.densities.train.points
    known = load_run(tmp_path / "r")
    x = IMAGES[:6].double()
    torch.testing.assert_close(known.predict(x), run.predict(x))
    if not counted:
        return
    assert torch.equal(counted[0].counts, Marginals.count(images, 5))
    assert torch.equal(known.net.flow.transform.parts[0].counts, counted[0].counts)
    for field in (part for part in run.net.modules() if isinstance(part, ContinuousTransform)):
        for weight in field.parameters():
            torch.nn.init.zeros_(weight)
    shares = torch.stack([(images == level).double().sum(0) + 1 for level in range(5)]) / (len(images) + 5)
    wanted = shares.gather(0, x.long()).log().flatten(1).sum(1)
    torch.testing.assert_close(run.predict(x), wanted, rtol=1e-5, atol=1e-4)


def test_few_images_go_through_a_logit():
    few = PointSet.of(torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)), levels=256)
    task = Density(DensityConfig(), DensityModel(hidden=(4,))).with_data(few)
    assert not any(isinstance(part, Marginals) for part in task.build().modules())
    for more in ({"alpha": 0.05}, {"standardise": False}):
        task = Density(DensityConfig(), DensityModel(marginals=True, **more)).with_data(few)
        with pytest.raises(ConfigurationError, match=f"model.{next(iter(more))} is of pixels that go through a logit"):
            task.sketch()


def test_a_thousand_images_of_a_large_set_judge_each_epoch():
    assert DensityConfig("mnist").judged * 60_000 == pytest.approx(1000)
    assert DensityConfig("mnist", validation=0.2).judged == 0.2
    assert DensityConfig("digits").judged == DensityConfig("moons").judged == 0.1


@pytest.mark.parametrize(("model", "message"), [
    (DensityModel(field="concat"), "model.field concat is of points"),
    (DensityModel(base="eight_gaussians"), "model.base eight_gaussians is of points"),
    (DensityModel(scales=4), "at most 3 scales"),
    (DensityModel(patch=3), "do not divide into patches"),
])  # fmt: skip
def test_what_cannot_be_of_images(model, message):
    task = Density(DensityConfig(), model).with_data(PointSet.of(IMAGES, levels=5))
    with pytest.raises(ConfigurationError, match=message):
        task.sketch()
