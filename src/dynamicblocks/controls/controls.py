"""Controls: the weights of a block, as layers at knots in time."""

import copy
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dynamicblocks.controls.basis import Basis, Matrix, Terms, is_one_control
from dynamicblocks.controls.blending import blend, blended_parameters, call_blended, is_variance
from dynamicblocks.controls.projection import projection_matrix
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.layers.inputs import no_tensor
from dynamicblocks.layers.kernels import kernels_of
from dynamicblocks.layers.parts import FIELD, PROJECTION, called, parts_of
from dynamicblocks.layers.protocol import takes_time

Smoothness = Literal["l2", "l1", "smooth_l1"]
"""Kinds of penalties on d theta/dt (:meth:`Controls.smoothness`)."""


class Controls(nn.Module):
    """theta(t) = sum_k phi_k(t) theta_k, with theta_k the weights of an ordinary layer of its own.

    Where a single basis function is one, its layer is called as it is: hooks, memory formats and quantisation work,
    and nothing is paid for. Elsewhere the layers' parameters are blended and one of them is called with the blend.

    Running statistics belong to their control and move with every evaluation in training by the control's share.

    Args:
        layers: one for each control, of equal parameter shapes.
        basis: with knots.
    """

    layers: nn.ModuleList

    def __init__(self, layers: Iterable[nn.Module], basis: Basis) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.basis = basis
        if len(self.layers) != basis.size:
            raise ConfigurationError(f"{basis!r} takes {basis.size} layers, got {len(self.layers)}")
        first = self.layers[0]
        self.parts = dict(parts_of(first))
        # Of each part, the submodule that holds its weights, "" for the layer itself, and whether it takes the time.
        self.holder = {
            part: method if isinstance(getattr(first, method), nn.Module) else "" for part, method in self.parts.items()
        }
        self.timed = {
            part: takes_time(called(first, method), part=part not in (FIELD, PROJECTION))
            for part, method in self.parts.items()
        }
        # Indices frozen because a grid does not read them, not because the user chose to.
        self._frozen_unread: set[int] = set()
        self._frozen_weights: set[str] = set()

    def __len__(self) -> int:
        return len(self.layers)

    def extra_repr(self) -> str:
        return repr(self.basis)

    def read(self, terms: Terms) -> list[nn.Module]:
        """The layers that contribute to theta."""
        return [self.layers[index] for index, _ in terms]

    def parameters_at(self, terms: Terms, part: str = FIELD) -> dict[str, Tensor]:
        """Theta at a time between knots, by name: of the layer, or of the submodule that is the part."""
        return blended_parameters(self.holders(terms, part), [weight for _, weight in terms])

    def holders(self, terms: Terms, part: str) -> list[nn.Module]:
        """The modules that hold the weights of a part: submodules of that name, or the layers."""
        holder = self.holder[part]
        return [getattr(layer, holder) for layer in self.read(terms)] if holder else self.read(terms)

    def evaluate(
        self,
        terms: Terms,
        t: float,
        y: Tensor,
        *extra: float | Tensor,
        part: str = FIELD,
        theta: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """A part of the layer at (t, y, *extra), by default f itself, with theta(t) given by its ``terms``.

        Args:
            terms: the basis functions at the time of the call.
            t: that time, handed to parts that take it.
            y: the state.
            extra: what else the part takes.
            part: which.
            theta: blended parameters, where they are known already.
        """
        arguments = (t, y, *extra) if self.timed[part] else (y, *extra)
        method = self.parts[part]
        if is_one_control(terms):
            output = called(self.layers[terms[0][0]], method)(*arguments)
        else:
            theta = self.parameters_at(terms, part) if theta is None else theta
            weights = [weight for _, weight in terms]
            output = call_blended(
                self.holders(terms, part), weights, theta, arguments, method="forward" if self.holder[part] else method
            )
        if not torch.compiler.is_compiling():
            self._check(output, y, part)
        return output

    def _check(self, output: object, y: Tensor, part: str) -> None:
        name = type(self.layers[0]).__name__
        if not isinstance(output, Tensor):
            raise ConfigurationError(f"the {part} of {name} must return a tensor, {no_tensor(output)}")
        # Other parts may take one half of a state to the other.
        if output.shape != y.shape and part in (FIELD, PROJECTION):
            raise ConfigurationError(
                f"the {part} of {name} must keep the shape of the state, but it took {tuple(y.shape)} to "
                f"{tuple(output.shape)}; put a Connector between blocks to change widths or sizes"
            )

    def refine(self, factor: int = 2) -> "Controls":
        """The same theta(t) in a finer basis: ``factor`` times as many intervals, or controls of a polynomial.

        A constant is copied, a line or polynomial is read at the new nodes, new knots are inserted into a spline.
        """
        basis = self.basis.refine(factor)
        return self._transferred(basis, basis.controls_from(self.basis))

    def with_intervals(self, count: int) -> "Controls":
        """theta(t) on ``count`` equal intervals (polynomials: with as many controls), exact where that can be.

        A basis that contains the present one has the same theta(t), as after :meth:`refine`; another gets its
        projection. Where nothing is to change these controls are returned.
        """
        basis = self.basis.with_intervals(count)
        return self if basis == self.basis else self._transferred(basis, basis.nearest_from(self.basis))

    def coarsen(self, factor: int = 2) -> "Controls":
        """A ``factor``-th of the intervals, or of a polynomial's controls, theta(t) projected by least squares."""
        return self.project(self.basis.coarsen(factor))

    def project(self, basis: Basis) -> "Controls":
        """theta(t), weights and running statistics, projected by least squares onto another basis.

        The knots of ``basis`` must span the same times; without knots it gets uniform ones, or, without a size too,
        those of the present basis (after a polynomial: as many equal intervals as it has controls). Exact where the
        new basis contains the old. Variances stay within the range of the old ones, so they stay positive.
        """
        basis = basis.over(self.basis.unit_grid())
        return self._transferred(basis, projection_matrix(self.basis, basis))

    def _transferred(self, basis: Basis, matrix: Matrix) -> "Controls":
        """New controls, each the combination of the old ones that its row of ``matrix`` says."""
        return Controls([self._combined(row) for row in matrix.tolist()], basis)

    def _combined(self, row: Sequence[float]) -> nn.Module:
        sources = [(index, weight) for index, weight in enumerate(row) if weight != 0.0] or [(0, 0.0)]
        nearest = max(range(len(row)), key=lambda index: abs(row[index]))
        layer = copy.deepcopy(self.layers[nearest])
        # What nothing read before may be read now, and is then to learn.
        if nearest in self._frozen_unread:
            layer.requires_grad_(True)
        for name, weight in layer.named_parameters():
            if f"layers.{nearest}.{name}" in self._frozen_weights:
                weight.requires_grad_(True)
        if sources == [(nearest, 1.0)]:
            return layer
        states = [_floating_state(self.layers[index]) for index, _ in sources]
        weights = [weight for _, weight in sources]
        with torch.no_grad():
            for name, target in _floating_state(layer).items():
                old = torch.stack([state[name] for state in states])
                new = blend(list(old), weights)
                if is_variance(name):
                    new = new.clamp(old.amin(dim=0), old.amax(dim=0))
                target.copy_(new)
        return layer

    def smoothness(self, kind: Smoothness = "l2", kernels_only: bool = False, eps: float = 1e-3) -> Tensor:
        """The penalty on d theta/dt, with s_k = (theta_{k+1} - theta_k) / d_k over the *control* steps d_k.

        ``l2``: sum_k d_k |s_k|^2, the integral of |theta'|^2 for piecewise linear controls; ``l1``: sum_k d_k |s_k|,
        the total variation, which lets theta jump at a few knots; ``smooth_l1``: sum_k d_k (sqrt(s_k^2 + eps^2) - eps),
        which is l2 / (2 eps) for slopes far below eps and l1 far above (Ruthotto & Haber 2018). All are summed over
        the entries of the weights.

        Controls that the grid never reads (:func:`~dynamicblocks.freeze_unused_controls`) are passed over: what stands
        on both sides of them is compared over the time between, which is the least that the penalty could be with them.

        Args:
            kind: of the penalty.
            kernels_only: whether biases and the weights of normalisations are left out.
            eps: of smooth_l1, above 0.

        Raises:
            ConfigurationError: differences of the controls are no slopes (:meth:`Basis.distances`).
        """
        if kind not in get_args(Smoothness):
            raise unknown_name("smoothness penalty", kind, get_args(Smoothness))
        if not isinstance(kernels_only, bool):
            raise ConfigurationError(f"kernels_only must be True or False, got {kernels_only!r}; eps is given by name")
        if kind == "smooth_l1" and not eps > 0:
            raise ConfigurationError(f"eps of smooth_l1 must be above 0, got {eps!r}; with 0 it would be 'l1'")
        first = self.layers[0]
        names = list(kernels_of(first)) if kernels_only else [name for name, _ in first.named_parameters()]
        read = [index for index in range(len(self)) if index not in self._frozen_unread]
        if not names or len(read) < 2:
            first_weight = next(self.parameters(), None)
            return torch.zeros((), device=None if first_weight is None else first_weight.device)
        distances = self._distances
        lengths = [math.fsum(distances[here:there]) for here, there in pairwise(read)]
        # One row a control: a few operations on all weights at once, however many tensors they are.
        theta = torch.stack([_joined(self.layers[index], names) for index in read])
        d = theta.new_tensor(lengths)
        slopes = theta.diff(dim=0) / d[:, None]
        if kind == "l2":
            entries = slopes.square()
        elif kind == "l1":
            entries = slopes.abs()
        else:
            entries = torch.sqrt(slopes.square() + eps**2) - eps
        return entries.sum(dim=1) @ d

    @cached_property
    def _distances(self) -> tuple[float, ...]:
        return self.basis.distances()

    def freeze_weight(self, name: str) -> None:
        """Stop the gradient of a weight that nothing uses, until :meth:`freeze_unread` looks again."""
        self.get_parameter(name).requires_grad_(False)
        self._frozen_weights.add(name)

    def freeze_unread(self, unread: set[int]) -> None:
        """Stop gradients of the controls that nothing reads, and let those go on that were stopped for it before."""
        for name in self._frozen_weights:
            self.get_parameter(name).requires_grad_(True)
        self._frozen_weights = set()
        for index, layer in enumerate(self.layers):
            if index in unread:
                layer.requires_grad_(False)
            elif index in self._frozen_unread:
                layer.requires_grad_(True)
        self._frozen_unread = set(unread)


def _joined(layer: nn.Module, names: Sequence[str]) -> Tensor:
    """The weights of these names in one row, in single precision at least."""
    named = dict(layer.named_parameters())
    row = torch.cat([named[name].reshape(-1) for name in names])
    return row.float() if row.dtype in (torch.float16, torch.bfloat16) else row


def _floating_state(layer: nn.Module) -> dict[str, Tensor]:
    named = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
