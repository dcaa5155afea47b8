"""What a caller of ``solve`` asks for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynamicblocks.functional.methods import Method

GRADIENTS: Mapping[str, tuple[str, ...]] = {
    "backprop": (),
    "checkpoint": ("states", "params"),
    "adjoint": ("rtol", "atol", "method", "options", "params", "interpolant"),
    "reversible": ("params",),
}
"""The gradient modes, each with the names of its options."""

ON_FAILURE = ("raise", "return")


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`~dynamicblocks.solve`, checked one by one.

    ``key`` is what compiled loops are kept for: the function of the caller, where ``func`` is made of it; ``role``
    says how.
    """

    func: Callable[..., Any]
    y0: Any
    t: Tensor
    args: tuple[Any, ...]
    method: Method
    rtol: Any
    atol: Any
    options: Mapping[str, Any]
    gradient: str
    gradient_options: Mapping[str, Any]
    event_fn: Callable[..., Tensor] | None
    dense: bool
    max_steps: int
    return_failures: bool
    compile: bool
    key: Any
    role: str = "solve"
