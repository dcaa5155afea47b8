"""What files hold, read in batches by this process or by others."""

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamicblocks.errors import DynamicBlocksError, ProcessError, StorageError
from dynamicblocks.interruption import held_back, serve
from dynamicblocks.processes import READER_LOST

# How PyTorch's errors begin where a process or thread that reads is gone.
OF_WORKERS = ("DataLoader worker", "Pin memory thread")
SIGNAL_HANDLING = "torch.utils.data._utils.signal_handling"
_waiting = False


class _Read(Dataset[Tensor | StorageError]):
    """Batches by their indices, for the workers of a loader.

    An error is returned, not raised: what a worker raises arrives with its traceback as the message.
    """

    def __init__(self, read: Callable[[int], NDArray[np.uint8]]) -> None:
        self.read = read

    def __getitem__(self, batch: Tensor) -> Tensor | StorageError:
        try:
            images = [self.read(index) for index in batch.tolist()]
        except StorageError as error:
            return error
        return torch.from_numpy(np.stack(images))


def loaded(
    read: Callable[[int], NDArray[np.uint8]], batches: Sequence[Tensor], workers: int, device: torch.device
) -> Iterator[Tensor]:
    """What ``read`` gives for each index of several batches, stacked, read by so many processes.

    Raises:
        StorageError: ``read`` raised it.
        ProcessError: a process was killed, or could not be started.
    """
    with _told():
        stream = _stream(read, batches, workers, device)
    if workers:
        _hear_of_the_killed_only_while_waiting()
    while True:
        with _told():
            images = next(stream, None)
        if images is None:
            return
        if isinstance(images, StorageError):
            raise images
        yield images.to(device, non_blocking=True)


def _stream(
    read: Callable[[int], NDArray[np.uint8]], batches: Sequence[Tensor], workers: int, device: torch.device
) -> Iterator[Tensor | StorageError]:
    with warnings.catch_warnings():
        # PyTorch advises against more processes than cores; how many there are is for the caller to say.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            _Read(read),
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            # A loader draws seeds for its workers; from the global generator they would make a resumed run another one.
            generator=torch.Generator(),
            worker_init_fn=_serve,
        )
        with held_back() if workers else nullcontext():
            return iter(loader)  # which warns, too


def _serve(number: int) -> None:
    serve(number)
    # The thread that hands tensors over prints a traceback where whoever should take them is gone.
    sys.excepthook = lambda *_: None


@contextmanager
def _told() -> Iterator[None]:
    """What happens where processes that read are killed or cannot be started, as the error for it."""
    global _waiting
    before, _waiting = _waiting, True
    try:
        yield
    except (OSError, EOFError) as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if isinstance(error, DynamicBlocksError) or not str(error).startswith(OF_WORKERS):
            raise
        raise _lost(error) from error
    finally:
        _waiting = before


def _lost(error: BaseException) -> ProcessError:
    cause = (str(error).splitlines() or [""])[0] or type(error).__name__
    return ProcessError(
        f"{READER_LOST}: {cause}; fewer of them (--hardware.workers) need less memory, and 0 needs none"
    )


def _hear_of_the_killed_only_while_waiting() -> None:
    """PyTorch raises a RuntimeError wherever the program is when a worker is killed, be it amidst a checkpoint.

    While nothing is waited for it can wait, too: with the next batch it is noticed anyway, within seconds.
    """
    # Only the main thread may handle signals.
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or getattr(handler, "__module__", "") != SIGNAL_HANDLING:
        return

    def tell(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            if _waiting:
                raise _lost(error) from error

    signal.signal(signal.SIGCHLD, tell)
