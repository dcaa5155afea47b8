"""Measure the rows that are not measured yet where an accelerator is at hand, in calls of a few minutes.

Each row is a process of its own, which is ended before the minutes are over; the next call goes on from its newest
checkpoint. ``--output`` holds all that a call needs of those before it: runs, results and logs.

Example: python experiments/on_gpu.py --data_dir data --output runs --minutes 9.5 --together 4
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from common import begun
from rows import ROWS, Row, Setting
from shards import DATA_SETS, bring

BEGIN = time.monotonic()
# Of the minutes: what was over before the line above, processes that end, the last files.
SPARE_SECONDS = 15.0
# Seconds between looks at the processes, and those that they have to end.
POLL, PATIENCE = 0.2, 8.0


class Process:
    """A row that is being measured; what it says goes to its log."""

    def __init__(self, row: Row, setting: Setting) -> None:
        self.row = row
        self.log = setting.state / "logs" / f"{row.name}.log"
        for folder in (self.log.parent, row.result(setting).parent):
            folder.mkdir(parents=True, exist_ok=True)
        forget_remains(setting.state / row.name)
        threads = max(1, (os.cpu_count() or 1) // setting.together)
        environment = {"OMP_NUM_THREADS": f"{threads}", **os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, *row.command(setting)]
        with self.log.open("a") as log:
            # A group of its own, for what it starts is to end with it.
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def returncode(self) -> int | None:
        return self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self) -> None:
        """Until it has ended, or is made to."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        self.signal(signal.SIGKILL)
        self.process.wait()

    def last_words(self) -> str:
        return "\n".join(f"    {line}" for line in self.log.read_text().splitlines()[-5:])


def forget_remains(folder: Path) -> None:
    """Remove a run that ended before its first checkpoint, and files of another that were half written."""
    if folder.exists() and begun(folder.parent, folder.name) is None:
        shutil.rmtree(folder)
    for path in folder.glob(".*.part"):
        path.unlink()


def measure(rows: Sequence[Row], setting: Setting, end: float) -> bool:
    """Measure rows in their order until ``end``; whether all came to theirs, or to the next call."""
    waiting = [row for row in rows if not row.done(setting)]
    running: list[Process] = []
    good = True
    try:
        while time.monotonic() < end:
            while (row := next_row(waiting, running, setting, end)) is not None:
                waiting.remove(row)
                running.append(Process(row, setting))
                say(f"{row.name}: starts; {row.progress(setting)[0]}", end)
            if not running:
                break
            time.sleep(POLL)
            for each in [process for process in running if process.returncode is not None]:
                running.remove(each)
                good = ended(each, setting, end) and good
    finally:
        for each in running:
            each.signal(signal.SIGTERM)
        for each in running:
            each.wait()
            say(f"{each.row.name}: stopped; {each.row.progress(setting)[0]}", end)
    return good


def next_row(waiting: Sequence[Row], running: Sequence[Process], setting: Setting, end: float) -> Row | None:
    """The next that may begin now. Rows that run alone wait for all before them, and let none begin beside them."""
    if len(running) >= setting.together or any(process.row.alone for process in running):
        return None
    row = next((row for row in waiting if may_begin(row, setting, end)), None)
    return None if row is None or (row.alone and running) else row


def may_begin(row: Row, setting: Setting, end: float) -> bool:
    """Whether nothing is missing, and it can be cut off or has the time that it needs."""
    fits = row.resumes or setting.steps is not None or 60 * row.minutes <= end - time.monotonic()
    return fits and not row.waits(setting)


def ended(process: Process, setting: Setting, end: float) -> bool:
    """Keep the result of a process that came to its end, or say why there is none; whether there is."""
    row = process.row
    if process.returncode or not row.done(setting):
        say(f"{row.name}: no result, exit status {process.returncode}, {process.log}\n{process.last_words()}", end)
        return False
    publish(row, setting)
    say(f"{row.name}: measured, {row.result(setting)}", end)
    return True


def publish(row: Row, setting: Setting) -> None:
    """Copy a result into the repository, if it is none of a trial and not there yet."""
    result = row.result(setting)
    if setting.steps is None and row.measured(result) and not row.measured(row.published):
        shutil.copyfile(result, row.published)


def listing(rows: Sequence[Row], setting: Setting) -> str:
    """A line a row: its state, about how many minutes are left, what it waits for."""
    lines = [f"{'row':26} {'state':26} {'minutes left':>12}"]
    for row in rows:
        state, left = row.progress(setting)
        minutes, waits = (f"{left:.0f}", row.waits(setting)) if left else ("", "")
        lines.append(f"{row.name:26} {state:26} {minutes:>12}  {waits}".rstrip())
    return "\n".join(lines)


def about_data(setting: Setting) -> list[str]:
    """Which data sets are complete, and what is missing of the others."""
    if setting.data_dir is None:
        return ["data: without --data_dir they are downloaded"]
    missing = {name: ", ".join(setting.missing.get(name, ())) for name in DATA_SETS}
    return [f"{name}: incomplete, without {files}" if files else f"{name}: complete" for name, files in missing.items()]


def say(text: str, end: float) -> None:
    print(f"[{max(0.0, end - time.monotonic()) / 60:4.1f} min left] {text}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what is measured and what is missing, and stop")
    parser.add_argument("--only", nargs="+", choices=[*ROWS], metavar="ROW", help="some of the rows (default all)")
    parser.add_argument("--data_dir", type=Path, help="local copies of CIFAR; without it they are downloaded")
    parser.add_argument("--shards", type=Path, help="folder with parts of them, which are brought to --data_dir first")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="where all state is kept (default runs)")
    parser.add_argument("--minutes", type=float, default=9.5, help="end before so many are over (default 9.5)")
    parser.add_argument("--together", type=int, default=1, help="trainings at once (default 1)")
    parser.add_argument("--accelerator", default="auto", help="auto (default: there must be one), cuda, cpu")
    parser.add_argument("--steps", type=int, help="a trial of so many training steps; its results stay in OUTPUT/trial")
    options = parser.parse_args(arguments)
    if options.shards is not None and options.data_dir is None:
        parser.error("--shards needs --data_dir, the folder to which parts are brought")
    if options.together < 1:
        parser.error(f"--together must be at least 1, got {options.together}")
    if not options.list and options.accelerator != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU here; for a trial on the CPU: --accelerator cpu --steps 2")
    return options


def setting_of(options: argparse.Namespace) -> Setting:
    trial = options.steps is not None
    sets = {} if options.data_dir is None else DATA_SETS
    # A trial may have fewer images, too.
    missing = {name: data.missing(options.data_dir, whole=not trial) for name, data in sets.items()}
    return Setting(
        state=options.output / "trial" if trial else options.output,
        accelerator=options.accelerator,
        data_dir=options.data_dir,
        missing={name: files for name, files in missing.items() if files},
        together=options.together,
        steps=options.steps,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.shards is not None:
        for line in bring(options.shards, options.data_dir):
            print(line, flush=True)
    setting = setting_of(options)
    rows = [row for name, row in ROWS.items() if options.only is None or name in options.only]
    print("\n".join([*about_data(setting), listing(rows, setting)]), flush=True)
    if options.list:
        return 0
    for row in rows:
        publish(row, setting)
    good = measure(rows, setting, BEGIN + 60 * options.minutes - SPARE_SECONDS)
    print(listing(rows, setting), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    # Whoever ends this process ends those that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
