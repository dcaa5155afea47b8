"""Runs commands, each in a forked process of its own that a signal may reach at a chosen instant; says how they end.

A line of standard input is a request, a line of standard output its answer, both JSON. A request holds the
``arguments`` of the command line, the ``folder`` that they write to, and when which ``signal`` comes, if any: before
the event of a ``number`` in it (a file there is opened for writing, flushed to the disk, renamed or removed, a folder
made), ``half`` a file being written; or behind so many ``steps`` of the optimiser; or after so many ``seconds``.
``twice`` sends it again. With several processes it goes to that of a ``rank``, or to all. The answer is the exit
``code``, the number of ``events``, what was said (``out`` and ``err``), and how many processes were ``left`` behind.
What takes long, importing, is done once.
"""

import json
import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from dynamicblocks import interruption, processes
from dynamicblocks.cli.main import main
from dynamicblocks.training.engine import Engine

for name in ("dynamicblocks.cli.train", "matplotlib.backends.backend_agg", "sklearn.datasets", "torch._dynamo"):
    import_module(name)

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
PATIENCE = 60.0  # of a test, for what should end by itself


class Forked:
    """In the place of ``subprocess.Popen``: the same command, without the seconds that its imports take."""

    def __init__(self, _, env):
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(env)
            processes.others.started.clear()
            interruption._listener.__init__()  # a process of its own
            run(REQUEST)
        with (SCRATCH / "processes").open("a") as file:
            file.write(f"{self.pid}\n")

    def poll(self):
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


REQUEST, SCRATCH = {}, Path()


class Instant:
    """Counts events, and sends the signal at the one that was asked for."""

    def __init__(self, request):
        self.request = request
        self.process, self.events, self.steps = os.getpid(), 0, 0
        rank = int(os.environ.get("LOCAL_RANK", 0))
        self.mine = request.get("rank", 0) in (rank, "all")

    def audit(self, event, arguments):
        if os.getpid() != self.process:  # hooks cannot be removed in another one
            return
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (written or event in CHANGES) and self.request["folder"] in str(arguments[0]):
            self.event()

    def event(self, file=None):
        self.events += 1
        (SCRATCH / "events").write_text(str(self.events))
        if self.mine and self.events == self.request.get("number"):
            if file is not None and self.request.get("half"):
                os.truncate(file, os.fstat(file).st_size // 2)
            self.strike()

    def flushed(self, file, fsync=os.fsync):
        path = Path(f"/proc/self/fd/{file}")
        if self.request["folder"] in str(path.readlink()):
            self.event(file if path.is_file() else None)
        fsync(file)

    def stepped(self, engine, *given, step=Engine.step):
        step(engine, *given)
        self.steps += 1
        if self.mine and self.steps == self.request.get("steps"):
            self.strike()

    def strike(self):
        os.kill(os.getpid(), self.request["signal"])
        if self.request.get("twice"):
            time.sleep(0.15)
            os.kill(os.getpid(), self.request["signal"])


def run(request):
    """In the forked process: the command."""
    instant = Instant(request)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(SCRATCH / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.fsync = instant.flushed
    Engine.step = lambda engine, *given: instant.stepped(engine, *given)
    sys.addaudithook(instant.audit)
    try:
        code = main(request["arguments"])
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    processes.others.end()  # as at the end of a program
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(request):
    global REQUEST, SCRATCH
    with tempfile.TemporaryDirectory() as scratch:
        REQUEST, SCRATCH = request, Path(scratch)
        child = os.fork()
        if child == 0:
            run(request)
        if "seconds" in request:
            time.sleep(request["seconds"])
            os.kill(child, request["signal"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = {name: read(name) for name in ("out", "err")}
        others = [int(line) for line in read("processes").split()]
        until = time.monotonic() + PATIENCE
        while any(map(alive, others)) and time.monotonic() < until:
            time.sleep(0.02)
        left = [other for other in others if alive(other)]
        for other in left:
            os.kill(other, signal.SIGKILL)
        return {"code": code, "events": int(read("events") or 0), "left": len(left), **texts}


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def read(name):
    path = SCRATCH / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    processes.subprocess = type("Forks", (), {"Popen": Forked})
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
