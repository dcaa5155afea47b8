"""Convergence tests and compression of trained networks, as functions and as commands."""

import json
import math
import shutil

import pytest
import torch
from PIL import Image

import dynamicblocks as db
from dynamicblocks.analysis import Candidate, candidates, changed, compress, halved
from dynamicblocks.analysis.candidates import equidistributed, error_density
from dynamicblocks.cli import converge
from dynamicblocks.cli.compress import share
from dynamicblocks.cli.main import main
from dynamicblocks.structure import discretisation
from dynamicblocks.tasks import load_run
from dynamicblocks.times import Grid
from dynamicblocks.training.evaluation import Score


class Relaxation(torch.nn.Module):
    """f(t, y) = -rate(t) y: fast before t = 1, slow after."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, t, y):
        return -self.scale * (4.0 if t < 1 else 0.1) * y


def test_error_is_estimated_where_the_field_changes():
    block = db.DynamicBlock(Relaxation, 4, db.uniform(0, 4, steps=32), "rk4")
    density = error_density(block, torch.ones(2, 1, 2, 2))
    assert min(density[:8]) > 20 * max(density[9:])


def test_steps_share_the_error_evenly():
    grid = db.uniform(0, 8, steps=64)
    # A density that is 2^6 times higher in the first eighth: for order one, steps there are 8 times as short.
    density = [64.0 if time < 1 else 1.0 for time in grid.points[:-1]]
    found = equidistributed(grid, density, steps=15, order=1)
    assert sum(time <= 1 for time in found.points[1:]) == pytest.approx(8, abs=1)
    assert found.span == (0.0, 8.0)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_there_are_never_more_steps_than_points(steps):
    grid = db.uniform(0, 8, steps=8)
    found = equidistributed(grid, [1e9] + [0.0] * 7, steps=steps, order=2)
    assert found.steps == steps
    assert set(found.points) <= set(grid.points)


@pytest.mark.parametrize(
    "basis", ["constant(8)", "linear(9)", "legendre(8)", "bspline(11)", "discontinuous_linear(16)"]
)
def test_candidates_are_cheaper_and_sorted(basis):
    block = db.DynamicBlock("symmetric(4)", basis, db.uniform(0, 8, steps=8), "rk4_classic")
    found = candidates(block, torch.randn(2, 4, 6, 6), ["euler", "midpoint", "rk4_classic"])
    costs = [each.evaluations for each in found]
    assert costs == sorted(costs)
    assert max(costs) < block.evaluations
    assert {each.projected for each in found} == {True, False}
    assert len({(each.evaluations, each.projected) for each in found}) == len(found)
    y = torch.randn(2, 4, 6, 6)
    for each in found[::3]:
        other = each.applied(block)
        assert other(y).shape == y.shape
        assert (other.evaluations, other.integrator.name) == (each.evaluations, each.integrator)
        assert (len(other.controls) < len(block.controls)) == each.projected


def test_of_equally_dear_candidates_the_most_accurate_is_kept():
    """Where the field relaxes fast at first, steps of unequal length are better than equal ones."""
    block = db.DynamicBlock(Relaxation, 4, db.uniform(0, 4, steps=32), "rk4").eval()
    y = torch.ones(2, 1, 2, 2)
    found = {each.evaluations: each for each in candidates(block, y, ["euler"]) if not each.projected}
    assert found[10].grid == "error"
    uniform = Candidate("euler", block.uniform_steps(10).points, False, "uniform")
    with torch.no_grad():
        kept, equal = ((each.applied(block)(y) - block(y)).norm() for each in (found[10], uniform))
    assert kept < equal


class Undefined(Relaxation):
    """A field without a value half-way."""

    def forward(self, t, y):
        return super().forward(t, y) * (math.nan if t == 1.5 else 1.0)


def test_a_candidate_that_ends_in_nan_gives_way_to_any_other():
    block = db.DynamicBlock(Undefined, 3, db.uniform(0, 3, steps=3), "euler").eval()
    y = torch.ones(2, 1, 2, 2)
    # Midpoint in one step, and Euler in two equal ones, meet the gap; Euler in unequal ones does not.
    found = {each.evaluations: each for each in candidates(block, y, ["midpoint", "euler"]) if not each.projected}[2]
    assert found.grid == "error"


def test_a_projected_candidate_takes_the_mean_of_the_controls_it_joins():
    block = db.DynamicBlock("symmetric(4)", 4, integrator="euler")
    other = Candidate("euler", (0.0, 2.0, 4.0), True, "uniform").applied(block)
    first, second = (block.controls.layers[index].state_dict() for index in (0, 1))
    for name, value in other.controls.layers[0].state_dict().items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)


def small_net():
    torch.manual_seed(0)
    return db.create_model("continuousnet", in_channels=1, width=4, units=4, integrator="rk4_classic")


def scored_by(cost):
    """A score that depends on the network's evaluations alone."""

    return [lambda net: Score({"loss": 0.0, "accuracy": cost(net)}, samples=1000, seconds=1.0)]


