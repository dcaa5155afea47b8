"""What a network says of new inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, DynamicBlocksError, SolverError
from dynamicblocks.times import check_count

# Samples in a batch, where a task does not say.
ROWS = 64
# torch counts no further everywhere.
MOST_ROWS = 2**31 - 1


def tensor_of(x: Any, expected: str) -> Tensor:
    """Numbers of NumPy or torch as a tensor without a graph; they are not copied where that can be avoided.

    Raises:
        ArgumentTypeError: ``x`` is something else.
    """
    if isinstance(x, np.ndarray):
        kind, size = x.dtype.kind, x.dtype.itemsize
        if kind not in "fiub" or size > 8 or (kind == "u" and size > 1):
            raise ArgumentTypeError(f"x must be {expected}, got an array of {x.dtype}")
        # torch knows the byte order of this machine alone, warns of arrays that may not be written to, and takes none
        # with a stride below zero, be it along a single entry.
        backwards = any(stride < 0 for stride in x.strides)
        return torch.from_numpy(np.require(x.copy() if backwards else x, x.dtype.newbyteorder("="), ["C", "W"]))
    if isinstance(x, Tensor):
        if x.layout is not torch.strided or x.is_quantized or x.is_complex() or x.device.type == "meta":
            raise ArgumentTypeError(f"x must be {expected}, got a tensor of {x.dtype}, {x.layout}, on {x.device}")
        return x.detach()
    raise ArgumentTypeError(f"x must be {expected}, got {_described(x)}")


def _described(x: Any) -> str:
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {len(x)}; put arrays of one shape into one, as numpy.stack does"
    return f"something of type {type(x).__name__}"


def check_rows(batch_size: int | None, usual: int | None = None) -> int:
    """How many samples are taken at a time.

    Raises:
        ConfigurationError: what was asked for is no such number.
    """
    return (usual or ROWS) if batch_size is None else min(check_count(batch_size, "batch_size"), MOST_ROWS)


def answer_of(net: nn.Module, inputs: Any) -> Any:
    """What a network answers, without a graph; numbers that are not finite are an error.

    Raises:
        ConfigurationError: the network takes no such inputs.
        SolverError: the answers are not finite.
    """
    try:
        with torch.no_grad():
            answer = net(inputs)
    except DynamicBlocksError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # what layers raise at shapes that do not fit
        said = (str(error).splitlines() or [""])[0]
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigurationError(
            f"the network takes no batch of {shape}: {type(error).__name__}: {said:.300}"
        ) from error
    if isinstance(answer, Tensor) and answer.is_floating_point() and not bool(torch.isfinite(answer).all()):
        raise SolverError(
            "the network's answers are not finite for these inputs; as weights are, its steps may be too long for them"
        )
    return answer


def plain_answers(net: nn.Module, x: Any, device: torch.device, dtype: torch.dtype, batch_size: int | None) -> Tensor:
    """The answers to rows of a tensor that is what the network is called with, on the CPU, in their order.

    Raises:
        ArgumentTypeError: ``x`` is no tensor, or the network gives none.
        ConfigurationError: there are no rows, or the network takes no such ones.
    """
    expected = "an array or tensor of what the network is called with, a row for each sample"
    inputs, rows = tensor_of(x, expected), check_rows(batch_size)
    if not inputs.ndim or not len(inputs):
        raise ConfigurationError(f"x must be {expected}, got shape {tuple(inputs.shape)}")
    answers = []
    for part in torch.split(inputs, rows):
        answer = answer_of(net, part.to(device, dtype if part.is_floating_point() else part.dtype))
        if not isinstance(answer, Tensor):
            raise ArgumentTypeError(
                f"the network answers by a {type(answer).__name__}; give the task a method predict that says what to do"
            )
        answers.append(answer.cpu())
    return together(answers)


def together(parts: Sequence[Tensor]) -> Tensor:
    """Parts one behind the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
