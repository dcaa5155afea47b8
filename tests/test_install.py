"""What is imported when, and what works with torch, numpy and safetensors alone."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dynamicblocks as db
from dynamicblocks import extras
from tests.without_extras import command

ROOT = Path(__file__).parents[1]
CORE = "import dynamicblocks as db; db.odeint; db.solve; db.DynamicBlock; "
HEAVY = (
    "torch._dynamo",
    *(name for name in extras.PACKAGES | extras.TABLES if name != "filelock"),
)  # torch itself needs filelock
WITHOUT = "from tests.without_extras import pytest_load_initial_conftests as block; block(); "


def python(program, *arguments):
    """What a fresh process says, and how it ends."""
    paths = os.pathsep.join([str(ROOT), str(Path(db.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def run(*arguments):
    """The command line, in a program that goes on behind it."""
    return (
        f"from dynamicblocks.cli.main import main\ntry: code = main({list(arguments)})\n"
        "except SystemExit as stop: code = stop.code\n"
    )


def imported(program, names):
    """Which of these modules a fresh process has imported after a program."""
    done = python(program + f"\nimport sys; print('\\n', [name for name in {names!r} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].strip()


@pytest.mark.parametrize(
    ("program", "names"),
    [
        (run("--version"), ("torch", "numpy", *HEAVY)),
        (run("--help"), ("torch", "numpy", *HEAVY)),
        (run("models", "--help"), ("torch", "numpy", *HEAVY)),
        (CORE, HEAVY),
        (run("models") + run("methods") + run("integrators"), HEAVY),
    ],
    ids=["version", "help", "help of models", "core", "listings"],
)
def test_what_is_not_needed_is_not_imported(program, names):
    assert imported(program, names) == "[]"


def test_the_first_training_step_comes_before_all_that_it_does_not_need(tmp_path):
    # PyTorch's optimisers import the compiler, but its programs are made by a module that is imported for the first.
    end = """from dynamicblocks.training.engine import Engine
step = Engine.step
def last(*arguments):
    step(*arguments)
    raise SystemExit("a step was made")
Engine.step = last
"""
    training = end + run("train", "--output", str(tmp_path), "--run", "quick")
    names = ("sklearn", "scipy", "matplotlib", "pooch", "requests", "torch._inductor.compile_fx")
    assert imported(training + "assert code == 'a step was made', code", names) == "[]"


def test_every_name_is_there_before_it_is_imported_and_a_solve_imports_no_compiler():
    program = """import dynamicblocks as db
assert set(db.__all__) <= set(dir(db)), set(db.__all__) - set(dir(db))
import torch
db.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 3))
from dynamicblocks import *
assert odeint is db.odeint and analysis.gradient_check is gradient_check"""
    assert imported(program, HEAVY) == "[]"


def test_modules_are_attributes_and_misspelled_names_are_errors():
    assert db.integrators.as_integrator is db.as_integrator
    with pytest.raises(AttributeError, match="'dynamicblocks' has no attribute 'odeimt'"):
        db.odeimt  # noqa: B018


def test_the_extra_has_the_packages_that_are_told_apart():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [
        {re.match(r"[\w-]+", each)[0] for each in some}
        for some in (project["dependencies"], *(project["optional-dependencies"][name] for name in ("train", "tables")))
    ]
    assert names == [{"torch", "numpy", "safetensors"}, set(extras.PACKAGES.values()), set(extras.TABLES.values())]


def test_the_readme_says_what_every_extra_is_for():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    about = (ROOT / "README.md").read_text(encoding="utf-8").split("without the extra.")[1].split("## In Python")[0]
    assert set(extra) <= set(re.findall(r"`(\w+)`", about))


@pytest.mark.parametrize("name", ["train", "evaluate", "converge", "compress", "operators"])
def test_a_command_without_its_extra_says_how_to_get_it(name):
    done = python(
        WITHOUT + "import sys; from dynamicblocks.cli.main import main; sys.exit(main(sys.argv[1:]))", name, "x"
    )
    assert (done.returncode, done.stdout) == (1, "")
    said = (
        rf"error: dynamicblocks {name} needs [\w-]+, which is not installed; "
        r'get it with: pip install "dynamicblocks\[train\]"\n'
    )
    assert re.fullmatch(said, done.stderr), done.stderr


def test_what_lacks_its_extra_raises_an_error_that_says_so():
    program = (
        WITHOUT
        + """
import torch
import dynamicblocks as db
from dynamicblocks.errors import MissingPackageError

def message(call):
    try: call()
    except MissingPackageError as error:
        assert isinstance(error, db.ConfigurationError) and isinstance(error, ImportError)
        return str(error)

y, t = torch.ones(1), torch.linspace(0, 1, 3)
print(message(lambda: db.odeint(lambda t, y: -y, y, t, method="scipy_solver")))
print(message(lambda: db.odeint_adjoint(lambda t, y: -y, y, t, method="scipy_solver", adjoint_params=())))
print(message(lambda: db.analysis.draw_operators))
print(message(lambda: db.training))
print(message(lambda: db.load_run))
print(db.gradient_check, len(db.list_models()))
"""
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    needs = ("method 'scipy_solver' needs scipy",) * 2 + (
        "draw_operators needs matplotlib",
        "dynamicblocks.training needs",
        "needs",  # load_run, whichever package is sought first
    )
    for line, need in zip(lines, needs, strict=False):
        assert need in line
        assert 'pip install "dynamicblocks[train]"' in line


def test_tables_without_their_extra_say_how_to_get_it(tmp_path):
    (tmp_path / "a.csv").write_text("id,time,x\na,0,1\na,1,2\n")
    program = """import sys
sys.modules["pyarrow"] = None  # as if it were not installed
from dynamicblocks.data.series import EventSet, load_events, load_series
from dynamicblocks.errors import MissingPackageError
from dynamicblocks.tasks.series_files import write_series
made = load_series("spirals", series=2).train
for call in (lambda: load_series("csv:a.csv"), lambda: load_events("csv:a.csv"), lambda: write_series("b.csv", made)):
    try: call()
    except MissingPackageError as error: print(error)
"""
    done = python(
        f"import os, pathlib; os.chdir({str(tmp_path)!r})\n" + program.replace('"b.csv"', 'pathlib.Path("b.csv")')
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(
        line.endswith(
            'csv files needs pyarrow, which is not installed; get it with: pip install "dynamicblocks[tables]"'
        )
        for line in lines
    )


def test_tests_of_blocks_and_solves_pass_without_the_extras():
    files = ["tests/functional/test_failed_steps.py", "tests/controls/test_bsplines.py"]
    done = subprocess.run(
        command("--import-mode=importlib", "-m", "not slow", "-x", *files),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