BATCHES = [torch.randn(4, 1, 8, 8)]


def test_where_accuracy_never_falls_every_block_becomes_one_evaluation():
    found = compress(small_net(), scored_by(lambda net: 0.9), BATCHES, tolerance=0.0)
    assert [block.evaluations for block in found.net.blocks] == [1, 1, 1]


def test_where_every_change_costs_too_much_nothing_is_changed():
    net = small_net()
    found = compress(net, scored_by(lambda other: 0.9 if other.evaluations == 48 else 0.5), BATCHES, tolerance=0.01)
    assert found.net is net
    assert found.chosen == {}
    assert found.after == found.before


def test_changes_that_are_harmless_alone_and_not_together_stay_within_the_tolerance():
    def accuracy(net):
        return 0.9 - 0.004 * sum(block.evaluations < 16 for block in net.blocks)

    found = compress(small_net(), scored_by(accuracy), BATCHES, tolerance=0.009)
    assert len(found.chosen) == 2
    assert found.before[0]["accuracy"] - found.after[0]["accuracy"] == pytest.approx(0.008)


def test_the_tolerance_holds_on_every_set_of_images():
    """On the first set every change is harmless, on the second none is to the last block."""
    (harmless,) = scored_by(lambda net: 0.9)
    (sensitive,) = scored_by(lambda net: 0.7 if net.blocks[2].evaluations < 16 else 0.8)
    found = compress(small_net(), [harmless, sensitive], BATCHES, tolerance=0.01)
    assert sorted(found.chosen) == ["body.1", "body.3"]


def test_compression_leaves_the_network_as_it_was():
    net = small_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    described = discretisation(net)
    compress(net.train(), scored_by(lambda other: 0.9), BATCHES, tolerance=0, integrators=["euler"])
    assert net.training
    assert discretisation(net) == described
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_half_the_steps():
    net = small_net()
    other = changed(net, halved(net), BATCHES)
    assert [block.steps for block in other.blocks] == [2, 2, 2]
    assert [len(block.controls) for block in other.blocks] == [2, 2, 2]
    single = db.create_model("continuousnet", in_channels=1, width=4, units=1)
    assert halved(single) == {}


def test_statistics_are_measured_anew_where_weights_are_projected():
    net = small_net()

    def statistics(other):
        return other.blocks[0].controls.layers[0].branch.norm1.running_mean

    assert not torch.equal(statistics(changed(net, halved(net), BATCHES)), statistics(net))
    kept = {"body.1": Candidate("midpoint", net.blocks[0].times.points, False, "uniform")}
    assert torch.equal(statistics(changed(net, kept, BATCHES)), statistics(net))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A network of continuous depth and a plain one, trained for a moment."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["--epochs", "2", "--output", str(folder), "--optimizer.warmup", "0"]
    rk4 = ["--model.name", "continuousnet", "--model.width", "4", "--model.units", "4", "--model.integrator"]
    assert main(["train", *rk4, "rk4_classic", *common, "--run", "rk4"]) == 0
    plain = ["--model.name", "resnet", "--model.depth", "14", "--model.widths", "[4,8,16]"]
    assert main(["train", *plain, *common, "--run", "plain"]) == 0
    return folder


