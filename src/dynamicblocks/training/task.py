"""What a training is of: everything that depends on the data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.config.plain import plain
from dynamicblocks.training.predicting import plain_answers

Batch = TypeVar("Batch")
Yielded = TypeVar("Yielded", covariant=True)

CPU = torch.device("cpu")

SplitName = Literal["train", "validation", "test"]
# What batches have.
BATCHES = ("batch_size", "steps", "samples", "training", "evaluation")


@dataclass(frozen=True)
class Place:
    """Where batches are needed, how, and by whom.

    Args:
        device: on which they are to lie.
        dtype: of their floating-point numbers: float64 where the network computes in it, else float32.
        channels_last: whether images are stored channels last.
        seed: of shuffling and of random changes.
        workers: processes that read files; what is read does not depend on it.
        rank, world: this process and the number of processes; each takes its share of every batch.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    seed: int = 0
    workers: int = 0
    rank: int = 0
    world: int = 1


HERE = Place()
"""On the CPU, in float32."""


class Batches(Protocol[Yielded]):
    """Batches of a split, where they are needed.

    What a training sees is to be decided by (seed, epoch, step) alone: a resumed run sees what it would have seen. With
    an attribute ``evaluation_steps`` as well, the number of batches in an evaluation, bars say how much of it is done.
    """

    @property
    def batch_size(self) -> int:
        """Samples in a step of training, over all processes."""
        ...

    @property
    def steps(self) -> int:
        """Steps in an epoch of training."""
        ...

    @property
    def samples(self) -> int:
        """Samples of the split."""
        ...

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[Yielded]:
        """The share of this process of the batches of an epoch, in random order, from ``first_step`` on.

        ``progress`` is the share of the whole training that lies before the epoch, in [0, 1).
        """
        ...

    def evaluation(self) -> Iterator[Yielded]:
        """The share of this process of the samples, each once, in order and as they are."""
        ...


def first_of(batches: Batches[Batch]) -> Batch:
    """The first batch of a training.

    Raises:
        ConfigurationError: there is none.
    """
    for batch in batches.training(0):
        return batch
    raise ConfigurationError(f"an epoch of {batches.samples} samples has no batch; give more data or a smaller batch")


@dataclass(frozen=True)
class Figure:
    """A number that tells how good a network is.

    Args:
        name: its key in the files of a run, such as ``accuracy``.
        form: how it is printed, as ``format`` takes it.
        higher: whether more is better.
        title: what it is called in text; by default its name, with spaces.
    """

    name: str
    form: str = ".4f"
    higher: bool = False
    title: str = ""

    @property
    def heading(self) -> str:
        """Its title, or else its name with spaces."""
        return self.title or self.name.replace("_", " ")

    @property
    def percent(self) -> bool:
        """Whether it is a share, printed in hundredths."""
        return self.form.endswith("%")

    def shown(self, value: float) -> str:
        """The value as text.

        >>> Figure("accuracy", ".1%").shown(0.5)
        '50.0%'
        """
        return format(value, self.form)

    def worse(self, before: float, after: float) -> float:
        """By how much ``after`` is worse than ``before``; negative if it is better."""
        return before - after if self.higher else after - before

    def change(self, before: float, after: float) -> str:
        """A difference as text, with its sign: of shares in points of a hundred."""
        return f"{100 * (after - before):+.2f}" if self.percent else f"{after - before:+{self.form}}"


LOSS = Figure("loss")


