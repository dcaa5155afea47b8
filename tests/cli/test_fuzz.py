"""Random command lines and configuration files: whatever is written, a command ends with one line and a code.

What would take long is cut off: nothing is downloaded, no process is started, and a training ends where it would begin.
"""

import contextlib
import io
import random
import shutil
from pathlib import Path

import pytest
import yaml

import dynamicblocks as db
from dynamicblocks.cli.main import COMMANDS, main
from dynamicblocks.options import NONE
from dynamicblocks.tasks import tasks
from dynamicblocks.tasks.option_table import OptionTable
from dynamicblocks.training import train

RUN = Path(__file__).parents[1] / "fixtures" / "run_of_before"

NUMBERS = (
    "-1",
    "0",
    "1",
    "2",
    "3",
    "2.5",
    "1e-3",
    "1e9",
    "1e38",
    "1e400",
    "-0",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1_0",
    "٣",
)
NUMBERS += ("1000000000", str(2**63), "9" * 30, "9" * 5000, "1" * 20_000, "1/2", "1%", "-1%", "+", "-")
TEXTS = (
    "",
    " ",
    "x",
    "null",
    "None",
    "true",
    "no",
    "auto",
    "é",
    "名前",
    "\u202e",
    "\u0000",
    "\udcff",
    "a b",
    "a\nb",
    "\t",
)
TEXTS += (
    "[/b]",
    "[bold]x",
    "%s",
    "{}",
    "{0}",
    "$HOME",
    "~",
    "..",
    "../x",
    "/",
    "/dev/null",
    "/proc/x",
    "x" * 300,
    "-",
    "--",
)
NESTED = (
    "[",
    "[]",
    "[[]]",
    "[1,",
    "[16,-3]",
    "(8.5,16)",
    "[1,[2]]",
    "[" * 5000,
    "(" * 5000 + ")" * 5000,
    "{a: {b: 1}}",
)
NESTED += (
    "{name: x}",
    "{name: resnet20, unit: post}",
    "{1: 2}",
    "{a: &a [*a]}",
    "{a: 1, a: 2}",
    "{",
    "[null]",
    "[true]",
    "[nan]",
)
NESTED += (
    "f(" * 1000,
    "linear(-1)",
    "linear(1000000000)",
    "bspline(2.5)",
    "legendre(3)",
    "preact_double(None)",
    "lambda: 1",
)
NESTED += (
    "reversible('rk4')",
    "dopri5(rtol=-1)",
    "dopri5(max_steps=0)",
    "lm(initial=1e39)",
    "imex",
    "__import__('os')",
    "tv(3)",
)
NAMES = (
    "resnet20",
    "dynamicnet",
    "imexnet",
    "lm_resnet",
    "rk4",
    "euler",
    "dopri5",
    "implicit_midpoint",
    "adjoint",
    "group",
)
NAMES += (
    "digits",
    "cifar10",
    "qtips",
    "imagefolder:x",
    "imagefolder:/",
    "masks:x",
    "fields:x.npz",
    "adamw",
    "muon",
    "cosine",
)
NAMES += (
    "linear",
    "constant(4)",
    "batch(eps=-1)",
    "leaky_relu('x')",
    "64-true",
    "bf16-true",
    "transformer-engine",
    "cuda",
    "mps",
)
VALUES = (*NUMBERS, *TEXTS, *NESTED, *NAMES)

FLAGS = (
    "--epoch",
    "--model",
    "--optimiser.lr",
    "--lr",
    "--scheme",
    "--arch",
    "--dataset",
    "--widen-factor",
    "--refine",
    "--x",
)
FLAGS += (
    "--tolerance",
    "--factors",
    "--integrator",
    "--steps",
    "--pairs",
    "--beside",
    "--to",
    "--split",
    "--precision",
    "--seeds",
)
FLAGS += (
    "--quiet",
    "--debugg",
    "--help",
    "--table",
    "--logger",
    "--resume",
    "--name",
    "--é",
    "--",
    "-x",
    "--=",
    "--a.b.c",
    "-h",
)


class Far(db.StorageError):
    """A training has come as far as it shall."""


def stop(*_, **__):
    raise Far("far enough")


