"""The list of runs: read from small files, without torch; damaged folders are named."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from dynamicblocks.cli.main import main
from dynamicblocks.cli.runs import differences, runs_in

CONFIG = {"task": "classify", "model": {"name": "resnet20"}, "optimizer": {"lr": 0.1}, "epochs": 4, "seed": 0}


def write_run(path, result=None, epochs=0, record=None, **config):
    path.mkdir(parents=True)
    about = {"format": 2, "versions": {"torch": "2.6"}, "started": "2026-01-02 03:04:05", "weights": 1234}
    (path / "run.json").write_text(json.dumps({**about, **(record or {})}))
    (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **config, "run": path.name}))
    lines = [
        {"epoch": epoch, "validation_accuracy": 0.5 + epoch / 10, "validation_loss": 1.0} for epoch in range(epochs)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_run(tmp_path / "b10", {"test_accuracy": 0.9, "validation_accuracy": 0.91, "test_loss": 0.3}, epochs=4)
    write_run(tmp_path / "b9", epochs=2, optimizer={"lr": 0.2})
    with (tmp_path / "b9" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "valid')  # cut short by a crash
    for seed, accuracy in ((0, 0.5), (1, 0.75)):
        result = {"test_accuracy": accuracy, "validation_accuracy": accuracy}
        write_run(tmp_path / "many" / f"seed-{seed}", result, epochs=4, seed=seed)
    (tmp_path / "notes").mkdir()
    (tmp_path / ".b11.part").mkdir()
    (tmp_path / ".b11.part" / "run.json").write_text("{}")
    return tmp_path


def test_order_and_what_is_no_run(folder):
    names = [str(path.relative_to(folder)) for path in runs_in(folder)]
    assert names == ["b9", "b10", "many/seed-0", "many/seed-1"]


def test_figures_state_and_differences_at_80_columns(folder, capsys):
    assert main(["runs", str(folder)]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    parts = dict(part.split("\n", 1) for part in said.strip().split("\n\n")[1:])
    assert "finished, test accuracy 90.00%, validation accuracy 91.00%, 1,234 weights" in parts["b10"]
    assert "epoch 2 of 4, validation accuracy 60.00%" in parts["b9"]
    assert "optimizer.lr 0.2" in parts["b9"]
    assert "model.name" not in said
    assert "2 of 2 seeds, test accuracy 62.50% ± 17.68%" in parts["many"]
    assert "seed 1" in parts["many/seed-1"]


def test_a_wide_terminal_gets_a_line_for_each(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["runs", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-2:] == ["optimizer.lr", "seed"]
    assert len(lines) == 4 + 5


def test_one_run_and_none(folder, capsys):
    assert main(["runs", str(folder / "b9")]) == 0
    assert "epoch 2 of 4" in capsys.readouterr().out
    assert main(["runs", str(folder / "notes")]) == 0
    assert "There are no runs in" in capsys.readouterr().out
    assert main(["runs", str(folder / "nothing")]) == 1
    assert capsys.readouterr().err == f"error: there is no folder {folder / 'nothing'}\n"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b"[]"),
        ("run.json", b"{}"),
        ("run.json", b"\xff\xfe"),
        ("run.json", b"[" * 100_000),
        ("run.json", b'{"format": 2, "versions": {}, "headline": {"name": [], "form": 3}}'),
        ("config.yaml", b"["),
        ("config.yaml", b"[1, 2]"),
        ("config.yaml", b"seed: 0"),
        ("result.json", b'{"test_accuracy": NaN, "validation_accuracy": "much"}'),
        ("result.json", b"{"),
        ("metrics.jsonl", b'{}\n[]\n"a"\n'),
    ],
)
def test_damage_is_named_and_not_fatal(folder, file, content, capsys):
    (folder / "b10" / file).write_bytes(content)
    for flags in ((), ("--json",)):
        assert main(["runs", str(folder), *flags]) == 0
        said = capsys.readouterr().out
        assert "b9" in said
        assert "b10" in said
    json.loads(said, parse_constant=lambda name: pytest.fail(name))


def test_a_missing_file_is_damage(folder, capsys):
    (folder / "b10" / "run.json").unlink()
    assert main(["runs", str(folder)]) == 0
    assert f"damaged: {folder / 'b10' / 'run.json'} does not exist" in capsys.readouterr().out


def test_json(folder, capsys):
    assert main(["runs", str(folder), "--json"]) == 0
    found = {each["run"]: each for each in json.loads(capsys.readouterr().out)}
    unfinished = found[str(folder / "b9")]
    assert (unfinished["finished"], unfinished["epochs_done"], unfinished["epochs"]) == (False, 2, 4)
    assert found[str(folder / "b10")]["figures"]["test_accuracy"] == 0.9
    assert found[str(folder / "many" / "seed-1")]["options"]["seed"] == 1


def test_different_tasks_name_their_figures(folder, capsys):
    figures = {"test_relative_error": 0.02, "validation_relative_error": 0.03}
    headline = {"headline": {"name": "relative_error", "form": ".3%"}}
    write_run(folder / "fields", figures, 4, headline, task="regress")
    assert main(["runs", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "test relative error 2.000%" in said
    assert "test accuracy 90.00%" in said


def test_without_torch(folder):
    shutil.rmtree(folder / "many")
    program = (
        "import sys; from dynamicblocks.cli.main import main; "
        f"code = main(['runs', {str(folder)!r}]); sys.exit(code or 'torch' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_options_that_differ():
    assert differences([{"a": 1, "b": [1]}, {"a": 1, "b": [1], "c": None}]) == ["c"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b'{"format": 3, "versions": {}, "weights": "many", "started": null}'),
        ("run.json", b'{"format": 3, "versions": {}, "headline": {"name": "accuracy", "form": "999999999.2%"}}'),
        ("result.json", b'{"test_accuracy": null, "validation_accuracy": 1' + b"0" * 400 + b"}"),
        ("result.json", b'{"test_accuracy": 1e400}'),
        ("metrics.jsonl", b'{"epoch": true}\n' + b"[" * 100_000),
    ],
)
def test_what_is_no_figure_is_none(folder, file, content, capsys):
    (folder / "b10" / file).write_bytes(content)
    for flags in ((), ("--json",)):
        assert main(["runs", str(folder), *flags]) == 0
        said = capsys.readouterr().out
        assert "b9" in said
        assert len(said) < 10_000


@pytest.mark.parametrize("file", ["run.json", "config.yaml", "metrics.jsonl", "result.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, file, capsys):
    (folder / "b10" / file).unlink(missing_ok=True)
    os.mkfifo(folder / "b10" / file)
    assert main(["runs", str(folder)]) == 0
    assert f"damaged: {folder / 'b10' / file} is" in capsys.readouterr().out
