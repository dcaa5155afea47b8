"""Run a program that imports torchdiffeq with dynamicblocks in its place, unchanged.

Example: python benchmarks/as_torchdiffeq.py torchdiffeq/examples/ode_demo.py --niters 40
"""

import runpy
import sys
from pathlib import Path

import dynamicblocks


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    program = Path(sys.argv[1])
    if not program.exists():
        sys.exit(f"no such program: {program}")
    sys.modules["torchdiffeq"] = dynamicblocks
    sys.argv = sys.argv[1:]
    sys.path[0] = str(program.parent)
    runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
    main()
