"""Batches of time series, padded to the longest of each batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.data.series.series import SeriesBatch, SeriesSet, check_not_empty
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.memory import check_memory
from dynamicblocks.sampling import Sampling


@dataclass(frozen=True)
class SeriesBatches:
    """Batches of series on the device, their times and values scaled before they lose digits.

    What a training sees is decided by (seed, epoch, step) alone, so a resumed run sees what it would have seen.

    Args:
        series: one or more.
        batch_size: series in a step of training, over all processes.
        origin, span: a network is given the times ``(t - origin) / span``.
        mean, std: of values, for each feature, or one number; a network is given ``(value - mean) / std``.
        seed: of the order.
        evaluation_size: series in a batch of evaluation; by default as in training.
        epochs: of the whole training; with them ``progress`` grows in an epoch too.
        device, dtype: of the batches.
        rank, world: this process and the number of processes; each takes its share of every batch.

    Raises:
        ConfigurationError: there are no series, or a size cannot be; or times of a series that differ are one in
            ``dtype``.
    """

    series: SeriesSet
    batch_size: int
    origin: float = 0.0
    span: float = 1.0
    mean: Sequence[float] | float = 0.0
    std: Sequence[float] | float = 1.0
    seed: int = 0
    evaluation_size: int | None = None
    epochs: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world: int = 1
    _sampling: Sampling = field(init=False, repr=False, compare=False)
    _whole: SeriesBatch = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_not_empty(self.series, "a split")
        sampling = Sampling(len(self.series), self.batch_size, self.evaluation_size, self.seed, self.rank, self.world)
        object.__setattr__(self, "_sampling", sampling)
        object.__setattr__(self, "_whole", self._scaled())

    @property
    def steps(self) -> int:
        """Full batches in an epoch (one, smaller, if the split is smaller than a batch)."""
        return self._sampling.steps

    @property
    def samples(self) -> int:
        """Series of the split."""
        return len(self.series)

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[SeriesBatch]:
        """The batches of an epoch in random order, from ``first_step`` on, without a last partial one."""
        a_step = 0.0 if self.epochs is None else 1 / (self.epochs * self.steps)
        for step, batch in self._sampling.training(epoch, first_step):
            yield self._rows(self._sampling.mine(batch), progress + step * a_step)

    def evaluation(self) -> Iterator[SeriesBatch]:
        """The series in order, each once; this process's share of them."""
        for rows in self._sampling.evaluation():
            yield self._rows(rows, 1.0)

    def _rows(self, rows: Tensor, progress: float) -> SeriesBatch:
        length = int(self.series.lengths[rows].max())
        there = rows.to(self.device)
        *tables, labels, _ = self._whole
        times, values, seen, wanted = (table[there, :length] for table in tables)
        share = torch.tensor(progress, dtype=self.dtype, device=self.device)
        return SeriesBatch(times, values, seen, wanted, labels[there], share)

    def _scaled(self) -> SeriesBatch:
        """All series in the unit of a network, on the device."""
        series = self.series
        check_memory(2 * series.values.numel() * series.values.element_size(), "the batches of the series")
        whole = series.batch()
        times = ((whole.times - self.origin) / self.span).to(self.dtype)
        self._check_times(times)
        mean, std = (torch.as_tensor(each, dtype=torch.float64) for each in (self.mean, self.std))
        values = ((whole.values - mean) / std).where(series.observed, 0.0)
        scaled = whole._replace(times=times, values=values.to(self.dtype))
        return SeriesBatch(*(each.to(self.device) for each in scaled))

    def _check_times(self, times: Tensor) -> None:
        """Raise for times that no longer increase once they have fewer digits."""
        inner = torch.arange(1, times.shape[1]) < self.series.lengths[:, None]
        equal = (times.diff() <= 0) & inner
        if bool(equal.any()):
            row, place = equal.nonzero()[0].tolist()
            before, after = self.series.times[row, place : place + 2].tolist()
            raise ConfigurationError(
                f"series {self.series.ids[row]}: the times {before!r} and {after!r} are one in "
                f"{str(self.dtype).removeprefix('torch.')}: compute in float64, or leave one of them out"
            )
