"""What is wrong with a command is said at once, in one line that names what was written and what is right."""

import io
import os
import re
import sys

import pytest

from dynamicblocks.cli import listing
from dynamicblocks.cli import main as program
from dynamicblocks.cli.main import main

SMALL = "--model.name dynamicnet --model.widths [2] --model.units 1 --model.norm none --table none"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small run, in which the commands are given."""
    place = tmp_path_factory.mktemp("place")
    before = os.getcwd()  # noqa: PTH109
    os.chdir(place)
    try:
        flags = "--max_steps 1 --epochs 1 --optimizer.warmup 0 --data.train_images 100 --run one"
        assert main(["train", *SMALL.split(), *flags.split()]) == 0
        (place / "file").write_text("")
        yield place
    finally:
        os.chdir(before)


@pytest.fixture(autouse=True)
def in_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Whatever reads or downloads data comes too late here.
    for name in ("dynamicblocks.tasks.images.load_dataset", "dynamicblocks.tasks.segment.load_pairs"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("data were read"))


def said(command, capsys):
    """The exit code, and the one line on the standard error."""
    try:
        code = main(command.split(" ")) if isinstance(command, str) else main(command)
    except SystemExit as stop:  # what cannot be read ends the program
        code = stop.code
    told = capsys.readouterr().err
    assert told.startswith("error: "), told
    assert told.count("\n") == 1, told
    return code, told


MESSAGES = [
    # No command, or none of that name.
    ("nonsense", 2, "invalid choice: 'nonsense'"),
    ("trian", 2, "did you mean 'train'?"),
    ("-x", 2, "invalid choice: '-x'"),
    # What must be given.
    *((name, 2, f"RUN is missing, the folder of a run; usage: dynamicblocks {name} RUN") for name in program.COMMANDS
      if name in ("evaluate", "converge", "compress", "operators")),
    *((name, 2, f"for example: dynamicblocks {name} runs/MINE") for name in
      ("evaluate", "converge", "compress", "operators")),
    # The beginning of a flag is no flag, in no command.
    ("train --epoch 3", 2, "--epoch: there is no such option; did you mean 'epochs'?"),
    ("train --epoch_count 3", 2, "did you mean 'epochs'?"),
    ("train --resum runs/one", 2, "--resum: there is no such option"),
    ("evaluate runs/one --integ rk4", 2, "--integ: dynamicblocks evaluate has no such option; did you mean --integrat"),
    ("converge runs/one --fact [1]", 2, "did you mean --factors?"),
    ("compress runs/one --tol 1%", 2, "did you mean --tolerance?"),
    ("operators runs/one --pair 3", 2, "did you mean --pairs?"),
    ("runs runs --js", 2, "did you mean --json?"),
    ("models --foo", 2, "--foo: dynamicblocks models has no such option"),
    ("evaluate runs/one runs/two", 2, "'runs/two' stands behind no flag"),
    ("evaluate runs/one -v", 2, "'-v' stands behind no flag"),
    ("evaluate runs/one --debug=yes", 2, "--debug takes no value"),
    # Runs.
    ("evaluate runs/nothere", 1, "there is no run folder runs/nothere"),
    ("converge runs/one --beside runs/nothere", 1, "--beside: there is no run folder runs/nothere"),
    ("compress runs/one --beside runs/nothere", 1, "--beside: there is no run folder runs/nothere"),
    ("converge runs/one --beside runs/one runs/one", 2, "--beside: the run runs/one is given twice"),
    ("train --resume runs/nothere", 1, "there is no run folder runs/nothere"),
    ("compress runs/one --to runs/one", 2, "runs/one exists already; choose another --to"),
    ("compress runs/one --to file/x", 1, "file/x cannot be made: file is no folder"),
    # Values of the commands that analyse.
    ("converge runs/one --factors [0]", 2, "--factors: each factor must be a whole number of at least 1, got 0"),
    ("converge runs/one --factors []", 2, "--factors expects whole numbers such as"),
    ("converge runs/one --factors 1 x", 2, "--factors expects whole numbers such as [8, 16], got '1 x'"),
    ("converge runs/one --factors [2, 2]", 2, "--factors: the factor 2 is given twice"),
    ("converge runs/one --factors -1", 2, "--factors: each factor must be a whole number of at least 1, got -1"),
    ("converge runs/one --factors 1 --factors 2", 2, "--factors is given twice"),
    ("converge runs/one --integrators foo", 2, "--integrators: unknown integrator 'foo'"),
    ("converge runs/one --integrators [euler,rk44]", 2, "did you mean 'rk4'?"),
    ("converge runs/one --integrators", 2, "--integrators expects texts such as"),
    ("converge runs/one --split train", 2, "--split expects one of test, validation, got 'train'"),
    ("evaluate runs/one --steps 0", 2, "--steps must be a whole number of at least 1, got 0"),
    ("evaluate runs/one --steps 1.5", 2, "--steps expects a whole number, got '1.5'"),
    ("evaluate runs/one --steps 2 --steps_per_control 2", 2, "--steps and --steps_per_control"),
    ("evaluate runs/one --integrator rk5", 2, "--integrator: unknown integrator 'rk5'"),
    ("evaluate runs/one --accelerator tpx", 2, "cannot use accelerator 'tpx'"),
    ("evaluate runs/one --precision half", 2, "Precision 'half' is invalid"),
    ("evaluate runs/one --data_dir elsewhere", 2, "leave out data.data_dir"),
    ("operators runs/one --pairs -1", 2, "--pairs must be a whole number of at least 1, got -1"),
    ("compress runs/one --tolerance -1%", 2, "--tolerance must lie between 0 % and 100 %"),
    ("compress runs/one --tolerance 100%", 2, "between 0 % and 100 %"),
    ("compress runs/one --tolerance nan", 2, "between 0 % and 100 %"),
    ("compress runs/one --tolerance much", 2, "between 0 % and 100 %"),
    ("compress runs/one --disagreement -1", 2, "--disagreement must lie between 0 % and 100 %"),
    ("compress runs/one --tolerance", 2, "--tolerance expects a text, got nothing"),
    ("compress runs/one --batches 0", 2, "--batches must be a whole number of at least 1, got 0"),
    ("compress runs/one --integrators [dopri5]", 2, "--integrators: compression compares costs"),
    # Names of a training, before data are read.
    ("train --model ContinousNet --dataset CIFAR10", 2, "unknown model 'ContinousNet'; did you mean 'continuousnet'?"),
    ("train --model ContinuousNet --dataset CIFAR10 --scheme rk5", 2, "unknown integrator 'rk5'"),
    ("train --dataset CIFAR11", 2, "unknown data set"),
    ("train --task segment --data.name pins", 2, "unknown data set"),
    ("train --dataset CIFAR10 --data_dir nowhere", 1, "there is no folder nowhere"),
    ("train --data.name imagefolder:nowhere", 1, "nowhere does not exist; expected a folder"),
    ("train --task segment --data.name folder:nowhere", 1, "nowhere does not exist; expected a folder"),
    ("train --data.data_dir nowhere", 2, "digits come with scikit-learn and are read from no folder"),
    # Values of a training.
    ("train --model.widths x", 2, "--model.widths expects whole numbers such as"),
    ("train --model.widths 16", 2, "--model.widths expects a list such as [16,32], got '16'; one alone"),
    ("train --model.widths=8", 2, "--model.widths expects a list such as [16,32], got '8'"),
    ("train --model.name twist_resnet18 --model.units 3", 2, "--model.units expects a list such as [16,32], got '3'"),
    ("train --model.steps 1000000", 2, "steps must be at most 100,000, got 1000000"),
    ("train --model ContinuousNet --n-time-steps-per 100000", 2, "units times steps_per_unit must be at most 100,000"),
    ("train --rediscretise.epochs [1] --rediscretise.steps [1000000]", 2, "rediscretise.steps must be at most 100,000"),
    ("train --rediscretise.epochs [1] --rediscretise.controls [10001]", 2, "rediscretise.controls must be a whole"),
    (f"train --refine.epochs {list(range(1, 26))}", 2, "25 refinements by refine.factor 2 give the block"),
    ("train --hardware.workers 100000", 2, "hardware.workers must be a whole number from 0 to 1,000, got 100000"),
    ("train --seed 100000000000000000000000", 2, "seed must be a whole number from 0 to 2^63 - 1"),
    ("--debug", 2, "invalid choice: '--debug'"),
    ("train --optimizer.lr nan", 2, "optimizer.lr must be zero or more and finite, got nan; a learning rate is a pos"),
    ("train --optimizer.lr 0", 2, "a positive number"),
    ("train --epochs 1 --refine.epochs [50]", 2, "refine.epochs must lie in the training"),
    ("train --data.cutout 9", 2, "data.cutout must be at most the side of the images, 8, got 9"),
    ("train --data.shift 100", 2, "data.shift must be below the side of the images, 8, got 100"),
    ("train --task segment --data.size 32 --data.shift 32", 2, "data.shift must be below the side of the images, 32"),
    ("train --dataset CIFAR10 --data.cutout 33", 2, "data.cutout must be at most the side of the images, 32"),
    ("train --checkpoint_steps 0", 2, "checkpoint_steps must be a whole number of at least 1, got 0"),
    ("train --hardware.devices -1", 2, "hardware.devices must be a whole number of at least 1, got -1"),
    ("train --hardware.devices 0", 2, "hardware.devices must be a whole number of at least 1, got 0"),
    ("train --hardware.accelerator tpux", 2, "cannot use accelerator 'tpux'"),
    ("train --hardware.precision half", 2, "Precision 'half' is invalid"),
    # Where to write.
    ("train --run ../escape", 2, "run must be the name of a folder inside output"),
    ("train --run /escape", 2, "run must be the name of a folder inside output"),
    ("train --run one", 2, "runs/one exists already"),
    ("train --output file", 1, "cannot be made: file is no folder"),
    ("train --output /proc/there/is/none", 1, "cannot be made: No such file or directory"),
    (f"train --run {'long' * 80}", 1, "File name too long"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "words"), MESSAGES, ids=[f"{row[0]:.60}" for row in MESSAGES])
def test_what_is_wrong_is_said_at_once(command, code, words, folder, capsys):
    before = sorted(str(path) for path in folder.rglob("*"))
    found = said(command, capsys)
    assert found[0] == code, found
    assert words in found[1]
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_no_command_is_a_usage_error_with_an_example(capsys):
    code, told = said([], capsys)
    assert code == 2
    assert "usage: dynamicblocks {train," in told
    assert "for example: dynamicblocks train" in told


def test_a_compiler_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr("dynamicblocks.training.rehearsal.can_compile", lambda: False)
    code, told = said("train --hardware.compile true", capsys)
    assert (code, "hardware.compile needs a C++ compiler" in told) == (2, True)


@pytest.mark.parametrize("precision", ["transformer-engine", "transformer-engine-float16"])
def test_a_precision_whose_package_is_not_there(precision, capsys):
    code, told = said(f"train --hardware.precision {precision}", capsys)
    assert (code, precision in told) == (2, True)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("one\ntwo"), "error: RuntimeError: one two; --debug shows the traceback"),
        (KeyError("x"), "error: KeyError: 'x'; --debug shows the traceback"),
        (ZeroDivisionError(), "error: ZeroDivisionError; --debug shows the traceback"),
        (PermissionError(13, "Permission denied", "runs/x"), "error: Permission denied: runs/x; --debug"),
        (OSError(28, "No space left on device"), "error: No space left on device; --debug"),
        (ConnectionResetError(104, "Connection reset by peer"), "error: Connection reset by peer; --debug"),
        (MemoryError(), "error: there is not enough memory; take smaller batches"),
        (RecursionError("maximum recursion depth exceeded"), "error: something is nested too deeply"),
        (BrokenPipeError(32, "Broken pipe"), "error: Broken pipe; --debug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_that_nobody_foresaw_are_one_line(error, line, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(listing.models_command, "run", fail, raising=False)
    code, told = said("models", capsys)
    assert code == 1
    assert told.startswith(line)
    with pytest.raises(type(error)):
        main(["models", "--debug"])


def test_a_pipe_that_nobody_reads_ends_without_a_word(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(writing, "wb", buffering=0), write_through=True))
    assert main(["integrators"]) == 1
    sys.stdout.close()
    assert capsys.readouterr().err == ""


def test_help_documents_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert re.findall(r"^  (\d+) ", text, re.MULTILINE) == ["0", "1", "2", "130", "143"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("RUN --integrators [euler,midpoint]", ["euler", "midpoint"]),
        ("RUN --integrators euler midpoint", ["euler", "midpoint"]),
        ("--integrators [euler, midpoint] RUN", ["euler", "midpoint"]),
        ("RUN --integrators bosh3(rtol=0.05, atol=0.02)", ["bosh3(rtol=0.05, atol=0.02)"]),
    ],
)
def test_lists_are_written_as_in_a_training(written, read):
    from dynamicblocks.cli import converge
    from dynamicblocks.cli.arguments import Arguments

    arguments = Arguments("converge", converge.USAGE, converge.DESCRIPTION)
    converge.add_arguments(arguments)
    found = arguments.read(written.replace("RUN", "runs/one").split(" "))
    assert (found.run, found.integrators, found.factors, found.beside) == ("runs/one", read, [1, 2, 4], [])
