"""The norm in which the errors of the adjoint equation are measured."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.norms import flat_norm, mixed_norm
from dynamicblocks.functional.state import Layout


def adjoint_norm(
    norm: Callable[[Any], Any] | str | None,
    state_norm: Callable[[Any], Any] | None,
    layout: Layout,
    *,
    interpolant: bool = False,
) -> Callable[[tuple[Tensor, ...]], Any]:
    """The norm of the adjoint's state (dL/dt, y, a, *dL/dtheta), in which y and a are one tensor each.

    With ``interpolant`` there is no y in it.
    """
    of_state = flat_norm(state_norm, layout)
    count = 1 if interpolant else 2  # y and a, or a alone
    if norm is None or norm == "seminorm":
        with_params = norm is None

        def usual(state: tuple[Tensor, ...]) -> Tensor:
            t, states, params = state[0], state[1 : 1 + count], state[1 + count :]
            parts = [t.abs(), *map(of_state, states), *([mixed_norm(params)] if with_params else [])]
            # One number to be read from the device.
            return torch.stack([torch.as_tensor(part, device=t.device).real.to(t.real.dtype) for part in parts]).max()

        return usual
    if not callable(norm):
        raise ConfigurationError(f"the norm of the adjoint must be a function or 'seminorm', got {norm!r}")
    if layout.shapes is None:
        return norm

    def unpacked(state: tuple[Tensor, ...]) -> Any:
        states = [part for each in state[1 : 1 + count] for part in layout.unflat(each)]
        return norm((state[0], *states, *state[1 + count :]))

    return unpacked
