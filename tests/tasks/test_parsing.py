"""Configurations as they are written: options of tasks and models by path, from flags and from files."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import yaml
from torch import nn

import dynamicblocks as db
from dynamicblocks.tasks import Classify, DataConfig, ModelConfig, load_config, tasks
from dynamicblocks.tasks.option_table import OptionTable
from dynamicblocks.tasks.parsing import Written, table_of, task_and_config, written_as_flags
from dynamicblocks.training import OptimizerConfig, RefineConfig, Task, TrainConfig
from dynamicblocks.training.runs import recorded


@dataclass(frozen=True)
class Deep:
    """Options within options."""

    size: int = 3


@dataclass(frozen=True)
class Inner:
    """Where it is.

    Args:
        place: of it.
    """

    place: str = "here"
    deep: Deep = field(default_factory=lambda: Deep(size=5))

    def __post_init__(self):
        if self.place == "nowhere":
            raise db.ConfigurationError("inner.place must be somewhere")


@dataclass(frozen=True)
class Own(Task):
    """A task of one's own."""

    name: ClassVar[str] = "own"

    inner: Inner = field(default_factory=lambda: Inner("there"))
    net: ModelConfig = field(default_factory=lambda: ModelConfig("resnet20", unit="post"))
    perhaps: Inner | None = None
    many: list[float] = field(default_factory=list)
    anything: dict[str, int] | None = None

    load = build = batches = loss = None


Own.__abstractmethods__ = frozenset()


def parsed(task, *arguments, files=()):
    sources = [*files, written_as_flags(arguments)]
    return task_and_config(table_of(task, sources), sources)


def test_nothing_written_is_the_default():
    assert parsed(Classify) == (Classify(), TrainConfig())
    assert parsed(Own) == (Own(), TrainConfig())


def test_options_come_to_their_places():
    task, config = parsed(
        Classify,
        *("--model.units=3", "--data.batch_size", "8", "--label_smoothing", "0.1"),
        *("--refine.epochs", "1", "2", "--model.widths", "8", "16", "--epochs", "4"),
        *("--optimizer.lr", "1e-3", "--optimizer.nesterov", "--max-steps", "9"),
    )
    assert task.model == ModelConfig(units=3, widths=(8, 16))
    assert task.data == DataConfig(batch_size=8)
    assert task.label_smoothing == 0.1
    assert config == TrainConfig(
        epochs=4, max_steps=9, refine=RefineConfig(epochs=(1, 2)), optimizer=OptimizerConfig(lr=1e-3, nesterov=True)
    )


def test_fields_of_any_task_are_options():
    table = OptionTable(Own)
    assert {"inner.place", "inner.deep.size", "net.name", "net.unit", "perhaps.place", "many", "anything"} <= set(
        table.options
    )
    assert not any(path.startswith(("data.", "model.")) for path in table.options)
    assert table.options["inner.place"].help == "of it."
    task, _ = parsed(
        Own, "--inner.deep.size", "7", "--perhaps.place", "far", "--many", "1", "2.5", "--anything", "{a: 1}"
    )
    assert task.inner == Inner("there", Deep(7))
    assert task.perhaps == Inner("far")
    assert task.many == [1.0, 2.5]
    assert task.anything == {"a": 1}
    with pytest.raises(db.ConfigurationError, match=r"inner\.place must be somewhere"):
        parsed(Own, "--inner.place", "nowhere")


def test_a_task_begins_with_the_options_of_its_own_model():
    assert parsed(Own, "--net.depth", "32")[0].net == ModelConfig("resnet20", unit="post", depth=32)
    # One that is named is what is written of it: files hold names, and their networks are not to change.
    assert parsed(Own, "--net.name", "resnet20")[0].net == ModelConfig("resnet20")
    assert parsed(Own, "--net.name", "dynamicnet")[0].net == ModelConfig("dynamicnet")


