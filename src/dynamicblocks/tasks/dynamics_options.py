"""What can be asked of a neural ODE on trajectories."""

from dataclasses import dataclass
from typing import Any, Literal

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.sequences.shooting import windows_of
from dynamicblocks.tasks.own_equation import EQUATION
from dynamicblocks.tasks.own_parts import name_of
from dynamicblocks.times import check_amount, check_count
from dynamicblocks.training.config.plain import plain

FIELDS = ("auto", "network", "equation", "both")
STARTS = ("observed", "learnt")


@dataclass(frozen=True)
class DynamicsModel:
    """The right-hand side: a network, an equation with unknown constants, or the sum of both.

    Args:
        field: network, equation, both; auto is the equation where one is named, else a network.
        equation: one by name (lotka_volterra, oscillator, pendulum, van_der_pol, spiral, logistic), or FILE.py:Name, a
            function f(t, y, a=1.0, ...) or a module of your own; in the units of the data.
        hidden: units of each hidden layer of the network.
        layers: its hidden layers.
        activation: of the network.
        time: whether the network sees the time.
        power: to which the network's input is raised.
        augment: zeros that each state is given beside what is observed.
        order: of the equation; with 2 what is observed are positions, and the field gives accelerations.
        start: where trajectories begin: at the first observation, noise and all, or (learnt) at states that are learnt
            for those of the training. Others begin at the first observation in any case.
    """

    field: Literal["auto", "network", "equation", "both"] = "auto"
    equation: str = ""
    hidden: int = 50
    layers: int = 2
    activation: str = "tanh"
    time: bool = False
    power: int = 1
    augment: int = 0
    order: int = 1
    start: Literal["observed", "learnt"] = "observed"

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "power", "order"):
            check_count(getattr(self, name), f"model.{name}")
        check_count(self.augment, "model.augment", least=0)
        if self.field not in FIELDS:
            raise unknown_name("model.field", self.field, FIELDS)
        if self.start not in STARTS:
            raise unknown_name("model.start", self.start, STARTS)
        if self.field in ("equation", "both") and not self.equation:
            raise ConfigurationError(
                f"model.field {self.field} needs model.equation, a name such as lotka_volterra, or FILE.py:Name"
            )
        if self.field == "network" and self.equation:
            raise ConfigurationError("model.field network does not read model.equation; leave one of the two out")
        if self.augment and not self.network:
            raise ConfigurationError("model.augment is for networks, and the field is an equation alone; leave it out")

    @property
    def network(self) -> bool:
        """Whether there is a network."""
        return self.field in ("network", "both") or not self.equation

    @property
    def name(self) -> str:
        """In a word, for the name of a run."""
        known = name_of(self.equation)
        return "+".join([*([known] if known else []), *(["network"] if self.network else [])])

    def as_dict(self) -> dict[str, Any]:
        """As files hold it: an equation of somebody's own by its name and hash, never by where its file lies."""
        return {name: plain(value) for name, value in vars(self).items()} | {
            "equation": EQUATION.reference(self.equation)
        }


@dataclass(frozen=True)
class ShootingConfig:
    """How long trajectories are fitted: over a horizon that grows, whole, or in windows; both at a time are allowed.

    Args:
        horizon: the share of its time over which each trajectory is followed at first; 1 is all of it from the start.
        until: the share of the training at which the horizon has grown to all.
        window: times in a window (multiple shooting): each is solved from a learnt state of its own, and gaps between
            them are penalised; 0 for one that holds all.
        continuity: the weight of the mean square of the gaps beside that of the errors.
    """

    horizon: float = 0.1
    until: float = 0.6
    window: int = 0
    continuity: float = 1.0

    def __post_init__(self) -> None:
        windows_of(2, self.window)
        check_amount(self.continuity, "shooting.continuity")
        for name in ("horizon", "until"):
            if not 0 < check_amount(getattr(self, name), f"shooting.{name}") <= 1:
                raise ConfigurationError(f"shooting.{name} must lie above 0, and 1 at most, got {getattr(self, name)}")
