"""Several processes in one training: they are started together, and one that is lost is one error for all of them."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from dynamicblocks.errors import DynamicBlocksError, ProcessError
from dynamicblocks.interruption import INTERRUPTED, Interrupted
from dynamicblocks.processes import READER_LOST, first_is_gone, follow_first, is_other, others, start_others

# A connection ends before its process does: so many seconds later it is known how.
IS_KNOWN = 2.0
# How PyTorch begins what it says when a process that reads files was killed.
READER = "DataLoader worker"


def launch(fabric: Fabric) -> None:
    """Start the other processes of a training and meet them, or meet those that somebody else has started."""
    strategy = fabric.strategy
    if isinstance(strategy, DDPStrategy) and strategy.num_processes > 1:
        place = strategy.cluster_environment
        # Fabric would start them itself, and end this process by SIGKILL, without a word, when one of them fails.
        if isinstance(place, LightningEnvironment) and not place.creates_processes_externally:
            start_others(strategy.num_processes, place.main_address, place.main_port)
    follow_first()
    fabric.launch()


@contextmanager
def telling_losses(advice: Callable[[], str] = str) -> Iterator[None]:
    """What comes of a lost process inside is one error that says so, with some advice.

    Raises:
        ProcessError: another process failed, or one that reads files for this one.
        Interrupted: a signal ended another process.
    """
    others.advice, others.watched = advice, True
    try:
        yield
        others.watched = False
    except (RuntimeError, OSError, EOFError) as error:
        what, code = _lost(error)
        others.end(patience=1)
        if not what:
            raise
        if code == 1:
            raise ProcessError("; ".join(filter(None, (what, advice())))) from error
        raise Interrupted(signal.SIGINT if code == INTERRUPTED else signal.SIGTERM) from error
    except BaseException:
        others.end(patience=1)
        raise


def _lost(error: BaseException) -> tuple[str, int]:
    """Which process was lost, in words, and the exit code that follows; no words where none was."""
    if isinstance(error, DynamicBlocksError):
        return (str(error) if isinstance(error, ProcessError) else ""), 1
    if str(error).startswith(READER):
        return READER_LOST, 1
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not (together or others.started):
        return "", 1
    until = time.monotonic() + IS_KNOWN
    while time.monotonic() < until:
        found = others.lost()
        if found is not None:
            return found
        if is_other() and first_is_gone():
            return "the first process of the training has ended", 1
        time.sleep(IS_KNOWN / 20)
    return ("another process of the training has ended" if "onnection" in str(error) else ""), 1
