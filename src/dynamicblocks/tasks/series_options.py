"""The options of a task on time series: its data and its model."""

from dataclasses import dataclass
from typing import Any, Literal

from dynamicblocks.data.series import DIVISIONS, SeriesDataset, SeriesSet, divided, load_series
from dynamicblocks.data.series.splits import split_series
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.times import check_amount, check_count, check_seed

PUBLISHED = "spirals"
"""Made series that say themselves what is seen of them: their later points are told, and never seen."""


@dataclass(frozen=True)
class SeriesConfig:
    """Time series.

    Args:
        name: spirals, periodic, lotka_volterra (made on the fly); csv:PATH or parquet:PATH, tables with a row for each
            time of each series, whose cells may be empty.
        id: of a table, the column that tells series apart.
        time: of a table, the column of times.
        values: of a table, the columns of what was observed; by default all others that hold numbers.
        label: of a table, the column of a label for each series.
        series: of data made on the fly, how many to train on.
        points: of data made on the fly, times of each.
        noise: of data made on the fly, its deviation.
        how: what a network has to do: extrapolate (the first share of the time of each series is seen, the rest is
            told), interpolate (a random share of the times is seen, all are told), reconstruct (all are seen and told).
        share: that share.
        validation, test: shares of the series held out; of one or two series the last times.
        split_seed: which series, and which of their times, those are; and what is made on the fly.
        batch_size: series in a training step, over all processes.
        test_batch_size: series in a step of evaluation; by default as in training.
        data_dir: where a relative path of a file begins; by default the working directory.
    """

    name: str = PUBLISHED
    id: str = "id"
    time: str = "time"
    values: tuple[str, ...] = ()
    label: str | None = None
    series: int | None = None
    points: int | None = None
    noise: float | None = None
    how: Literal["extrapolate", "interpolate", "reconstruct"] = "extrapolate"
    share: float = 0.5
    validation: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    batch_size: int = 100
    test_batch_size: int | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.split_seed, "data.split_seed")
        check_count(self.batch_size, "data.batch_size")
        for option in ("series", "points", "test_batch_size"):
            if getattr(self, option) is not None:
                check_count(getattr(self, option), f"data.{option}")
        if self.noise is not None:
            check_amount(self.noise, "data.noise")
        if self.how not in DIVISIONS:
            raise unknown_name("data.how", self.how, DIVISIONS)
        for option in ("share", "validation", "test"):
            if not 0 < check_amount(getattr(self, option), f"data.{option}") < 1:
                raise ConfigurationError(f"data.{option} must be a share, between 0 and 1, got {getattr(self, option)}")
        if self.name == PUBLISHED and self.how != "extrapolate":
            raise ConfigurationError(
                f"data.how {self.how}: of {PUBLISHED} the later points are told; take extrapolate, or other series"
            )

    def load(self) -> SeriesDataset:
        """The series, split, with what is seen of each."""
        columns: dict[str, Any] = {}
        if ":" in self.name:
            columns = {"id": self.id, "time": self.time, "values": self.values or None, "label": self.label}
        found = load_series(
            self.name,
            seed=self.split_seed,
            points=self.points,
            series=self.series,
            noise=self.noise,
            validation=self.validation,
            test=self.test,
            data_dir=self.data_dir,
            **columns,
        )
        return found if self.name == PUBLISHED else self._divided(found)

    def split(self, series: SeriesSet) -> SeriesDataset:
        """Series from Python, split."""
        return self._divided(split_series(series, self.name, self.validation, self.test, self.split_seed))

    def _divided(self, found: SeriesDataset) -> SeriesDataset:
        if found.test.ids == found.train.ids:  # of few series the last times are held out, and are to be told
            return found
        train, validation, test = (
            divided(part, self.how, self.share, self.split_seed, training=part is found.train)
            for part in (found.train, found.validation, found.test)
        )
        seen = "" if self.how == "reconstruct" else f" {self.share:.0%}"
        note = f"{found.note}; {self.how}{seen}"
        return SeriesDataset(train, validation, test, note, found.truth)


@dataclass(frozen=True)
class SeriesModelConfig:
    """A model of time series.

    Args:
        name: latent_ode; or rnn, which predicts the next value (and draws no new series).
        encoder: of a latent ODE: ode_rnn, whose state follows an equation between observations; rnn or gru, which are
            told the gaps between them.
        latent: width of the latent state.
        hidden, layers: of the equation of the latent state; hidden is the width of the state of rnn, too.
        recurrent: width of the encoder's state.
        units: of the hidden layers of the encoder's equation and of the decoder.
        noise: deviation of an observation in units of the deviation of its feature; by default it is learnt.
        begin: where the latent state begins: common, at the first time of the training; own, at that of each series.
        times: union, one solve for the times of a batch; own, each series takes its own steps.
        poisson: the times of observation are events whose rate is learnt.
        labels: whether the label of each series is told.
        label_weight: of the labels' cross-entropy beside the bound of a value.
        kl_warmup: the share of the training in which the weight of the divergence grows to one.
    """

    name: Literal["latent_ode", "rnn"] = "latent_ode"
    encoder: Literal["ode_rnn", "rnn", "gru"] = "ode_rnn"
    latent: int = 3
    hidden: int = 50
    layers: int = 2
    recurrent: int = 50
    units: int = 50
    noise: float | None = None
    begin: Literal["common", "own"] = "common"
    times: Literal["union", "own"] = "union"
    poisson: bool = False
    labels: bool = False
    label_weight: float = 1.0
    kl_warmup: float = 0.1

    def __post_init__(self) -> None:
        for option, known in (("name", ("latent_ode", "rnn")), ("begin", ("common", "own"))):
            if getattr(self, option) not in known:
                raise unknown_name(f"model.{option}", getattr(self, option), known)
        check_amount(self.label_weight, "model.label_weight")
        if not 0 <= check_amount(self.kl_warmup, "model.kl_warmup") <= 1:
            raise ConfigurationError(f"model.kl_warmup must be a share of the training, got {self.kl_warmup}")
        if self.name == "rnn" and (self.labels or self.poisson):
            raise ConfigurationError("model.labels and model.poisson are of latent_ode; rnn has neither")
