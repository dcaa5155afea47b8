"""The trace of df/dx, exact or estimated, beside the slope and, if wanted, the squared size of df/dx."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dynamicblocks.draws import normal
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.flows.fields import ClosedForm, ForwardMode
from dynamicblocks.registry import Registry

Noise = Literal["rademacher", "gaussian"]
# Up to so many features a trace is exact, if nobody says how.
FEW_FEATURES = 16


class Traced(NamedTuple):
    """A slope (n, *shape), tr df/dx (n,), and |df/dx|_F^2 (n,) where that was asked for."""

    slope: Tensor
    trace: Tensor
    square: Tensor | None = None


@dataclass(frozen=True)
class Exact:
    """tr df/dx itself: in closed form where the field has one, else a product with each unit vector."""

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Nothing is drawn."""
        return None

    def __call__(
        self, field: nn.Module, t: Tensor, x: Tensor, context: Tensor | None, probe: Tensor | None, square: bool = False
    ) -> Traced:
        """Slope and trace, with the squared size of df/dx if ``square``."""
        if isinstance(field, ClosedForm) and not square:
            return Traced(*field.divergence(t, x, context))
        features = x[0].numel()
        units = torch.eye(features, dtype=x.dtype, device=x.device)
        tangents = units.view(features, 1, *x.shape[1:]).expand(-1, len(x), *x.shape[1:])
        slope, products = jacobian_products(field, t, x, tangents, context)
        flat = products.flatten(2)
        trace = flat.diagonal(dim1=0, dim2=2).sum(-1)
        return Traced(slope, trace, flat.square().sum((0, 2)) if square else None)


@dataclass(frozen=True)
class Hutchinson:
    """e . (df/dx) e with random e of mean 0 and covariance 1, of which the mean is the trace; |(df/dx) e|^2 likewise.

    e belongs to a solve: it is drawn once, and is the same at each evaluation.

    Source: FFJORD (Grathwohl et al. 2019).

    Args:
        noise: e is of numbers 1 and -1 (rademacher), for which the estimate varies less, or normal (gaussian).

    Raises:
        ConfigurationError: there is no such noise.
    """

    noise: Noise = "rademacher"

    def __post_init__(self) -> None:
        if self.noise not in get_args(Noise):
            raise unknown_name("noise", self.noise, get_args(Noise))

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """e, of the shape of x."""
        e = normal(x.shape, x, generator)
        return e if self.noise == "gaussian" else torch.where(e < 0, -1.0, 1.0).to(x.dtype)

    def __call__(
        self, field: nn.Module, t: Tensor, x: Tensor, context: Tensor | None, probe: Tensor | None, square: bool = False
    ) -> Traced:
        """Slope and estimated trace, with the estimated squared size of df/dx if ``square``."""
        assert probe is not None
        slope, products = jacobian_products(field, t, x, probe[None], context)
        product = products[0].flatten(1)
        trace = (probe.flatten(1) * product).sum(-1)
        return Traced(slope, trace, product.square().sum(-1) if square else None)


Trace = Exact | Hutchinson

traces: Registry[Trace] = Registry("trace")
traces.register("exact")(Exact)
traces.register("hutchinson")(Hutchinson)


def as_trace(spec: Trace | str, features: int = 1) -> Trace:
    """A trace from its name: exact, hutchinson, hutchinson(noise='gaussian'), or auto.

    With ``auto`` it is exact where a sample has at most 16 ``features``, else Hutchinson's: an exact trace takes a
    tangent, or a backward pass, for each feature.

    Raises:
        ConfigurationError: there is no such trace.

    >>> as_trace("hutchinson(noise='gaussian')")
    Hutchinson(noise='gaussian')
    """
    if isinstance(spec, Exact | Hutchinson):
        return spec
    if not isinstance(spec, str):
        raise ConfigurationError(f"trace must be exact, hutchinson or auto, got {spec!r:.80}")
    if spec == "auto":
        return Exact() if features <= FEW_FEATURES else Hutchinson()
    if spec.partition("(")[0] not in traces:
        raise unknown_name("trace", spec, ("auto", *traces))
    return traces.create(spec)


def jacobian_products(
    field: nn.Module, t: Tensor, x: Tensor, vectors: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The slope, and df/dx, or its transpose, times each of the ``vectors`` (k, n, *shape).

    The trace and the size of df/dx are the same of both. In forward mode, df/dx e, where the field has it; else
    e df/dx, by a backward pass for each e.
    """
    if isinstance(field, ForwardMode):
        return field.jvp(t, x, vectors, context)
    return _backward_products(lambda at: field(t, at, context), x, vectors)


def _backward_products(of: Callable[[Tensor], Tensor], x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    kept = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if kept and x.requires_grad else x.detach().requires_grad_()
        slope = of(at)
        if slope.shape != x.shape:
            raise ConfigurationError(
                f"a field gives a slope for each number of the state, of shape {tuple(x.shape)}; got "
                f"{tuple(slope.shape)}"
            )
        if not slope.requires_grad:  # it does not depend on x
            return slope, torch.zeros_like(vectors)
        last = len(vectors) - 1
        products = [
            torch.autograd.grad(
                slope, at, vector, create_graph=kept, retain_graph=kept or place < last, materialize_grads=True
            )[0]
            for place, vector in enumerate(vectors)
        ]
    stacked = torch.stack(products)
    return (slope, stacked) if kept else (slope.detach(), stacked)
