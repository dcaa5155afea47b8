"""How far each gradient mode of a network is from finite differences."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.gradients import Gradient, as_gradient, gradients
from dynamicblocks.gradients.buffers import Buffers, KeptBuffers
from dynamicblocks.integrators import Adaptive
from dynamicblocks.network import named_blocks
from dynamicblocks.surgery import map_blocks
from dynamicblocks.times import check_count

AS_GIVEN = "as given"
# Central differences of step h err by h^2 and by rounding over h: with float64 least at the cube root of its precision.
STEP = 6e-6
# Relative; a right gradient is far below it in double precision, a wrong one far above.
TOLERANCE = 1e-5
ADAPTIVE = "an adaptive integrator's steps change with the weights; errors up to its tolerance are due to that"


@dataclass(frozen=True)
class CheckedMode:
    """One gradient mode beside finite differences.

    Args:
        mode: its name; ``as given`` for the modes that the model has.
        parameters, input: relative errors of the derivatives along the directions; None where there is none.
        note: why a mode cannot be used, or what else there is to know.
    """

    mode: str
    parameters: float | None
    input: float | None
    note: str = ""

    @property
    def worst(self) -> float:
        """The larger error; 0 where a mode cannot be used, not a number where an error is none."""
        found = [each for each in (self.parameters, self.input) if each is not None]
        return math.nan if any(math.isnan(each) for each in found) else max(found, default=0.0)

    @property
    def place(self) -> str:
        """What the larger error belongs to: parameters or input."""
        return "input" if self.input is not None and not (self.parameters or 0.0) >= self.input else "parameters"


@dataclass(frozen=True)
class GradientCheck:
    """What :func:`gradient_check` found; printed, it is a table, and below it one line that says what it means."""

    modes: tuple[CheckedMode, ...]

    def __getitem__(self, mode: str) -> CheckedMode:
        """The row of a mode."""
        for row in self.modes:
            if row.mode == mode:
                return row
        raise KeyError(f"{mode!r} was not checked; checked: {', '.join(row.mode for row in self.modes)}")

    def passed(self, tolerance: float = TOLERANCE) -> bool:
        """Whether all errors of the modes that can be used are below a tolerance."""
        return all(row.worst < tolerance for row in self.modes)

    def verdict(self, tolerance: float = TOLERANCE) -> str:
        """One line: whether the gradients agree with finite differences, how far they are apart, and what to do."""
        worst = max(self.modes, key=lambda row: math.inf if math.isnan(row.worst) else row.worst)
        unused = [row.mode for row in self.modes if row.parameters is None and row.input is None]
        left_out = f"; {' and '.join(unused)} could not be used, see the note" if unused else ""
        far = f"the largest relative error is {worst.worst:.1e} ({worst.mode}, {worst.place})"
        if self.passed(tolerance):
            return f"The gradients agree with finite differences: {far}, below {tolerance:.0e}{left_out}."
        wrong = [row.mode for row in self.modes if not row.worst < tolerance]
        return (
            f"The gradients of {', '.join(wrong)} do not agree with finite differences: {far}, above {tolerance:.0e}; "
            f"{self._advice(wrong)}{left_out}."
        )

    def _advice(self, wrong: list[str]) -> str:
        right = [row.mode for row in self.modes if row.mode not in wrong and row.parameters is not None]
        if any(math.isnan(row.worst) for row in self.modes):
            return "look for a value or derivative that is not a number, with torch.autograd.detect_anomaly()"
        if any(row.note == ADAPTIVE for row in self.modes):
            return "the steps change with the weights: see whether the error falls with rtol and atol of the integrator"
        if AS_GIVEN in right or (AS_GIVEN in wrong and len(right) > 0):
            return f"the layers are right, as {right[-1]} shows, so leave {', '.join(wrong)}, or mend that mode"
        return (
            "try another seed, for a kink (of ReLU) may lie between two evaluations; if it stays, look for a "
            "torch.autograd.Function, detach() or in-place change whose derivative is wrong"
        )

    def __str__(self) -> str:
        cells = [("gradient", "parameters", "input", "note")]
        cells += [(row.mode, _shown(row.parameters), _shown(row.input), row.note) for row in self.modes]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        return "\n".join(
            [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {note}".rstrip() for a, b, c, note in cells]
            + [self.verdict()]
        )


def _shown(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def gradient_check(
    model: nn.Module,
    batch: Tensor | Sequence[Tensor],
    *,
    loss: Callable[[object], Tensor] | None = None,
    modes: Sequence[Gradient | str] | None = None,
    directions: int = 3,
    seed: int = 0,
) -> GradientCheck:
    """Compare gradients with central finite differences, in double precision on a copy of the model.

        |g . d - (L(x + h d) - L(x - h d)) / (2 h)|,    relative, over random directions d

    once for the parameters and once for the input, which may be one tensor or several. Each evaluation begins with the
    same buffers and random numbers, so normalisation in training and dropout are functions like others. A row for the
    model as it is; where it has dynamic blocks, also one for each gradient mode, given to all of them. A kink (of ReLU)
    between two evaluations shows as an error that another seed does not have.

    Args:
        model: any module; it is left as it was.
        batch: what it is called with: a tensor, or several.
        loss: a number from the output of the model; by default a fixed random linear functional of it.
        modes: gradient modes, by default those that have names, can run the integrators of all blocks and give the
            gradients of their steps (not ``"adjoint"``); none for the model as it is alone.
        directions: how many for the parameters, and for the input.
        seed: of the directions, and of random layers.

    Raises:
        ConfigurationError: an output that needs a loss, a loss that is no number, nothing to differentiate for.

    >>> import dynamicblocks as db
    >>> found = gradient_check(db.DynamicBlock("symmetric(4)", 2), torch.randn(2, 4, 5, 5))
    >>> [row.mode for row in found.modes], found.passed()
    (['as given', 'backprop', 'checkpoint'], True)
    >>> print(str(found).splitlines()[-1])  # doctest: +ELLIPSIS
    The gradients agree with finite differences: the largest relative error is ...e-... (..., ...), below 1e-05.
    """
    check_count(directions, "directions")
    model = copy.deepcopy(model).double()
    inputs = [batch] if isinstance(batch, Tensor) else list(batch) if isinstance(batch, Sequence) else []
    if not inputs or not all(isinstance(each, Tensor) for each in inputs):
        raise ConfigurationError("batch must be a tensor or a sequence of tensors, with which the model is called")
    inputs = [each.detach().double() if each.is_floating_point() else each for each in inputs]
    check = _Check(inputs, loss, seed)
    moved: dict[str, list[Tensor]] = {"parameters": [p for p in model.parameters() if p.requires_grad]}
    moved["input"] = [each for each in inputs if each.is_floating_point()]
    if not any(moved.values()):
        raise ConfigurationError("neither the parameters of the model nor its input can be differentiated for")
    along = {kind: check.directions(tensors, directions) for kind, tensors in moved.items() if tensors}
    differences = {kind: check.differences(model, moved[kind], along[kind]) for kind in along}
    rows = []
    blocks = named_blocks(model)
    known = {name: as_gradient(name) for name in gradients}
    # On a grid, gradients of an equation differ from those of the steps by more than rounding.
    usual = [name for name, mode in known.items() if mode.of_steps and _runs(mode, blocks.values())]
    chosen = [] if not blocks else usual if modes is None else list(modes)
    for mode in (None, *chosen):
        try:
            gradient = None if mode is None else as_gradient(mode)
            name = AS_GIVEN if gradient is None else mode if isinstance(mode, str) else repr(gradient)
            other = model if gradient is None else _with_mode(model, gradient)
            rows.append(check.row(name, other, along, differences))
        except (ConfigurationError, SolverError) as error:
            if mode is None:
                raise
            as_gradient(mode)  # an unknown name is the caller's mistake
            rows.append(CheckedMode(mode if isinstance(mode, str) else repr(mode), None, None, str(error)))
    return GradientCheck(tuple(rows))


def _runs(mode: Gradient, blocks: Iterable[DynamicBlock]) -> bool:
    """Whether a mode can run the integrators of all blocks."""
    try:
        for block in blocks:
            mode.check_integrator(block.integrator)
    except ConfigurationError:
        return False
    return True


def _with_mode(model: nn.Module, gradient: Gradient) -> nn.Module:
    """A copy with a gradient mode in all blocks, or an error that names the block."""
    for name, block in named_blocks(model).items():
        try:
            block.replaced(gradient=gradient)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name or 'the block'}: {error}") from error
    return map_blocks(model, lambda _, block: block.replaced(gradient=gradient))


class _Check:
    """Values and derivatives of one loss, each evaluation under the same conditions."""

    def __init__(self, inputs: list[Tensor], loss: Callable[[object], Tensor] | None, seed: int) -> None:
        self.inputs, self.loss, self.seed = inputs, loss, seed

    def directions(self, tensors: Sequence[Tensor], count: int) -> list[list[Tensor]]:
        """Random directions, of length one each."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for _ in range(count):
            parts = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in tensors]
            length = math.sqrt(sum(part.square().sum().item() for part in parts))
            found.append([(part / length).to(each.device) for part, each in zip(parts, tensors, strict=True)])
        return found

    def value(self, model: nn.Module, inputs: list[Tensor]) -> Tensor:
        """The loss."""
        with self._same(model):
            output = model(*inputs)
            if self.loss is not None:
                value = self.loss(output)
                if not isinstance(value, Tensor) or value.numel() != 1:
                    what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ConfigurationError(f"loss must return a tensor of one number, got {what}")
                return value.sum()
            if not isinstance(output, Tensor):
                raise ConfigurationError(
                    f"the model returns a {type(output).__name__}; give loss=, a function of it that returns a number"
                )
            generator = torch.Generator().manual_seed(self.seed + 1)
            weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.device)
            return (output * weights).sum() / math.sqrt(output.numel())

    @contextmanager
    def _same(self, model: nn.Module) -> Iterator[None]:
        """The same buffers and random numbers for each evaluation, and as they were afterwards.

        Clones take the place of the buffers, which a backward pass may still need as they are.
        """
        kept = KeptBuffers(Buffers([model]), separate=True)
        devices = {each.device for each in (*self.inputs, *model.parameters()) if each.device.type == "cuda"}
        with torch.random.fork_rng([device.index or 0 for device in devices]):
            torch.manual_seed(self.seed)
            with kept:
                yield

    def differences(self, model: nn.Module, tensors: list[Tensor], along: list[list[Tensor]]) -> list[float]:
        """Central differences of the loss along each direction; the tensors come back as they were."""
        size = math.sqrt(sum(each.detach().square().sum().item() for each in tensors))
        h, found = STEP * max(size, 1.0), []
        start = [each.detach().clone() for each in tensors]
        for direction in along:
            values = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    for each, part, at in zip(tensors, direction, start, strict=True):
                        each.copy_(at + sign * h * part)
                    values.append(self.value(model, self.inputs).item())
            found.append((values[0] - values[1]) / (2 * h))
        with torch.no_grad():
            for each, at in zip(tensors, start, strict=True):
                each.copy_(at)
        return found

    def row(
        self, name: str, model: nn.Module, along: dict[str, list[list[Tensor]]], differences: dict[str, list[float]]
    ) -> CheckedMode:
        """The errors of the gradients of a model."""
        inputs = [each.clone().requires_grad_() if each.is_floating_point() else each for each in self.inputs]
        leaves: dict[str, list[Tensor]] = {"parameters": [p for p in model.parameters() if p.requires_grad]}
        leaves["input"] = [each for each in inputs if each.requires_grad]
        for parameter in leaves["parameters"]:
            parameter.grad = None
        value = self.value(model, inputs)
        with self._same(model):  # recomputation, too
            # Not torch.autograd.grad: what is checked is what a training does.
            value.backward()  # type: ignore[no-untyped-call]
        errors = {}
        for kind, directions in along.items():
            slopes = [
                sum(
                    (leaf.grad * part).sum().item()
                    for leaf, part in zip(leaves[kind], direction, strict=True)
                    if leaf.grad is not None
                )
                for direction in directions
            ]
            errors[kind] = _relative(slopes, differences[kind])
        adaptive = any(isinstance(block.integrator, Adaptive) for block in named_blocks(model).values())
        return CheckedMode(name, errors.get("parameters"), errors.get("input"), ADAPTIVE if adaptive else "")


def _relative(found: list[float], expected: list[float]) -> float:
    scale = math.sqrt(sum(each**2 for each in expected))
    error = math.sqrt(sum((a - b) ** 2 for a, b in zip(found, expected, strict=True)))
    # Where nothing depends on the tensors, both are zero but for rounding.
    return error / max(scale, 1e-9)
