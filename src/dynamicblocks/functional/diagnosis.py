"""What a failed solve can be told about its causes."""

import torch
from torch import Tensor, nn

from dynamicblocks.functional.problem import Problem
from dynamicblocks.marching import SolveError


def explained(error: SolveError, problem: Problem, func: object = None) -> SolveError:
    """The error, with whether the input or the weights of ``func`` (the problem's) were not finite from the start."""
    func = problem.func if func is None else func
    causes = []
    if not _finite(problem.y0):
        causes.append("y0 is not finite itself")
    if isinstance(func, nn.Module):
        named = [*func.named_parameters(), *func.named_buffers()]
        wrong = [name for name, tensor in named if not _finite(tensor)]
        if wrong:
            causes.append(
                f"{len(wrong)} of {len(named)} parameters and buffers of func are not finite, first {wrong[0]!r}"
            )
        elif not causes:
            causes.append("y0 and the parameters of func are finite")
    elif not causes:
        causes.append("y0 is finite")
    return type(error)(f"{error} ({'; '.join(causes)}).", error.circumstances)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
