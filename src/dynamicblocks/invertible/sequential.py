"""Reversible networks of the user's own modules: their memory does not grow with the number of modules."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient, as_gradient, inverse
from dynamicblocks.gradients import Reversible as ReversibleMode
from dynamicblocks.gradients.reversible import usual_drift
from dynamicblocks.integrators import AdditiveStep, AffineStep, Integrator, Momentum
from dynamicblocks.integrators.half import HALF
from dynamicblocks.invertible.entries import EachItsOwn, EntryField, Own, Pair, Residual
from dynamicblocks.layers.inputs import no_tensor, telling_causes
from dynamicblocks.registry import Registry
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.tracing import untraced

# What a state is carried in, of which modules take fewer digits.
WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}

couplings: Registry[Integrator] = Registry("coupling")
"""How modules change the state, by name."""


@couplings.register("additive")
def _additive(dim: int = 1, gamma: float | None = None) -> Integrator:
    return AdditiveStep(dim)


@couplings.register("affine")
def _affine(dim: int = 1, gamma: float | None = None, *, bound: float = 0.1) -> Integrator:
    return AffineStep(dim, bound)


@couplings.register("momentum")
def _momentum(dim: int = 1, gamma: float = 0.9) -> Integrator:
    return Momentum(gamma)


class ReversibleSequential(nn.Module):
    """Modules one after the other, whose inputs come back from the output: nothing that lies between is kept.

    With a coupling the state is split into two halves (a, b) along ``dim``, and a pair (f, g) makes

        additive    a <- a + f(b),               b <- b + g(a)
        affine      a <- exp(s(b)) a + t(b),     b <- exp(s(a)) b + t(a),    (s, t) of f and of g

    where f and g of an affine one return twice the channels that they take: s = bound tanh(raw) of the first
    half, t the second (:class:`~dynamicblocks.integrators.AffineStep`). With momentum each module f takes the whole
    state: v <- gamma v + (1 - gamma) f(x), x <- x + v, with v = 0 at first; :func:`momentum_steps` says how many.

    Modules may be anything that takes a half, or the state: normalisation in training, whose statistics move once;
    dropout, replayed with the same draws; operations in place; further reversible networks; PyTorch's checkpoints.

    Args:
        modules: an entry is a pair (f, g) of any architectures; one module f, whose copy is g, with the same weights at
            first and its own from then on (the same ones for both: ``(f, f)``); another reversible network of
            couplings; or a module with an ``inverse`` of its own, which takes the whole state and may change its shape.
            With momentum each entry is one module, whatever it is.
        coupling: ``"additive"``, ``"affine"``, ``"affine(bound=0.5)"`` or ``"momentum"``.
        gamma: of momentum: how much of the velocity stays.
        dim: along which couplings split the state; its size there is even.
        gradient: ``"reversible"``; ``"backprop"``, which keeps everything and can be differentiated again;
            ``"checkpoint"``. With momentum, where errors grow on the way back, ``"reversible"`` measures how far from
            the input that led, and raises a :class:`~dynamicblocks.gradients.DriftError` beyond half of the digits of
            the state (float32: 3.5e-4, float64: 1.5e-8), or beyond the ``max_drift`` that it is given:
            ``"reversible(max_drift=1e-3)"``.
        wide: whether the state is carried from module to module with the digits of the next wider type (float32:
            float64), of which modules take those of their own. What comes back is then what there was, to the last
            digit that a module sees, so that gradients are those of backpropagation also where modules round to half
            precision, and momentum may take some more steps. What comes out has the type of what came in. Not on
            devices that have no float64.

    Shapes:
        y, of any dimensions -> the same; under autocast in float32. What follows ``y`` in a call,
        such as a mask, is handed on to all modules.

    Raises:
        ConfigurationError: modules or a state that do not fit, with the number of the entry.

    >>> net = ReversibleSequential([(nn.Linear(2, 2), nn.Tanh()), nn.Linear(2, 2)])
    >>> x = torch.randn(8, 4)
    >>> torch.allclose(net.inverse(net(x)), x, atol=1e-5)
    True
    """

    def __init__(
        self,
        modules: Iterable[Any],
        coupling: str = "additive",
        gamma: float = 0.9,
        dim: int = 1,
        gradient: Gradient | str = "reversible",
        wide: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(coupling, str):
            raise ConfigurationError(f"coupling must be one of {', '.join(couplings)}, got {coupling!r:.80}")
        method = couplings.create(coupling, dim=dim, gamma=gamma)
        self.has_velocity = isinstance(method, Momentum)
        if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.Sequential):
            modules = [modules]
        self.entries = nn.ModuleList(_entry(n, each, method) for n, each in enumerate(modules))
        if not len(self.entries):
            raise ConfigurationError(f"{type(self).__name__} needs at least one module, got none")
        self.gradient, self.wide = gradient, wide

    @property
    def gradient(self) -> Gradient:
        """How it is differentiated; it can be set."""
        return self._gradient

    @gradient.setter
    def gradient(self, gradient: Gradient | str) -> None:
        mode = as_gradient(gradient)
        if not mode.of_steps:
            raise ConfigurationError(
                f"{type(self).__name__} is steps and no equation: {mode!r} has nothing to solve; take "
                "gradient='reversible', 'checkpoint' or 'backprop'"
            )
        mode.check(self.entries)
        self._gradient = mode

    def forward(self, y: Tensor, *context: Any, velocity: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The state behind the last module; of momentum, where a velocity is given, with the velocity there."""
        y = self._state(y)
        after = self._there(self._joined(y, velocity), context, y.dtype).to(y.dtype)
        if not self.has_velocity:
            return after
        state, speed = after.unbind()
        return state if velocity is None else (state, speed)

    def inverse(self, y: Tensor, *context: Any, velocity: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The state that leads to ``y``; of momentum, where the velocity at the end must be given, with that before.

        It has gradients as the way there has, at as little memory. Statistics stay as they are, and nothing may be
        drawn: dropout needs ``eval()``.

        >>> net, x = MomentumNet([nn.Linear(4, 4)] * 3), torch.randn(2, 4)
        >>> y, v = net(x, velocity=torch.zeros_like(x))
        >>> torch.allclose(net.inverse(y, velocity=v)[0], x, atol=1e-5)
        True
        """
        if self.has_velocity and velocity is None:
            raise ConfigurationError(
                "the way back from the state alone is not known: momentum needs the velocity at the end. Call "
                "y, v = net(x, velocity=torch.zeros_like(x)), then net.inverse(y, velocity=v)"
            )
        y = self._state(y)
        before = self._back(self._joined(y, velocity), context, y.dtype).to(y.dtype)
        if not self.has_velocity:
            return before
        state, speed = before.unbind()
        return state, speed

    def steps(self) -> nn.ModuleList:
        """One entry for each step: those of reversible networks among the entries stand in their places."""
        if not any(isinstance(entry, ReversibleSequential) for entry in self.entries):
            return self.entries
        found: list[nn.Module] = []
        for entry in self.entries:
            found += entry.steps() if isinstance(entry, ReversibleSequential) else [entry]
        return nn.ModuleList(found)

    def __len__(self) -> int:
        return len(self.entries)

    @telling_causes
    def _there(self, y: Tensor, context: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
        return self._run(y, context, dtype) if self.gradient.traced else self._untraced(y, context, dtype)

    def _run(self, y: Tensor, context: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
        return self._mode(dtype).run(self._course(context, dtype), y).states[-1]

    # A backward pass that takes steps again is no part of a graph.
    _untraced = untraced(_run)

    @untraced
    @telling_causes
    def _back(self, y: Tensor, context: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
        return inverse(self._course(context, dtype), y, self._mode(dtype))

    def _course(self, context: tuple[Any, ...], dtype: torch.dtype) -> GridCourse:
        steps = self.steps()
        points = [float(n) for n in range(len(steps) + 1)]
        return GridCourse(EntryField(steps, context, dtype), EachItsOwn(self.has_velocity), points)

    def _mode(self, dtype: torch.dtype) -> Gradient:
        mode = self.gradient
        if self.has_velocity and isinstance(mode, ReversibleMode) and mode.max_drift is None:
            return replace(mode, max_drift=usual_drift(dtype))
        return mode

    def _state(self, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
            what = f"got {y.dtype}; use y.float()" if isinstance(y, Tensor) else no_tensor(y)
            raise ConfigurationError(f"the state must be a floating-point tensor, {what}")
        return y.float() if y.dtype in HALF and torch.is_autocast_enabled(y.device.type) else y

    def _joined(self, y: Tensor, velocity: Tensor | None) -> Tensor:
        """What the steps carry: of momentum the state and the velocity."""
        if not self.has_velocity:
            if velocity is not None:
                raise ConfigurationError("couplings have no velocity; leave it out, or take coupling='momentum'")
            return self._widened(y)
        if velocity is None:
            return self._widened(torch.stack((y, torch.zeros_like(y))))
        if not isinstance(velocity, Tensor) or velocity.shape != y.shape:
            got = tuple(velocity.shape) if isinstance(velocity, Tensor) else type(velocity).__name__
            raise ConfigurationError(
                f"velocity must be a tensor of the shape of the state, {tuple(y.shape)}, got {got}"
            )
        return self._widened(torch.stack((y, velocity.to(y.dtype))))

    def _widened(self, y: Tensor) -> Tensor:
        """What is carried."""
        return y.to(WIDER.get(y.dtype, y.dtype)) if self.wide and y.device.type != "mps" else y

    def extra_repr(self) -> str:
        return f"gradient={self.gradient!r}"


class AdditiveCoupling(ReversibleSequential):
    """a <- a + f(b), b <- b + g(a), for the halves (a, b) of the state: a reversible residual unit.

    Args:
        f, g: modules that keep the shape of a half; by default g is a copy of f.
        dim, gradient: as those of :class:`ReversibleSequential`, which joins several: alone, each keeps its output.

    >>> unit, x = AdditiveCoupling(nn.Linear(2, 2)), torch.ones(3, 4)
    >>> torch.allclose(unit.inverse(unit(x)), x)
    True
    """

    def __init__(
        self, f: nn.Module, g: nn.Module | None = None, *, dim: int = 1, gradient: Gradient | str = "reversible"
    ) -> None:
        super().__init__([(f, g)], "additive", dim=dim, gradient=gradient)


class AffineCoupling(ReversibleSequential):
    """a <- exp(s(b)) a + t(b), b <- exp(s(a)) b + t(a), for the halves (a, b) of the state.

    Args:
        f, g: modules that return twice the channels that they take, (raw, t), of which s = bound tanh(raw); by
            default g is a copy of f.
        bound: of the logarithm s of the scale, so that no error is multiplied by more than exp(bound) on the way.
        dim, gradient: as those of :class:`ReversibleSequential`, which joins several: alone, each keeps its output.

    >>> unit, x = AffineCoupling(nn.Linear(2, 4)), torch.ones(3, 4)
    >>> torch.allclose(unit.inverse(unit(x)), x, atol=1e-6)
    True
    """

    def __init__(
        self,
        f: nn.Module,
        g: nn.Module | None = None,
        *,
        bound: float = 0.1,
        dim: int = 1,
        gradient: Gradient | str = "reversible",
    ) -> None:
        super().__init__([(f, g)], f"affine(bound={bound!r})", dim=dim, gradient=gradient)


class MomentumNet(ReversibleSequential):
    """v <- gamma v + (1 - gamma) f(x), x <- x + v for each module f: a residual network that can be taken back.

    Args:
        modules: each keeps the shape of the state.
        gamma: how much of the velocity stays, above 0 and below 1.
        gradient: as that of :class:`ReversibleSequential`, which says what it measures.

    >>> MomentumNet([nn.Linear(4, 4), nn.Tanh()], gamma=0.5)(torch.ones(2, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self, modules: Iterable[nn.Module], gamma: float = 0.9, *, gradient: Gradient | str = "reversible"
    ) -> None:
        super().__init__(modules, "momentum", gamma, gradient=gradient)


def _entry(n: int, given: Any, method: Integrator) -> nn.Module:
    """The entry that a module or two make."""
    momentum = isinstance(method, Momentum)
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        if momentum:
            return Residual(method, given)
        if isinstance(given, ReversibleSequential):
            if given.has_velocity:
                raise ConfigurationError(
                    f"entry {n} has momentum, whose velocity couplings do not carry; make it f or g of a pair"
                )
            return given
        if callable(getattr(given, "inverse", None)):
            return Own(given)
        given = (given, None)
    if momentum:
        raise ConfigurationError(f"momentum takes one module for each entry, got {_described(given)} as entry {n}")
    pair = list(given) if isinstance(given, Sequence | nn.ModuleList) else []
    if len(pair) != 2 or not isinstance(pair[0], nn.Module) or not isinstance(pair[1], nn.Module | NoneType):
        raise ConfigurationError(
            f"an entry must be a module or a pair (f, g) of modules, got {_described(given)} as entry {n}"
        )
    f, g = pair
    return Pair(method, f, copy.deepcopy(f) if g is None else g)


def _described(given: Any) -> str:
    if isinstance(given, Sequence | nn.ModuleList) and not isinstance(given, str):
        return f"({', '.join(type(each).__name__ for each in given)})"
    return type(given).__name__