class Task(ABC, Generic[Batch]):
    """One task: its data, its network, its loss and its figures. Training, and the commands, ask it for these.

    A task is a frozen dataclass: its fields are its options, in configuration files and as flags. Data are read when
    they are first needed, and kept (``functools.cached_property``). A batch is whatever the task makes it: the loop
    hands it from :meth:`batches` to :meth:`loss`.

    A training calls :meth:`check` and :meth:`sketch`; then :meth:`load`, :meth:`build` and, for the training and the
    validation samples, :meth:`batches`; :meth:`rehearsal`; :meth:`loss` in each step and :meth:`score` in each step of
    evaluation, and :meth:`measured` of what they add up to; at the end :meth:`batches` of the test samples, and
    :meth:`conclude`.
    Every process does so.
    """

    name: ClassVar[str]
    """What it is called; by default as its class."""
    unit: ClassVar[str] = "samples"
    """What is counted, in the plural: images, fields, series."""
    figures: ClassVar[tuple[Figure, ...]] = (LOSS,)
    """What is shown. The first is the loss, by which weights are kept; the second, if any, what one wants to know."""
    bears_half: ClassVar[bool] = False
    """Whether its answers bear bfloat16, of three digits, so that it may be chosen without being asked for."""
    usual: ClassVar[Mapping[str, Any]] = {}
    """Options of its trainings in the place of their defaults, by path, such as ``{"optimizer.name": "adam"}``."""
    source_hash: ClassVar[str | None] = None
    """Of a task that was read from a file: the SHA-256 of that file."""
    asked_as: ClassVar[str | None] = None
    """Of a task that was read from a file: FILE.py:Name, as it was asked for."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = vars(cls).get("name", cls.__name__)

    @property
    def headline(self) -> Figure:
        """The figure that says most."""
        return self.figures[min(1, len(self.figures) - 1)]

    @property
    def title(self) -> str:
        """What is trained on what, in a word or two, for the name of a run."""
        return self.name

    # Data and network

    def check(self) -> None:
        """Raise for what cannot be, as far as that is known before data are read; by default nothing.

        Raises:
            ConfigurationError: there are no data of that name, or options exclude one another.
            StorageError: a file or folder is missing.
        """
        return

    @abstractmethod
    def load(self) -> str:
        """Read the data, unless that is done; a note on where they come from and how they are split, for the record.

        Called before :meth:`build` and :meth:`batches`, more than once; :meth:`sketch` does not need it.

        Raises:
            ConfigurationError: an option does not fit the data.
            StorageError: a file is missing or damaged.
        """

    @abstractmethod
    def build(self) -> nn.Module:
        """The network for the data, freshly initialised in float32, on the CPU.

        Called after the seed was set, so that random numbers of ``torch`` are those of the seed; and wherever a run is
        read, before its weights are filled in. Dynamic blocks in it can be refined, measured and compressed.
        """

    def facts(self) -> dict[str, Any] | None:
        """What :meth:`build` and :meth:`predict` need to know of the data, as JSON holds it; None: they read them.

        It is stored with a run, which is then read without its data. ``classes``, names in the order of their
        numbers, and ``mean`` and ``std`` of the network's inputs are shown by :class:`~dynamicblocks.tasks.Run`.
        """
        return None

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Take the facts of a run in the place of data that are not read; by default those are read if there are any.

        Called in the place of :meth:`load`. What stands in a file may be anything, so it is to be checked.

        Raises:
            ConfigurationError: these are no facts of such data.
        """
        if facts:
            self.load()

    def sketch(self) -> nn.Module | None:
        """A network like that of :meth:`build`, before data are read, so that what cannot be is said at once."""
        return None

    @abstractmethod
    def batches(self, split: SplitName, place: Place) -> Batches[Batch]:
        """The batches of a split, each process its share of them; :class:`TensorBatches` where they lie in memory."""

    def rehearsal(self, batches: Batches[Batch]) -> Iterator[Batch]:
        """Batches of all shapes that a training meets, as small as may be: they are tried before a run begins."""
        yield first_of(batches)

    # Numbers

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of what is summed over batches and processes. The first is the number of samples.

        Read once data are loaded, so that they may depend on them.
        """
        return ("samples", "loss")

    @abstractmethod
    def loss(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, to be lowered; and :attr:`sums` of it.

        Args:
            net: the network, perhaps compiled and wrapped: to be called, with its attributes left alone. What it gives
                may have another type than the targets, as under ``bf16-mixed``.
            batch: on the network's device.

        Returns:
            A number with gradient, and a vector, ``(len(sums),)``, on its device and of any floating-point type. A loss
            that is not finite ends the training, or, in half precision, sends it on in float32. Numbers made of
            Python's own, as by ``torch.full_like(loss, 3)``, do not wait for a GPU; ``torch.tensor(3, device=...)``
            does.
        """

    def score(self, net: nn.Module, batch: Batch) -> Tensor:
        """:attr:`sums` of a batch in evaluation, where that is not what :meth:`loss` gives.

        ``net`` is in evaluation mode, and no gradients are recorded.
        """
        return self.loss(net, batch)[1]

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        """All :attr:`figures`, and more if wanted, from sums; by default each sum over the number of samples.

        The sums are those of an epoch or a split, over all processes, or of a part of an epoch, for the progress bar.
        """
        samples, *others = self.sums
        return {name: sums[name] / sums[samples] for name in others}

    # What the commands ask for

    def inputs(self, batch: Batch) -> Any:
        """What the network is called with for a batch; by default the batch if it is a tensor, else its first entry.

        Raises:
            ConfigurationError: a batch has no first entry, so the task must say what it is.
        """
        if isinstance(batch, Tensor):
            return batch
        if isinstance(batch, tuple | list) and batch:
            return batch[0]
        raise ConfigurationError(
            f"a batch of the task {self.name} is of type {type(batch).__name__}, so what its network is called with is "
            "not known; give the task a method inputs(batch) that says it"
        )

    def answered(self, net: nn.Module, batch: Batch) -> Batch | None:
        """The batch with the answers of ``net`` in the place of the true ones; None where there is no such thing."""
        return None

    def predict(
        self, net: nn.Module, x: Any, place: Place = HERE, *, batch_size: int | None = None, resize: bool = False
    ) -> Any:
        """What ``net``, in evaluation mode, answers to new data, on the CPU and in their order.

        By default ``x`` is an array or tensor of what the network is called with, and the answers are a tensor.

        Args:
            net: the network.
            x: the data, as somebody has them.
            place: of the network: its device, the type of its weights.
            batch_size: samples at a time; it bounds the memory.
            resize: whether data of another size are made to fit; by default they are an error.

        Raises:
            ConfigurationError: ``x`` is not what was expected; the message says both.
            StorageError: a file is missing or damaged.
        """
        if resize:
            raise ConfigurationError(f"the task {self.name} does not say how data are resized; leave out resize")
        return plain_answers(net, x, place.device, place.dtype, batch_size)

    def sample(self, net: nn.Module, number: int, place: Place = HERE, *, times: Any = None, seed: int = 0) -> Any:
        """New samples, drawn from what ``net``, in evaluation mode, has learnt; on the CPU.

        By default there is nothing to draw from.

        Args:
            net: the network.
            number: how many.
            place: of the network: its device, the type of its weights.
            times: of series, those at which they are told; by default as the task sees fit.
            seed: of the draws; random numbers of the caller go on as if nothing were drawn.

        Raises:
            ConfigurationError: the task has nothing to draw from.
        """
        raise ConfigurationError(
            f"the task {self.name} says what is true of data that are given, so there is nothing to draw from; the "
            "task series has"
        )

    def draw_samples(self, samples: Any, path: Path) -> bool:
        """Draw what :meth:`sample` gave into a picture; whether there is one."""
        return False

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        """Pictures and other files of a trained network, written into ``folder``: their paths."""
        return []

    # Configuration

    @property
    def reference(self) -> str | dict[str, str]:
        """How the files of a run name it: of a task from a file also what it was made by, never where that lies."""
        return self.name if self.source_hash is None else {"name": type(self).__name__, "sha256": self.source_hash}

    def as_dict(self) -> dict[str, Any]:
        """Its options as plain dictionaries and lists, as YAML and JSON hold them."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}  # type: ignore[arg-type]


def batches_of(task: Task[Any], split: SplitName, place: Place) -> Batches[Any]:
    """The batches of a split that holds something.

    Raises:
        ConfigurationError: the task gives something else.
    """
    found = task.batches(split, place)
    missing = [each for each in BATCHES if not hasattr(found, each)]
    if missing:
        raise ConfigurationError(
            f"batches of the task {task.name} must have {', '.join(BATCHES)}, as TensorBatches has; for {split} it "
            f"gives a {type(found).__name__} without {', '.join(missing)}"
        )
    if found.samples < 1 or found.steps < 1:
        raise ConfigurationError(
            f"the {split} split of the task {task.name} holds {found.samples} {task.unit} in {found.steps} steps; "
            "there must be one at least"
        )
    return found
