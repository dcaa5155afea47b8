"""The dynamic block: one differential equation, five independent choices."""

import warnings
from functools import partial

import torch
from torch import Tensor, nn

from dynamicblocks.adaptive_block import AdaptiveSolve, check_choices, check_deterministic, check_still
from dynamicblocks.compiled_block import CompiledSteps, StepPrograms, check_compilable
from dynamicblocks.controls import Alignment, Basis, ControlledField, Controls, TimedField, as_basis
from dynamicblocks.counting import counted
from dynamicblocks.errors import ConfigurationError, warn_caller
from dynamicblocks.gradients import Gradient, as_gradient, inverse
from dynamicblocks.integrators import Adaptive, Integrator, as_integrator, check_steps
from dynamicblocks.integrators.half import HALF
from dynamicblocks.integrators.unsolved import StageError, Unsolved
from dynamicblocks.layers import LayerSource, independent_layers, state_width
from dynamicblocks.layers.inputs import check_state, no_tensor, telling_causes
from dynamicblocks.layers.parts import check_parts
from dynamicblocks.solving.failures import Circumstances, SolveError, check_states, explained, unsolved_step
from dynamicblocks.solving.field import Tally
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.times import Grid, Times, as_grid, uniform
from dynamicblocks.tracing import untraced

# An equation of a step of which a larger share is left has no solution, or none near: the state would be anything.
MOST_LEFT = 1e-2


