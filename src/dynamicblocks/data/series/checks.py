"""Series from whatever somebody has, checked once."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, brief
from dynamicblocks.memory import check_memory
from dynamicblocks.times import check_amount


def exact(number: float) -> str:
    """A number with all of its digits.

    >>> exact(1700000000.25), exact(-1.0)
    ('1700000000.25', '-1')
    """
    return repr(float(number)).removesuffix(".0")


def check_share(value: float, what: str) -> float:
    """Return ``value``, or raise: a share that leaves something on both sides."""
    if not 0 < check_amount(value, what) < 1:
        raise ConfigurationError(f"{what} must be a share, in (0, 1), got {value}")
    return value


def each_of(given: Any, what: str) -> list[Any]:
    """The entries of a sequence, one for each series, or of a table."""
    if isinstance(given, str) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise ArgumentTypeError(f"{what} must be a sequence, an entry for each, got {brief(given)}")
    return list(given)


def numbers_of(given: Any, what: str) -> Tensor:
    """Real numbers, in float64 on the CPU.

    Raises:
        ConfigurationError: there is something else among them.
    """
    if given.is_complex() if isinstance(given, Tensor) else isinstance(given, np.ndarray) and np.iscomplexobj(given):
        raise ConfigurationError(f"{what} must be real numbers, got complex ones")
    if isinstance(given, Tensor) and given.layout != torch.strided:
        raise ConfigurationError(f"{what} must be a dense tensor, got {given.layout}: give its to_dense()")
    if isinstance(given, np.ndarray) and given.dtype.kind in "fiub":
        # A copy, as torch knows neither other byte orders nor steps backwards, and would share what may not be written.
        given = given.astype(np.float64)
    try:
        return torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{what} must be a table of real numbers, got {brief(given)}") from error


def padded(
    times: Sequence[Any] | Tensor,
    values: Sequence[Any] | Tensor,
    observed: Sequence[Any] | Tensor | None,
    labels: Sequence[Any] | Tensor | None,
    features: Sequence[str] | None,
    ids: Sequence[str] | None,
    classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The fields of a :class:`~dynamicblocks.data.series.SeriesSet`, padded; or an error that names a series."""
    given, every = each_of(values, "values"), each_of(times, "times")
    number = len(given)
    names = tuple(str(each) for each in (range(number) if ids is None else ids))
    shared = bool(every) and all(isinstance(each, int | float) or getattr(each, "ndim", 1) == 0 for each in every)
    if not number or len(names) != number or (len(every) != number and not shared):
        raise ConfigurationError(
            f"there must be times, values and an id for each series, and one series at least; got {len(every)} "
            f"times, {number} values and {len(names)} ids"
        )
    all_values = [_table(each, f"series {name}: values") for name, each in zip(names, given, strict=True)]
    if shared:
        all_times = [numbers_of(times, "times")] * number
    else:
        all_times = [numbers_of(each, f"series {name}: times") for name, each in zip(names, every, strict=True)]
    masks = [~each.isnan() for each in all_values]
    if observed is not None:
        masks = _observed(masks, observed, names)
    for name, t, y, mask in zip(names, all_times, all_values, masks, strict=True):
        _check(name, t, y, mask)
    width = all_values[0].shape[1]
    columns = tuple(features) if features is not None else tuple(f"x{place}" for place in range(width))
    if any(each.shape[1] != width for each in all_values) or len(columns) != width:
        raise ConfigurationError(
            f"all series must have the same features, {len(columns)} ({', '.join(columns)}), got "
            f"{', '.join(str(each) for each in sorted({each.shape[1] for each in all_values}))}"
        )
    for what, each in (("features", columns), ("ids", names)):
        if len(set(each)) < len(each):
            raise ConfigurationError(f"{what} must be different names, got {each[:10]}")
    lengths = torch.tensor([len(t) for t in all_times])
    longest = int(lengths.max())
    check_memory(9 * number * longest * width, f"padding {number:,} series to the {longest:,} times of the longest")
    there = torch.arange(longest) < lengths[:, None]
    known, numbers = _labels(labels, number, classes)
    mask = _padded(masks, longest)
    return {
        "times": torch.stack([torch.cat([t, t[-1:].expand(longest - len(t))]) for t in all_times]),
        "values": _padded(all_values, longest).where(mask, 0.0),
        "observed": mask,
        "lengths": lengths,
        "seen": there,
        "wanted": there,
        "features": columns,
        "ids": names,
        "labels": numbers,
        "classes": known,
    }


