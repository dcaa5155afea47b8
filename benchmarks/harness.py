"""What the benchmarks share: a fair comparison of two times, where it was made, and a place for the result."""

import argparse
import gc
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import torch
from rich.console import Console
from rich.table import Table

from dynamicblocks.training.environment import environment

RESULTS = Path(__file__).parent / "results"
PEERS = ("torchdiffeq", "torchode", "diffrax", "jax")


@dataclass(frozen=True)
class Spread:
    """The distribution of a few numbers; printed as median [quartiles]."""

    min: float
    lower_quartile: float
    median: float
    upper_quartile: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        lower, middle, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(min(values), lower, middle, upper, max(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.lower_quartile:.3f}, {self.upper_quartile:.3f}]"


@dataclass(frozen=True)
class Comparison:
    """Seconds that two callables took, and their ratio a / b.

    Two times were taken of each callable in a round. ``ratios`` has the spread of the rounds' own ratios, which is
    the number to read: what slows the machine for a while slows both sides of a round. Other processes only ever add
    time, so on a busy machine the ratio of the shortest times is a second opinion.
    """

    seconds_a: list[float]
    seconds_b: list[float]
    ratio_of_medians: float
    ratio_of_minima: float
    ratios: Spread

    def as_dict(self) -> dict[str, object]:
        """For :func:`save`."""
        return asdict(self)


def paired(a: Callable[[], object], b: Callable[[], object], repeats: int = 10, warmup: int = 2) -> Comparison:
    """Time two callables alternately.

    Each of the ``repeats`` rounds runs A B B A: a machine that slows down or speeds up steadily during a round adds
    as much to one side as to the other. Both run ``warmup`` times before.
    """
    for _ in range(warmup):
        a()
        b()
    # What lives now is set aside, so that the collections between the runs look at new garbage only.
    gc.collect()
    gc.freeze()
    rounds = [[_seconds(run) for run in (a, b, b, a)] for _ in range(repeats)]
    gc.unfreeze()
    seconds_a = [seconds for first, _, _, last in rounds for seconds in (first, last)]
    seconds_b = [seconds for _, second, third, _ in rounds for seconds in (second, third)]
    ratios = [(a1 + a2) / (b1 + b2) for a1, b1, b2, a2 in rounds]
    return Comparison(
        seconds_a,
        seconds_b,
        ratio_of_medians=median(seconds_a) / median(seconds_b),
        ratio_of_minima=min(seconds_a) / min(seconds_b),
        ratios=Spread.of(ratios),
    )


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int = 10, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of several callables, run in turn, forwards and backwards; one number for each of ``repeats`` rounds.

    For more than two sides: :func:`paired` is for two.
    """
    for _ in range(warmup):
        for run in runs.values():
            run()
    gc.collect()
    gc.freeze()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        there = {name: _seconds(run) for name, run in runs.items()}
        back = {name: _seconds(runs[name]) for name in reversed(runs)}
        for name in runs:
            found[name].append(there[name] + back[name])
    gc.unfreeze()
    return {name: [seconds / 2 for seconds in taken] for name, taken in found.items()}


def _seconds(run: Callable[[], object]) -> float:
    # Garbage of one side must not be collected on the other's time.
    gc.collect()
    settle()
    start = time.perf_counter()
    run()
    settle()
    return time.perf_counter() - start


def settle() -> None:
    """Wait for what the GPU has still to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def device_peak(run: Callable[[], object]) -> int:
    """The most bytes that PyTorch's allocator gave out on the GPU during ``run()``, beyond those before it.

    Unlike :func:`live_bytes.peak_bytes` it includes the workspaces of kernels.
    """
    settle()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    settle()
    return torch.cuda.max_memory_allocated() - before


def make_parser(description: str | None, example: str, repeats: int) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example: {example}",
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds A B B A (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: PyTorch's own choice)")
    parser.add_argument("--output", type=Path, help="file of the result (default: in results/)")
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """The choice of a device, for benchmarks that run on others than the CPU."""
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="(default: %(default)s)")


def save(name: str, payload: Mapping[str, object], device: str = "cpu", path: Path | None = None) -> Path:
    """Write ``results/NAME.json`` (``NAME_cuda.json`` on a GPU) or ``path``: dated, and with what it ran on."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"date": date, "environment": environment(), **payload}
    if device != "cpu":
        record["environment"]["beside"] = _beside()
        name = f"{name}_{device}"
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def _beside() -> dict[str, object]:
    """Versions of the libraries that are compared with, and of CUDA."""
    found: dict[str, object] = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with equal keys as a table."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    # A pipe or a log has no width of its own, and 80 columns would break every cell.
    Console(width=max(Console().width, 120)).print(table)
