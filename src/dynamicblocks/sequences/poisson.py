"""Events at a rate that follows from a state: inhomogeneous Poisson processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.functional.solver import Solver
from dynamicblocks.sequences.with_integral import TIGHT, log_rate_of, with_integral
from dynamicblocks.thinning import thinned
from dynamicblocks.times import check_count

# Numbers of the states of one solve at all its times: beyond, the sequences are solved in parts.
ROOM = 2**24
# Where a rate is looked at to find its bound, and how far above the highest of these the bound lies.
LOOKED_AT, MARGIN = 500, 1.25
# How often a bound that turned out to be too low is doubled.
MOST_BOUNDS = 20


class PoissonProcess(nn.Module):
    """Events at the rate lambda(z(t)), where dz/dt = field(t, z).

    The state starts at the time ``origin``: from a vector that is learnt, or from one for each sequence.

    Args:
        field: dz/dt = field(t, z), z (n, features), t the time since the origin.
        log_rate: the logarithm of the rate, z (..., features) to (...) or (..., 1), such as ``nn.Linear(features, 1)``.
        features: of a first state that is learnt, the same for all sequences; None: ``initial`` is given in each call.
        start: what makes the first state (n, features) of ``initial`` (n, covariates); by default it is the state.
        solver: how states and integral are solved for, together; by default dopri5 with rtol 1e-5. Training finds rates
            of which a loose solve tells too small an integral: at 1e-3 by 0.015 nats an event, where it was measured.
        origin: the time at which the state starts.

    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> process = PoissonProcess(lambda t, z: torch.sin(t) - z, nn.Linear(1, 1), features=1)
    >>> times = torch.tensor([[0.5, 1.5, 1.75], [2.0, 0.0, 0.0]])
    >>> process.log_likelihood(times, torch.tensor([3, 1]), 0.0, 3.0).shape
    torch.Size([2])
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        log_rate: Callable[[Tensor], Tensor],
        *,
        features: int | None = None,
        start: nn.Module | None = None,
        solver: Solver | None = None,
        origin: float = 0.0,
    ) -> None:
        super().__init__()
        if features is not None:
            check_count(features, "features")
        if features is not None and start is not None:
            raise ConfigurationError(
                "features is of a first state that is learnt, and start makes one of what is given: give one of them"
            )
        self.equation = with_integral(field, log_rate)
        self.start = start
        self.solver = TIGHT if solver is None else solver
        self.origin = origin
        self.first = None if features is None else nn.Parameter(torch.zeros(features))

    def extra_repr(self) -> str:
        """How it is solved, and where it starts."""
        return f"solver={self.solver}, origin={self.origin:g}"

    def log_likelihood(
        self, times: Tensor, lengths: Tensor, t0: float | Tensor, t1: float | Tensor, initial: Tensor | None = None
    ) -> Tensor:
        """The logarithm of the likelihood of sequences of events: (n,), sum of log lambda(t_i) less its integral.

        Args:
            times: (n, longest), the events of each sequence; what stands behind its length is not looked at.
            lengths: (n,), how many events each has; none is a sequence, too.
            t0, t1: the window in which every event would have been seen: numbers, or (n,).
            initial: (n, ...), where the first state is not learnt.

        Raises:
            ConfigurationError: sizes do not go together, an event lies outside the window, or that before the origin.
        """
        begin, end, there = checked(times, lengths, t0, t1)
        asked = torch.cat([begin[:, None], end[:, None], times.double().where(there, begin[:, None])], 1)
        log_rates, integrals = self._solved(asked, initial)
        return (log_rates[:, 2:] * there).sum(1) - (integrals[:, 1] - integrals[:, 0])

    def rate(self, t: Tensor, initial: Tensor | None = None) -> Tensor:
        """The rate, (n, length), at times (length,) or (n, length); with a state that is learnt n may be one."""
        return self._solved(self._rows(t, initial), initial)[0].exp()

    def integral(self, t0: float, t1: float, initial: Tensor | None = None) -> Tensor:
        """The integral of the rate from t0 to t1, the expected number of events: (n,), or (1,) of a learnt state."""
        ends = torch.tensor([t0, t1], dtype=torch.float64, device=self._place_of(initial))
        found = self._solved(self._rows(ends, initial), initial)[1]
        return found[:, 1] - found[:, 0]

    @torch.no_grad()
    def sample(
        self,
        number: int,
        t0: float,
        t1: float,
        initial: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sequences of events on [t0, t1], drawn by thinning a process of a constant rate above.

        That rate is made from the highest of many times; where it turns out to have been passed in between, it is
        doubled and all is drawn anew.

        Args:
            number: how many sequences.
            t0, t1: the window.
            initial: (number, ...), where the first state is not learnt.
            generator: of random numbers, on the CPU.

        Returns:
            Times (number, longest), float64, on the CPU, ``t0`` behind the last; and how many each has, (number,).

        Raises:
            ConfigurationError: the window has no length, or peaks of the rate are too narrow for it.
            SolverError: the rate is not finite.
        """
        check_count(number, "number", least=0)
        if not -torch.inf < t0 < t1 < torch.inf:
            raise ConfigurationError(f"a window must be finite and have a length, got [{t0:g}, {t1:g}]")
        self._starts(initial, number)
        place = self._place_of(initial)
        looked = torch.linspace(t0, t1, LOOKED_AT, dtype=torch.float64, device=place)
        bound = MARGIN * self.rate(looked, initial).max(1).values.double().cpu().expand(number)
        if not bool(torch.isfinite(bound).all()):
            raise SolverError(f"the rate on [{t0:g}, {t1:g}] is not finite, so nothing can be drawn")
        state = None if generator is None else generator.get_state()
        passed = False

        def rate(times: Tensor) -> Tensor:
            nonlocal passed
            found = self.rate(times.to(place), initial).double().cpu()
            passed = bool((found > bound[:, None]).any())
            return found.minimum(bound[:, None])

        for _ in range(MOST_BOUNDS):
            times, lengths = thinned(rate, bound, t0, t1, generator)
            if not passed:
                return times, lengths
            bound = 2 * bound
            if generator is not None and state is not None:
                generator.set_state(state)
        raise ConfigurationError(
            f"the rate on [{t0:g}, {t1:g}] has peaks so narrow that no bound was found: draw on shorter windows"
        )

    def forward(
        self, times: Tensor, lengths: Tensor, t0: float | Tensor, t1: float | Tensor, initial: Tensor | None = None
    ) -> Tensor:
        """:meth:`log_likelihood`."""
        return self.log_likelihood(times, lengths, t0, t1, initial)

    def _place_of(self, initial: Tensor | None) -> torch.device:
        known = self.first if initial is None else initial
        return torch.device("cpu") if known is None else known.device

    def _rows(self, t: Tensor, initial: Tensor | None) -> Tensor:
        """Times (n, length)."""
        return t if t.ndim == 2 else t.expand(1 if initial is None else len(initial), -1)

    def _starts(self, initial: Tensor | None, rows: int) -> Tensor:
        """The first states: (rows, features), or (1, features) where all have the same."""
        if self.first is not None:
            if initial is not None:
                raise ConfigurationError("the first state is learnt, so initial cannot be given")
            return self.first[None]
        if initial is None:
            raise ConfigurationError(
                "give initial, the first state of each sequence or what it is made of; or features, to learn one"
            )
        if initial.ndim != 2 or len(initial) != rows:
            raise ConfigurationError(f"initial must be ({rows}, numbers), a row a sequence, got {tuple(initial.shape)}")
        return initial if self.start is None else self.start(initial)

    def _solved(self, times: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logarithms of the rate, and its integrals from the origin, at times (n, length) of each sequence.

        There is one solve, with an output at each time of any of them.
        """
        starts = self._starts(initial, len(times))
        rows = max(1, int((ROOM / max(1, times.shape[1] * starts.shape[1])) ** 0.5))
        if len(starts) <= rows or len(starts) == 1:
            return self._part(times, starts)
        parts = [self._part(*part) for part in zip(torch.split(times, rows), torch.split(starts, rows), strict=True)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _part(self, times: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        # The difference is made in float64: times may be large and their distances small.
        since = (times.double() - self.origin).to(starts.dtype)
        grid, place = torch.unique(torch.cat([since.new_zeros(1), since.reshape(-1)]), return_inverse=True)
        if not bool((grid[0] >= 0) & torch.isfinite(grid[-1])):  # NaN is the last
            raise ConfigurationError(f"times must be finite and not before the origin {self.origin:g}, where z starts")
        place = place[1:].reshape(times.shape)
        zero = starts.new_zeros(len(starts))
        if len(grid) == 1:
            z, integral = starts[None], zero[None]
        else:
            z, integral = self.solver(self.equation, (starts, zero), grid).y
        row = torch.arange(len(starts), device=starts.device)[:, None]
        chosen = z[place, row]
        return log_rate_of(self.equation.log_rate, chosen), integral[place, row]


def checked(times: Tensor, lengths: Tensor, t0: float | Tensor, t1: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends of the window of each sequence, (n,), float64; and where an event stands, (n, longest).

    Raises:
        ConfigurationError: sizes do not go together, or an event lies outside its window.
    """
    if times.ndim != 2 or lengths.shape != times.shape[:1] or lengths.is_floating_point():
        raise ConfigurationError(
            f"expected times (n, longest) and whole numbers lengths (n,), got {tuple(times.shape)} and "
            f"{tuple(lengths.shape)} ({str(lengths.dtype).removeprefix('torch.')})"
        )
    begin, end = (torch.as_tensor(each, dtype=torch.float64, device=times.device) for each in (t0, t1))
    if any(each.shape not in ((), lengths.shape) for each in (begin, end)):
        raise ConfigurationError(
            f"t0 and t1 must be numbers, or ({len(times)},), one a sequence; got {tuple(begin.shape)} and "
            f"{tuple(end.shape)}"
        )
    begin, end = (each.expand(len(times)) for each in (begin, end))
    there = torch.arange(times.shape[1], device=times.device) < lengths[:, None]
    outside = (there & ~((times >= begin[:, None]) & (times <= end[:, None]))).any(1)
    unreal = ~((begin < end) & begin.isfinite() & end.isfinite())
    long = (lengths < 0) | (lengths > times.shape[1])
    if bool((wrong := outside | unreal | long).any()):
        row = int(wrong.nonzero()[0])
        window = f"[{begin[row].item():.12g}, {end[row].item():.12g}]"
        if bool(long[row]):
            said = f"has the length {int(lengths[row])}, and there are {times.shape[1]} times"
        elif bool(unreal[row]):
            said = f"has the window {window}; it must be finite and have a length"
        else:
            mine = times[row][there[row]]
            strange = mine[~((mine >= begin[row]) & (mine <= end[row]))][0]
            said = f"has an event at {strange.item():.12g}, outside its window {window}"
        raise ConfigurationError(f"sequence {row} {said}")
    return begin, end, there
