"""What torch.compile does not trace.

A solve whose steps depend on values is no graph, and pieces of it are worse than none. The lengths of its steps are
numbers that change from call to call, so the compiler makes symbols of them: it guards on their arithmetic in another
order ("Guard failed on the same frame it was created"), and programs of inductor that were made with such a symbol
returned states that were wrong in the second digit. The caller's graph ends before the solve and begins again behind
it; the solve runs as it is, its field too, unless that is compiled itself.
"""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

REASON = (
    "it makes steps that depend on values, or looks at its arguments, and is no part of a graph. Leave fullgraph=True "
    "out: it then runs as it is between two graphs, and its field may be compiled itself, as torch.compile(func). Part "
    "of a graph can be odeint with an explicit method along t, without options, and a DynamicBlock with an explicit "
    "integrator"
)

_disable: Callable[..., Any] = torch.compiler.disable
# Older versions take no reason.
_reason = {"reason": REASON} if "reason" in inspect.signature(_disable).parameters else {}


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which a compiled caller calls as it is, with all that it calls.

    Also where the caller itself runs without a graph because the compiler gave it up, and in the backward pass of a
    compiled step of training: the compiler would trace what is called there.
    """
    return _disable(function, **_reason)
