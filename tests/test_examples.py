"""What the documents show runs as written."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image

from dynamicblocks.cli import train as cli_train
from dynamicblocks.cli.main import main
from dynamicblocks.controls import Basis
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Integrator

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


# Of torchcde, which stands on torchdiffeq's stand-in: in a process of its own, tests/torchdiffeq/test_torchcde.py.
APART = ("scope.md",)
DOCUMENTS = [
    document
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    if "```python" in document.read_text() and document.name not in APART
]


def something_trained(folder):
    """What the README takes as given: a run, and two photographs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr("dynamicblocks.training.outcome.FEW", 0)
        assert main(["train", "--run", "NAME", "--model.widths", "[4]", "--max_steps", "1", "--epochs", "1"]) == 0
    for name in ("photo.png", "another.jpg"):
        Image.new("RGB", (12, 9)).save(folder / name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_examples_in_documents_run(document, capsys, tmp_path, monkeypatch):
    if document.stem == "README":
        something_trained(tmp_path)
        monkeypatch.chdir(tmp_path)
    names = {}  # readers run them one after the other
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        exec(compile(block, document.name, "exec"), names)
    if document.stem == "README":
        assert "linear(9)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "follows"),
    [
        (Integrator, {"begins", "reversible", "restarts", "fractions", "take_back", "start", "step"}),
        (
            Basis,
            {"size", "knots", "first_jumps", "intervals", "over", "unit_grid", "refine", "coarsen", "with_intervals"}
            | {"points", "count", "time", "place", "values", "controls_from", "nearest_from"},
        ),
    ],
)
def test_documents_have_every_member_that_can_be_written(kind, follows):
    members = {name for name in {**vars(kind), **kind.__annotations__} if not name.startswith("_")}
    needed = set(kind.__abstractmethods__)
    tables = {
        file: [line for line in (ROOT / file).read_text().splitlines() if line.startswith("|")]
        for file in ("docs/extending.md", "CONTRIBUTING.md")
    }
    known = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in tables["docs/extending.md"])))
    assert members - follows <= known, members - follows - known
    assert follows <= members
    row = next(line for line in tables["CONTRIBUTING.md"] if all(f"`{name}`" in line for name in needed))
    assert set(re.findall(r"`(\w+)`", row.split("|")[3].split(";")[0])) == needed


SHELL = [
    line
    for document in sorted((ROOT / "docs").glob("*.md"))
    for block in re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dynamicblocks train ")
]
SHELL += [
    line
    for document in sorted((ROOT / "docs").glob("*.md"))
    for line in re.findall(r"^    (dynamicblocks train .*)", document.read_text(), re.MULTILINE)
]


def test_there_are_trainings_in_documents():
    assert len(SHELL) >= 4


def network_of(task):
    """As far as it can be made without the reader's files."""
    if hasattr(getattr(task, "model", None), "create"):
        return task.model.create(3, 10)
    return task.check() if ":" in getattr(getattr(task, "data", None), "name", "") else task.build()


@pytest.mark.parametrize("line", SHELL)
def test_the_trainings_in_documents_are_configured(line, monkeypatch):
    """Everything but the training: flags, values, the network."""
    made = []

    def configured(task, config, **_):
        made.append(network_of(task))
        raise ConfigurationError("that is enough")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli_train, "Training", configured)
    assert main(shlex.split(line, comments=True)[1:]) == 2
    assert len(made) == 1


def test_the_readme_shows_examples():
    assert ROOT / "README.md" in DOCUMENTS


def test_the_quick_start_holds_two_commands():
    quick = (ROOT / "README.md").read_text().split("## Quick start")[1].split("```sh\n")[1].split("```")[0]
    assert len(quick.strip().splitlines()) == 2


def test_links_in_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
