"""What commands print: a line an epoch, bars on a terminal alone, tables that are never cut, text as it was written."""

import json
import os
import pty
import re
import subprocess
import sys
from io import StringIO
from itertools import takewhile

import pytest
import torch
from rich.console import Console

from dynamicblocks.analysis import Panel, draw_manifestations
from dynamicblocks.bars import Bars, bars_in_use, say
from dynamicblocks.cli.main import COMMANDS, main
from dynamicblocks.cli.table import table
from dynamicblocks.tasks.segment_pictures import draw_masks
from dynamicblocks.training import Manifestation, Score
from dynamicblocks.training.engine import Cost
from dynamicblocks.training.progress import Report, duration
from dynamicblocks.visible import columns, on_one_line, visible
from tests.training.small_task import Small, plan

INTEGRATOR = "dopri5(rtol=0.001, atol=0.0001)"
# Markup of rich that closes nothing, a name of an emoji, and what turns a terminal red.
ODD = "a[bold]b[-b] :smile: \x1b[31mc"
SHORT = ["--model.name", "dynamicnet", "--model.widths", "[2]", "--model.units", "1", "--data.batch_size", "400"]


def terminal(width=80):
    return Console(file=StringIO(), force_terminal=True, force_interactive=True, width=width, color_system=None)


def written(console):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a name that rich would read as markup, and what its training printed."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        out = StringIO()
        patch.setattr("sys.stdout", out)
        assert main(["train", *SHORT, "--epochs", "3", "--output", str(folder), "--run", ODD, "--logger", "csv"]) == 0
    return folder / ODD, out.getvalue()


def test_a_line_an_epoch_without_a_terminal(run):
    folder, out = run
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    form = r"epoch \d/3  loss [\d.]+  accuracy [\d.]+%  rate [\d.e-]+  [\d,]+ images/s  [\d:]+ left"
    assert len(lines) == 3
    assert all(re.fullmatch(form, line) for line in lines), lines
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [f"accuracy {each['validation_accuracy']:.2%}" in line for each, line in zip(metrics, lines, strict=True)]
    assert out.index("on the validation images") < out.index(lines[0])
    assert out.index(lines[2]) < out.index("reading 360 test images ...")


def test_what_was_written_is_printed_as_it_is(run, capsys):
    folder, out = run
    shown = visible(str(folder))
    assert "\x1b" not in out
    assert f"Run written to {shown}\n" in out
    for command in (["evaluate"], ["converge", "--factors", "[1]"], ["operators"]):
        assert main([command[0], str(folder), *command[1:]]) == 0
        said = capsys.readouterr().out
        assert ODD.replace("\x1b", r"\x1b") in said
        assert "\x1b" not in said


