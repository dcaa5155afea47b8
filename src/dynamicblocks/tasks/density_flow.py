"""The flow that options and data ask for."""

import torch

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.flows import Exact, Flow, as_trace, bases, fields, make_flow
from dynamicblocks.functional import Solver
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_options import DensityModel

CONV = "conv"
# Widths of hidden layers where nobody says them.
HIDDEN = {"hyper": (64, 32), "potential": (32, 32)}
USUAL_HIDDEN = (64, 64, 64)
# Fields whose exact trace costs hardly more than the slope.
CLOSED = ("potential", "hyper")
# Any other takes a product with the Jacobian for each number of a point, at each evaluation.
MOST_EXACT = 256


def check_flow(model: DensityModel, solver: Solver, trace: str) -> None:
    """Raise for what cannot be, whatever the data are.

    Raises:
        ConfigurationError: there is no such field, base or trace, or a grid has no step.
    """
    for option, known in (("field", ("auto", CONV, *fields)), ("base", tuple(bases))):
        if getattr(model, option) not in known:
            raise unknown_name(f"model.{option}", getattr(model, option), known)
    as_trace(trace)
    if not solver.adaptive and solver.step_size is None:
        raise ConfigurationError(
            f"solver.method {solver.method} would make one step from 0 to model.horizon {model.horizon:g}: give "
            f"solver.step_size, such as {model.horizon / 10:g}"
        )


def flow_of(model: DensityModel, known: DensityFacts, solver: Solver, trace: str, penalties: tuple[str, ...]) -> Flow:
    """The flow of points in data units.

    Raises:
        ConfigurationError: an option does not suit the points.
    """
    name = "concatsquash" if model.field == "auto" else model.field
    if name == CONV or model.scales > 1:
        what = "model.field conv" if name == CONV else f"model.scales {model.scales}"
        raise ConfigurationError(f"{what} is of images, and the data are points {known.shape}; leave it out")
    standardise = model.base == "gaussian" if model.standardise is None else model.standardise
    mean, std = (torch.tensor(each) if standardise else None for each in (known.mean, known.std))
    return make_flow(
        known.numbers,
        field=name,
        hidden=model.hidden or HIDDEN.get(name, USUAL_HIDDEN),
        activation=model.activation,
        context=len(known.context_names),
        horizon=model.horizon,
        time=model.time,
        flows=model.flows,
        base=model.base,
        mean=mean,
        std=std,
        solver=solver,
        trace=trace_of(trace, name, known.numbers),
        penalties=penalties,
    )


def trace_of(trace: str, field: str, numbers: int) -> str:
    """The trace that is meant.

    Raises:
        ConfigurationError: it is exact, and takes so many products that nothing would be learnt in a day.
    """
    if field in CLOSED:
        return "exact" if trace == "auto" else trace
    if numbers > MOST_EXACT and isinstance(as_trace(trace, numbers), Exact):
        raise ConfigurationError(
            f"trace {trace}: of points of {numbers:,} numbers it takes as many products with the Jacobian in each "
            f"evaluation of the field {field}; take trace hutchinson, which takes one, or the field potential, whose "
            "trace has a closed form"
        )
    return trace
