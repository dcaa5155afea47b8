"""Classes of tasks from files: what is taken, and what is said of what is not."""

import hashlib
import re
import sys
from pathlib import Path

import pytest

import dynamicblocks as db
from dynamicblocks.tasks.own import asked_task, changed_since, own_task, task_of_run

GOOD = '''"""A task that does nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dynamicblocks.training.task import LOSS, Figure, Task

COUNT = 3


@dataclass(frozen=True)
class Nothing(Task):
    size: int = COUNT

    def load(self): return "nothing"
    def build(self): return nn.Identity()
    def batches(self, split, place): raise NotImplementedError
    def loss(self, net, batch): raise NotImplementedError
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a file into the working directory and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="task.py"):
        (tmp_path / name).write_text(text)
        return name

    return write


def test_a_task_is_read_from_its_file_relative_to_the_working_directory(file):
    found = own_task(f"{file(GOOD)}:Nothing")
    assert (found.__name__, found.name, found().size, found(size=5).as_dict()) == ("Nothing", "Nothing", 3, {"size": 5})
    assert found.source_hash == hashlib.sha256(Path("task.py").read_bytes()).hexdigest()
    assert found().reference == {"name": "Nothing", "sha256": found.source_hash}
    assert own_task("./task.py:Nothing") is found
    assert found() == own_task(f"{Path('task.py').resolve()}:Nothing")()


def test_reading_leaves_no_trace_but_a_private_module(file):
    file("VALUE = 7\n", "neighbour.py")
    text = GOOD.replace("COUNT = 3", "import sys\nfrom neighbour import VALUE as COUNT\nsys.path.append('/nowhere')")
    before, search, beside = set(sys.modules), list(sys.path), {path.name for path in Path().iterdir()}
    try:
        found = own_task(f"{file(text)}:Nothing")
        assert found().size == 7
        assert sys.path == search
        assert set(sys.modules) - before == {found.__module__, "neighbour"}
        assert "task" not in sys.modules
        assert {path.name for path in Path().iterdir()} - beside <= {"task.py", "__pycache__"}
    finally:
        sys.modules.pop("neighbour", None)


def test_a_file_that_changes_is_read_again_at_once(file):
    """Compiled code is kept by time and length elsewhere; here neither changes."""
    first = own_task(f"{file(GOOD)}:Nothing")
    second = own_task(f"{file(GOOD.replace('COUNT = 3', 'COUNT = 4'))}:Nothing")
    assert (first().size, second().size) == (3, 4)
    assert first.source_hash != second.source_hash


def test_a_name_of_its_own_is_kept(file):
    named = GOOD.replace("    size:", "    name = 'quiet'\n    size:")
    found = own_task(f"{file(named)}:Nothing")
    assert (found.name, found().title) == ("quiet", "quiet")
    assert found().reference["name"] == "Nothing"  # what is to be typed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task.py", "is given as FILE.py:Name, a file and a class in it, got 'task.py'"),
        ("task.py:", "is given as FILE.py:Name"),
        (":Nothing", "is given as FILE.py:Name"),
        ("none.py:Nothing", "cannot be read: No such file or directory"),
        (".:Nothing", "cannot be read: Is a directory"),
        ("task.py:Nothin", "unknown task in task.py 'Nothin'; did you mean 'Nothing'? Known: Nothing"),
        ("task.py:COUNT", "task.py:COUNT is no task: a task is a dataclass derived from dynamicblocks.training.Task"),
        ("task.py:Figure", "task.py:Figure is no task"),
        ("task.py:Task", "is imported there from dynamicblocks.training.task"),
        ("classfy", "unknown task 'classfy'"),
    ],
)
def test_what_is_no_task(text, message, file):
    file(GOOD)
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        asked_task(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("COUNT = 3", "COUNT = = 3", "task.py, line 11: SyntaxError: invalid syntax"),
        ("COUNT = 3", "COUNT = 3 / 0", "task.py, line 11: ZeroDivisionError: division by zero"),
        ("COUNT = 3", "import no_such_package", "task.py, line 11: ModuleNotFoundError: No module named"),
        ("COUNT = 3", "raise SystemExit", "task.py, line 11: SystemExit"),
        ("COUNT = 3", "COUNT = '\0'", "task.py: SyntaxError: source code"),
        ("@dataclass(frozen=True)\n", "", "is no dataclass; put @dataclass(frozen=True) over it"),
        ("    def load", "    def load_all", "lacks load, which every task has"),
        (" = COUNT", "", "every option of a task has a default, but task.py:Nothing has none for size"),
        ("size: int", "size: type", "the option 'size' of task.py:Nothing is of type <class 'type'>, which no file"),
        ("    size:", "    seed:", "the option 'seed' of task.py:Nothing is one of every training"),
        ("    size:", "    resume:", "the option 'resume' of task.py:Nothing is one of every training"),
        ("    size:", "    title:", "the option 'title' of task.py:Nothing hides Task.title"),
        ("    size:", "    name:", "the option 'name' of task.py:Nothing hides Task.name"),
        ("    size:", "    figures = ()\n    size:", "must be a tuple of dynamicblocks.training.Figure, got ()"),
        ("    size:", "    figures = (Figure('error'),)\n    size:", "must be called loss, got 'error'"),
        (
            "    def load",
            "    def __post_init__(self):\n        raise ValueError('odd')\n\n    def load",
            "task.py, line 19: ValueError: odd",
        ),
    ],
    ids=lambda text: text.strip()[:20].replace("\0", "0"),
)
def test_what_cannot_be_trained(old, new, message, file):
    before = set(sys.modules)
    text = GOOD.replace(old, new)
    assert text != GOOD
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        own_task(f"{file(text)}:Nothing")
    if "line 11" in message:
        assert set(sys.modules) == before


def test_a_file_without_tasks_says_what_a_task_is(file):
    with pytest.raises(db.ConfigurationError, match="holds no task: a task is a dataclass derived from"):
        own_task(f"{file('VALUE = 1')}:Nothing")


def test_a_run_of_a_task_of_ones_own_needs_it_again(file):
    own, run = own_task(f"{file(GOOD)}:Nothing"), Path("runs/mine")
    reference = own().reference
    assert task_of_run(reference, own, run) is own
    with pytest.raises(db.ConfigurationError, match=r"runs/mine .* add --task FILE.py:Nothing with the file"):
        task_of_run(reference, None, run)
    other = own_task(f"{file(GOOD.replace('class Nothing', 'class Other'))}:Other")
    with pytest.raises(db.ConfigurationError, match=r"the task Nothing, not of Other; add --task FILE.py:Nothing"):
        task_of_run(reference, other, run)


@pytest.mark.parametrize(
    "reference", ["task.py:Nothing", "nothing", {"name": "Nothing"}, {"name": 3, "sha256": "0"}, None, ["classify"]]
)
def test_what_stands_in_a_run_is_never_imported(reference, file):
    file(GOOD)
    before = set(sys.modules)
    with pytest.raises(db.StorageError, match="names no task that there is"):
        task_of_run(reference, None, Path("runs/mine"))
    assert set(sys.modules) == before


def test_another_file_is_noted_and_no_error(file):
    first = own_task(f"{file(GOOD)}:Nothing")
    second = own_task(f"{file(GOOD + 'MORE = 1')}:Nothing")
    reference = first().reference
    assert task_of_run(reference, second, Path("run")) is second
    assert changed_since(reference, first) == changed_since(reference, None) == changed_since("classify", None) == ""
    assert "has changed since the run began" in changed_since(reference, second)
    assert "\n" not in changed_since(reference, second)
