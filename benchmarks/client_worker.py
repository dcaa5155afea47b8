"""Run one program of others, unchanged, on torchdiffeq or on this package, and write down what its solves gave.

Helper of clients.py. Seeds torch, numpy and random first, for the programs do not; then runs the program and writes a
file with the states of every solve and the number of evaluations of its right-hand sides.
"""

import argparse
import functools
import importlib
import random
import runpy
import sys
import traceback
import warnings
from pathlib import Path
from weakref import WeakSet

import numpy as np
import torch
from torch import nn

NAMES = ("odeint", "odeint_adjoint", "odeint_event")


class Record:
    """The solves of a program: the states that each returned, and how often right-hand sides were called in all."""

    def __init__(self):
        self.states, self.evaluations, self._depth = [], 0, 0
        self._hooked = WeakSet()

    def watch(self, solve):
        """The function, taken note of; what it calls in its turn is part of it."""

        @functools.wraps(solve)
        def watched(func, *arguments, **keywords):
            self._depth += 1
            try:
                found = solve(self._counted(func), *arguments, **keywords)
            finally:
                self._depth -= 1
            if self._depth == 0:
                tensors = found if isinstance(found, tuple) else (found,)
                tensors = [part for each in tensors for part in (each if isinstance(each, tuple) else (each,))]
                self.states.append(torch.cat([part.detach().double().reshape(-1) for part in tensors]))
            return found

        return watched

    def _counted(self, func):
        if isinstance(func, nn.Module):
            # A module stays itself: its parameters and callbacks are looked for.
            if func not in self._hooked:
                self._hooked.add(func)
                func.register_forward_pre_hook(lambda *_: self._count())
            return func
        if getattr(func, "is_counted", False):
            return func

        @functools.wraps(func)
        def counted(t, y):
            self._count()
            return func(t, y)

        counted.is_counted = True
        return counted

    def _count(self):
        self.evaluations += 1


def cdeint(method, adjoint):
    """A neural controlled equation on a Hermite spline: forward and backward pass with torchcde."""
    import torchcde

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8 * 3), nn.Tanh())

        def forward(self, t, z):
            return self.layers(z).unflatten(-1, (8, 3))

    x = torch.randn(4, 30, 3).cumsum(1) / 5
    spline = torchcde.CubicSpline(torchcde.hermite_cubic_coefficients_with_backward_differences(x))
    field, z0 = Field(), torch.randn(4, 8, requires_grad=True)
    options = {"step_size": 0.5} if method == "rk4" else {"jump_t": spline.grid_points} if method == "jumps" else None
    method = "dopri5" if method == "jumps" else method
    z = torchcde.cdeint(spline, field, z0, spline.interval, adjoint == "adjoint", method=method, options=options)
    z.square().mean().backward()
    print(z[..., -1, :].norm().item(), z0.grad.norm().item(), *(p.grad.norm().item() for p in field.parameters()))


def run(program, arguments):
    """Run what the command line names, and return its exit code."""
    if program == "cdeint":
        cdeint(*arguments)
        return 0
    if program == "pytest":
        import pytest

        return int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:warnings", *arguments]))
    sys.path[0] = str(Path(program).parent)
    sys.argv = [program, *arguments]
    if arguments[:1] == ["--call-main"]:
        runpy.run_path(program, run_name="client")["main"](*map(int, arguments[1:]))
    else:
        runpy.run_path(program, run_name="__main__")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["torchdiffeq", "dynamicblocks"])
    parser.add_argument("out", type=Path, help="file for the states and the count")
    parser.add_argument("program", help="a Python file, or cdeint or pytest")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.library == "dynamicblocks":
        import dynamicblocks.torchdiffeq

        dynamicblocks.torchdiffeq.stand_in()
    torchdiffeq, record = importlib.import_module("torchdiffeq"), Record()
    for name in NAMES:
        setattr(torchdiffeq, name, record.watch(getattr(torchdiffeq, name)))
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {"missing": None}
    try:
        code = run(chosen.program, chosen.arguments)
    except ModuleNotFoundError as error:
        traceback.print_exc()
        found["missing"], code = str(error), 3
    torch.save({**found, "states": record.states, "evaluations": record.evaluations}, chosen.out)
    sys.exit(code)


if __name__ == "__main__":
    main()