def test_converge(runs, capsys):
    command = ["converge", str(runs / "rk4"), "--beside", str(runs / "plain")]
    assert main([*command, "--integrators", "[euler,rk4_classic]", "--factors", "[1,2]"]) == 0
    out = capsys.readouterr().out
    assert "rk4_classic (trained)" in out
    assert "convergence.json" in out
    record = json.loads((runs / "rk4" / "convergence.json").read_text())
    (continuous, plain) = record["runs"]
    assert [each["trained_with"] for each in record["runs"]] == ["rk4_classic", "euler"]
    assert [each["evaluations"] for each in continuous["manifestations"]] == [12, 24, 48, 96]
    assert all(each["images_per_second"] > 0 for each in plain["manifestations"])
    result = json.loads((runs / "rk4" / "result.json").read_text())
    trained = continuous["manifestations"][2]
    assert trained["accuracy"] == pytest.approx(result["test_accuracy"])
    with Image.open(runs / "rk4" / "convergence.png") as picture:
        assert picture.width > 1000


def test_converge_tells_runs_of_one_model_apart(runs, tmp_path):
    plain, other = str(runs / "plain"), str(shutil.copytree(runs / "plain", tmp_path / "plain"))
    assert main(["converge", str(runs / "rk4"), "--beside", plain, other, "--integrators", "[euler]"]) == 0
    record = json.loads((runs / "rk4" / "convergence.json").read_text())
    assert [each["folder"] for each in record["runs"]] == ["rk4", "plain", "plain"]
    with Image.open(runs / "rk4" / "convergence.png") as picture:
        assert picture.width > 1500


def test_converge_that_is_stopped_keeps_the_runs_it_has_measured(runs, monkeypatch, capsys):
    measure = converge.manifestations

    def until_the_second(net, *arguments, **keywords):
        if measured:
            raise KeyboardInterrupt
        measured.append(net)
        return measure(net, *arguments, **keywords)

    measured = []
    monkeypatch.setattr(converge, "manifestations", until_the_second)
    command = ["converge", str(runs / "rk4"), "--beside", str(runs / "plain"), "--integrators", "[euler]"]
    assert main([*command, "--factors", "[1]"]) != 0
    assert "12" in capsys.readouterr().out
    record = json.loads((runs / "rk4" / "convergence.json").read_text())
    assert [each["folder"] for each in record["runs"]] == ["rk4"]
    assert (runs / "rk4" / "convergence.png").stat().st_size > 0


def test_converge_refuses_unknown_integrators_before_it_begins(runs, capsys):
    assert main(["converge", str(runs / "plain"), "--integrators", "[euler,rk5]"]) == 2
    assert "did you mean 'rk4'" in capsys.readouterr().err
    assert not (runs / "plain" / "convergence.json").exists()


def test_compress_writes_a_run_that_the_other_commands_read(runs, capsys):
    target = runs / "small"
    command = ["compress", str(runs / "rk4"), "--tolerance", "6%", "--disagreement", "50%", "--to", str(target)]
    command += ["--beside", str(runs / "plain")]
    assert main([*command, "--integrators", "[euler,midpoint]"]) == 0
    out = capsys.readouterr().out
    assert "half the steps" in out
    assert "validation images" in out
    result = json.loads((target / "result.json").read_text())
    validation, training, agreement = result["scores"].values()
    for scores in (validation, training):
        assert scores["before"]["accuracy"] - scores["after"]["accuracy"] <= 0.06 + 1e-9
    assert agreement["before"]["accuracy"] == 1
    assert agreement["after"]["accuracy"] >= 0.5 - 1e-9
    before, after = result["test"][:2]
    net = load_run(target).net
    assert after["evaluations"] == net.evaluations < before["evaluations"] == 48
    assert after["weights"] == net.num_weights
    assert main(["evaluate", str(target)]) == 0
    line = json.loads((target / "evaluations.jsonl").read_text())
    assert line["accuracy"] == pytest.approx(after["accuracy"])
    assert main([*command, "--integrators", "[euler]"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("0.2%", 0.002), (" 1 %", 0.01), ("0.002", 0.002), (".5%", 0.005), ("0", 0)]
)
def test_tolerances(text, value):
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["two", "-1%", "100%", "2", "1e-3%"])
def test_wrong_tolerances(text):
    with pytest.raises(db.ConfigurationError, match=r"a tolerance (must be|of a share must lie between)"):
        share(text)


def test_grids_of_one_step_have_no_other_choice():
    assert equidistributed(Grid((0.0, 1.0)), [1.0], steps=1, order=1).points == (0.0, 1.0)
