"""What is asked of samples, and how they are written."""

import csv
import io
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, UsageError
from dynamicblocks.functional import Solver
from dynamicblocks.integrators import AdaptiveMethod, as_method
from dynamicblocks.tasks import Density
from dynamicblocks.tasks.prediction import SeriesPrediction
from dynamicblocks.training import Task
from dynamicblocks.training.disk import write_atomically
from dynamicblocks.training.storage import write_text

TOLERANCE = 1e-5
# Columns in a message, at most.
NAMED = 10


def asked_of_flow(options: Namespace, task: Task[Any]) -> dict[str, Any]:
    """The keywords of ``sample`` that flows alone take, those that were asked for.

    Raises:
        UsageError: they are asked of another task, or do not go together.
        ConfigurationError: there is no such method or context.
    """
    given = [flag for flag in ("context", "method") if getattr(options, flag) is not None]
    if not given:
        return {}
    if not isinstance(task, Density):
        raise UsageError(f"--{given[0]} is of flows (task density); this run is of the task {task.name}")
    asked: dict[str, Any] = {}
    if options.context is not None:
        asked["context"] = context_of(options.context, task.known.context_names)
    if options.method is not None:
        asked["solver"] = solver_of(options.method, options.steps, options.tolerance, task.model.horizon)
    return asked


def solver_of(method: str, steps: int | None, tolerance: float | None, horizon: float) -> Solver:
    """So many steps of a method on a grid up to the horizon, or an adaptive method of a tolerance.

    Raises:
        UsageError: the method takes the other one.

    >>> solver_of("euler", 20, None, 1.0).step_size
    0.05
    """
    if isinstance(as_method(method), AdaptiveMethod):
        if steps is not None:
            raise UsageError(f"--method {method} chooses its steps; leave out --steps, or say --tolerance")
        tolerance = TOLERANCE if tolerance is None else tolerance
        return Solver(method, rtol=tolerance, atol=tolerance, max_steps=100_000)
    if tolerance is not None:
        raise UsageError(f"--method {method} has the steps that are asked for; leave out --tolerance, or say --steps")
    if steps is None:
        raise UsageError(f"--method {method} needs --steps, such as --steps 20")
    return Solver(method, step_size=horizon / steps)


def context_of(text: str, names: Sequence[str]) -> Tensor:
    """A context as it is written: the name of one of several numbers, which is then one, or a number for each name.

    Raises:
        ConfigurationError: it is neither.

    >>> context_of("label=1", ("label=0", "label=1")), context_of("0.5,2", ("a", "b"))
    (tensor([0., 1.], dtype=torch.float64), tensor([0.5000, 2.0000], dtype=torch.float64))
    """
    if text in names:
        return torch.tensor([float(name == text) for name in names], dtype=torch.float64)
    try:
        found = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float64)
    except ValueError:
        found = torch.zeros(0)
    if not names:
        raise ConfigurationError("the densities of this run are not conditional; leave out --context")
    if len(found) != len(names):
        listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        raise ConfigurationError(
            f"--context must be {len(names)} number{'s' * (len(names) > 1)} separated by commas ({listed}), or one of "
            f"these names of a label; got {text!r:.80}"
        )
    return found


def write_samples(samples: Any, path: Path, task: Task[Any], context: Tensor | None = None) -> None:
    """Write samples as the file's name ends, a table or arrays, beside them the context of all where there is one.

    ``predict`` reads both.

    Raises:
        ConfigurationError: they are not of that kind.
    """
    if path.suffix.lower() == ".csv":
        names: Sequence[str] = ()
        if isinstance(task, Density):
            names = task.known.features
            if names and context is not None:
                names = (*names, *task.known.context_names)
                samples = torch.cat([samples, context.expand(len(samples), -1)], 1)
        write_text(path, table_of_samples(samples, names))
        return
    if not isinstance(samples, Tensor):
        raise ConfigurationError("samples that are series are a table: name a .csv file")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"points": samples.numpy()}
    if context is not None:
        arrays["context"] = context.expand(len(samples), -1).numpy()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def table_of_samples(samples: Any, names: Sequence[str] = ()) -> str:
    """A CSV table: of series a row for each time, of points a row for each.

    Raises:
        ConfigurationError: they are neither.
    """
    if isinstance(samples, SeriesPrediction):
        rows: Iterator[tuple[str, ...]] = samples.table()
    elif isinstance(samples, Tensor) and samples.ndim == 2:
        rows = _points(samples, names)
    else:
        raise ConfigurationError("such samples are no table, as images are none: name a .npz file, or draw in Python")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _points(samples: Tensor, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield tuple(names) or tuple(f"x{place}" for place in range(samples.shape[1]))
    for row in samples.tolist():
        yield tuple(f"{value:.9g}" for value in row)
