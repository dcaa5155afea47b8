"""The flow that options and data ask for."""

from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.flows import Exact, Flow, as_trace, bases, fields, make_flow
from dynamicblocks.flows.images import make_image_flow
from dynamicblocks.functional import Solver
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_options import DensityModel
from dynamicblocks.tasks.own_field import has_closed_form, maker_of
from dynamicblocks.tasks.own_parts import is_named_by_file

CONV = "conv"
# Widths of hidden layers where nobody says them.
HIDDEN = {"hyper": (64, 32), "potential": (32, 32), CONV: (32, 32)}
# Fields whose exact trace costs hardly more than the slope.
CLOSED = ("potential", "hyper")
# Any other takes a product with the Jacobian for each number of a point, at each evaluation.
MOST_EXACT = 256


def check_flow(model: DensityModel, solver: Solver, trace: str) -> None:
    """Raise for what cannot be, whatever the data are.

    Raises:
        ConfigurationError: there is no such field, base or trace, or a grid has no step.
    """
    if not is_named_by_file(model.field) and model.field not in (known := ("auto", CONV, *fields)):
        raise unknown_name("model.field", model.field, known)
    if model.base not in bases:
        raise unknown_name("model.base", model.base, tuple(bases))
    _check_own(model)
    as_trace(trace)
    if not solver.adaptive and solver.step_size is None:
        raise ConfigurationError(
            f"solver.method {solver.method} would make one step from 0 to model.horizon {model.horizon:g}: give "
            f"solver.step_size, such as {model.horizon / 10:g}"
        )


def _check_own(model: DensityModel) -> None:
    """Raise for options of the package's fields beside a field of somebody's own."""
    if not is_named_by_file(model.field):
        return
    usual = DensityModel()
    for option in ("hidden", "activation", "time", "patch"):
        asked = getattr(model, option)
        if asked != getattr(usual, option):
            raise ConfigurationError(
                f"model.{option} {asked} is of fields of this package, and {model.field} is made as its file says; "
                "leave it out"
            )


def flow_of(
    model: DensityModel,
    known: DensityFacts,
    solver: Solver,
    trace: str,
    penalties: tuple[str, ...],
    counts: Tensor | None = None,
) -> Flow:
    """The flow of points, or of images, in data units.

    Args:
        model, solver, trace, penalties: options.
        known: of the data.
        counts: where pixels become normal by them (:func:`counts_pixels`), how often each value is at each pixel of the
            training; without them all are alike, until weights are read.

    Raises:
        ConfigurationError: an option does not suit them.
    """
    name = model.field
    if name == "auto":
        name = CONV if known.levels else "concatsquash"
    _check_kind(model, name, known)
    standardise = model.base == "gaussian" if model.standardise is None else model.standardise
    mean, std = (torch.tensor(each) if standardise else None for each in (known.mean, known.std))
    options: dict[str, Any] = {
        "context": len(known.context_names), "horizon": model.horizon, "time": model.time, "flows": model.flows,
        "mean": mean, "std": std, "solver": solver, "trace": trace_of(trace, name, known.numbers),
        "penalties": penalties,
    }  # fmt: skip
    own = maker_of(name) if is_named_by_file(name) else None
    if model.hidden or name in HIDDEN:
        options["hidden"] = model.hidden or HIDDEN[name]
    if model.activation:
        options["activation"] = model.activation
    if known.levels:
        if counts_pixels(model, known):
            if counts is None:
                counts = torch.zeros(known.levels, *known.shape, dtype=torch.long)
            options |= {"mean": None, "std": None, "counts": counts}
        elif mean is not None and std is not None and len(mean) > 1:
            options |= {"mean": mean.view(known.shape), "std": std.view(known.shape)}
        patch = model.patch or usual_patch(known.shape, model.scales)
        more: dict[str, Any] = {"patch": patch, "scales": model.scales, "alpha": model.alpha}
        return make_image_flow(known.shape, known.levels, field=own, **more, **options)
    return make_flow(known.numbers, field=own or name, base=model.base, **options)


def counts_pixels(model: DensityModel, known: DensityFacts) -> bool:
    """Whether pixels become normal by how often their values are.

    Raises:
        ConfigurationError: options of the logit are given as well.
    """
    if not (known.countable if model.marginals is None else model.marginals):
        return False
    for option in ("alpha", "standardise"):
        if getattr(model, option) != getattr(DensityModel(), option):
            raise ConfigurationError(
                f"model.{option} is of pixels that go through a logit, and here they become normal by how often their "
                "values are; leave it out, or add model.marginals false"
            )
    return True


def _check_kind(model: DensityModel, field: str, known: DensityFacts) -> None:
    """Raise where an option is of images and there are points, or the other way round."""
    if known.levels:
        if field != CONV and not is_named_by_file(field):
            raise ConfigurationError(f"model.field {field} is of points, and the data are images: leave it out")
        if model.base != "gaussian":
            raise ConfigurationError(f"model.base {model.base} is of points, and the data are images: leave it out")
        return
    asked = f"model.field {CONV}" if field == CONV else ""
    for option in ("scales", "patch"):
        if (getattr(model, option) or 1) > 1:
            asked = f"model.{option} {getattr(model, option)}"
    if model.marginals:
        asked = "model.marginals"
    if asked:
        raise ConfigurationError(f"{asked} is of images, and the data are points {known.shape}: leave it out")


def usual_patch(shape: tuple[int, ...], scales: int) -> int:
    """The pixels on a side of a patch, where nobody says: so that there are 4 or more patches on a side.

    >>> usual_patch((1, 8, 8), 1), usual_patch((1, 28, 28), 1), usual_patch((1, 8, 8), 2), usual_patch((1, 9, 9), 1)
    (2, 4, 1, 1)
    """
    sides = shape[1:]
    fits = (patch for patch in (4, 2) if all(side % patch == 0 and side >= 4 * patch for side in sides))
    return 1 if scales > 1 else next(fits, 1)


def trace_of(trace: str, field: str, numbers: int) -> str:
    """The trace that is meant.

    Raises:
        ConfigurationError: it is exact, and takes so many products that nothing would be learnt in a day.
    """
    if field in CLOSED or has_closed_form(field):
        return "exact" if trace == "auto" else trace
    if numbers > MOST_EXACT and isinstance(as_trace(trace, numbers), Exact):
        raise ConfigurationError(
            f"trace {trace}: of points of {numbers:,} numbers it takes as many products with the Jacobian in each "
            f"evaluation of the field {field}; take trace hutchinson, which takes one, or the field potential, whose "
            "trace has a closed form"
        )
    return trace
