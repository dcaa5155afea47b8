"""The flags of dynamicblocks train: those of the task and the model that are named."""

import re

import pytest
import yaml

from dynamicblocks.cli.main import main
from dynamicblocks.models import models
from dynamicblocks.tasks import tasks
from dynamicblocks.tasks.model import options_of_model


def helped(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def configured(capsys, *arguments):
    assert main(["train", *arguments, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("dynamicnet_small", "--model.name {}"),
        ("wide_continuousnet", "--model.name={}"),
        ("hamiltonian_resnet", "--model {}"),
        ("twist_resnet50", "--arch={}"),
    ],
)
def test_help_shows_the_options_of_the_model(capsys, name, form):
    text = helped(capsys, "--epochs", "3", *form.format(name).split())
    shown = re.findall(r"^  --model\.(\w+) ", text, re.MULTILINE)
    assert shown == ["name", *options_of_model(name)]
    flat = " ".join(text.split())
    for option in options_of_model(name).values():
        assert f"{' '.join(option.help.split())} (type: {option.kind.written}, default: {option.shown_default})" in flat


def test_plain_help_is_of_the_usual_model_and_says_how_to_see_others(capsys):
    text = helped(capsys)
    assert "options of model (dynamicnet_small):" in text
    assert "(type: [int, ...], default: [24, 48])" in " ".join(text.split())
    assert "--model.name NAME --help" in text
    assert "Example: dynamicblocks train" in text


@pytest.mark.parametrize("task", list(tasks))
def test_examples_in_the_help_of_a_task_are_of_it_and_can_be_configured(task, capsys):
    lines = [line for line in helped(capsys, "--task", task).splitlines() if line.startswith("Example: ")]
    lines = [line for line in lines if "--help" not in line and "--config" not in line]
    assert len(lines) >= 2
    for line in lines:
        assert f"--task {task}" in line or task == "classify"
        assert configured(capsys, *line.split()[3:])["task"] == task


def test_help_of_a_file_and_of_another_task(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {name: resnet20}\n")
    assert "--model.shortcut" in helped(capsys, "--config", str(path))
    text = helped(capsys, "--task", "regress")
    assert "--criterion" in text
    assert "--label_smoothing" not in text
    assert main(["train", "--help", "--model.name", "resnet21"]) == 2
    assert "unknown model 'resnet21'" in capsys.readouterr().err


def test_flags_in_any_order_and_spelling(capsys):
    model = {"name": "dynamicnet", "widths": [4, 8], "units": 3}
    for flags in (
        "--model.name dynamicnet --model.widths 4 8 --model.units 3",
        "--model.widths 4 8 --model.units=3 --model.name=dynamicnet",
        "--model.widths [4,8] --model.name dynamicnet --model.units 3",
        "--model.widths=4,8 --model dynamicnet --model.units 3",
        "--arch dynamicnet --model.units 5 --model.widths [4, 8] --model.units 3",
    ):
        assert configured(capsys, *flags.split())["model"] == model


def test_flags_win_over_files_and_files_over_presets(capsys, tmp_path):
    path, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    path.write_text("epochs: 5\nseed: 7\nmodel: {units: 4}\n")
    other.write_text("epochs: 6\n")
    for flags in (f"--epochs 3 --config {path}", f"--config {path} --epochs 3", f"--config={path} --epochs 3"):
        found = configured(capsys, *flags.split())
        assert (found["epochs"], found["seed"], found["model"]["units"]) == (3, 7, 4)
    assert configured(capsys, "--config", str(path), "--config", str(other))["epochs"] == 6
    found = configured(capsys, "--model", "ContinuousNet", "--config", str(path), "--alpha", "8")
    assert found["model"] == {"name": "continuousnet", "units": 4, "width": 8}
    assert (found["epochs"], found["optimizer"]["weight_decay"]) == (5, 5e-4)
    path.write_text("model: {name: resnet20}\n")
    found = configured(capsys, "--model", "ContinuousNet", "--config", str(path))
    assert found["model"] == {"name": "resnet20"}  # units of the preset are those of another model


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--model.name resnet20 --model.widen 4", "--model.widen: unknown option of model 'resnet20' 'widen'"),
        ("--task segment --label_smoothing 0.1", "tasks that have it: classify"),
        ("--model.units x", "--model.units expects a whole number, got 'x'"),
        ("--task nothing", "unknown task 'nothing'"),
        ("--task", "--task expects one value, got nothing"),
        ("--config nowhere.yaml", "nowhere.yaml cannot be read"),
        ("--config", "--config expects one value, got nothing"),
        ("--print_config 3", "--print_config takes no value, got '3'"),
        ("--resume runs/mine --epochs 3", "--resume continues a run as it was configured"),
        ("--alpha", "--alpha expects a value"),
    ],
)
def test_errors_are_one_line(capsys, flags, said):
    try:
        code = main(["train", *flags.split()])
    except SystemExit as stop:  # what cannot be read ends the program, as in the other commands
        code = stop.code
    assert code == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_a_task_of_ones_own_with_a_model_of_ones_own(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        '''
from dataclasses import dataclass, field

from dynamicblocks.models import dynamicnet, models
from dynamicblocks.tasks import ModelConfig
from dynamicblocks.training import Task


@models.register("mine_for_flags")
def mine(in_channels: int, num_classes: int, *, widths: tuple[int, ...] = (4,)):
    """Mine.

    Args:
        widths: how wide it is.
    """
    return dynamicnet(in_channels, num_classes, widths=widths)


@dataclass(frozen=True)
class Noise:
    """Of the data.

    Args:
        level: of the noise.
    """

    level: float = 0.5


@dataclass(frozen=True)
class Mine(Task):
    """My task."""

    noise: Noise = field(default_factory=Noise)
    model: ModelConfig = field(default_factory=lambda: ModelConfig("mine_for_flags"))
    lr: float = 1.0

    def load(self): ...
    def build(self): ...
    def batches(self, split, place): ...
    def loss(self, net, batch): ...
'''
    )
    task = f"{path}:Mine"
    try:
        text = " ".join(helped(capsys, "--task", task).split())
        assert "how wide it is. (type: [int, ...], default: [4])" in text
        assert "of the noise. (type: float, default: 0.5)" in text
        # A flag of ContinuousNet's commands is here an option of the task.
        flags = ("--lr", "3", "--model.widths", "8", "8", "--noise.level", "1e-3", "--fast")
        found = configured(capsys, "--task", task, *flags)
        assert found["task"]["name"] == "Mine"
        assert (found["lr"], found["noise"], found["hardware"]["fast"]) == (3.0, {"level": 0.001}, True)
        assert found["model"] == {"name": "mine_for_flags", "widths": [8, 8]}
    finally:
        del models._factories["mine_for_flags"]


def test_the_listing_shows_option_default_and_help(capsys):
    assert main(["models", "hamiltonian_cnn"]) == 0
    text = capsys.readouterr().out
    for option in options_of_model("hamiltonian_cnn").values():
        line = next(line for line in text.splitlines() if line.startswith(f"{option.name} "))
        assert repr(option.default) in line
        assert " ".join(option.help.split()[:4]) in line
