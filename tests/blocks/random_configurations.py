"""Random configurations of blocks: each works, or is refused where it is built.

``python -m tests.blocks.random_configurations 500`` runs as many and counts what became of them.
"""

import random
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.errors import SolverError
from dynamicblocks.integrators import list_integrators

WIDTH = 4
NORMS = (
    "batch", "batch", "group", "group(groups=1)", "tv", "tv(weight=False)", "tv(bias=False)", "none",
)  # fmt: skip
BOUNDARIES = ("zeros", "replicate", "reflect", "circular")
ACTIVATIONS = ("relu", "tanh", "silu", "gelu", "elu", "softplus", "leaky_relu", "none")
UNITS = ("a", "b", "c", "d", "e", "post", "bottleneck_a", "bottleneck_e")
BRANCHES = ("preact_double", "preact_single", "postact_double", "postact_single")
CONTROLS = (
    "constant(1)", "constant(3)", "linear(2)", "linear(4)", "discontinuous_linear(4)", "discontinuous_linear(2)",
    "bspline(4)", "bspline(6)", "legendre(3)", "chebyshev(3)", "legendre(1)", "chebyshev(2)",
)  # fmt: skip
TIMES = (
    None, 3, 1, "uniform(0, 2, steps=3)", "graded(0, 2, steps=4, ratio=3)", "graded(0, 1, steps=2, ratio=0.2)",
    (0.0, 0.2, 0.9, 1.0), (-1.0, 0.5), (0.0, 1e-3, 2.0),
)  # fmt: skip
OPTIONS = {
    "dopri5": ("rtol=1e-2, atol=1e-3", "first_step=0.1", "max_step=0.4", "max_steps=200", "min_step=0.2"),
    "kencarp4": ("rtol=1e-2, atol=1e-2",),
    "gl4": ("max_iters=50",),
    "explicit_adams": ("max_order=4", "max_order=6"),
    "implicit_adams": ("max_order=5", "max_iters=90"),
    "leapfrog": ("'equal'", "'zero'", "start='rest'"),
}
# The options of pairs of units, integrators of halves, and those that are given a gradient mode that takes steps back.
OF_UNITS = ("unit", "norm", "boundary", "activation", "bias", "kernel_size")
PARTITIONED = ("symplectic_euler", "verlet")
REVERSIBLE = (*PARTITIONED, "leapfrog", "two_step_midpoint", "alf", "reversible_heun")
GRADIENTS = (
    "backprop", "backprop", "backprop", "checkpoint", "checkpoint(states=1)", "checkpoint(states=2)",
    "checkpoint(segments=3)",
)  # fmt: skip
# Choices that no block can have, of each kind.
IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "norm": ("group(groups=3)", "batches", "group(groups=0)"),
    "boundary": ("mirror",),
    "activation": ("relux",),
    "kernel_size": (2, 0, -1, 1.5, "3"),
    "width": (0, -4, 2.5, None, "4"),
    "controls": ("discontinuous_linear(3)", "bspline(2)", "bspline(5, order=2)", "linear", "linear(0)", "spline(3)", 0),
    "times": ((0.0, 1.0, 1.0), (0.0,), "uniform(0, 0, steps=2)", -1, (0.0, float("nan")), 2.5),
    "integrator": (
        "kvaerno5", "scipy_solver", "rk44", "dopri5(safety=2.0)", "dopri5(rtol=-1)", "gl4(max_iters=0)",
        "explicit_adams(max_order=40)", "dopri5(min_step=3, max_step=1)", "euler(2)", "leapfrog('rests')",
    ),
    "gradient": ("checkpoint(states=0)", "reversible(max_drift=0)", "adjoint", "bakprop"),
    "compile": (True,),
}  # fmt: skip
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = ((1, 1), (1, 5), (4, 1), (2, 2), (3, 3), (5, 7), (8, 8))
BATCHES = (0, 1, 2, 3)
# Of what cannot be known before there is a state.
OF_THE_STATE = (
    "needs images of at least", "takes mean and variance of several values", "solves its equations to more digits",
)  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """The choices of a block, and a state."""

    layer: str
    controls: str | int
    times: object
    integrator: str
    gradient: str
    compile: bool
    dtype: torch.dtype
    batch: int
    size: tuple[int, int]
    training: bool
    dropout: float


