"""What torch.compile does not trace.

A solve whose steps depend on values is no graph, and pieces of it are worse than none. The lengths of its steps are
numbers that change from call to call, so the compiler makes symbols of them: it guards on their arithmetic in another
order ("Guard failed on the same frame it was created"), and programs of inductor that were made with such a symbol
returned states that were wrong in the second digit. The caller's graph ends before the solve and begins again behind
it; the solve runs as it is, its field too, unless that is compiled itself.
"""

import sys
from collections.abc import Callable
from functools import wraps
from types import CodeType
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


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which a compiled caller calls as it is, with all that it calls.

    Also where the caller itself runs without a graph because the compiler gave it up, and in the backward pass of a
    compiled step of training: the compiler would trace what is called there.

    It is ``torch.compiler.disable``, which imports the compiler, put off until somebody has imported that: it takes
    nearly as long to import as the rest of torch.
    """
    disabled: Callable[..., Any] | None = None

    def alone(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            disabled = _disabled(function)
        return disabled(*args, **kwargs)

    if not _skipped(alone.__code__):
        return _disabled(function)
    # As torch.compiler.disable marks its functions: whoever traces a caller ends the graph here, and says why.
    for mark, value in {"disable": True, "disable_msg": REASON, "orig_callable": function}.items():
        setattr(alone, f"_torchdynamo_{mark}", value)
    return wraps(function)(alone)


def _disabled(function: Callable[P, R]) -> Callable[P, R]:
    disable: Callable[..., Any] = torch.compiler.disable
    try:
        return disable(function, reason=REASON)
    except TypeError:  # older versions take no reason
        return disable(function)


def _skipped(code: CodeType) -> bool:
    """Tell torch never to hand calls of this code to the compiler; whether it could be told.

    The functions for that are not documented, and their names changed between versions.
    """
    torch_: Any = torch
    try:
        compiler = torch_._C._dynamo.eval_frame
        if hasattr(compiler, "skip_code"):
            compiler.skip_code(code)
        else:
            here, below = compiler._FrameAction.SKIP, compiler._FrameAction.DEFAULT
            compiler.set_code_exec_strategy(code, compiler._FrameExecStrategy(here, below))
    except (AttributeError, TypeError):
        return False
    return True
