"""How many Python functions one short solve calls: the overhead of a solver where the field costs nothing.

The count is the same on every run of one interpreter and one PyTorch, so small differences can be tested. Calls of
functions in C are not counted; those of PyTorch's own Python functions are.

Example: python benchmarks/python_calls.py
"""

import gc
import sys
from types import FrameType

import torch

import dynamicblocks as db

METHODS = ("euler", "rk4", "dopri5")


def count_calls(method: str) -> int:
    """Python calls of one ``odeint`` of dy/dt = -y with eleven times, after one that fills the caches."""
    y0, t = torch.ones(3), torch.linspace(0, 1, 11)

    def run() -> None:
        db.odeint(lambda t, y: -y, y0, t, method=method)

    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    run()
    before = sys.getprofile()
    # A collection inside the count would add the finalizers of other objects.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
        gc.enable()
    # The frame of ``run`` is no call of the solver.
    return calls - 1


def main() -> None:
    for method in METHODS:
        print(f"{method:8} {count_calls(method):6}")


if __name__ == "__main__":
    main()
