"""Figures for TensorBoard, for a CSV file, for Weights & Biases: Fabric's loggers, in the folder of the run."""

import csv
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, MissingPackageError, StorageError

# What each needs, any of them, and the extra that installs it.
NEEDED = {"tensorboard": ("tensorboard", "tensorboardX"), "csv": (), "wandb": ("wandb",)}
# So many steps between two losses that are logged.
EVERY = 10


def check_loggers(names: Sequence[str]) -> None:
    """Raise unless there are such loggers here.

    Raises:
        ConfigurationError: there is none of that name.
        MissingPackageError: its package is not installed.
    """
    for name in names:
        if name not in NEEDED:
            raise ConfigurationError(f"--logger takes {', '.join(NEEDED)}, one or several, got {name!r}")
        if not _installed(name):
            error = MissingPackageError(
                f"--logger {name} needs {NEEDED[name][0]}, which is not installed; get it with: "
                f'pip install "dynamicblocks[{name}]"'
            )
            error.name = NEEDED[name][0]
            raise error


def _installed(name: str) -> bool:
    return not NEEDED[name] or any(find_spec(package) is not None for package in NEEDED[name])


class WandbLogger(Logger):
    """Weights & Biases, as one of Fabric's loggers. A resumed run goes on there under the same identity.

    Args:
        folder: of the run; its files lie in ``wandb`` there.
        begun: when the run began, which tells it from others of its name.
        config: of the run.
    """

    def __init__(self, folder: Path, begun: str, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, dict(config)
        self._identity = hashlib.sha256(f"{folder.name} {begun}".encode()).hexdigest()[:16]
        self._run: Any = None

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def version(self) -> str:
        return self._identity

    @property
    def experiment(self) -> Any:
        """The run of wandb."""
        if self._run is None:
            wandb = import_module("wandb")
            self._run = wandb.init(
                project="dynamicblocks",
                name=self.name,
                id=self.version,
                dir=str(self._folder),
                config=self._config,
                resume="allow",
            )
        return self._run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    def log_hyperparams(self, params: Any, *arguments: Any, **options: Any) -> None:
        self.experiment.config.update(params)

    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)
            self._run = None


class Loggers:
    """The loggers of a run, none or several.

    Args:
        names: of :data:`NEEDED`.
        folder: of the run.
        begun: when it began.
        config: of the run.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, begun: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        self._names, self._folder, self._begun, self._config = tuple(names), folder, begun, config or {}
        self._loggers: list[Logger] = []
        self._losses: list[tuple[int, Tensor]] = []

    def begin(self, done: int) -> None:
        """Go on after so many steps; what was logged of later ones is of a time that did not last."""
        self.finish()
        with self._writing():
            self._loggers = [self._logger(name, done) for name in dict.fromkeys(self._names)]

    def loss(self, done: int, loss: Tensor) -> None:
        """Keep some of the losses, after ``done`` other steps; they are read later, for that waits for the device."""
        if self._loggers and done % EVERY == 0:
            # A compiled step writes its next loss to the same place.
            self._losses.append((done + 1, loss.detach().clone()))

    def write_losses(self) -> None:
        """Log the losses that were kept, where the device is waited for in any case."""
        if not self._losses:
            return
        steps, losses = zip(*self._losses, strict=True)
        self._losses = []
        for step, loss in zip(steps, torch.stack(losses).tolist(), strict=True):
            self.write({"step/loss": loss}, step)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Log some figures."""
        with self._writing():
            for logger in self._loggers:
                logger.log_metrics(dict(figures), step)

    def finish(self, status: str = "success") -> None:
        """Close the files."""
        self.write_losses()
        with self._writing():
            for logger in self._loggers:
                logger.finalize(status)
        self._loggers = []

    def _logger(self, name: str, done: int) -> Logger:
        if name == "tensorboard":
            return TensorBoardLogger(self._folder, name=name, version="", purge_step=done + 1 if done else None)
        if name == "wandb":
            return WandbLogger(self._folder, self._begun, self._config)
        return _continued_csv(self._folder, name, done)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{error.filename or self._folder} cannot be written: {error.strerror or error}"
            ) from error


def begun_loggers(folder: Path) -> list[str]:
    """Those that a run was logged with before, as far as their packages are installed here."""
    return [name for name in NEEDED if (folder / name).is_dir() and _installed(name)]


def _continued_csv(folder: Path, name: str, done: int) -> CSVLogger:
    """A file that goes on with the rows of before; Fabric's logger would begin it anew."""
    path = folder / name / "metrics.csv"
    rows: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= done]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Experiment logs directory", UserWarning)
        logger = CSVLogger(folder, name=name, version="")
        for row in rows:
            figures: dict[str, Tensor | float] = {
                key: float(value) for key, value in row.items() if value and key != "step"
            }
            logger.log_metrics(figures, int(row["step"]))
        if rows:
            logger.save()
    return logger
