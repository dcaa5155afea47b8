"""The adjoint equation of a block as one vector, and what one pass back through it holds."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dynamicblocks.controls import Controls
from dynamicblocks.gradients.adjoint_equation import StoredSteps
from dynamicblocks.gradients.graph import each_once, separate_gradients, unlisted_leaves
from dynamicblocks.integrators import Adaptive, Integrator
from dynamicblocks.solving.failures import SolveError, explained

Norm = Callable[[Any], Any] | str | None


class Output(NamedTuple):
    """A state that was handed over, with its gradient."""

    state: Tensor
    gradient: Tensor


class Block(Protocol):
    """The block of which the equation is."""

    title: str
    controls: Controls

    def back(self, solve: "Back", outputs: Mapping[int, Output]) -> Tensor:
        """The gradient of the first state."""


class System:
    """The adjoint equation d/dt (y, a, *sums) as a function of one vector, by one evaluation and one pass back.

    Where y is known it is no part of it. States lie in memory as those of the forward pass do.

    Args:
        like: a state, as wide as the equation is solved.
        layers: that are read.
        solve: of which it is a part.
    """

    def __init__(self, like: Tensor, layers: Iterable[nn.Module], solve: "Back") -> None:
        self.like, self._solve = like, solve
        self._weights = each_once([weight for layer in layers for weight in layer.parameters()])
        # Steps that are taken back may read controls that those of the forward pass do not.
        wanted = set(map(id, solve.node.inputs))
        self._params = params = [weight for weight in self._weights if id(weight) in wanted]
        solve.seen.update(map(id, params))
        self._order = sorted(range(like.dim()), key=lambda dim: -like.stride()[dim])
        self._back = sorted(range(like.dim()), key=lambda dim: self._order[dim])
        self._count = 1 if solve.node.stored is not None else 2
        parts = [like] * self._count + [torch.view_as_real(p) if p.is_complex() else p for p in params]
        self._sizes = [part.numel() for part in parts]
        self._shapes = [part.shape for part in parts[self._count :]]

    def joined(self, y: Tensor, a: Tensor) -> Tensor:
        """The vector at the end of an interval, where the sums of it are zero."""
        states = [y, a][2 - self._count :]
        return self._flat(states, [self.like.new_zeros(shape) for shape in self._shapes])

    def apart(self, flat: Tensor) -> list[Tensor]:
        """Its states and sums."""
        parts = torch.split(flat, self._sizes)
        shape = [self.like.shape[dim] for dim in self._order]
        states = [part.view(shape).permute(self._back) for part in parts[: self._count]]
        return states + [part.view(shape) for part, shape in zip(parts[self._count :], self._shapes, strict=True)]

    def taken(self, flat: Tensor, unit: float = 1.0) -> tuple[Tensor, Tensor]:
        """The states y and a at the begin of an interval; its sums are added to those of the pass."""
        parts = self.apart(flat)
        for param, total in zip(self._params, parts[self._count :], strict=True):
            self._solve.add(param, total * unit)
        return parts[0], parts[self._count - 1] * unit

    def _flat(self, states: Iterable[Tensor], sums: Iterable[Tensor]) -> Tensor:
        rows = [*(state.permute(self._order) for state in states), *sums]
        return torch.cat([row.to(self.like.dtype).reshape(-1) for row in rows])

    def __call__(self, slope: Callable[[Tensor], Tensor], flat: Tensor, known: Tensor | None = None) -> Tensor:
        """The slope of the vector, by that of the field as a function of y."""
        solve, params = self._solve, self._params
        solve.evaluations += 1
        # An implicit method differentiates the equation.
        twice = torch.is_grad_enabled() and flat.requires_grad
        with torch.enable_grad():
            y, a = (known, self.apart(flat)[0]) if known is not None else self.apart(flat)[:2]
            if not twice or known is not None:
                y = y.detach().requires_grad_()
            value = slope(y if solve.narrow is None else y.to(solve.narrow)).to(y.dtype)
            slopes = [value] if known is None else []
            if not value.requires_grad:
                zeros = [torch.zeros_like(y), *(y.new_zeros(shape) for shape in self._shapes)]
                return self._flat([*slopes, zeros[0]], zeros[1:])
            inputs = [y, *params]
            if solve.node.unlisted is not None:
                # A view has a graph, even if the slope is a parameter itself.
                lost = unlisted_leaves(value.view_as(value), [y, *self._weights])
                if lost:
                    told, solve.node.unlisted = solve.node.unlisted, None  # a warning is given once
                    told(lost)
            by_y, *by_params = (
                torch.autograd.grad(value, inputs, -a, create_graph=True, allow_unused=True)
                if twice
                else separate_gradients([value], inputs, [-a])
            )
            sums = []
            for param, by, shape in zip(params, by_params, self._shapes, strict=True):
                if by is None:
                    sums.append(y.new_zeros(shape))
                    continue
                solve.reached.add(id(param))
                sums.append(torch.view_as_real(by.resolve_conj()) if param.is_complex() else by)
            whole = self._flat([*slopes, torch.zeros_like(y) if by_y is None else by_y], sums)
        return whole if twice else whole.detach()


@dataclass
class Node:
    """What both passes need and no gradient flows to.

    Args:
        block: with the weights, modes and buffers of the forward pass.
        back, norm: of the adjoint equation.
        unlisted: called with tensors that would lose their gradients.
        stored: the steps of the forward pass, if they are kept.
        autocast: that of the forward pass.
        inputs: parameters that have gradients.
        states: of output, but for the first; only till they are handed over.
    """

    block: Block
    back: Integrator
    norm: Norm
    unlisted: Callable[[list[Tensor]], None] | None
    stored: StoredSteps | None
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    inputs: Sequence[Tensor]
    states: list[Tensor]


@dataclass
class Back:
    """One pass back.

    Args:
        node: of the graph.
        narrow: the type of the states, where it is half precision, in which the equation is not solved.
        totals: the integrals that are the gradients of parameters, by ``id``.
        seen: parameters of layers that were evaluated.
        reached: those on which a slope depended.
        filled: what all gradients are, where no equation was solved.
        evaluations: of the field.
    """

    node: Node
    narrow: torch.dtype | None
    totals: dict[int, Tensor] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)
    filled: float | None = None
    evaluations: int = 0

    def add(self, param: Tensor, total: Tensor) -> None:
        """Add to the integral of a parameter."""
        before = self.totals.get(id(param))
        self.totals[id(param)] = total if before is None else before + total

    def gradient(self, param: Tensor) -> Tensor | None:
        """That of a parameter; None where nothing depends on it."""
        if self.filled is not None:
            return torch.full_like(param, self.filled)
        if id(param) not in self.seen:
            # The forward pass reads its layer, but no stage of the pass back.
            return torch.zeros_like(param)
        if id(param) not in self.reached:
            return None
        total = self.totals[id(param)]
        return (torch.view_as_complex(total) if param.is_complex() else total).to(param.dtype)

    @contextlib.contextmanager
    def telling(self, t1: float, t0: float, y: Tensor) -> Iterator[None]:
        """Says of a failure that it was one of the adjoint solve, and where."""
        try:
            yield
        except SolveError as error:
            node = self.node
            stores = isinstance(node.back, Adaptive) and node.stored is None
            other = "Adjoint(interpolant=True) or 'checkpoint'" if stores else "'checkpoint'"
            raise type(error)(
                f"{node.block.title}, in the adjoint solve of the backward pass, from t = {t1:g} back to {t0:g}: "
                f"{explained(error, y, node.block.controls)} Where the state cannot be solved for back in time, use "
                f"gradient={other}",
                error.circumstances,
            ) from None
