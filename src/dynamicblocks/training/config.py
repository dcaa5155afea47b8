"""The configuration of a training: a tree of frozen dataclasses, each field a flag of the command line."""

from argparse import ArgumentError
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from dynamicblocks.data import ImageDataset, load_dataset
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.models import create_model
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_amount, check_count


@dataclass(frozen=True)
class DataConfig:
    """Images.

    Args:
        name: data set.
        validation: share of the training images held out to choose the checkpoint.
        split_seed: which images those are.
        batch_size: images in a training step, over all processes.
        shift: most pixels by which training images are moved at random.
        turn: most degrees by which they are turned at random.
        scale: most by which they are magnified or shrunk at random, as a share of their size.
    """

    name: str = "digits"
    validation: float = 0.1
    split_seed: int = 0
    batch_size: int = 64
    shift: int = 1
    turn: float = 10.0
    scale: float = 0.1

    def load(self) -> ImageDataset:
        """The data set, split."""
        return load_dataset(self.name, self.validation, self.split_seed)


@dataclass(frozen=True)
class ModelConfig:
    """The network. Options left out are the model's own (`dynamicblocks models NAME` prints them).

    Args:
        name: one of `dynamicblocks models`.
        widths: channels of each block, for example [16,32].
        layer: layer function, for example preact_double, symmetric.
        norm: normalisation (batch, group, tv, none).
        activation: activation (relu, tanh, silu, ...).
        boundary: boundary condition (zeros, replicate, reflect, circular).
        controls: basis of the weights in time (constant, linear, or with a size: linear(5)).
        units: depth of a block in units of layers, and its number of control intervals.
        steps: time steps of each block.
        integrator: one of `dynamicblocks integrators`.
        gradient: backward pass (backprop, checkpoint).
        connector: between blocks (pooled, residual).
        pool: of pooled connectors (average, max, none).
        depth: layers of a plain residual network, 6 n + 2.
        unit: residual unit of a plain residual network (a, b, c, d, e, post).
        shortcut: of strided residual units (padding, convolution, convolution_norm).
        bias: whether convolutions have biases.
    """

    name: str = "dynamicnet_small"
    widths: tuple[int, ...] | None = None
    layer: str | None = None
    norm: str | None = None
    activation: str | None = None
    boundary: str | None = None
    controls: str | None = None
    units: int | None = None
    steps: int | None = None
    integrator: str | None = None
    gradient: str | None = None
    connector: str | None = None
    pool: str | None = None
    depth: int | None = None
    unit: str | None = None
    shortcut: str | None = None
    bias: bool | None = None

    def build(self, data: ImageDataset) -> DynamicNet:
        """The network for a data set, freshly initialised."""
        options = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        return create_model(self.name, in_channels=data.channels, num_classes=len(data.classes), **options)


@dataclass(frozen=True)
class OptimizerConfig:
    """Stochastic gradient descent.

    Args:
        lr: highest learning rate.
        momentum: of the gradient.
        nesterov: whether momentum looks ahead.
        weight_decay: of matrices and kernels; biases and normalisations have none.
        schedule: learning rate over the training, after the warm-up.
        warmup: share of the steps in which the learning rate rises linearly.
        label_smoothing: share of the target spread evenly over the classes.
        smoothness: weight of the penalty on d theta/dt.
        clip: largest norm of the gradient; 0 for none.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.15
    label_smoothing: float = 0.0
    smoothness: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay", "warmup", "label_smoothing", "smoothness", "clip"):
            check_amount(getattr(self, name), f"optimizer.{name}")
        for name in ("momentum", "warmup", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ConfigurationError(f"optimizer.{name} must be below 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class HardwareConfig:
    """Where the training runs; see Lightning Fabric.

    Args:
        accelerator: auto, cpu, cuda, mps, ...
        devices: how many of them; each is a process.
        strategy: auto or ddp (data parallel).
        precision: 32-true, bf16-mixed, 16-mixed, 64-true, ...
        compile: whether to compile the network.
        channels_last: whether images are stored channels last.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """A training.

    Args:
        data: images.
        model: network.
        optimizer: optimiser.
        hardware: device, precision, processes.
        epochs: passes over the training images.
        seed: of initialisation, shuffling and augmentation.
        checkpoint_steps: steps between checkpoints inside an epoch; each epoch ends with one in any case.
        output: folder in which the run's own folder is made.
        run: name of the run's folder; by default the date, data set and model.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    epochs: int = 30
    seed: int = 0
    checkpoint_steps: int | None = None
    output: str = "runs"
    run: str | None = None

    def __post_init__(self) -> None:
        check_count(self.epochs, "epochs")
        check_count(self.seed, "seed", least=0)
        if self.checkpoint_steps is not None:
            check_count(self.checkpoint_steps, "checkpoint_steps")

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as YAML and JSON hold them."""
        tree = asdict(self)
        if self.model.widths is not None:
            tree["model"]["widths"] = list(self.model.widths)
        return tree


def add_config_arguments(parser: ArgumentParser) -> None:
    """Give a parser every field of :class:`TrainConfig` as a flag, and ``--config FILE``."""
    parser.add_argument("--config", action="config", help="YAML file with some or all of the options below")
    parser.add_class_arguments(TrainConfig, nested_key=None)


def config_of(options: Namespace) -> TrainConfig:
    """The configuration among instantiated options."""
    return TrainConfig(**{each.name: options[each.name] for each in fields(TrainConfig)})


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file.

    Raises:
        StorageError: it cannot be read, or holds an unknown key or a value of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig, nested_key=None)
    try:
        return config_of(parser.instantiate(parser.parse_path(str(path))))
    except (ArgumentError, TypeError, OSError, ValueError) as error:
        raise StorageError(f"{path} is no configuration of this version: {error}") from error
