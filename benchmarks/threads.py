"""Serving from several threads: evaluations of a block with linear controls beside a plain ResNet of as many layers.

Each thread has PyTorch's kernels run in itself alone (``torch.set_num_threads(1)``) and calls the one network that all
share, without gradients. In the first case every stage reads a control as it is, in the second every other one blends
two, in the third all do.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import torch
from harness import make_parser, paired, save, show
from resnet_cost import PlainUnit
from torch import Tensor, nn

import dynamicblocks as db

LAYERS = 8
STATE = (16, 32, 16, 16)
THREADS = (1, 2, 4)
CALLS = 2  # of each thread, in one measurement
TARGET = 1.0  # of the plain network's throughput, in four threads
CASES = {
    "at knots": (LAYERS + 1, db.uniform(0, LAYERS, steps=LAYERS)),
    "half blended": (LAYERS // 2 + 1, db.uniform(0, LAYERS, steps=LAYERS)),
    "all blended": (LAYERS + 1, db.uniform(0.5, LAYERS - 0.5, steps=LAYERS)),
}


def block_of(case: str) -> db.DynamicBlock:
    """A block of as many evaluations as the plain network has layers."""
    controls, times = CASES[case]
    basis = db.PiecewiseLinear(controls, knots=db.uniform(0, LAYERS, steps=controls - 1).points)
    return db.DynamicBlock(f"preact_double({STATE[1]})", basis, times).eval()


def serving(
    net: nn.Module, pool: ThreadPoolExecutor, inputs: list[Tensor], expected: list[Tensor]
) -> Callable[[], None]:
    """Calls from every thread at once; each result is compared with that of a call alone."""

    def serve(x: Tensor, alone: Tensor) -> bool:
        with torch.inference_mode():
            return all(torch.equal(net(x), alone) for _ in range(CALLS))

    def run() -> None:
        assert all(pool.map(serve, inputs, expected)), "a call in a thread gave another result than alone"

    return run


def measure(case: str, count: int, repeats: int) -> dict[str, object]:
    """The times of both networks in so many threads."""
    torch.manual_seed(0)
    nets = (block_of(case), nn.Sequential(*(PlainUnit(STATE[1]) for _ in range(LAYERS))).eval())
    inputs = [torch.randn(STATE) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool, torch.inference_mode():
        block, plain = (serving(net, pool, inputs, [net(x) for x in inputs]) for net in nets)
        times = paired(block, plain, repeats)
    return {
        "case": case,
        "threads": count,
        "state": STATE,
        "layers": LAYERS,
        "calls": CALLS * count,
        "time": times.as_dict(),
    }


def row(result: dict[str, object]) -> dict[str, object]:
    """A result as a line of the table."""
    ratios = result["time"]["ratios"]
    return {
        "case": result["case"],
        "threads": result["threads"],
        "throughput, block / plain": f"{1 / ratios['median']:.3f} [{1 / ratios['upper_quartile']:.3f}, "
        f"{1 / ratios['lower_quartile']:.3f}]",
        "plain calls/s": f"{result['calls'] / median(result['time']['seconds_b']):.0f}",
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/threads.py --cases 'half blended' --repeats 20", repeats=12)
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES], help="(default: all)")
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    torch.set_num_threads(options.threads or 1)
    results = [measure(case, count, options.repeats) for case in options.cases for count in THREADS]
    show(f"Throughput in threads; target in four: at least {TARGET:g}", [row(each) for each in results])
    print(save("threads", {"target": TARGET, "block_over_plain": results}, path=options.output))


if __name__ == "__main__":
    main()
