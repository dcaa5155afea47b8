"""Signals, as exceptions at once, or noted for later; what was there before is restored."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dynamicblocks
from dynamicblocks.interruption import (
    ASKED_TO_END,
    Interrupted,
    broken_off,
    check,
    conclude,
    deferred,
    listening,
    requested,
)


def send(asked):
    os.kill(os.getpid(), asked)


@pytest.fixture(autouse=True)
def _as_before():
    before = [signal.getsignal(asked) for asked in ASKED_TO_END], sys.unraisablehook
    yield
    assert ([signal.getsignal(asked) for asked in ASKED_TO_END], sys.unraisablehook) == before
    assert requested() is None


@pytest.mark.parametrize(
    ("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)], ids=lambda each: str(each)
)
def test_a_signal_is_an_exception_with_a_code(asked, code):
    with pytest.raises(Interrupted) as found, listening(), listening():  # noqa: PT012
        send(asked)
        time.sleep(1)
    assert (found.value.signal, found.value.code) == (asked, code)


def test_deferred_signals_wait_for_a_check():
    with listening():
        with deferred():
            send(signal.SIGTERM)
            send(signal.SIGUSR1)  # behind the first it changes nothing
            time.sleep(0.01)
            assert requested() == signal.SIGTERM
        assert broken_off() is None
        with pytest.raises(Interrupted) as found:
            check()
        assert found.value.signal == signal.SIGTERM


def test_what_a_library_prints_and_drops_comes_again(capsys):
    class Dropping:
        def __del__(self):
            send(signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Interrupted), listening():  # noqa: PT012
        dropping = Dropping()
        del dropping  # exceptions end here
        time.sleep(5)
    assert capsys.readouterr().err == ""


def test_other_things_that_are_dropped_are_told_as_before():
    told, before = [], sys.unraisablehook

    class Failing:
        def __del__(self):
            raise ValueError

    sys.unraisablehook = told.append
    try:
        with listening():
            failing = Failing()
            del failing
    finally:
        sys.unraisablehook = before
    assert [type(each.exc_value) for each in told] == [ValueError]
    told.clear()


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening():
            send(signal.SIGINT)  # as under nohup
            time.sleep(0.01)
            assert requested() is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("asked", ASKED_TO_END, ids=str)
def test_a_program_that_is_through_keeps_its_code(asked):
    child = os.fork()
    if child == 0:
        with listening():
            conclude(7)
        send(asked)
        time.sleep(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_signal_before_main_is_one_line(asked, code, tmp_path):
    """The program is stopped within the import of what its first module needs."""
    (tmp_path / "argparse.py").write_text(f"import os, time\nos.kill(os.getpid(), {asked:d})\ntime.sleep(60)\n")
    source = str(Path(dynamicblocks.__file__).parents[1])
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
    program = [sys.executable, "-m", "dynamicblocks.cli.main", "models"]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "interrupted\n")