@pytest.fixture
def nothing_long(monkeypatch, tmp_path):
    """Downloads, processes and trainings end where they would begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dynamicblocks.data.download._continue_transfer", stop)
    monkeypatch.setattr(train, "launch", lambda fabric: stop() if fabric.world_size > 1 else None)
    monkeypatch.setattr(train.Training, "_set_up", stop)
    monkeypatch.setattr(train, "settled", lambda task, config, net: (config, train.Choices({})))
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path


def plausible(draw, option):
    """A value that an option may take, as a text: its default, a choice, or a number."""
    kind = option.kind
    found = [str(each) for each in kind.choices]
    found += [] if option.default is NONE else [option.shown_default]
    found += ["1", "2"] if int in kind.scalars else []
    found += ["true", "false"] if bool in kind.scalars else []
    found += ["0.5"] if float in kind.scalars else []
    return draw.choice(found or ["x"])


def options_of(draw):
    """Paths of options of some task with some model, with values of which most are wrong."""
    name = draw.choice([*tasks, "classify", "classify"])
    model = draw.choice(["dynamicnet_small", "dynamicnet_small", *db.list_models()])
    table = OptionTable(tasks[name], lambda path: model if path.endswith(".name") and "model" in path else None)
    chosen = {}
    if name != "classify":
        chosen["task"] = name
    if model != "dynamicnet_small":
        chosen["model.name"] = model
    paths = sorted(set(table.options) - {"hardware.fast"})
    for path in draw.sample(paths, draw.randint(1, 4)):
        right = draw.random() < 0.4
        chosen[path] = plausible(draw, table.options[path]) if right else draw.choice(VALUES)
    return chosen


def training_line(draw, folder):
    chosen = options_of(draw)
    arguments = ["train"]
    if draw.random() < 0.3:
        file = folder / "mine.yaml"
        file.write_bytes(configuration(draw, chosen))
        arguments += ["--config", draw.choice([str(file)] * 9 + [str(folder)])]
        chosen = {}
    for path, value in chosen.items():
        arguments += [f"--{path}={value}"] if draw.random() < 0.5 else [f"--{path}", value]
    if draw.random() < 0.2:
        arguments.insert(draw.randint(1, len(arguments)), draw.choice((*FLAGS, *VALUES)))
    if draw.random() < 0.3:
        arguments.append("--print_config")
    return arguments


def configuration(draw, chosen):
    """A configuration file: of options, perhaps with something cut off, put in or said twice."""
    nested = {}
    for path, text in chosen.items():
        value = text
        with contextlib.suppress(Exception):
            value = yaml.safe_load(text) if len(text) < 100 else text
        place = nested
        *groups, last = path.split(".")
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                break
        else:
            place[last] = value
    data = bytearray(yaml.safe_dump(nested, allow_unicode=draw.random() < 0.5).encode("utf-8", "surrogatepass"))
    change = draw.randrange(6)
    if change == 0 and data:
        data[draw.randrange(len(data))] = draw.randrange(256)
    elif change == 1:
        del data[draw.randrange(len(data) + 1) :]
    elif change == 2:
        place = draw.randrange(len(data) + 1)
        data[place:place] = draw.choice(VALUES).encode("utf-8", "surrogatepass")
    elif change == 3:
        data = data * 2
    return bytes(data)


def other_line(draw, folder):
    arguments = [draw.choice([*COMMANDS, "trian", "", "--version", "-h", *TEXTS])]
    for _ in range(draw.randint(0, 4)):
        run = str(folder / "run") if arguments[0] != "compress" else "run/none"
        arguments.append(draw.choice([draw.choice(FLAGS), draw.choice(VALUES), draw.choice(VALUES), run]))
    return arguments


def ended(arguments):
    """The code with which a command ends, and what it says."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
    return code, errors.getvalue()


def check(seed, folder):
    draw = random.Random(seed)
    arguments = training_line(draw, folder) if draw.random() < 0.7 else other_line(draw, folder)
    try:
        code, said = ended(arguments)
    except BaseException as error:
        raise AssertionError(f"{seed}: {arguments!r:.500} raised {error!r}") from error
    written = f"{seed}: {arguments!r:.500} ended with {code}: {said:.800}"
    assert code in (0, 1, 2, None), written
    assert "Traceback" not in said, written
    assert "--debug shows the traceback" not in said, written  # nobody foresaw it
    if code:
        assert len(said) < 3000, written
        assert said.strip(), written


def test_whatever_is_written_ends_with_a_line_and_a_code(nothing_long):
    for seed in range(60):
        check(seed, nothing_long)


@pytest.mark.slow
@pytest.mark.parametrize("tens", range(100))
def test_a_thousand_lines(nothing_long, tens):
    for seed in range(60 + 10 * tens, 70 + 10 * tens):
        check(seed, nothing_long)
