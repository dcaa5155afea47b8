"""Adaptive integrators on the command line: training, evaluation, the convergence test, the list."""

import json

import pytest
import torch

from dynamicblocks.cli.main import main
from dynamicblocks.tasks import load_run

METHOD = "bosh3(rtol=0.05, atol=0.02)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small network trained with an adaptive integrator for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    model = ["--model.name", "dynamicnet", "--model.widths", "[4]", "--model.units", "2", "--model.controls", "linear"]
    training = ["--max_steps", "3", "--epochs", "1", "--optimizer.warmup", "0", "--output", str(folder), "--run", "one"]
    assert main(["train", *model, "--model.integrator", METHOD, *training]) == 0
    return folder / "one"


def test_a_run_keeps_the_integrator_with_its_tolerances(run):
    net = load_run(run).net
    assert [block.integrator.shorthand for block in net.blocks] == ["bosh3(rtol=0.05, atol=0.02)"]


def test_evaluate(run, capsys):
    assert main(["evaluate", str(run), "--integrator", "dopri5(rtol=0.01, atol=0.01)", "--split", "validation"]) == 0
    trained, asked = map(json.loads, (run / "evaluations.jsonl").read_text().splitlines()[-2:])
    assert trained["integrator"] == METHOD
    assert asked["integrator"] == "dopri5(rtol=0.01, atol=0.01)"
    assert asked["evaluations"] > trained["evaluations"] > 0


def test_converge(run, capsys):
    names = '["euler","bosh3(rtol=0.05, atol=0.02)"]'
    command = ["converge", str(run), "--integrators", names, "--factors", "[1]", "--split", "validation"]
    assert main(command) == 0
    found = json.loads((run / "convergence.json").read_text())["runs"][0]["manifestations"]
    assert [each["integrator"] for each in found] == ["euler", METHOD]
    assert "(trained)" in capsys.readouterr().out


def test_compress_needs_costs_that_are_known(run, capsys):
    assert main(["compress", str(run), "--integrators", "[dopri5]"]) == 2
    assert "depend on the state" in " ".join(capsys.readouterr().err.split())


def test_the_list_has_them(capsys):
    assert main(["integrators"]) == 0
    out = capsys.readouterr().out
    assert "dopri5" in out
    assert "at least 7" in out


@pytest.mark.slow
@pytest.mark.parametrize("integrator", ["midpoint", METHOD])
def test_training_with_the_adjoint(integrator, tmp_path):
    model = ["--model.name", "dynamicnet", "--model.widths", "[4]", "--model.units", "2", "--model.gradient", "adjoint"]
    training = ["--max_steps", "3", "--epochs", "1", "--optimizer.warmup", "0", "--output", str(tmp_path)]
    assert main(["train", *model, "--model.integrator", integrator, *training, "--run", "one"]) == 0
    net = load_run(tmp_path / "one").net
    assert [repr(block.gradient) for block in net.blocks] == ["Adjoint()"]
    assert all(torch.isfinite(weight).all() for weight in net.parameters())


def test_training_refuses_what_has_no_adjoint_equation(tmp_path, capsys):
    model = ["--model.name", "resnet20", "--model.unit", "a", "--model.gradient", "adjoint"]
    assert main(["train", *model, "--output", str(tmp_path)]) == 2
    assert "has a projection" in capsys.readouterr().err
