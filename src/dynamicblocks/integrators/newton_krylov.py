"""Roots without matrices: Newton's method with GMRES, and gradients through what it finds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.counting import counted_back
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.tracing import untraced
from dynamicblocks.transforms import refuse_forward_mode

Residual = Callable[[Tensor], Tensor]
"""A function r(z) of a tensor of rows; what concerns one row depends on that row alone."""

KRYLOV = 50
"""Most vectors of one Krylov space; they are kept at once."""

# Far from the root the linear systems are solved to this part of their right-hand side. Solving them to 1e-2 costs more
# in all where the problem is stiff: what is left is small beside the fast components and large beside the slow ones.
_LOOSEST = 1e-6
# A Newton step that does not decrease the residual is halved at most so often.
_HALVINGS = 10
# Krylov spaces, one after the other, that a gradient may take.
_CYCLES = 20


@dataclass(frozen=True)
class Rows:
    """How states are laid out as real rows: one row for all, or one for each entry of the leading dimension."""

    shape: torch.Size
    is_complex: bool
    rows: int

    @classmethod
    def of(cls, y: Tensor, *, each: bool = False) -> "Rows":
        """The layout of a state such as ``y``."""
        return cls(y.shape, y.is_complex(), y.shape[0] if each else 1)

    def pack(self, *states: Tensor) -> Tensor:
        """The states side by side. A field need not be analytic: real and imaginary parts are unknowns of their own."""
        parts = [torch.view_as_real(state.resolve_conj()) if self.is_complex else state for state in states]
        return torch.cat([part.reshape(self.rows, -1) for part in parts], dim=1)

    def unpack(self, z: Tensor, count: int = 1) -> list[Tensor]:
        """The ``count`` states that lie side by side in ``z``."""
        shape = (*self.shape, 2) if self.is_complex else self.shape
        parts = [part.reshape(shape) for part in z.reshape(self.rows, count, -1).unbind(1)]
        return [torch.view_as_complex(part) for part in parts] if self.is_complex else parts


def rms(z: Tensor) -> Tensor:
    """The root of the mean square of each row, as a column."""
    return torch.linalg.vector_norm(z, dim=1, keepdim=True) / math.sqrt(max(1, z.shape[1]))


def newton(
    residual: Residual,
    guess: Tensor,
    size: Tensor,
    unit: Tensor | None = None,
    *,
    max_iters: int = 100,
    krylov: int = KRYLOV,
) -> tuple[Tensor, Tensor]:
    """Find z with r(z) = 0, row by row, by an inexact Newton method; no graph is made.

        r'(z) d = -r(z) to a part of |r(z)| that falls as Newton's method converges,    z <- z + d

    A row has converged when a whole step d, with its linear system solved as well, is at most ``unit``. A step that
    does not decrease the residual is halved; if that does not help either, the row has failed.

    Args:
        residual: r, from (rows, n) to (rows, n).
        guess: where to start, of shape (rows, n).
        size: a column, how large what z is added to is; rounding there is what limits the accuracy.
        unit: a change of z that does not matter, entry by entry; None for one of the size of rounding errors.
        max_iters: most steps.
        krylov: most vectors of a Krylov space.

    Returns:
        The last z, and for each row whether it has converged.

    Source: Dembo, Eisenstat and Steihaug 1982; Eisenstat and Walker 1996 (how well to solve the linear systems).

    >>> root, found = newton(lambda z: z**2 - 2, torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1))
    >>> round(root.item(), 12), found.tolist()
    (1.414213562373, [True])
    """
    refuse_forward_mode("an implicit method")
    if not guess.numel():
        # Of a state without entries there is nothing to find.
        return guess.detach(), torch.ones(guess.shape[0], dtype=torch.bool, device=guess.device)
    eps = torch.finfo(guess.dtype).eps
    # In Euclidean norm, as GMRES measures, and in units: a tenth of the change that does not matter.
    fine = 0.1 * math.sqrt(guess.shape[1])
    with torch.no_grad():
        z, r = guess.detach(), residual(guess.detach())
        jacobian = _Jacobian(residual)
        failed = ~(torch.isfinite(r).all(dim=1, keepdim=True) & torch.isfinite(size))
        done = torch.zeros_like(failed)
        forcing, before = torch.full_like(rms(z), _LOOSEST), torch.full_like(rms(z), math.inf)
        for _ in range(max_iters):
            active = ~(done | failed)
            if not bool(active.any()):
                break
            whole = size + rms(z)
            # From zero, what the first step will be tells how large the state is.
            whole = torch.where(whole > 0, whole, torch.where(r.any(dim=1, keepdim=True), rms(r), 1))
            entry = 10 * eps * whole if unit is None else torch.maximum(unit, 10 * eps * whole)
            rhs = torch.where(active, -r / entry, 0)
            height = torch.linalg.vector_norm(rhs, dim=1, keepdim=True)
            step, left = gmres(jacobian.at(z, entry, whole), rhs, (forcing * height).clamp_min(fine), krylov)
            length = rms(step)
            # Where rounding in r is larger than the unit, steps stop falling before they are as small as that.
            calm = length * rms(entry.expand_as(z)) <= eps**0.75 * whole
            settled = (length <= 1) & (left <= fine) | calm & (length >= before / 2) & (left <= height / 2)
            done, before = done | active & settled, length
            if bool((done | failed).all()):
                z = z + step * entry
                break
            z, r, lost = _descend(residual, z, r, step, entry, height, watched=~(done | failed), calm=calm)
            if jacobian.doubtful:
                failed = failed | lost
            ratio = torch.linalg.vector_norm(r / entry, dim=1, keepdim=True) / height
            forcing = (0.9 * ratio**2).nan_to_num(_LOOSEST).clamp(1e-8, _LOOSEST)
            # Newton's method with the right derivative is faster than this, as a rule. A row that finds no way down has
            # another try with a derivative that was checked.
            jacobian.doubtful = bool((active & ~(ratio <= 0.1)).any())
        return z, done.squeeze(1)


def _descend(
    residual: Residual, z: Tensor, r: Tensor, step: Tensor, entry: Tensor, height: Tensor, watched: Tensor, calm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The point z + step with its residual, with shorter steps where it would grow, and where none was short enough."""
    for _ in range(_HALVINGS):
        after = residual(z + step * entry)
        new = torch.linalg.vector_norm(after / entry, dim=1, keepdim=True)
        worse = watched & ~((new <= height) | calm & torch.isfinite(new))
        if not bool(worse.any()):
            return z + step * entry, after, worse
        step = torch.where(worse, step / 2, step)
    return torch.where(worse, z, z + step * entry), torch.where(worse, r, after), worse


