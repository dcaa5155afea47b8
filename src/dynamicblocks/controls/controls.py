"""Controls: the weights of a block, as layers at knots in time."""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dynamicblocks.controls.basis import Basis, Matrix, Terms, is_one_control
from dynamicblocks.controls.blending import blend, blended_parameters, call_blended, is_variance
from dynamicblocks.controls.projection import projection_matrix
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.layers.inputs import no_tensor
from dynamicblocks.layers.parts import FIELD, PROJECTION, called, parts_of
from dynamicblocks.layers.protocol import takes_time


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

    def smoothness(self, kind: Literal["l2", "l1"] = "l2", eps: float = 1e-3) -> Tensor:
        r"""The penalty on d theta/dt, with difference quotients over the *control* steps d_k.

        ``l2``: sum_k d_k | (theta_{k+1} - theta_k) / d_k |^2 (the integral of |theta'|^2 for piecewise linear
        controls); ``l1``: sum_k d_k sqrt(((theta_{k+1} - theta_k) / d_k)^2 + eps^2) - eps, summed over entries, which
        lets theta jump at a few knots (Ruthotto & Haber 2018).
        """
        if kind not in ("l2", "l1"):
            raise unknown_name("smoothness penalty", kind, ("l2", "l1"))
        named = [dict(layer.named_parameters()) for layer in self.layers]
        first = next(iter(self.parameters()), None)
        total = torch.zeros((), device=first.device if first is not None else None)
        for here, there, distance in zip(named, named[1:], self.basis.distances(), strict=False):
            for name, theta in here.items():
                slope = (there[name] - theta) / distance
                entries = slope.square() if kind == "l2" else torch.sqrt(slope.square() + eps**2) - eps
                total = total + distance * entries.sum()
        return total

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


def _floating_state(layer: nn.Module) -> dict[str, Tensor]:
    named = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
