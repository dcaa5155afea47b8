"""What cannot be trained is refused before anything is downloaded or written, and trying it leaves no trace."""

import pytest
import torch

from dynamicblocks.cli.main import main
from dynamicblocks.cli.train import command_for
from dynamicblocks.tasks import DataConfig, ModelConfig
from dynamicblocks.tasks.parsing import task_and_config
from dynamicblocks.training import HardwareConfig, Training, rehearsal, train
from tests.trainings import classification

MODEL = ["--model.name", "dynamicnet", "--model.widths", "[4,4,4]", "--model.units", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.integrator", "trapezoid"], "moves its running statistics"),
        (["--model.integrator", "kencarp4"], "moves its running statistics"),
        (["--model.gradient", "reversible"], "takes steps back, and "),
        (["--model.widths", "[4,0]"], "each of widths must be a whole number"),
        (["--model.norm", "group(groups=3)"], "3 groups do not divide 4 channels"),
        (["--twist.parametrisation", "full", "--twist.epoch", "2", "--twist.stages", "TF"], "a letter T or F"),
        (["--hardware.devices", "0"], "hardware.devices must be a whole number"),
        (["--hardware.precision", "transformer-engine"], "cannot use accelerator"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_no_images_could_change_comes_before_the_images(flags, message, tmp_path, capsys, monkeypatch):
    def opened(_):
        raise AssertionError("the images were opened")

    monkeypatch.setattr(DataConfig, "load", opened)
    assert main(["train", "--output", str(tmp_path / "runs"), *MODEL, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_taken_comes_before_the_images(tmp_path, capsys, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    monkeypatch.setattr(DataConfig, "load", lambda _: pytest.fail("the images were opened"))
    assert main(["train", "--output", str(tmp_path), "--run", "run", *MODEL]) == 2
    assert "exists already" in capsys.readouterr().err


FIXED = ["--hardware.precision", "32-true", "--hardware.channels_last", "false", "--hardware.compile", "false"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--model.boundary", "reflect", "--model.widths", "[4,4,4,4]"], 2, "images of at least 2 x 2 pixels"),
        (["--model.widths", "[4,4,4,4,4]"], 2, "pooling over 2 x 2 pixels leaves nothing"),
        (["--data.progressive", "[[0,2],[0.5,8]]"], 2, "leaves nothing of a state of shape (2, 4, 1, 1)"),
        (["--model.norm", "tv", "--model.integrator", "dopri5(rtol=1e-9, atol=1e-9, max_steps=3)"], 1, "3 steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_these_images_make_impossible_comes_before_the_folder(flags, code, message, tmp_path, capsys):
    assert main(["train", "--output", str(tmp_path / "runs"), *MODEL, *FIXED, *flags]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_step_that_fails_for_another_reason_is_told_before_the_folder(tmp_path, capsys, monkeypatch):
    def fails(*_):
        raise NotImplementedError("no such kernel\nfor this type")

    monkeypatch.setattr(rehearsal.Engine, "loss", fails)
    assert main(["train", "--output", str(tmp_path / "runs"), *MODEL, *FIXED]) == 2
    assert "a training step fails on a batch of shapes (2, 1, 8, 8), (2,) with" in (error := capsys.readouterr().err)
    assert "NotImplementedError: no such kernel" in error
    assert not (tmp_path / "runs").exists()


def test_a_rehearsal_leaves_no_trace(tmp_path, monkeypatch):
    hardware = HardwareConfig(precision="32-true", channels_last=False, compile=False)
    model = ModelConfig(name="dynamicnet", widths=(4,), units=1)

    def begun(run):
        plan = classification(model=model, hardware=hardware, epochs=1, output=str(tmp_path), run=run)
        training = Training(*plan)
        return training.net.state_dict(), torch.get_rng_state()

    weights, state = begun("rehearsed")
    monkeypatch.setattr(train, "rehearse", lambda *_: None)
    plain, expected = begun("plain")
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    assert torch.equal(state, expected)
    assert not weights["opening.norm1.num_batches_tracked"]


def test_in_double_precision_a_loss_is_of_what_the_network_gives(tmp_path):
    hardware = HardwareConfig(precision="64-true", channels_last=False, compile=False)
    model = ModelConfig(name="dynamicnet", widths=(4,), units=1)
    plan = classification(model=model, hardware=hardware, epochs=1, output=str(tmp_path), run="double")
    training = Training(*plan)
    images, _ = next(training.batches.training(0))
    assert training.engine.model(images).dtype == torch.float64


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_a_network_is_evaluated_in_the_precision_that_it_has(precision, tmp_path, capsys):
    flags = ["--epochs", "1", "--max_steps", "2", "--hardware.precision", precision, "--model.widths", "[4]"]
    assert main(["train", "--output", str(tmp_path), "--run", "run", *MODEL, *flags]) == 0
    assert "Test accuracy" in capsys.readouterr().out


def test_steps_whose_states_no_memory_holds_are_refused(tmp_path, capsys, monkeypatch):
    batch, width, side, steps = 10, 4, 8, 1500
    # Two evaluations a step, each with what PyTorch remembers of its operations and one state of floats.
    need = 2 * steps * (8192 + batch * width * side * side * 4)
    flags = f"--model.name dynamicnet --model.widths [4] --model.units 1 --model.steps {steps} --model.norm none"
    flags += f" --model.integrator midpoint --data.batch_size {batch} --max_steps 1 --output {tmp_path / 'runs'}"
    monkeypatch.setattr("dynamicblocks.memory.available", lambda: need - 1)
    assert main(["train", *flags.split()]) == 2
    assert "the states of 3,000 evaluations of layers needs" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    # Where it is kept otherwise, or there is room for it, nothing is said of it.
    monkeypatch.setattr("dynamicblocks.training.choices.count_work", _far_enough)
    for others, there in (("--model.gradient checkpoint", 2**20), ("", need)):
        monkeypatch.setattr("dynamicblocks.memory.available", lambda there=there: there)
        with pytest.raises(KeyboardInterrupt):
            train.settled(*_asked([*flags.split(), *others.split()]))


def _far_enough(*_):
    raise KeyboardInterrupt


def _asked(flags):
    """The task, the configuration and the network of a command."""
    command, _ = command_for(flags)
    task, config = task_and_config(command.table, command.sources)
    task.load()
    return task, config, task.build()
