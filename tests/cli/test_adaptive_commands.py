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


TOLERANCES = ["--tolerances", "1e-3", "1e-1", "0.05"]


def test_tolerances(run, capsys):
    assert main(["converge", str(run), *TOLERANCES, "--split", "validation"]) == 0
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if line.startswith("tolerance"))
    assert head.split() == ["tolerance", "evaluations", "error", "accuracy", "loss", "ms", "per", "image"]
    record = json.loads((run / "tolerances.json").read_text())["runs"][0]
    assert record["trained_with"] == METHOD
    found = record["tolerances"]
    assert [each["tolerance"] for each in found] == [0.1, 0.05, 0.001]
    evaluations = [each["evaluations"] for each in found]
    assert evaluations == sorted(evaluations)
    assert evaluations[0] < evaluations[-1]
    assert all(0 <= each["accuracy"] <= 1 and each["images_per_second"] > 0 for each in found)
    assert (run / "tolerances.png").read_bytes().startswith(b"\x89PNG")
    assert not any(each["trained"] for each in found)  # its atol is another than its rtol


def test_figures_at_a_tolerance_are_those_of_the_integrator_written_in_full(run, capsys):
    name = "bosh3(rtol=0.001, atol=0.001)"
    assert main(["converge", str(run), "--tolerances", "[0.001]", "--split", "validation"]) == 0
    assert main(["evaluate", str(run), "--integrator", name, "--split", "validation"]) == 0
    found = json.loads((run / "tolerances.json").read_text())["runs"][0]["tolerances"][0]
    asked = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (found["loss"], found["accuracy"]) == (asked["loss"], asked["accuracy"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tolerances", "0"], "--tolerances: each tolerance must be positive, got 0"),
        (["--tolerances", "1e-2", "-1"], "--tolerances: each tolerance must be zero or more and finite, got -1"),
        (["--tolerances", "nan"], "--tolerances"),
        (["--tolerances", "inf"], "--tolerances"),
        (["--tolerances", "0.01", "1e-2"], "--tolerances: the tolerance 0.01 is given twice"),
        (["--tolerances", "0.1", "--factors", "2"], "leave out --integrators and --factors"),
        (["--tolerances", "0.1", "--integrators", "euler"], "leave out --integrators and --factors"),
    ],
)
def test_tolerances_that_cannot_be(run, flags, said, capsys):
    assert main(["converge", str(run), *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_tolerance_that_is_no_number(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["converge", "runs/one", "--tolerances", "x"])
    assert "--tolerances expects numbers such as [0.5, 1], got 'x'" in capsys.readouterr().err


def test_tolerances_need_a_block_that_chooses_its_steps(tmp_path, capsys):
    model = ["--model.name", "dynamicnet", "--model.widths", "[2]", "--model.units", "1"]
    training = ["--max_steps", "1", "--epochs", "1", "--optimizer.warmup", "0", "--output", str(tmp_path)]
    assert main(["train", *model, *training, "--run", "grid"]) == 0
    assert main(["converge", str(tmp_path / "grid"), "--tolerances", "0.1"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "chooses its own steps (euler)" in said
    assert "--model.integrator dopri5" in said
