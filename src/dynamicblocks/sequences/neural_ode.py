"""Neural ODEs on trajectories: initial states and times in, states out."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ArgumentTypeError, ConfigurationError, unknown_name
from dynamicblocks.functional.solver import Solver
from dynamicblocks.sequences.union_of_times import Times, states_at
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
        times: of trajectories with times of their own: ``union``, one solve to all times, whose steps they share; or
            ``own``, steps of their own, with explicit adaptive methods.

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
        times: Times = "union",
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
        if times not in ("union", "own"):
            raise unknown_name("kind of times", times, ("union", "own"))
        self.augment, self.order, self.event_fn, self.times = augment, order, event_fn, times

    def forward(self, y0: Tensor, t: Tensor) -> Tensor:
        """The states, (n, length, features), at times (length,), or (n, length) of their own.

        Times increase, or decrease, from that of ``y0``; the last may be repeated, as behind the end of a series that
        is shorter than others. Behind an event states are not numbers.

        Args:
            y0: (n, features), the states at the first times.
            t: the times.
        """
        self._check(y0, t)
        if t.ndim == 1 or self.event_fn is not None:
            return self._plain(self.solution(y0, t).y.movedim(0, 1))
        field = partial(self._later, t[:, :1].to(y0.dtype))
        return self._plain(states_at(self.solver, field, self._wide(y0), _elapsed(t).to(y0.dtype), self.times))

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
        return self.solver(self._slope, self._wide(y0), t, **({"batched": True, **more} if batched else {}))

    def extra_repr(self) -> str:
        return f"solver={self.solver}, augment={self.augment}, order={self.order}"

    # The state

    def _wide(self, y0: Tensor) -> Tensor:
        """The initial states with zeros beside each of their parts."""
        if not self.augment:
            return y0
        parts = y0.reshape(*y0.shape[:-1], self.order, -1)
        return torch.cat((parts, parts.new_zeros(*parts.shape[:-1], self.augment)), dim=-1).flatten(-2)

    def _plain(self, y: Tensor) -> Tensor:
        """States without them."""
        return y.reshape(*y.shape[:-1], self.order, -1)[..., : -self.augment].flatten(-2) if self.augment else y

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
        if (
            isinstance(t, Tensor)
            and t.ndim == 2
            and bool(((t[:, 1:] < t[:, :-1]).any(1) & (t[:, 1:] > t[:, :-1]).any(1)).any())
        ):
            raise ArgumentError("the times of each trajectory must increase, or decrease; the last may be repeated")
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


def _elapsed(t: Tensor) -> Tensor:
    """The times since the begin of each trajectory; those that differ by their rounding are one.

    Equal gaps at different times seldom give equal differences, and each would be a time of the solve.
    """
    since = t - t[:, :1]
    unit = ROUNDINGS * torch.finfo(t.dtype).eps * float(t.detach().abs().max())
    return since + ((since / unit).round() * unit - since).detach() if unit else since
