"""Run a program that imports torchdiffeq, unchanged, on the methods of this package."""

import argparse
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from dynamicblocks.torchdiffeq import stand_in


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m dynamicblocks.torchdiffeq",
        usage="%(prog)s [-h] (PROGRAM | -m MODULE) [ARGUMENTS ...]",
        description=__doc__,
        epilog="Example: python -m dynamicblocks.torchdiffeq examples/ode_demo.py --niters 40",
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="run a module, as python -m does")
    parser.add_argument("program", metavar="PROGRAM", help="a Python file, or with -m a module")
    parser.add_argument("arguments", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="handed on to it")
    chosen = parser.parse_args(arguments)
    name = chosen.program
    if chosen.is_module:
        sys.path[0] = str(Path.cwd())
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            parser.error(f"no such module: {name}")
        stand_in()
        sys.argv = [name, *chosen.arguments]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    program = Path(name)
    if not program.is_file():
        parser.error(f"no such program: {program}; give the path of a Python file, or -m and the name of a module")
    stand_in()
    sys.argv = [name, *chosen.arguments]
    # As Python does: what lies beside the program can be imported.
    sys.path[0] = str(program.resolve().parent)
    runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    main()
