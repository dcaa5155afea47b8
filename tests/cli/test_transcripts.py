"""The page of transcripts shows every command, with flags that there are; and the scripts of completion."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dynamicblocks.cli import completion
from dynamicblocks.cli.main import COMMANDS, main
from dynamicblocks.models import list_models

DOCS = Path(__file__).parents[2] / "docs"
# Flags of ContinuousNet's commands, which become those of this one.
PUBLISHED = {"--scheme"}


@pytest.fixture(scope="module")
def words():
    return completion.words()


@pytest.fixture(scope="module")
def transcripts():
    return re.findall(r"^\$ dynamicblocks (.+)$", (DOCS / "commands.md").read_text(), re.MULTILINE)


def test_every_command_is_shown_with_flags_that_there_are(words, transcripts):
    shown = runpy.run_path(str(DOCS / "transcripts.py"))["SHOWN"]
    assert transcripts == [command for *_, command in shown if command.split()[0] in COMMANDS]
    assert {command.split()[0] for command in transcripts} == set(COMMANDS) - {"completion"}
    assert "dynamicblocks completion bash" in (DOCS / "commands.md").read_text()
    for command in transcripts:
        name, *arguments = shlex.split(command)
        assert {token for token in arguments if token.startswith("--")} <= set(words[name]) | PUBLISHED


def test_nothing_of_a_transcript_is_cut():
    text = (DOCS / "commands.md").read_text()
    assert "…" not in text
    assert "dopri5(rtol=0.001, atol=0.0001)\n" in text


def test_words_are_those_of_the_parsers(words):
    assert set(words) == set(COMMANDS)
    assert {"--model.widths", "--model.steps_per_unit", "--quiet", "--table", "--resume"} <= set(words["train"])
    assert words["train"]["--model.name"] == list_models() == words["models"][""]
    assert words["train"]["--table"] == ("full", "few", "none")
    assert words["train"]["--keep"] == ["best", "last"]
    assert words["evaluate"]["--split"] == ["test", "validation"]


COMPLETED = [
    (["t"], ["train"]),
    (["evaluate", "run", "--integ"], ["--integrator"]),
    (["evaluate", "run", "--split", ""], ["test", "validation"]),
    (["train", "--model.name", "twist_resnet5"], ["twist_resnet50"]),
    (["models", "wide_cont"], ["wide_continuousnet"]),
    (["completion", ""], ["bash", "zsh", "fish"]),
]


def test_bash_completes(words, tmp_path):
    lines = ['t() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _dynamicblocks; echo "${COMPREPLY[*]}"; }']
    lines += [f"t dynamicblocks {shlex.join(typed)}" for typed, _ in COMPLETED]
    script = tmp_path / "script.sh"
    script.write_text("\n".join([completion.bash(words), *lines]))
    found = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert [line.split() for line in found.stdout.splitlines()] == [answer for _, answer in COMPLETED]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_can_be_read(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", script], check=True, capture_output=True)


def test_other_shells(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", "csh"])
    assert ended.value.code == 2
    assert "one of bash, zsh, fish" in capsys.readouterr().err