def test_a_flag_may_hold_all_options_of_a_part():
    task, config = parsed(
        Classify, "--model={name: dynamicnet, widths: [4, 8]}", "--optimizer", "{lr: 0.5,", "clip: 1}"
    )
    assert task.model == ModelConfig("dynamicnet", widths=(4, 8))
    assert config.optimizer == OptimizerConfig(lr=0.5, clip=1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--model.name resnet20 --model.widen 4",
            "--model.widen: unknown option of model 'resnet20' 'widen'; models that",
        ),
        (
            "--model.widen 4 --model.name=resnet20",
            "--model.widen: unknown option of model 'resnet20' 'widen'; models that",
        ),
        ("--model.name resnet20 --model.depht 4", "--model.depht: unknown option of model 'resnet20' 'depht'; did you"),
        ("--model.dims 3", "--model.dims: dims is not to be given"),
        ("--model.units x", "--model.units expects a whole number, got 'x'"),
        ("--model.units", "--model.units expects a whole number, got nothing"),
        ("--model.units 1 2", "--model.units expects a whole number, got '1 2'"),
        ("--model.widths 8 x", "--model.widths expects whole numbers such as [8, 16], got '8, x'"),
        ("--model.pool mean", "--model.pool expects one of average, max, none, got 'mean'"),
        ("--epochs 2.5", "--epochs expects a whole number, got '2.5'"),
        ("--optimizer.lr fast", "--optimizer.lr expects a number"),
        ("--optimizer.nesterov perhaps", "--optimizer.nesterov expects true or false, got 'perhaps'"),
        ("--optimizer 3", "--optimizer expects options such as {name: X}, got '3'"),
        (
            "--optimizer.momentun 1",
            "--optimizer.momentun: unknown option of optimizer 'momentun'; did you mean 'momentum'",
        ),
        ("--optimiser.lr 1", "--optimiser.lr: there is no such option; did you mean 'optimizer.lr'"),
        ("--lr_end 1", "--lr_end: there is no such option; did you mean 'optimizer.lr_end'"),
        ("--epoch 3", "--epoch: there is no such option; did you mean 'epochs'"),
        (
            "--criterion mse",
            "--criterion: the task 'classify' has no option 'criterion'; tasks that have it: dynamics",
        ),
        ("stray", "'stray' stands behind no flag"),
        ("--epochs=3 stray", "--epochs expects a whole number, got '3 stray'"),
        ("--seed 99999999999999999999999", "seed must be a whole number from 0 to 2^63 - 1"),
        ("--seed 18446744073709551616", "seed must be a whole number from 0 to 2^63 - 1"),
        ("--data.split_seed 9223372036854775808", "data.split_seed must be a whole number from 0 to 2^63 - 1"),
        ("--seed -1", "seed must be a whole number from 0 to 2^63 - 1 = 9223372036854775807, got -1"),
    ],
)
def test_errors_are_one_line_that_names_the_flag(flags, said):
    with pytest.raises(db.ConfigurationError) as caught:
        parsed(Classify, *flags.split())
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_flags_of_a_file_and_of_the_command_line_mix(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {name: resnet, depth: 8}\noptimizer: {lr: 1e-3}\nepochs: 5\nrefine:\n")
    task, config = load_config(path)
    assert task == Classify(model=ModelConfig("resnet", depth=8))
    assert config == TrainConfig(epochs=5, optimizer=OptimizerConfig(lr=0.001))
    file = Written(yaml.safe_load(path.read_text()), path)
    task, config = parsed(Classify, "--epochs", "3", "--model.unit", "post", files=[file])
    assert (task.model, config.epochs) == (ModelConfig("resnet", depth=8, unit="post"), 3)
    assert parsed(Classify, "--model.name", "resnet32", files=[file])[0].model == ModelConfig("resnet32", depth=8)
    with pytest.raises(db.ConfigurationError) as caught:
        parsed(Classify, "--model.name", "dynamicnet", files=[file])
    assert str(caught.value).startswith(
        f"model.depth in {path}: unknown option of model 'dynamicnet' 'depth'; models that have it: hamiltonian_resnet"
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("epochs: x", "epochs in PATH expects a whole number, got 'x'"),
        ("epochs:", "epochs in PATH expects a whole number, got null"),
        ("model: resnet20", "model in PATH expects options such as {name: X}, got 'resnet20'"),
        ("model: {name: resnet20, widths: 3}", "model.widths in PATH expects whole numbers such as [8, 16], got 3"),
        ("model: {name: resnet21}", "unknown model 'resnet21'"),
        ("epochs: {a: 1}", "epochs in PATH expects a whole number, got {'a': 1}"),
        ("1: 2", "1 in PATH: there is no such option"),
        ("- 1", "PATH must hold a mapping of options, got list"),
        ("{", "PATH is no configuration of this version"),
    ],
)
def test_errors_in_files_name_the_file(tmp_path, written, said):
    path = tmp_path / "mine.yaml"
    path.write_text(written)
    with pytest.raises(db.StorageError) as caught:
        load_config(path)
    assert said.replace("PATH", str(path)) in str(caught.value)


def test_what_is_recorded_is_read_again(tmp_path):
    task = Classify(model=ModelConfig("imexnet", operator=None, widths=(4,)), data=DataConfig(progressive=((0.0, 8),)))
    config = TrainConfig(epochs=3, refine=RefineConfig(epochs=(1,)))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(recorded(task, config)))
    assert load_config(path) == (task, config)


def test_files_of_before_leave_out_what_is_null(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: {name: resnet20, unit: post, widths: null, widen: null, steps: null}\n"
        "optimizer: {label_smoothing: 0.1, lr: 0.5}\ndata: {workers: 2}\nepochs: 5\nrefine: {epochs: [2, 7]}\n"
    )
    task, config = load_config(path)
    assert task == Classify(model=ModelConfig("resnet20", unit="post"), label_smoothing=0.1)
    assert (config.hardware.workers, config.optimizer.lr, config.refine.epochs) == (2, 0.5, (2,))
    path.write_text("task: classify\nmodel: {name: resnet20, widen: null}\n")
    with pytest.raises(db.StorageError, match="'resnet20' 'widen'"):
        load_config(path)
    path.write_text("model: {name: imexnet, operator: null, integrator: null}\n")
    assert load_config(path)[0].model == ModelConfig("imexnet", operator=None)


@pytest.mark.parametrize("name", list(tasks))
def test_every_option_of_every_task_is_documented(name):
    table = OptionTable(tasks[name])
    assert [path for path, option in table.options.items() if not option.help] == []


def test_no_class_that_a_file_names_is_imported(tmp_path):
    path = tmp_path / "config.yaml"
    for written in ("model: {class_path: os.system}", "data: {class_path: this, init_args: {}}", "optimizer: this.Zen"):
        path.write_text(written)
        with pytest.raises(db.StorageError):
            load_config(path)


def test_a_network_is_made_of_it():
    assert isinstance(
        parsed(Classify, "--model.name", "dynamicnet", "--model.widths", "[4]")[0].model.create(1, 2), nn.Module
    )


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_images_of_a_size_that_no_memory_holds_are_refused_before_they_are_read(task):
    made, _ = parsed(
        tasks[task], "--data.size", "1000000", "--data.name", "qtips" if task == "segment" else "imagefolder:x"
    )
    with pytest.raises(db.ConfigurationError, match=r"1,000,000 x 1,000,000 pixels \(data.size\) needs 96,000 GB"):
        made.check()
