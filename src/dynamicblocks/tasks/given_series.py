"""What trajectories are predicted from: states and times, series, or a table of them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.series import SeriesSet
from dynamicblocks.errors import ArgumentTypeError, ConfigurationError
from dynamicblocks.tasks.given import PATHS
from dynamicblocks.training.predicting import tensor_of

SERIES_ENDINGS = (".csv", ".parquet")
EXPECTED = (
    "first states and times, a pair (n, features) and (length,) or (n, length); a table (.csv, .parquet) with the "
    "columns of the training; or a SeriesSet"
)


def given_series(x: Any, features: tuple[str, ...], id: str, time: str) -> SeriesSet:
    """The series that are meant, with the features of the training; what is not known of them is not observed.

    Args:
        x: states and times, a file, or series.
        features: their names.
        id, time: columns of a file.

    Raises:
        ConfigurationError: it is nothing of these, or it has other features.
        StorageError: a file is missing or damaged.
    """
    if isinstance(x, PATHS):
        x = [x]
    if isinstance(x, list) and len(x) == 1 and isinstance(x[0], PATHS):
        # Its reader needs an extra, which states and times do not.
        from dynamicblocks.data.series.files import KINDS, Columns, read_series

        path = Path(x[0])  # type: ignore[arg-type]
        if path.suffix.lower() not in KINDS:
            raise ConfigurationError(f"tables of trajectories end in {' or '.join(KINDS)}, got {path}")
        return read_series(path, KINDS[path.suffix.lower()], Columns(id, time, features), to_learn=False)
    if isinstance(x, SeriesSet):
        if x.features != features:
            raise ConfigurationError(
                f"the run was trained on the features {', '.join(features)}, got series of {', '.join(x.features)}"
            )
        return x
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ArgumentTypeError(f"x must be {EXPECTED}; got something of type {type(x).__name__}")
    states, times = (tensor_of(each, EXPECTED).double().cpu() for each in x)
    if states.ndim == 1:
        states = states[None]
    if states.ndim != 2 or states.shape[1] != len(features) or times.ndim not in (1, 2):
        raise ConfigurationError(
            f"x must be {EXPECTED}, here {len(features)} features ({', '.join(features)}); got states "
            f"{tuple(states.shape)} and times {tuple(times.shape)}"
        )
    if times.ndim == 2 and len(times) != len(states):
        raise ConfigurationError(f"x holds {len(states)} states and times of {len(times)} trajectories")
    if not bool(torch.isfinite(states).all()):
        raise ConfigurationError("the first states must be finite, got NaN or infinity")
    return SeriesSet.of(times, _begun(states, times.shape[-1]), features=features)


def _begun(states: Tensor, length: int) -> Tensor:
    """Series of which the first values alone are known."""
    values = torch.full((len(states), length, states.shape[1]), torch.nan, dtype=states.dtype)
    values[:, :1] = states[:, None]
    return values
