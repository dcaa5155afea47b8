"""Fields into fields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dynamicblocks.data.fields import FieldDataset, FieldPairs, load_fields
from dynamicblocks.data.fields.dataset import check_share, files_of
from dynamicblocks.errors import unknown_name
from dynamicblocks.tasks.facts import FieldFacts, check_same_fields, facts_of_fields
from dynamicblocks.tasks.given import given_fields
from dynamicblocks.tasks.knowing import Knowing
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.tasks.prediction import FieldPrediction
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.times import check_count, check_seed
from dynamicblocks.training.evaluation import evaluation_mode
from dynamicblocks.training.predicting import answer_of, check_rows, together
from dynamicblocks.training.task import HERE, Batches, Figure, Place, SplitName
from dynamicblocks.training.tensor_batches import TensorBatches

FieldBatch = tuple[Tensor, ...]
"""Normalised inputs and targets (samples, channels, *space), and what the error of each sample is compared with: the
size of its target, in units of the largest deviation of a channel."""

CRITERIA = ("mse", "relative")
# Below this share of the usual size a target counts as zero.
NOTHING = 1e-12
# Samples of a rehearsal, and at most of a picture.
FEW, SHOWN = 2, 3


@dataclass(frozen=True)
class FieldConfig:
    """Pairs of fields.

    Args:
        name: fields:PATH, where PATH is a .npz file with the keys inputs and targets, each (samples, channels, *space)
            in 1, 2 or 3 dimensions, or a folder with train.npz and perhaps val.npz and test.npz.
        validation: share of the samples held out to choose the checkpoint, where the folder has no file of them.
        test: share of the samples held out for the end, where the folder has no file of them.
        split_seed: which samples those are.
        train_samples: train on so many of the other samples, a list that the split seed fixes; by default on all.
        batch_size: fields in a training step, over all processes.
        test_batch_size: fields in a step of evaluation; by default as in training.
    """

    name: str = ""
    validation: float = 0.1
    test: float = 0.1
    split_seed: int = 0
    train_samples: int | None = None
    batch_size: int = 16
    test_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_share(self.validation, "data.validation")
        check_share(self.test, "data.test")
        check_seed(self.split_seed, "data.split_seed")
        check_count(self.batch_size, "data.batch_size")
        for option in ("train_samples", "test_batch_size"):
            if getattr(self, option) is not None:
                check_count(getattr(self, option), f"data.{option}")

    def load(self) -> FieldDataset:
        """The fields, split."""
        return load_fields(self.name, self.validation, self.test, self.split_seed, train_samples=self.train_samples)


def default_model() -> ModelConfig:
    """A network whose points see all others in one step, at the resolution of the fields, between mirrors."""
    operator = "depthwise(boundary='reflecting')"
    return ModelConfig(
        "imexnet", widths=(16, 16), norm="none", boundary="replicate", operator=operator, integrator="imex"
    )


@tasks.register("regress")
@dataclass(frozen=True)
class Regress(Knowing[FieldBatch]):
    """Fields into fields: what a network gives for inputs is to be near the targets.

    The network sees inputs, and gives targets, less the mean and over the deviation of each channel in the training
    split. Its relative error is in the units of the file: |prediction - target| / |target|, with the Euclidean norm
    over channels and space, and of that the mean over the samples. The error of a target that is zero is compared with
    the usual size of a target, the root mean square over the training split.

    Args:
        data: fields.
        model: network.
        criterion: what is lowered: mse, the mean square of the normalised error, in which all channels weigh the
            same; or relative, the relative error, in which all samples weigh the same.
    """

    name: ClassVar[str] = "regress"
    kind_of_facts: ClassVar[type[FieldFacts]] = FieldFacts
    unit: ClassVar[str] = "fields"
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("loss", ".3e"),
        Figure("relative_error", ".3%"),
        Figure("mean_square", ".3e"),
    )

    data: FieldConfig = field(default_factory=FieldConfig)
    model: ModelConfig = field(default_factory=default_model)
    criterion: Literal["mse", "relative"] = "mse"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise unknown_name("criterion", self.criterion, CRITERIA)

    @property
    def title(self) -> str:
        """Data and model."""
        return f"{Path(self.data.name.partition(':')[2]).stem or 'fields'}-{self.model.name}"

    # Data and network

    @cached_property
    def fields(self) -> FieldDataset:
        """The data."""
        fields = self.data.load()
        if "known" in vars(self):  # they are those of a run, and the data may have changed since
            check_same_fields(self.data.name, fields, self.known)
        return fields

    @cached_property
    def known(self) -> FieldFacts:
        """What the network needs to know of the fields."""
        return facts_of_fields(self.fields)

    def check(self) -> None:
        files_of(self.data.name)

    def load(self) -> str:
        return self.fields.note

    def build(self) -> nn.Module:
        known = self.known
        return self.model.create(len(known.mean), len(known.target_mean), dense=True, dims=len(known.space))

    def sketch(self) -> nn.Module:
        # Which networks there can be depends on the dimensions of space, so the data are read at once.
        return self.build()

    def batches(self, split: SplitName, place: Place) -> TensorBatches:
        pairs: FieldPairs = getattr(self.fields, split)
        normalised = (
            self.known.inputs.normalised(pairs.inputs, place.dtype),
            self.known.targets.normalised(pairs.targets, place.dtype),
        )
        sizes = self._sizes(pairs.targets).to(place.dtype)
        return TensorBatches((*normalised, sizes), self.data.batch_size, place, self.data.test_batch_size)

    def rehearsal(self, batches: Batches[FieldBatch]) -> Iterator[FieldBatch]:
        inputs, targets, sizes = next(batches.training(0))
        yield inputs[:FEW], targets[:FEW], sizes[:FEW]

    # Numbers

    @cached_property
    def _scale(self) -> float:
        """The largest deviation of a channel: in its units what follows neither overflows nor vanishes."""
        return max(self.known.target_std)

    @cached_property
    def _usual(self) -> float:
        """The root mean square of the sizes of the training targets; one where they are all zero."""
        return self._norms(self.fields.train.targets).square().mean().sqrt().item() or 1.0

    def _norms(self, targets: Tensor) -> Tensor:
        return torch.stack([torch.linalg.vector_norm(target.double() / self._scale) for target in targets])

    def _sizes(self, targets: Tensor) -> Tensor:
        """What the errors of targets, in units, are compared with."""
        norms = self._norms(targets)
        return norms.where(norms > NOTHING * self._usual, self._usual)

    @property
    def sums(self) -> tuple[str, ...]:
        return ("fields", "loss", "relative_error", *(f"square_{channel}" for channel in range(self._channels)))

    @property
    def _channels(self) -> int:
        return len(self.known.target_mean)

    def loss(self, net: nn.Module, batch: FieldBatch) -> tuple[Tensor, Tensor]:
        inputs, targets, sizes = batch
        error = (net(inputs).to(targets.dtype) - targets).flatten(2)
        squares = error.square().mean(2)
        in_units = error * (self.known.targets.std / self._scale).to(error)[:, None]
        relative = torch.linalg.vector_norm(in_units.flatten(1), dim=1) / sizes
        losses = relative if self.criterion == "relative" else squares.mean(1)
        sums = [losses.new_full((), len(losses)), losses.sum(), relative.sum(), *squares.sum(0)]
        return losses.mean(), torch.stack(sums).detach()

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        std = self.known.target_std
        means = {name: sums[name] / sums["fields"] for name in self.sums[1:]}
        squares = [means[f"square_{channel}"] * each * each for channel, each in enumerate(std)]
        found = {
            "loss": means["loss"],
            "relative_error": means["relative_error"],
            "mean_square": sum(squares) / len(squares),
        }
        if len(squares) > 1:
            found |= {f"mean_square_{channel}": square for channel, square in enumerate(squares)}
        return found

    # What the commands ask for

    def answered(self, net: nn.Module, batch: FieldBatch) -> FieldBatch:
        inputs, targets, _ = batch
        answers = net(inputs).to(targets.dtype)
        return inputs, answers, self._sizes(self.known.targets.in_units(answers.double())).to(targets.dtype)

    def predict(
        self, net: nn.Module, x: Any, place: Place = HERE, *, batch_size: int | None = None, resize: bool = False
    ) -> FieldPrediction:
        rows = check_rows(batch_size, self.data.test_batch_size or self.data.batch_size)
        inputs = given_fields(x, self.known, resize=resize)
        values = []
        for part in torch.split(inputs, rows):
            answer = answer_of(net, self.known.inputs.normalised(part.cpu(), place.dtype).to(place.device))
            values.append(self.known.targets.in_units(answer.cpu().double()))
        return FieldPrediction(together(values))

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        # matplotlib is imported where something is drawn, not with every command.
        from dynamicblocks.tasks.field_pictures import Shown, draw_fields

        pairs = self.fields.test.select(torch.arange(min(SHOWN, len(self.fields.test))))
        dtype = next((weight.dtype for weight in net.parameters()), place.dtype)
        inputs = self.known.inputs.normalised(pairs.inputs, dtype).to(place.device)
        with evaluation_mode(net), torch.inference_mode():
            predictions = self.known.targets.in_units(net(inputs).double().cpu())
        errors = torch.linalg.vector_norm((predictions - pairs.targets).flatten(1) / self._scale, dim=1)
        shown = Shown(pairs.inputs, pairs.targets, predictions, errors / self._sizes(pairs.targets))
        path = folder / "predictions.png"
        draw_fields(shown, path)
        return [path]