class DynamicBlock(nn.Module):
    """The solution map y(t0) -> y(T) of dy/dt = f(t, y; theta(t)), discretised.

    Five choices, each independent of the others and each an object or a string:

    Args:
        layer: the layer function f: a factory called once for each control, a string such as ``"preact_double(16)"``,
            or a module that is copied and initialised anew. It keeps the shape of its input and has
            ``forward(y)`` or ``forward(t, y)``, where the time is named so; ``parts`` name what else of it an
            integrator may read.
        controls: the basis of theta(t): ``PiecewiseConstant(8)``, ``"linear(5)"``, a number of constant pieces. By
            default its knots span the first time grid; from then on they stay where they are.
        times: the grid: ``uniform(0, 8, steps=8)``, ``graded(...)``, any strictly increasing sequence, a number of
            unit steps; by default one unit step for each interval of the controls.
        integrator: ``"euler"``, ``"rk4_classic"``, an :class:`~dynamicblocks.integrators.Integrator`, ...; with an
            adaptive one, such as ``"dopri5(rtol=1e-3, atol=1e-4)"``, the steps are as long as its tolerance allows.
            One with weights is made anew for this block.
        gradient: ``"backprop"``; ``"checkpoint"``, the same gradients in less memory; ``"reversible"``, the same in
            memory that does not grow with the steps, with integrators whose steps can be taken back (``"alf"``,
            ``"verlet"``, ``"leapfrog"``, ``"reversible('rk4')"``, any with an ``unstep``); ``"adjoint"``, those of the
            equation, solved back in time (:class:`~dynamicblocks.gradients.Adjoint`).
        compile: compile the step: one program serves all steps that read as many controls at the same fractions, so
            deep blocks compile as fast as shallow ones. Hooks and layers that cannot be traced make the block run as
            usual, with one warning. Layers that take the time get it as a tensor. Only with
            ``gradient="backprop"`` and explicit integrators on the grid.

    Shapes:
        y (batch, channels, *) -> the same; under autocast the state is kept in float32.

    Raises:
        ConfigurationError: a choice that cannot be, alone or beside the others.
        SolveError: in a pass with an adaptive integrator, no steps lead to the end; with an implicit one, an equation
            of a step has no solution, or a state is not finite.

    With Euler, unit steps and constant controls the block is the residual network y <- y + F(y):

    >>> block = DynamicBlock("preact_double(16)", controls="constant(8)", times="uniform(0, 8, steps=8)")
    >>> block(torch.zeros(2, 16, 4, 4)).shape
    torch.Size([2, 16, 4, 4])
    >>> block
    DynamicBlock(
      constant(8) x PreactDouble, 8 steps on [0, 8], euler, Backprop()
    )
    """

    def __init__(
        self,
        layer: LayerSource,
        controls: Basis | str | int = "constant",
        times: Times | None = None,
        integrator: Integrator | str = "euler",
        gradient: Gradient | str = "backprop",
        compile: bool = False,
    ) -> None:
        super().__init__()
        basis = as_basis(controls)
        grid = as_grid(times) if times is not None else basis.unit_grid()
        basis = basis.over(grid)
        self.controls = Controls(independent_layers(layer, basis.count), basis)
        self._choose(grid, self._own(as_integrator(integrator), grid), as_gradient(gradient), compile)
        # New layers are there to be trained. Surgery may give trained ones an integrator for evaluation alone.
        self._check_equation()

    def _own(self, integrator: Integrator, grid: Grid) -> Integrator:
        """The instance of an integrator that is this block's own, its weights where those of the controls are."""
        return self._beside(integrator.for_block(grid.steps, state_width(self.controls.layers[0])))

    def _beside(self, own: Integrator) -> Integrator:
        """An integrator whose weights are of the type and on the device of those of the controls."""
        like = next((weight for weight in self.controls.parameters() if weight.is_floating_point()), None)
        return own.to(like) if isinstance(own, nn.Module) and like is not None else own

    def _choose(self, grid: Grid, integrator: Integrator, gradient: Gradient, compile: bool) -> None:
        self._alignment = Alignment(grid, self.controls.basis.points)
        check_parts(
            (part for _, part in integrator.reads),
            self.controls.parts,
            integrator.name,
            type(self.controls.layers[0]).__name__,
        )
        beyond = [c for c, _ in integrator.reads if not 0 <= c <= 1]
        if beyond:
            raise ConfigurationError(
                f"{integrator.name} reads at the fraction {beyond[0]} of a step, where theta(t) may be another piece; "
                "inside a block fractions lie between 0 and 1"
            )
        check_steps(integrator, grid.points)
        gradient.check(self.controls.layers)
        gradient.check_integrator(integrator)
        gradient.check_block(self.controls.layers, integrator)
        if isinstance(integrator, Adaptive):
            check_choices(integrator)
        if compile:
            check_compilable(integrator, gradient)
        self.integrator = integrator
        self.gradient = gradient
        self._longest = max(grid.sizes)
        # Of the last forward pass, where the integrator does not fix it; of several at once, of the one that ends last.
        self._evaluations: int | None = None
        self._not_converged = 0
        self._warned = False
        self._programs = StepPrograms() if compile else None
        if not isinstance(integrator, Adaptive):
            gradient.check_grid(self.course())

    @property
    def times(self) -> Grid:
        """The time grid."""
        return self._alignment.grid

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.times.steps

    @property
    def field(self) -> ControlledField:
        """The right-hand side on the grid."""
        return ControlledField(self.controls, self._alignment)

    def course(
        self, *, all_times: bool = False, tally: Tally | None = None, before: Tensor | None = None
    ) -> GridCourse:
        """The steps of the grid, as gradient modes run them; an adaptive integrator has steps of its own.

        Args:
            all_times: whether the states at all times are wanted, or the last alone.
            tally: counts evaluations.
            before: the state one step before the first.
        """
        field = ControlledField(self.controls, self._alignment, tally, unsolved=partial(self._unsolved, tally))
        integrator = self.integrator
        if self._programs is not None:
            integrator = CompiledSteps(integrator, field, self._programs, self._title)
        return GridCourse(field, integrator, self.times.points, all_times, before=before)

    def forward(self, y: Tensor, before: Tensor | None = None) -> Tensor:
        """The state at the last time.

        Args:
            y: the state at the first time.
            before: the state one step earlier, for the integrators that begin from two states, and for them alone.
        """
        return self._states(y, before, all_times=False)[-1]

    def trajectory(self, y: Tensor, before: Tensor | None = None) -> Tensor:
        """The states at every time of the grid, (steps + 1, batch, ...); the arguments are those of a call.

        >>> DynamicBlock("symmetric(4)", controls=3).trajectory(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([4, 2, 4, 8, 8])
        """
        return torch.stack(self._states(y, before, all_times=True))

    @untraced
    @telling_causes
    def inverse(self, y: Tensor) -> Tensor:
        """The state from which the block leads to ``y``, by its steps taken back.

        It has gradients, in memory as that of the gradient mode. Statistics stay as they are.

        Raises:
            ConfigurationError: the integrator has no ``unstep``, or needs more for it than the state; something draws
                random numbers, which in ``eval()`` dropout does not.

        >>> class Parts(nn.Tanh):
        ...     parts = {"field": "forward", "first": "forward", "second": "forward"}
        >>> block, x = DynamicBlock(Parts, times=8, integrator="additive_coupling"), torch.rand(1, 4)
        >>> torch.allclose(block.inverse(block(x)), x, rtol=1e-3)
        True
        """
        mode = self.gradient if self.gradient.of_steps else as_gradient("backprop")
        block = self.replaced(compile=False) if self.compiles else self
        return inverse(block.course(), self._state(y), mode)

    @telling_causes
    def _states(self, given: Tensor, before: Tensor | None, *, all_times: bool) -> list[Tensor]:
        y = self._state(given)
        if before is not None or self.integrator.takes_past:
            before = self._past(before, given).to(y.dtype)
        if not self.integrator.fixed_cost or not self.gradient.of_steps:
            states = self._counted(y, before, all_times=all_times)
        else:
            states = self._run(y, before, all_times) if self.gradient.traced else self._untraced(y, before, all_times)
        if not torch.compiler.is_compiling():
            counted(self.evaluations)
        return states

    def _run(self, y: Tensor, before: Tensor | None, all_times: bool, tally: Tally | None = None) -> list[Tensor]:
        return list(self.gradient.run(self.course(all_times=all_times, tally=tally, before=before), y).states)

    @untraced  # a backward pass that takes steps again is no part of a graph
    def _untraced(self, y: Tensor, before: Tensor | None, all_times: bool) -> list[Tensor]:
        return self._run(y, before, all_times, Tally())

    @untraced  # the number of steps or iterations depends on values, or the pass back is no graph of the steps
    def _counted(self, y: Tensor, before: Tensor | None, *, all_times: bool) -> list[Tensor]:
        """The states at every time, or the last one, with a count of the evaluations."""
        integrator = self.integrator
        self._check_equation()
        if isinstance(integrator, Adaptive):
            solve = AdaptiveSolve(self.controls, self._alignment, integrator, self.gradient, self._title)
            states = solve.states(y, all_times=all_times)
            self._count(solve.tally)
            return states
        if integrator.fixed_cost:
            return self._run(y, before, all_times)
        tally = Tally()
        try:
            states = list(self.gradient.run(self.course(all_times=all_times, tally=tally, before=before), y).states)
            if integrator.solves_equations:
                check_states(self.times.points[-1:], states[-1:], tally)
        except SolveError as error:
            raise explained(error, y, self.controls) from None
        self._count(tally)
        return states

    def _count(self, tally: Tally) -> None:
        self._evaluations, self._not_converged = tally.evaluations, tally.not_converged

    def _unsolved(self, tally: Tally | None, step: int, left: Unsolved) -> None:
        """An equation of a step was not solved: raise a SolveError, or count it and warn of the first."""
        if not left.finite or left.residual > MOST_LEFT:
            start, end = self.times.points[step : step + 2]
            circumstances = Circumstances(start, end - start, tally or Tally())
            failure = unsolved_step(StageError(left), circumstances)
            raise type(failure)(f"{self._title}, step {step}, {failure}", circumstances)
        if tally is not None:
            tally.not_converged += 1
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self._title}, step {step}: {left.warning}", stacklevel=2)

    def _check_equation(self) -> None:
        """Raise a ConfigurationError where layers, in the mode that they are in, leave the integrator no equation."""
        integrator, layers = self.integrator, self.controls.layers
        if integrator.solves_equations:
            check_still(layers, integrator.name)
        if integrator.solves_equations or isinstance(integrator, Adaptive):
            check_deterministic(layers, integrator.name)
        if not self.gradient.of_steps:
            check_deterministic(layers, f"{self.gradient!r}", "use gradient='checkpoint', which replays what was drawn")

    def _state(self, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or not y.is_floating_point():
            what = f"got {y.dtype}; use y.float()" if isinstance(y, Tensor) else no_tensor(y)
            raise ConfigurationError(f"the state must be a floating-point tensor, {what}")
        if not torch.compiler.is_compiling():
            check_state(self.controls.layers[0], y)
        # Sums of many small steps need more digits than half precision has.
        if y.dtype in HALF and torch.is_autocast_enabled(y.device.type):
            return y.float()
        if not torch.compiler.is_compiling() and self._longest < torch.finfo(y.dtype).eps / 4:
            # A residual network in half precision stays one, but of such steps nothing is left.
            warn_caller(
                f"{self._title}: steps of {self._longest:.3g} of layers whose outputs are as large as the state change "
                f"it by less than half a unit in the last place of {y.dtype}; take fewer steps, or a wider type"
            )
        return y

    def _past(self, before: Tensor | None, y: Tensor) -> Tensor:
        """The state before ``y`` as it was given, or an error where it is missing, not taken, or no such state."""
        name = self.integrator.shorthand
        if not self.integrator.takes_past:
            raise ConfigurationError(
                f"before is the state one step before y, and {name} begins from y alone: leave it out, or take an "
                "integrator that begins from two states, such as 'lm(past=True)'"
            )
        if before is None:
            raise ConfigurationError(
                f"{name} begins from two states: give the one a step before y too, block(y, before=...), or take an "
                "integrator that begins from y alone"
            )
        if not isinstance(before, Tensor):
            raise ConfigurationError(f"before must be a state like y, got {type(before).__name__}")
        for what, wanted, got in (
            ("shape", tuple(y.shape), tuple(before.shape)),
            ("dtype", y.dtype, before.dtype),
            ("device", y.device, before.device),
        ):
            if wanted != got:
                raise ConfigurationError(f"before must be a state like y, whose {what} is {wanted}, and its is {got}")
        return before

    def unused_controls(self) -> set[int]:
        """Indices of the controls that the present grid and integrator never read, such as a last knot under Euler.

        They get no gradient; :func:`dynamicblocks.freeze_unused_controls` tells optimisers and DDP so.
        """
        if isinstance(self.integrator, Adaptive):
            return set(range(len(self.controls))) - TimedField(self.controls, self._alignment).controls_read()
        read = self.field.controls_read(range(self.steps), self.integrator.reads)
        return set(range(len(self.controls))) - read

    @property
    def evaluations(self) -> int:
        """Evaluations of the layer function in one forward pass.

        Adaptive and implicit integrators take as many as the state needs: those of the last forward pass, of which a
        rejected step counts as well, or, before there was one, those of one attempt for each step of the grid.
        """
        if self._evaluations is not None:
            return self._evaluations
        return self.integrator.evaluations_to_begin + self.steps * self.integrator.evaluations

    @property
    def not_converged(self) -> int:
        """How many equations of steps were not solved to the end in the last forward pass.

        Those of integrators on the grid were solved nearly, with a warning of the first, or there was an error; those
        of adaptive ones made the steps shorter.
        """
        return self._not_converged

    def replaced(
        self,
        *,
        controls: Controls | None = None,
        times: Times | None = None,
        integrator: Integrator | str | None = None,
        gradient: Gradient | str | None = None,
        compile: bool | None = None,
    ) -> "DynamicBlock":
        """A block with some choices replaced. It *shares* its weights with this one, unless controls are given.

        A gradient mode that cannot run the new integrator becomes ``"backprop"``, unless one is given.
        """
        other = DynamicBlock.__new__(DynamicBlock)
        nn.Module.__init__(other)
        other.controls = self.controls if controls is None else controls
        other.train(self.training)
        grid = self.times if times is None else as_grid(times)
        if integrator is not None:
            method = other._own(as_integrator(integrator), grid)
        elif grid.steps == self.steps:
            method = self.integrator
        else:
            method = self._stretched(grid)
        if grid.steps != self.steps and method.bound_to_steps:
            raise ConfigurationError(
                f"the {self.steps} steps cannot become {grid.steps} with {method.shorthand}: {method.bound_to_steps}"
            )
        other._choose(
            grid,
            method,
            self._gradient_for(method) if gradient is None else as_gradient(gradient),
            self.compiles if compile is None else compile,
        )
        return other

    def _gradient_for(self, method: Integrator) -> Gradient:
        """The gradient mode of now, or, where that cannot run the method, backpropagation, which runs any.

        A trained network is evaluated with integrators that it was not trained with.
        """
        try:
            self.gradient.check_integrator(method)
            self.gradient.check_block(self.controls.layers, method)
        except ConfigurationError:
            return as_gradient("backprop")
        return self.gradient

    def integrator_weights(self) -> dict[str, nn.Parameter]:
        """The weights of the integrator, by name; most have none."""
        return dict(self.integrator.named_parameters()) if isinstance(self.integrator, nn.Module) else {}

    def freeze_unused_integrator_weights(self) -> list[str]:
        """Stop the gradients of weights of the integrator that no step reads, and name them."""
        unused, weights = set(self.integrator.unused_weights), self.integrator_weights()
        if unused - weights.keys():
            raise ConfigurationError(
                f"unused_weights of {self.integrator.name} must be among {sorted(weights)}, got {sorted(unused)}"
            )
        # Those that were stopped here before go on; copies of the integrator remember.
        for name in getattr(self.integrator, "_stopped", set()) - unused:
            weights[name].requires_grad_(True)
        for name in unused:
            weights[name].requires_grad_(False)
        if weights:
            self.integrator._stopped = unused  # type: ignore[attr-defined]
        return sorted(unused)

    def _stretched(self, grid: Grid) -> Integrator:
        """The integrator for another number of steps: refined, if each step was cut into as many, else made anew."""
        factor, rest = divmod(grid.steps, self.steps)
        return self._beside(self.integrator.refined(factor)) if not rest else self._own(self.integrator, grid)

    @property
    def compiles(self) -> bool:
        """Whether its step is compiled."""
        return self._programs is not None

    def steps_for_each_control(self, count: int) -> Grid:
        """The grid of ``count`` equal steps in each interval between knots (of a polynomial: for each control)."""
        return self.controls.basis.unit_grid().refine(count)

    def uniform_steps(self, count: int) -> Grid:
        """The grid of ``count`` equal steps over the present span."""
        return uniform(*self.times.span, steps=count)

    @property
    def _title(self) -> str:
        """The block in a few words, for errors."""
        (t0, t1), layer = self.times.span, type(self.controls.layers[0]).__name__
        name = f"{self.controls.basis.name}({len(self.controls)}) x {layer}"
        return f"DynamicBlock {name} on [{t0:g}, {t1:g}] with {self.integrator.shorthand}"

    def __repr__(self) -> str:
        t0, t1 = self.times.span
        equal = len({round(size, 9) for size in self.times.sizes}) == 1
        layer = type(self.controls.layers[0]).__name__
        return (
            f"DynamicBlock(\n  {self.controls.basis.name}({len(self.controls)}) x {layer}, "
            f"{self.steps} {'' if equal else 'unequal '}steps on [{t0:g}, {t1:g}], {self.integrator.shorthand}, "
            f"{self.gradient!r}{', compiled' if self.compiles else ''}\n)"
        )
