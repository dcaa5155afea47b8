"""Runs commands, each in a process of its own that may be killed without warning, and prints how they ended.

Standard input holds a JSON list of pairs: the arguments, and behind which step of the optimiser the process kills
itself, or null. What takes long, importing, is done once.
"""

import json
import os
import signal
import sys

from dynamicblocks.cli.main import main
from dynamicblocks.training.engine import Engine


def run(arguments: list[str], last: int | None) -> None:
    steps, step = 0, Engine.step

    def counted(self, *given, **named):
        nonlocal steps
        step(self, *given, **named)
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

    Engine.step = counted
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(main(arguments))


if __name__ == "__main__":
    endings = []
    for arguments, last in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            run(arguments, last)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(endings))