@pytest.mark.parametrize("command", ["evaluate", "converge", "compress", "operators", "train --resume"])
@pytest.mark.parametrize("name", ["[bold]", "a[/b]c", "\x1b[31m", "two\nlines"])
def test_names_in_errors(capsys, command, name):
    assert main([*command.split(), f"/nowhere/{name}"]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert on_one_line(f"/nowhere/{name}") in said


@pytest.mark.parametrize("width", [60, 80, None])
def test_integrators_are_never_cut(run, capsys, monkeypatch, width):
    folder, _ = run
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    assert main(["evaluate", str(folder), "--integrator", INTEGRATOR, "--split", "validation"]) == 0
    said = capsys.readouterr().out
    assert INTEGRATOR in said
    assert "…" not in said
    assert "..." not in said.replace(" ...\n", "\n")
    rows = [line for line in said.splitlines() if INTEGRATOR in line]
    assert all(len(line) <= (width or 1000) for line in rows)


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", [["integrators"], ["methods"], ["models", "continuousnet"]])
def test_listings_fit(capsys, monkeypatch, width, command):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    # What is below it are commands, each on one line.
    below = ("Options of one", "in_channels, ", "Use one")
    assert all(len(line) <= width for line in takewhile(lambda line: not line.startswith(below), lines)), lines


def test_quiet(tmp_path, capsys):
    plain = [*SHORT, "--epochs", "1", "--output", str(tmp_path), "--table", "none", "--quiet"]
    assert main(["train", *plain, "--run", "one"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one'}\n"
    assert json.loads((tmp_path / "one" / "result.json").read_text())["manifestations"] == []
    assert main(["evaluate", str(tmp_path / "one"), "--quiet"]) == 0
    assert capsys.readouterr().out == f"Written to {tmp_path / 'one' / 'evaluations.jsonl'}\n"
    assert main(["train", *plain, "--run", "one"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--table half", "--table is one of full, few, none, got 'half'"),
        ("--logger tensorbord", "--logger takes tensorboard, csv, wandb, one or several, got 'tensorbord'"),
        ("--logger", "--logger expects one or several names"),
        ("--quiet 3", "--quiet takes no value"),
    ],
)
def test_flags_are_checked_before_anything_is_read(flags, said, capsys):
    assert main(["train", "--dataset", "CIFAR10", *flags.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["$$", r"$\frac$", "a$_$b", "x$"])
def test_names_in_pictures_are_no_formulas(name, tmp_path):
    found = [Manifestation("euler", 1, 2, Score({"loss": 1.0, "accuracy": 0.5}, 4, 1.0))]
    draw_manifestations([Panel(name, "euler", found)], tmp_path / "one.png", subject=f"test images of {name}")
    images, masks = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.int64)
    draw_masks(images, masks, masks, ("other", name), tmp_path / "two.png")
    assert (tmp_path / "one.png").stat().st_size > 0 < (tmp_path / "two.png").stat().st_size


# Tables


def test_a_table_folds_its_head_before_it_takes_lines_for_each_row():
    head, rows = ("integrator", "steps as trained", "samples/s"), [("rk4", "4", "12"), (INTEGRATOR, "", "7")]
    wide = table("T", head, rows, text=1, width=80).splitlines()
    assert wide[2].split() == ["integrator", "steps", "as", "trained", "samples/s"]
    narrow = table("T", head, rows, text=1, width=55).splitlines()
    assert [line.split() for line in narrow[2:5]] == [["steps"], ["as"], ["integrator", "trained", "samples/s"]]
    assert max(map(len, narrow)) <= 55
    assert table("T", head, rows, text=1, width=40).splitlines()[2:] == [
        "integrator        rk4",
        "steps as trained  4",
        "samples/s         12",
        "",
        f"integrator        {INTEGRATOR}",
        "samples/s         7",
    ]


def test_columns_count_wide_characters():
    lines = table("T", ("a", "b"), [("図図", "1"), ("x", "2")], width=80).splitlines()
    assert {columns(line) for line in lines[3:]} == {7}


def test_prose_takes_lines():
    lines = table("T", ("name", "what"), [("x", "word " * 30)], prose=True, width=50).splitlines()
    assert max(map(len, lines)) <= 50
    assert " ".join(lines).split().count("word") == 30


# Bars


def test_bars_move_on_a_terminal_alone():
    for console in (terminal(), Console(file=StringIO(), width=80)):
        bars = Bars(console)
        with bars.bar("outer [/b] text", 4) as outer, bars.bar("inner", said=False) as inner:
            outer.advance(2)
            inner.step()
            say(console, "a line [bold] between")
        said = written(console)
        assert "a line [bold] between\n" in said
        assert "outer [/b] text" in said
        assert ("inner" in said) == ("━" in said) == console.is_terminal
    assert written(Console(file=StringIO())) == ""


def test_what_takes_long_far_below_is_shown_on_the_bars_in_use():
    console = terminal()
    with Bars(console).bar("reading", said=False), bars_in_use().bar("downloading x.gz (1.0 MB)", 10) as bar:
        bar.advance(10)
    assert "downloading x.gz (1.0 MB)" in written(console)
    assert bars_in_use().console.stderr


def test_nothing_of_a_bar_is_cut_on_a_narrow_terminal():
    console = terminal(width=40)
    with Bars(console).bar(f"epoch 3  {INTEGRATOR}  accuracy 97.31%  12,345 images/s", 10):
        pass
    said = written(console)
    assert "…" not in said
    assert "12,345" in said


def test_time_left_counts_what_validation_takes(monkeypatch):
    clock = iter([0.0, 0.0, 30.0, 60.0])
    monkeypatch.setattr("dynamicblocks.training.progress.time.perf_counter", lambda: next(clock))
    console, task = Console(file=StringIO(), width=80), Small()
    report = Report(console, task)
    score = type("S", (), {"figures": {"loss": 1.0}})()
    with report.training(total=40, done=0, epochs=4):
        report.epoch(0, 10, score, score, 0.1, 100.0, Cost(8.0, 0.0, fixed=True))
        report.epoch(1, 20, score, score, 0.1, 100.0, Cost(8.5, 2.0, fixed=False))
    assert ["evaluations 8.5 + 2.0 back" in line for line in written(console).splitlines()[1:]] == [False, True]
    assert [line.split("  ")[-1] for line in written(console).splitlines()[1:]] == ["1:30 left", "1:00 left"]
    assert duration(3725) == "1:02:05"


def _read(screen):
    try:
        return os.read(screen, 1 << 16)
    except OSError:  # on Linux, once nobody writes there any more
        return b""


def test_on_a_pseudo_terminal_lines_stand_above_the_bar(tmp_path):
    flags = [*SHORT, "--epochs", "2", "--output", str(tmp_path), "--run", "one", "--table", "none"]
    screen, inside = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "dynamicblocks.cli.main", "train", *flags]
    with subprocess.Popen(program, stdin=inside, stdout=inside, stderr=inside, env=environment) as process:
        os.close(inside)
        received = b""
        while part := _read(screen):
            received += part
    os.close(screen)
    assert process.returncode == 0
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode())
    assert "training ━" in said
    assert re.search(r"\repoch 2/2  loss .* left\r*\n", said)
    assert "validation ━" in said


def test_every_command_has_one_line_of_help():
    assert all(entry.help and "\n" not in entry.help for entry in COMMANDS.values())


# The table of other integrators


def test_rows_are_chosen_by_counted_evaluations(tmp_path):
    from dynamicblocks.training import Training

    found = {}
    for samples in (4, 12, 48):
        runs = []
        for run in ("one", "two"):
            config = plan(tmp_path, f"{run}-{samples}", epochs=1)
            outcome = Training(Small(samples=samples), config, console=Console(quiet=True)).run()
            runs.append([(each.integrator, each.steps_factor, each.evaluations) for each in outcome.manifestations])
        assert runs[0] == runs[1]
        # 4 test samples; the network, of 2 evaluations, was trained on so many.
        assert sum(evaluations for *_, evaluations in runs[0]) * 4 <= samples * 2 / 3 or len(runs[0]) == 1
        assert ("euler", 1, 2) in runs[0]
        assert len(runs[0]) + len(outcome.left_out) == 9
        found[samples] = len(runs[0])
    assert found[4] == 1 < found[48] < 9
    config = plan(tmp_path, "full", epochs=1)
    assert len(Training(Small(samples=4), config, console=Console(quiet=True), table="full").run().manifestations) == 9