def configuration(draw: random.Random) -> Configuration:
    """One at random; of a third, one choice is impossible."""
    spoilt = draw.choice(list(IMPOSSIBLE)) if draw.random() < 0.3 else ""

    def chosen(kind: str, possible: Sequence[Any]) -> Any:
        return draw.choice(IMPOSSIBLE[kind] if kind == spoilt else possible)

    name = draw.choice((*BRANCHES, "symmetric", "symmetric", "residual_unit", "residual_unit"))
    options = {
        "norm": chosen("norm", NORMS),
        "boundary": chosen("boundary", BOUNDARIES),
        "activation": chosen("activation", ACTIVATIONS),
        "bias": draw.choice((True, False)),
    }
    if name == "residual_unit":
        options |= {"unit": draw.choice(UNITS), "skipinit": draw.choice((True, False))}
    else:
        options["kernel_size"] = chosen("kernel_size", (1, 3, 3, 3, 5))
    if name == "symmetric":
        options["hidden"] = draw.choice((None, 2, 8))
    elif name in BRANCHES and draw.random() < 0.3:
        options["twist"] = draw.choice(("vector", "independent", "full"))
    integrator = chosen("integrator", [*list_integrators(), *OPTIONS])
    gradients = (*GRADIENTS, "reversible", "reversible") if integrator in REVERSIBLE else GRADIENTS
    if integrator in PARTITIONED and draw.random() < 0.8:
        name, options["unit"] = "hamiltonian", name if name in ("symmetric", *BRANCHES) else "symmetric"
        options = {key: value for key, value in options.items() if key in OF_UNITS}
    if integrator in OPTIONS and draw.random() < 0.5:
        integrator = f"{integrator}({draw.choice(OPTIONS[integrator])})"
    words = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return Configuration(
        f"{name}({chosen('width', (WIDTH,))!r}, {words})",
        chosen("controls", CONTROLS),
        chosen("times", TIMES),
        integrator,
        chosen("gradient", gradients),
        chosen("compile", (False,)),
        draw.choice(DTYPES),
        draw.choice(BATCHES),
        draw.choice(SIZES),
        draw.random() < 0.7,
        0.2 if draw.random() < 0.05 else 0.0,
    )


def configurations(count: int, seed: int = 0) -> list[Configuration]:
    """So many, the same for the same seed."""
    draw = random.Random(seed)
    return [configuration(draw) for _ in range(count)]


def outcome(choice: Configuration) -> str:
    """``works``, ``refused: ...``, ``refused for its state: ...``, or what is wrong: ``raw``, ``late``, ``bad``."""
    torch.manual_seed(0)
    layer = choice.layer
    if choice.dropout:
        named = choice.layer

        def layer() -> nn.Module:
            return nn.Sequential(db.layers.layers.create(named), nn.Dropout(choice.dropout))

    try:
        block = db.DynamicBlock(
            layer, choice.controls, choice.times, choice.integrator, choice.gradient, choice.compile
        )
    except db.ConfigurationError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"raw: when built, {type(error).__name__}: {error}"
    with torch.no_grad():  # mild enough that every method has a solution
        for weight in block.parameters():
            weight.mul_(0.3)
    if choice.compile:
        return "works"  # what is compiled is compared elsewhere; here, that what cannot be is refused
    block = block.to(choice.dtype).train(choice.training)
    y = torch.randn(choice.batch, WIDTH, *choice.size).to(choice.dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _run(block, y)
    except db.ConfigurationError as error:
        state = any(words in str(error) for words in OF_THE_STATE) and "\n" not in str(error)
        return f"{'refused for its state' if state else 'late'}: {error}"
    except (SolverError, UserWarning) as error:
        # Iterations that do not converge, for a layer that is too steep: what numbers did, where there are any.
        numbers = block.integrator.solves_equations and "converge" in str(error)
        return f"{'numbers' if numbers else 'late'}: {type(error).__name__}: {error}"
    except Exception as error:
        return f"raw: when called, {type(error).__name__}: {error}"


def _run(block: db.DynamicBlock, y: torch.Tensor) -> str:
    found = block(y)
    if found.shape != y.shape or found.dtype != y.dtype:
        return f"bad: {tuple(y.shape)} {y.dtype} became {tuple(found.shape)} {found.dtype}"
    if not torch.isfinite(found).all():
        return "bad: a state that is not finite"
    found.float().square().sum().backward()
    for index in set(range(len(block.controls))) - block.unused_controls():
        slopes = [weight.grad for weight in block.controls.layers[index].parameters() if weight.grad is not None]
        # A projection need not have weights, and explicit Adams methods read the end of a step only to begin anew.
        less = "projection" in block.controls.parts or block.integrator.name == "explicit_adams"
        if not slopes and not (less and index == len(block.controls) - 1):
            return f"bad: control {index} has no gradient"
        if not all(torch.isfinite(slope).all() for slope in slopes):
            return f"bad: a gradient of control {index} is not finite"
    if not all(torch.isfinite(each).all() for each in block.buffers() if each.is_floating_point()):
        return "bad: statistics that are not finite"
    with torch.no_grad():
        evaluated = block.eval()(y)
    return "works" if torch.isfinite(evaluated).all() else "bad: an evaluation that is not finite"


def is_wrong(found: str) -> bool:
    """Whether an outcome is neither a result nor a refusal in its place."""
    return found.startswith(("raw", "late", "bad"))


def main(count: int, seed: int = 0) -> int:
    """Print a tally, and the first configurations of what is wrong; the number of those."""
    tally: Counter[str] = Counter()
    shown: dict[str, Configuration] = {}
    for choice in configurations(count, seed):
        found = outcome(choice)
        tally[found[:160]] += 1
        if is_wrong(found):
            shown.setdefault(found[:160], choice)
    for found, times in sorted(tally.items(), key=lambda item: -item[1]):
        print(f"{times:5d}  {found}")
        if found in shown:
            print(f"       {shown[found]}")
    wrong = sum(times for found, times in tally.items() if is_wrong(found))
    print(f"{count} configurations: {tally['works']} work, {wrong} are wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:] or ["500"]))))
