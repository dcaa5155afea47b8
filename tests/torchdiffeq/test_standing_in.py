"""Programs that import torchdiffeq, run on this package."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dynamicblocks as db
import dynamicblocks.torchdiffeq as ours
from dynamicblocks.torchdiffeq.__main__ import main
from dynamicblocks.torchdiffeq._impl.misc import Perturb
from dynamicblocks.torchdiffeq._impl.odeint import SOLVERS

PROGRAM = """
import sys
import torch
import torchdiffeq
import torchdiffeq._impl.misc
from torchdiffeq import odeint_adjoint as odeint
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver
import neighbour

class Mine(FixedGridODESolver):
    order = 1

    def _step_func(self, func, t0, dt, t1, y0):
        f0 = func(t0, y0, perturb=torchdiffeq._impl.misc.Perturb.NONE)
        return dt * f0, f0

SOLVERS["mine"] = Mine
y = odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 0.5, 1.0]), method="mine", adjoint_params=())
print(torchdiffeq.__name__, SOLVERS["mine"] is Mine, y[-1].item(), sys.argv[1:], __name__, neighbour.here)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "neighbour.py").write_text("here = True\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


EXPECTED = "dynamicblocks.torchdiffeq True 0.25 ['--lr', '3'] __main__ True"


@pytest.fixture
def fresh(monkeypatch):
    """A process in which nothing was imported from torchdiffeq; afterwards all is as it was."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchdiffeq"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchdiffeq", "neighbour")]:
        del sys.modules[name]
    SOLVERS.pop("mine", None)


def test_a_program_is_run_unchanged(program):
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-m", "dynamicblocks.torchdiffeq", str(program), "--lr", "3"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == EXPECTED


@pytest.mark.parametrize("as_module", [False, True])
def test_within_a_process(program, fresh, as_module, monkeypatch, capsys):
    monkeypatch.chdir(program.parent)
    main([*(["-m", "program"] if as_module else ["program.py"]), "--lr", "3"])
    assert capsys.readouterr().out.strip() == EXPECTED


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere.py"], 2, "no such program: nowhere.py"),
        (["-m", "nowhere.main"], 2, "no such module: nowhere.main"),
        ([], 2, "required"),
        (["--help"], 0, "imports torchdiffeq, unchanged"),
    ],
)
def test_mistakes_and_help_say_what_to_do(fresh, arguments, code, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == code
    assert says in "".join(capsys.readouterr())
    assert "torchdiffeq" not in sys.modules


def test_standing_in_comes_before_torchdiffeq_itself(fresh):
    ours.stand_in()
    ours.stand_in()
    assert importlib.import_module("torchdiffeq") is ours
    assert importlib.import_module("torchdiffeq._impl.misc").Perturb is Perturb
    sys.modules["torchdiffeq"] = ModuleType("torchdiffeq")
    with pytest.raises(db.ConfigurationError, match="imported before"):
        ours.stand_in()