class _Jacobian:
    """Products v -> r'(z) v: by two backward passes, by forward differentiation, or by differences.

    Two backward passes come first: the first is made once for a point, and the second, unlike forward differentiation,
    does not evaluate r again. Measured on small fields, a product costs a tenth of a forward one.
    """

    def __init__(self, residual: Residual) -> None:
        self._residual = residual
        self._ways = [self._twice, self._forward]
        self.doubtful = False

    def at(self, z: Tensor, entry: Tensor, whole: Tensor) -> Callable[[Tensor], Tensor]:
        """The products at ``z``, with vectors and products in units of ``entry``."""
        made: Callable[[Tensor], Tensor] | None = None

        def product(v: Tensor) -> Tensor:
            nonlocal made
            if made is None:
                made, found = self._first(z, v * entry, whole)
                return found / entry
            return made(v * entry) / entry

        return product

    def _first(self, z: Tensor, v: Tensor, whole: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """A way to make products at ``z``, and the one with ``v``."""
        differences = self._differences(z, whole)
        while self._ways:
            try:
                made = self._ways[0](z)
                found = made(v)
            except RuntimeError:
                # An operator without that derivative, or a field that calls autograd itself.
                del self._ways[0]
                continue
            # A field that makes derivatives itself, such as an adjoint equation, may cut the graph without a word.
            if self.doubtful and _apart(found, differences(v)):
                self._ways = []
                break
            return made, found
        return differences, differences(v)

    def _twice(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        # Hooks of a caller that packs or recomputes saved tensors are not for this graph, which ends here.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            leaf = z.clone().requires_grad_()
            dual = torch.zeros_like(leaf, requires_grad=True)
            (transposed,) = torch.autograd.grad(self._residual(leaf), leaf, dual, create_graph=True)
        return lambda v: torch.autograd.grad(transposed, dual, v, retain_graph=True)[0]

    def _forward(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        def product(v: Tensor) -> Tensor:
            tangent: Tensor = torch.func.jvp(self._residual, (z,), (v,))[1]
            return tangent

        return product

    def _differences(self, z: Tensor, whole: Tensor) -> Callable[[Tensor], Tensor]:
        delta = torch.finfo(z.dtype).eps ** 0.5 * whole

        def product(v: Tensor) -> Tensor:
            length = rms(v).clamp_min(torch.finfo(v.dtype).tiny)
            return (self._residual(z + v * (delta / length)) - self._residual(z)) * (length / delta)

        return product


def _apart(found: Tensor, expected: Tensor) -> bool:
    return bool(torch.linalg.vector_norm(found - expected) > 0.1 * torch.linalg.vector_norm(expected))


def gmres(apply: Callable[[Tensor], Tensor], rhs: Tensor, target: Tensor, krylov: int) -> tuple[Tensor, Tensor]:
    """Solve A x = b for each row, in a Krylov space of its own, until |b - A x| <= target.

    Args:
        apply: x -> A x.
        rhs: b, of shape (rows, n).
        target: a column of residual norms.
        krylov: most vectors of a space.

    Returns:
        x, and the column of residual norms that was reached.

    Source: Saad and Schultz 1986.

    >>> a = torch.tensor([[4.0, 1.0], [0.0, 2.0]])
    >>> x, _ = gmres(lambda x: x @ a.T, torch.tensor([[9.0, 2.0]]), torch.tensor([[1e-6]]), krylov=2)
    >>> x.round(decimals=4)
    tensor([[2., 1.]])
    """
    eps = torch.finfo(rhs.dtype).eps
    left = beta = torch.linalg.vector_norm(rhs, dim=1, keepdim=True)
    basis = _divide(rhs, beta).unsqueeze(1)
    hessenberg = rhs.new_zeros(rhs.shape[0], 1, 0)
    weights = rhs.new_zeros(rhs.shape[0], 0)
    for _ in range(krylov):
        if bool(((left <= target) | ~torch.isfinite(left)).all()):
            break
        vector = apply(basis[:, -1])
        length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        column = torch.zeros_like(basis[:, :, 0])
        for _ in range(2):  # Twice is enough to make it orthogonal to rounding.
            part = (basis @ vector.unsqueeze(2)).squeeze(2)
            vector = vector - (part.unsqueeze(1) @ basis).squeeze(1)
            column = column + part
        rest = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        # The space of this row is complete: what is left is rounding, and zero vectors do no harm.
        rest = torch.where(rest <= 10 * eps * length, 0, rest)
        # Not `pad`, which older versions refuse where there is no column yet.
        hessenberg = torch.cat([hessenberg, torch.zeros_like(hessenberg[:, :1])], dim=1)
        hessenberg = torch.cat([hessenberg, torch.cat([column, rest], dim=1).unsqueeze(2)], dim=2)
        basis = torch.cat([basis, _divide(vector, rest).unsqueeze(1)], dim=1)
        weights, left = _least_squares(hessenberg, beta)
    return (weights.unsqueeze(1) @ basis[:, : weights.shape[1]]).squeeze(1), left


def _divide(vector: Tensor, length: Tensor) -> Tensor:
    return torch.where(length > 0, vector / torch.where(length > 0, length, 1), 0)


def _least_squares(hessenberg: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The w of least |beta e_1 - H w| for each row, and that norm. Directions that H does not see get no weight."""
    q, r = torch.linalg.qr(hessenberg, mode="complete")
    known, square = beta * q[:, 0], r[:, :-1]
    pivots = square.diagonal(dim1=1, dim2=2).abs()
    seen = pivots > torch.finfo(r.dtype).eps * pivots.amax(dim=1, keepdim=True)
    square = torch.where(torch.diag_embed(~seen), 1, square)
    inside = torch.where(seen, known[:, :-1], 0).unsqueeze(2)
    weights = torch.linalg.solve_triangular(square, inside, upper=True).squeeze(2)
    outside = torch.cat([torch.where(seen, 0, known[:, :-1]), known[:, -1:]], dim=1)
    return weights, torch.linalg.vector_norm(outside, dim=1, keepdim=True)


def still_numbers(known: Tensor, h: float | Tensor) -> tuple[Tensor, float | Tensor]:
    """What an equation is made of, without the graph of the steps before.

    Each product with a Jacobian would walk through all of that graph: the time of a solve would grow with the square of
    its steps.
    """
    return known.detach(), h.detach() if isinstance(h, Tensor) else h


def attach(
    residual: Residual,
    root: Tensor,
    derivatives: int = 1,
    *,
    strict: bool = True,
    still: Residual | None = None,
    evaluations: int = 0,
) -> Tensor:
    """The root z of r(z; theta) = 0, with the gradient that the implicit function theorem gives it.

        dz = -r'(z)^(-1) (dr / dtheta) dtheta

    The backward pass solves one linear system with the transposed Jacobian by GMRES. Where ``residual`` has no
    gradient, or gradients are off, the root is returned as it is.

    Args:
        residual: r, which reads every theta that gradients are wanted for.
        root: z, of shape (rows, n), without a graph.
        derivatives: how often the result may be differentiated. Each time costs one evaluation and one system more.
        strict: whether one derivative more is an error; else it lacks what r' and theta have to do with each other.
        still: the same r of numbers without a graph, where there are such (:func:`still_numbers`).
        evaluations: of a field in each of r, to be counted in the backward pass.

    Raises:
        SolverError: in the backward pass, where GMRES does not solve the system.
        ConfigurationError: in the backward pass of a derivative beyond ``derivatives``.

    >>> square = torch.tensor([[4.0]], requires_grad=True)
    >>> attach(lambda z: z**2 - square, torch.tensor([[2.0]])).backward()
    >>> square.grad
    tensor([[0.2500]])
    """
    for level in range(1, derivatives + 1) if torch.is_grad_enabled() else ():
        value = residual(root)
        if not value.requires_grad:
            break
        last = strict and level == derivatives
        root = _Root.apply(value, root, (residual, still or residual), level, last, evaluations)  # type: ignore[no-untyped-call]
    return root


class _Root(torch.autograd.Function):
    """One step of Newton's method from a root: it changes nothing but the gradient.

    With respect to the point that it starts from, the gradient of such a step is zero; that point may thus be known to
    one derivative less, and brings in how r' changes with theta. So each level has one derivative more than the last.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        root: Tensor,
        residuals: tuple[Residual, Residual],
        level: int,
        strict: bool,
        evaluations: int,
    ) -> Tensor:
        kind = value.device.type
        ctx.residuals, ctx.level, ctx.strict, ctx.evaluations = residuals, level, strict, evaluations
        ctx.autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        ctx.save_for_backward(root)
        return root.clone()

    @staticmethod
    @untraced
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (root,) = ctx.saved_tensors
        again = torch.is_grad_enabled()
        residual = partial(_counted, ctx.residuals[0 if again else 1], ctx.evaluations)
        enabled, kind = ctx.autocast
        with torch.enable_grad(), torch.autocast(root.device.type, dtype=kind, enabled=enabled):
            # The graph of the forward pass may be recomputed at each use (checkpointing): this one is our own.
            leaf = root.detach().requires_grad_()
            value = residual(leaf)
            with torch.no_grad():
                found = _solve_transposed(value, leaf, -gradient)
            if again and ctx.level > 1:
                # A root itself: of r'(z)^T w + g = 0, where z, g and theta have graphs.
                equation = lambda w: _transposed(residual, root, w) + gradient  # noqa: E731
                found = attach(equation, found, ctx.level - 1, strict=ctx.strict)
            elif again and ctx.strict:
                found = _Once.apply(found, value)  # type: ignore[no-untyped-call]
        return found, gradient if ctx.level > 1 else None, None, None, None, None


def _counted(residual: Residual, evaluations: int, z: Tensor) -> Tensor:
    counted_back(evaluations)
    return residual(z)


class _Once(torch.autograd.Function):
    """The identity, without a derivative: whatever ``graph`` depends on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, graph: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[None, None]:
        raise ConfigurationError(
            "a result of an implicit method was differentiated more often than it was made for; give the method "
            "derivatives=2 (or more), at the cost of one evaluation for each equation that it solves"
        )


def _transposed(residual: Residual, root: Tensor, w: Tensor) -> Tensor:
    with torch.enable_grad():
        point = root if root.requires_grad else root.detach().requires_grad_()
        (product,) = torch.autograd.grad(residual(point), point, w, create_graph=True)
    return product


def _solve_transposed(value: Tensor, leaf: Tensor, rhs: Tensor) -> Tensor:
    """Solve r'(z)^T w = b, with ``value`` the graph of r at ``leaf``. What is not finite stays so, as elsewhere."""

    def apply(w: Tensor) -> Tensor:
        return torch.autograd.grad(value, leaf, w, retain_graph=True)[0]

    size = torch.linalg.vector_norm(rhs, dim=1, keepdim=True)
    target = torch.finfo(rhs.dtype).eps ** 0.75 * size
    finite = torch.isfinite(size)
    w, b = torch.zeros_like(rhs), torch.where(finite, rhs, 0)
    for _ in range(_CYCLES):
        step, left = gmres(apply, b, target, KRYLOV)
        w = w + step
        if bool((left <= target).logical_or(~finite).all()):
            return torch.where(finite, w, math.nan)
        b = torch.where(finite, rhs - apply(w), 0)
    worst = (torch.linalg.vector_norm(b, dim=1, keepdim=True) / size)[finite].max().item()
    raise SolverError(
        f"the gradient through an implicit step is a linear system that GMRES did not solve: a residual of {worst:.1e} "
        f"of its right-hand side is left after {_CYCLES} spaces of {KRYLOV} vectors. Take smaller steps, or float64"
    )
