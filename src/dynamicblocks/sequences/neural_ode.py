"""Neural ODEs on trajectories: initial states and times in, states out."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ArgumentTypeError, ConfigurationError
from dynamicblocks.sequences.solver import Solver
from dynamicblocks.solving import Solution
from dynamicblocks.times import check_count

ROUNDINGS = 8
"""Differences of times that differ by fewer roundings are one time of the solve."""


class NeuralODE(nn.Module):
    """dy/dt = f(t, y) from many initial states at once.

    Args:
        field: f(t, y), a module; y has the features in its last dimension. With times of their own t has the shape
            (n, 1), else none.
        solver: how it is solved.
        augment: zeros that each state is given beside its own numbers, for what is not observed; they are left out of
            what comes back. The field sees them.
        order: of the equation. Of a second-order one the state is positions, then velocities, and the field gives the
            accelerations alone; of a third-order one, with three parts, the last derivative.
        event_fn: g(t, y) of shape (n,), or (n, events): a trajectory ends where g changes its sign. A module is learnt
            as well.
        own_times: where each trajectory has times of its own: give each steps of its own, rather than to solve once at
            the union of all times. It costs more of a small network, and less where few trajectories are stiff.

    Raises:
        ConfigurationError: an option that cannot be.

    >>> from dynamicblocks.sequences import MLPField
    >>> model = NeuralODE(MLPField(2))
    >>> model(torch.zeros(8, 2), torch.linspace(0, 1, 5)).shape
    torch.Size([8, 5, 2])
    """

    def __init__(
        self,
        field: nn.Module,
        solver: Solver | None = None,
        augment: int = 0,
        order: int = 1,
        event_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        own_times: bool = False,
    ) -> None:
        super().__init__()
        if not callable(field):
            raise ArgumentTypeError(f"field must be a module f(t, y), got {type(field).__name__}")
        check_count(augment, "augment", least=0)
        check_count(order, "order")
        self.field = field
        self.solver = Solver() if solver is None else solver
        if not isinstance(self.solver, Solver):
            raise ArgumentTypeError(f"solver must be a Solver, such as Solver('rk4'), got {self.solver!r:.80}")
        self.augment, self.order, self.event_fn, self.own_times = augment, order, event_fn, own_times

    def forward(self, y0: Tensor, t: Tensor) -> Tensor:
        """The states, (n, length, features), at times (length,), or (n, length) of their own.

        Times increase, or decrease, from that of ``y0``; the last may be repeated, as behind the end of a series that
        is shorter than others. Behind an event states are not numbers.

        Args:
            y0: (n, features), the states at the first times.
            t: the times.
        """
        self._check(y0, t)
        if t.ndim == 1 or self.event_fn is not None or self.own_times:
            return self._plain(self.solution(y0, t).y.movedim(0, 1))
        times, places = _union(t)
        start = t[:, :1].to(y0.dtype)
        states = self.solver(partial(self._later, start), self._wide(y0), times.to(y0.dtype)).y
        return self._plain(states[places, torch.arange(len(t), device=t.device)[:, None]])

    def events(self, y0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """When the event of each trajectory is, (n,), and its state there, (n, features); not a number without one.

        Both have gradients, of the constants of the field and of ``event_fn``, of ``y0``.

        Args:
            y0: (n, features).
            t: the begin and the time up to which the event is looked for: (2,), or (n, 2).

        Raises:
            ConfigurationError: the model has no ``event_fn``.
        """
        if self.event_fn is None:
            raise ConfigurationError("the model has no event_fn, so there are no events; give it one")
        self._check(y0, t)
        found = self.solution(y0, t)
        assert found.event_t is not None
        return found.event_t, self._plain(found.event_y)

    def solution(self, y0: Tensor, t: Tensor) -> Solution:
        """All that a solve says, its steps and events; states have the times first, and what augments them.

        Trajectories with events, or with times of their own, take steps of their own (``solve(batched=True)``).
        """
        more = {} if self.event_fn is None else {"event_fn": self._event}
        batched = bool(more) or t.ndim == 2
        times = _spread(t) if t.ndim == 2 else t
        return self.solver(self._slope, self._wide(y0), times, **({"batched": True, **more} if batched else {}))

    def extra_repr(self) -> str:
        return f"solver={self.solver}, augment={self.augment}, order={self.order}"

    # The state

    def _wide(self, y0: Tensor) -> Tensor:
        """The initial states with zeros beside each of their parts."""
        if not self.augment:
            return y0
        parts = y0.unflatten(-1, (self.order, -1))
        return torch.cat((parts, parts.new_zeros(*parts.shape[:-1], self.augment)), dim=-1).flatten(-2)

    def _plain(self, y: Tensor) -> Tensor:
        """States without them."""
        return y.unflatten(-1, (self.order, -1))[..., : -self.augment].flatten(-2) if self.augment else y

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        slope = self.field(t, y)
        return slope if self.order == 1 else torch.cat((y[..., y.shape[-1] // self.order :], slope), dim=-1)

    def _later(self, start: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self._slope(start + t, y)

    def _event(self, t: Tensor, y: Tensor) -> Tensor:
        assert self.event_fn is not None
        return self.event_fn(t, self._plain(y))

    def _check(self, y0: Tensor, t: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        if not isinstance(y0, Tensor) or y0.ndim != 2 or y0.shape[1] % self.order:
            came = tuple(y0.shape) if isinstance(y0, Tensor) else type(y0).__name__
            parts = f"features * {self.order}" if self.order > 1 else "features"
            raise ArgumentError(f"y0 must be a tensor of shape (n, {parts}), a state for each trajectory, got {came}")
        if not isinstance(t, Tensor) or not (t.ndim == 1 or (t.ndim == 2 and len(t) == len(y0))) or t.shape[-1] < 2:
            came = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ArgumentError(
                f"t must be a tensor of two times or more, (length,), or ({len(y0)}, length) for each trajectory its "
                f"own, got {came}"
            )


def _union(t: Tensor) -> tuple[Tensor, Tensor]:
    """All times since the begin of each trajectory, increasing, and the place of each among them.

    Times that differ by their rounding are one: equal gaps at different times seldom give equal differences.
    """
    since = (t - t[:, :1]).detach()
    if bool((since.diff(dim=1) < 0).any()):
        down = bool((since.diff(dim=1) <= 0).all())
        if not down:
            raise ArgumentError("the times of each trajectory must increase, or decrease; the last may be repeated")
        times, places = _union(-t)
        return -times, places
    unit = ROUNDINGS * torch.finfo(t.dtype).eps * float(t.detach().abs().max())
    times, places = torch.unique((since / unit).round() if unit else since, return_inverse=True)
    if len(times) < 2:
        raise ArgumentError("the times of each trajectory must increase, got the same time again and again")
    return times * unit if unit else times, places


def _spread(t: Tensor) -> Tensor:
    """Times whose repeated ends go on a little, since those of a solve are all different."""
    ends = (t.diff(dim=1) == 0).cumsum(1)
    if not bool(ends.any()):
        return t
    sign = torch.sign(t[:, -1:] - t[:, :1])
    unit = ROUNDINGS * torch.finfo(t.dtype).eps * t.detach().abs().max()
    return torch.cat((t[:, :1], t[:, 1:] + sign * unit * ends), dim=1)