def _observed(masks: list[Tensor], observed: Sequence[Any] | Tensor, names: tuple[str, ...]) -> list[Tensor]:
    """What is observed of what is there, in the shape of the values."""
    if len(observed) != len(masks):
        raise ConfigurationError(f"observed must be given for each of the {len(masks)} series, got {len(observed)}")
    found = []
    for name, mask, each in zip(names, masks, observed, strict=True):
        given = torch.as_tensor(each, device="cpu")
        if given.dtype != torch.bool or given.numel() != mask.numel():
            raise ConfigurationError(
                f"series {name}: observed must be bool, in the shape of the values {tuple(mask.shape)}, got "
                f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
            )
        found.append(mask & given.reshape(mask.shape))
    return found


def _padded(tables: Sequence[Tensor], longest: int) -> Tensor:
    return torch.stack([torch.cat([each, each.new_zeros(longest - len(each), each.shape[1])]) for each in tables])


def _table(given: Any, what: str) -> Tensor:
    found = numbers_of(given, what)
    return found[:, None] if found.ndim == 1 else found


def _check(name: str, times: Tensor, values: Tensor, mask: Tensor) -> None:
    """Raise for a series of which nothing can be learnt."""
    what = f"series {name}"
    if times.ndim != 1 or values.ndim != 2 or len(times) != len(values):
        raise ConfigurationError(
            f"{what}: expected times (length,) and values (length, features), got {tuple(times.shape)} and "
            f"{tuple(values.shape)}"
        )
    if len(times) < 2:
        raise ConfigurationError(f"{what} has {len(times)} time; a series needs two at least: leave it out")
    if not bool(torch.isfinite(times).all()):
        raise ConfigurationError(f"{what}: times must be finite, got NaN or infinity")
    gaps = times.diff()
    if bool((gaps <= 0).any()):
        place = int((gaps <= 0).nonzero()[0])
        before, after = times[place].item(), times[place + 1].item()
        said = "repeats" if after == before else f"comes after {exact(before)}: sort the times"
        raise ConfigurationError(f"{what}: times must increase, but time {exact(after)} {said}")
    if not bool(torch.isfinite(values[mask]).all()):
        raise ConfigurationError(f"{what}: values must be finite, or NaN where they are missing; got infinity")
    if not bool(mask.any()):
        raise ConfigurationError(f"{what}: all values are missing; leave it out")


def _labels(
    labels: Sequence[Any] | Tensor | None, number: int, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], Tensor | None]:
    """The names of the classes, and the number of the class of each series."""
    if labels is None:
        return (), None
    given = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(given) != number:
        raise ConfigurationError(f"there must be a label for each of the {number} series, got {len(given)}")
    missing = [place for place, each in enumerate(given) if each is None or each != each or each == ""]
    if missing:
        raise ConfigurationError(
            f"series number {missing[0]} has no label; give one for each of the {number} series, or no labels"
        )
    whole = all(isinstance(each, int) for each in given)
    known = tuple(map(str, classes if classes is not None else sorted(set(given), key=None if whole else str)))
    strange = [str(each) for each in given if str(each) not in known]
    if strange or len(set(known)) < len(known):
        raise ConfigurationError(
            f"classes must be different names, those of all labels, got {', '.join(known)}"
            + (f" and the label {strange[0]}" if strange else "")
        )
    return known, torch.tensor([known.index(str(each)) for each in given])
