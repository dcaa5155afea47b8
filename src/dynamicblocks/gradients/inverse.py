"""Steps of a grid from its end to its begin, as a course of their own."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dynamicblocks.counting import Tallied
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.buffers import RandomState, Surroundings
from dynamicblocks.gradients.gradient import Gradient
from dynamicblocks.integrators import Adaptive, Carry, Integrator, Reads, Size, Stage
from dynamicblocks.layers.stand_in import Places
from dynamicblocks.solving.grid_loop import GridCourse, SteppedField


@dataclass(frozen=True)
class Backwards(Integrator):
    """The steps of an integrator, taken back one after the other, of one whose carry is known from the state."""

    there: Integrator

    @property
    def drifts(self) -> bool:
        return self.there.drifts

    @property
    def name(self) -> str:
        return f"{self.there.name}, taken back"

    @property
    def order(self) -> int:
        return self.there.order

    @property
    def reads(self) -> Reads:
        return self.there.reads

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Carry:
        return self.there.resumed(y)

    def finish(self, carry: Carry) -> Tensor:
        return self.there.finish(carry)

    def advance(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        return self.there.unstep(stage, h, carry)

    def unstep(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        return self.there.advance(stage, h, carry)


@dataclass(frozen=True)
class LastFirst:
    """A field whose steps come in the opposite order; its weights are those of its integrator, too.

    Args:
        field: there.
        steps: how many there are.
        weights: of the integrator.
    """

    field: SteppedField
    steps: int
    weights: Sequence[Tensor] = ()

    @property
    def parts(self) -> Container[str]:
        """As those of the field."""
        return self.field.parts

    @property
    def tally(self) -> Tallied | None:
        """As that of the field."""
        return self.field.tally

    @property
    def tensors(self) -> Sequence[Tensor]:
        """What gets gradients."""
        return [*self.field.tensors, *self.weights]

    @property
    def modules(self) -> Sequence[nn.Module]:
        """As those of the field."""
        return self.field.modules

    def on_step(self, step: int) -> Stage:
        """The field on a step, counted from the end."""
        return self.field.on_step(self.steps - 1 - step)

    def apart(self, places: Places) -> "LastFirst":
        """The same with other buffers."""
        return LastFirst(self.field.apart(places), self.steps, self.weights)

    def jumps(self, step: int, derivatives: int = 0) -> bool:
        """As that of the field."""
        return self.field.jumps(self.steps - step, derivatives)

    def layers_read(self, steps: Iterable[int], reads: Reads) -> Sequence[nn.Module]:
        """As those of the field."""
        return self.field.layers_read([self.steps - 1 - step for step in steps], reads)


def inverse(course: GridCourse, y: Tensor, gradient: Gradient) -> Tensor:
    """The state that the steps of a course lead from to ``y``; statistics stay as they are.

    Raises:
        ConfigurationError: steps cannot be taken back from the state alone, or what they evaluate draws random numbers.
    """
    integrator = course.integrator
    check_invertible_steps(course)
    begun = Surroundings(course.modules, y).now()
    weights = list(integrator.parameters()) if isinstance(integrator, nn.Module) else []
    field = LastFirst(course.field.apart(begun.buffers()), course.steps, weights)
    back = GridCourse(field, Backwards(integrator), [-point for point in reversed(course.points)])
    before = gradient.run(back, y).states[-1]
    if not begun.random.equals(RandomState.now(y)):
        begun.random.restore()
        raise ConfigurationError(
            "what is evaluated draws random numbers, and those of the pass there are not known: inverse is for "
            "eval(), or layers without dropout"
        )
    return before


def check_invertible_steps(course: GridCourse) -> None:
    """Raise a ConfigurationError where the state at the end does not lead back to the one at the begin."""
    integrator = course.integrator
    if isinstance(integrator, Adaptive):
        why = "chooses its own steps, which depend on the state at their begin"
    elif not integrator.reversible:
        why = f"has no unstep, {integrator.irreversible}"
    elif integrator.begins and type(integrator).resumed is Integrator.resumed:
        why = "carries more than the state, and what it carries at the end is not known from the state alone"
    elif course.projects:
        why = "is followed by a projection of the layer, which has no inverse"
    else:
        return
    raise ConfigurationError(
        f"there is no inverse: {integrator.name} {why}. Integrators with one are those that are taken back from the "
        "state alone, such as symplectic_euler, verlet, additive_coupling and affine_coupling"
    )
