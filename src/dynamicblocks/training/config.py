"""The configuration of a training: a tree of frozen dataclasses, each field a flag of the command line."""

from argparse import ArgumentError
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from dynamicblocks.data import Augmentation, ImageDataset, load_dataset
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.models import create_model
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_amount, check_count


@dataclass(frozen=True)
class DataConfig:
    """Images. Changes of training images left out are the usual ones of the data set.

    Args:
        name: digits, mnist, fashion-mnist, cifar10, cifar100, stl10 or imagefolder:PATH.
        data_dir: folder with a local copy in the official layout; without it, files are downloaded to a cache.
        size: side of the images of an image folder, in pixels.
        workers: processes that read the images of an image folder.
        validation: share of the training images held out to choose the checkpoint.
        split_seed: which images those are.
        batch_size: images in a training step, over all processes.
        test_batch_size: images in a step of evaluation; by default as in training.
        shift: most pixels by which training images are moved at random (pad and crop).
        flip: whether they are mirrored at random.
        cutout: side of a square that is painted over, at random, in pixels.
        turn: most degrees by which they are turned at random.
        scale: most by which they are magnified or shrunk at random, as a share of their size.
        progressive: smaller images at first: pairs of the share of the training from which on they have that many
            pixels on a side, for example [[0,20],[0.3,24],[0.6,32]]. Evaluation always sees whole images.
    """

    name: str = "digits"
    data_dir: str | None = None
    size: int | None = None
    workers: int = 0
    validation: float = 0.1
    split_seed: int = 0
    batch_size: int = 64
    test_batch_size: int | None = None
    shift: int | None = None
    flip: bool | None = None
    cutout: int | None = None
    turn: float | None = None
    scale: float | None = None
    progressive: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.progressive]
        if shares and (shares[0] != 0 or shares != sorted(set(shares)) or shares[-1] >= 1):
            raise ConfigurationError(f"the shares of data.progressive must rise from 0 to below 1, got {shares}")
        for _, side in self.progressive:
            check_count(side, "data.progressive")

    def side(self, progress: float) -> int | None:
        """Pixels on a side of training images at a share of the training; None for their own size.

        >>> DataConfig(progressive=((0.0, 20), (0.6, 32))).side(0.5)
        20
        """
        return next((side for share, side in reversed(self.progressive) if share <= progress), None)

    def load(self) -> ImageDataset:
        """The data set, split."""
        return load_dataset(
            self.name, self.validation, self.split_seed, data_dir=self.data_dir, size=self.size, workers=self.workers
        )

    def augmentation(self, usual: Augmentation) -> Augmentation:
        """What is configured, and what is usual where nothing is."""
        chosen = {each.name: getattr(self, each.name) for each in fields(Augmentation)}
        return replace(usual, **{name: value for name, value in chosen.items() if value is not None})


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
        width: channels of the opening of a ContinuousNet or wide network (alpha).
        widen: widen factor of a ContinuousNet or wide network.
        steps_per_unit: time steps of a ContinuousNet in each control interval.
        time_epsilon: length of the time of a ContinuousNet's blocks; by default its units.
        skipinit: whether branches of a ContinuousNet end with a trainable scalar, zero at first.
        activation_first: whether a ContinuousNet normalises and activates before it convolves.
        stitch: whether a ContinuousNet has residual units between blocks (else plain convolutions).
        initial: how convolutions are drawn (he, torch).
        depth: layers of a plain residual network, 6 n + 2 (wide: 6 n + 4).
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
    width: int | None = None
    widen: int | None = None
    steps_per_unit: int | None = None
    time_epsilon: float | None = None
    skipinit: bool | None = None
    activation_first: bool | None = None
    stitch: bool | None = None
    initial: str | None = None
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
        lr_end: lowest learning rate, at the end of a cosine or a line.
        momentum: of the gradient.
        nesterov: whether momentum looks ahead.
        weight_decay: of matrices and kernels.
        decay_all: whether biases and normalisations decay too.
        schedule: learning rate over the training: half a cosine, a straight line (one cycle), steps, or constant;
            after the warm-up.
        warmup: share of the steps in which the learning rate rises linearly.
        decay: factor of the learning rate at each of ``decay_epochs``, with schedule ``steps``.
        decay_epochs: those epochs.
        label_smoothing: share of the target spread evenly over the classes.
        smoothness: weight of the penalty on d theta/dt.
        clip: largest norm of the gradient; 0 for none.
    """

    lr: float = 0.1
    lr_end: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False
    schedule: Literal["cosine", "linear", "steps", "constant"] = "cosine"
    warmup: float = 0.15
    decay: float = 0.1
    decay_epochs: tuple[int, ...] = ()
    label_smoothing: float = 0.0
    smoothness: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "lr",
            "lr_end",
            "momentum",
            "weight_decay",
            "warmup",
            "decay",
            "label_smoothing",
            "smoothness",
            "clip",
        ):
            check_amount(getattr(self, name), f"optimizer.{name}")
        for name in ("momentum", "warmup", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ConfigurationError(f"optimizer.{name} must be below 1, got {getattr(self, name)}")
        for epoch in self.decay_epochs:
            check_count(epoch, "optimizer.decay_epochs")


@dataclass(frozen=True)
class RefineConfig:
    """Depth that grows while the network trains.

    Args:
        epochs: before each of these (counted from 0), the controls and steps of every block are multiplied.
        factor: by how much.
        variance: relative standard deviation of noise on the weights that are copied, so that the copies differ.
    """

    epochs: tuple[int, ...] = ()
    factor: int = 2
    variance: float = 0.0

    def __post_init__(self) -> None:
        for epoch in self.epochs:
            check_count(epoch, "refine.epochs")
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ConfigurationError(f"refine.epochs must increase, got {list(self.epochs)}")
        check_count(self.factor, "refine.factor", least=2)
        check_amount(self.variance, "refine.variance")


@dataclass(frozen=True)
class HardwareConfig:
    """Where the training runs; see Lightning Fabric. Choices left ``auto`` are measured at its start and recorded.

    Args:
        accelerator: auto, cpu, cuda (gpu), mps, ...
        devices: how many of them; each is a process.
        strategy: auto or ddp (data parallel).
        precision: auto, 32-true, bf16-mixed, 16-mixed, 64-true, ...
        compile: whether to compile the network (auto: on long trainings where a compiler is there).
        channels_last: whether images are stored channels last.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: bool | Literal["auto"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"


@dataclass(frozen=True)
class TrainConfig:
    """A training.

    Args:
        data: images.
        model: network.
        optimizer: optimiser.
        refine: depth that grows.
        hardware: device, precision, processes.
        epochs: passes over the training images.
        max_steps: training steps after which to stop, whatever the epochs; None for no limit.
        seed: of initialisation, shuffling and augmentation.
        checkpoint_steps: steps between checkpoints inside an epoch; each epoch ends with one in any case.
        output: folder in which the run's own folder is made.
        run: name of the run's folder; by default the date, data set and model.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    epochs: int = 30
    max_steps: int | None = None
    seed: int = 0
    checkpoint_steps: int | None = None
    output: str = "runs"
    run: str | None = None

    def __post_init__(self) -> None:
        check_count(self.epochs, "epochs")
        check_count(self.seed, "seed", least=0)
        for name in ("checkpoint_steps", "max_steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as YAML and JSON hold them."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


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
