"""The transform of a flow: a solve of dx/dt = v(t, x), and what is integrated along it."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.flows.fields import Potential, as_field
from dynamicblocks.flows.trace import Exact, Trace, as_trace
from dynamicblocks.flows.transform import Transform, Transformed
from dynamicblocks.functional import Solver

PENALTIES = ("kinetic", "jacobian", "hjb")
USUAL = Solver(rtol=1e-5, atol=1e-5)
State = tuple[Tensor, ...]


class ContinuousTransform(Transform):
    """From the base at time 0 to the data at the horizon T along dx/dt = v(t, x[, context]).

    Of a solve from T to 0,

        log p_T(x(T)) = log p_0(x(0)) - int_0^T tr dv/dx dt

    with the integral as one more state of the same solve, beside those of penalties:
    ``kinetic`` int |v|^2 dt, ``jacobian`` int |dv/dx|_F^2 dt (from the products that make the trace), and ``hjb``
    int |d Phi/dt + |grad Phi|^2 / 2| dt of a field with a potential Phi.

    Source: Chen et al. 2018; FFJORD (Grathwohl et al. 2019); penalties RNODE (Finlay et al. 2020), OT-Flow (Onken et
    al. 2021).

    Args:
        field: v, one of this package or any module f(t, x) or f(t, x, context).
        horizon: T.
        solver: how it is solved.
        trace: exact, hutchinson, hutchinson(noise='gaussian') or auto, which is exact up to 16 features.
        penalties: what is integrated beside.
        context: numbers of context of a sample.
        features: of a sample, by which ``auto`` chooses.

    Raises:
        ConfigurationError: options that cannot be.

    >>> flow = ContinuousTransform(nn.Bilinear(1, 2, 2), trace="exact")
    >>> flow.horizon, flow.solver.method
    (1.0, 'dopri5')
    """

    _rates: "Rates"

    def __init__(
        self,
        field: nn.Module,
        *,
        horizon: float = 1.0,
        solver: Solver = USUAL,
        trace: Trace | str = "auto",
        penalties: Sequence[str] = (),
        context: int = 0,
        features: int = 1,
    ) -> None:
        super().__init__()
        if not 0 < horizon < float("inf"):
            raise ConfigurationError(f"the horizon of a flow must be above zero and finite, got {horizon:g}")
        for name in penalties:
            if name not in PENALTIES:
                raise unknown_name("penalty", name, PENALTIES)
        self.field = as_field(field, context)
        if "hjb" in penalties and not isinstance(self.field, Potential):
            raise ConfigurationError(
                f"the penalty hjb is of fields with a potential, which {type(field).__name__} has not; take the field "
                "'potential', or leave the penalty out"
            )
        self.horizon, self.solver, self.penalties = float(horizon), solver, tuple(penalties)
        self.trace = as_trace(trace, features)
        # No member: it holds the same field, whose weights would be listed twice.
        vars(self)["_rates"] = Rates(self.field, self.trace, self.penalties)

    def velocity(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """v, of the shape of x; t without dimensions, or (n,)."""
        return self.field(t, x, context)

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return self._solved(x, (self.horizon, 0.0), context, generator)

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return self._solved(z, (0.0, self.horizon), context, generator)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._moved(x, (self.horizon, 0.0), context)[-1]

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self._moved(z, (0.0, self.horizon), context)[-1]

    def path(self, z: Tensor, times: Sequence[float], context: Tensor | None = None) -> Tensor:
        """The states at increasing times from 0, (len(times), n, *shape), of samples that begin at ``z``."""
        return self._moved(z, times, context)

    def with_solver(self, solver: Solver) -> "ContinuousTransform":
        """The same transform, with the same weights, solved in another way."""
        other = copy.copy(self)
        other.solver = solver
        return other

    def extra_repr(self) -> str:
        return f"horizon={self.horizon:g}, solver={self.solver}, trace={self.trace}, penalties={self.penalties}"

    def _moved(self, x: Tensor, times: Sequence[float], context: Tensor | None) -> Tensor:
        args = () if context is None else (context,)
        return self.solver(self.field, x, _times(times, x), args=args).y

    def _solved(
        self, x: Tensor, ends: tuple[float, float], context: Tensor | None, generator: torch.Generator | None
    ) -> Transformed:
        probe = self.trace.draw(x, generator)
        zeros = [x.new_zeros(len(x)) for _ in range(1 + len(self.penalties))]
        found: State = self.solver(self._rates, (x, *zeros), _times(ends, x), args=(context, probe)).y
        value, log_det, *sizes = (each[-1] for each in found)
        # A solve back in time counts the integrals backwards.
        sign = 1.0 if ends[1] > ends[0] else -1.0
        return Transformed(
            value, log_det, {name: sign * size for name, size in zip(self.penalties, sizes, strict=True)}
        )


class Rates(nn.Module):
    """The rates of a sample, of the logarithm of volume, and of the penalties.

    Args:
        field: what moves samples.
        trace: how the rate of the logarithm of volume is made.
        penalties: what else is integrated.
    """

    def __init__(self, field: nn.Module, trace: Trace, penalties: Sequence[str]) -> None:
        super().__init__()
        self.field, self.trace, self.penalties = field, trace, tuple(penalties)

    def forward(self, t: Tensor, state: State, context: Tensor | None, probe: Tensor | None) -> State:
        """(n, *shape), (n,), and (n,) for each penalty."""
        x = state[0]
        residual = None
        square = "jacobian" in self.penalties
        if "hjb" in self.penalties and isinstance(self.trace, Exact) and not square:
            assert isinstance(self.field, Potential)
            slope, trace, residual = self.field.with_residual(t, x, context)
            found = {"hjb": residual}
        else:
            slope, trace, size = self.trace(self.field, t, x, context, probe, square)
            found = {} if size is None else {"jacobian": size}
            if "hjb" in self.penalties:
                assert isinstance(self.field, Potential)
                found["hjb"] = self.field.with_residual(t, x, context)[2]
        if "kinetic" in self.penalties:
            found["kinetic"] = slope.square().flatten(1).sum(-1)
        return slope, trace, *(found[name] for name in self.penalties)


def _times(times: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(tuple(times), dtype=like.dtype, device=like.device)
