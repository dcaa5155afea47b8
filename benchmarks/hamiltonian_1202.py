"""A training step of ``hamiltonian_resnet`` of 1202 layers on 32 images: does it fit, and what would backprop need?

Each figure is one training step (forward, backward, SGD with momentum; float32, 32 images of 32 x 32 pixels) in a fresh
process, after a step on two small images that makes gradients and momenta and loads the kernels. Bytes are the peak of
that process as the operating system has it (``VmHWM``), as a whole and beyond what it held before the step: weights,
gradients and momenta are in the first figure alone. Bytes of living tensors (``live_bytes``) are those of another step;
what they leave of the second figure is the heap, with holes that many small kernels leave, and Python's own objects.

What backpropagation would need at 1202 layers is not measured but extrapolated: it keeps as much of each unit, so its
bytes are a straight line through those of a few shallow networks of the same widths. The deepest of them is left out of
the fit and shows how far a prediction is off.

Example: python benchmarks/hamiltonian_1202.py --threads 2
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from depth_worker import status
from gradient_depth import ENVIRONMENT
from harness import make_parser, save, show
from live_bytes import peak_bytes
from torch.nn import functional as F

import dynamicblocks as db

BATCH, WIDTHS, DEPTH = 32, (32, 64, 128), 1202
FITTED, CHECKED = (26, 50, 74, 98), 218


def measured(depth: int, gradient: str) -> dict[str, float]:
    """Bytes and seconds of a training step, in this process."""
    torch.manual_seed(0)
    net = db.create_model("hamiltonian_resnet", depth=depth, widths=WIDTHS, gradient=gradient)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        begin = perf_counter()
        loss = F.cross_entropy(net(images), labels)
        # Zeroed, not dropped: gradients are no memory of the step.
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        return perf_counter() - begin

    step(torch.randn(2, 3, 8, 8), torch.randint(10, (2,)))
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    gc.collect()
    before = status("VmRSS")
    seconds = step(images, labels)
    peak = status("VmHWM")
    return {
        "process_bytes": peak,
        "bytes": peak - before,
        "tensor_bytes": peak_bytes(lambda: step(images, labels)),
        "seconds": seconds,
        "weights": net.num_weights,
    }


def fresh(depth: int, gradient: str, threads: int) -> dict[str, object]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps([depth, gradient]), "--threads", str(threads)]
    said = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True, check=True)
    found = {"depth": depth, "gradient": gradient, **json.loads(said.stdout.splitlines()[-1])}
    print(found, flush=True)
    return found


def line(rows: Sequence[dict[str, object]], depth: int, kind: str = "bytes") -> float:
    """Bytes at a depth on the least-squares line through measured ones."""
    slope, start = np.polyfit([row["depth"] for row in rows], [row[kind] for row in rows], 1)
    return float(slope * depth + start)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/hamiltonian_1202.py --threads 2", repeats=1)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save; or answer one request."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measured(*options.one)))
        return
    threads = torch.get_num_threads()
    plain = [fresh(depth, "backprop", threads) for depth in (*FITTED, CHECKED)]
    back = [fresh(depth, "reversible", threads) for depth in (*FITTED, CHECKED, DEPTH)]
    fitted = [row for row in plain if row["depth"] in FITTED]
    check = {"predicted": line(fitted, CHECKED), "measured": plain[-1]["bytes"]}
    estimate = {kind: line(plain, DEPTH, kind) for kind in ("bytes", "tensor_bytes")}
    rows = [
        {
            "depth": mine["depth"],
            "weights": f"{mine['weights']:,}",
            "reversible MiB": f"{mine['bytes'] / 2**20:.0f}",
            "tensors MiB": f"{mine['tensor_bytes'] / 2**20:.0f}",
            "process MiB": f"{mine['process_bytes'] / 2**20:.0f}",
            "s": f"{mine['seconds']:.1f}",
            "backprop MiB": f"{theirs['bytes'] / 2**20:.0f}"
            if theirs
            else f"{estimate['bytes'] / 2**20:.0f}, extrapolated",
            "backprop s": f"{theirs['seconds']:.1f}" if theirs else "not measured",
        }
        for mine, theirs in zip(back, [*plain, None], strict=True)
    ]
    show(f"A training step of hamiltonian_resnet, widths {WIDTHS}, {BATCH} images", rows)
    print(
        f"backprop at {CHECKED} layers: {check['predicted'] / check['measured']:.3f} of what was measured is predicted"
    )
    setting = {"batch": BATCH, "widths": WIDTHS, "dtype": "float32"}
    result = {"backprop": plain, "reversible": back, "backprop_check": check, "backprop_extrapolated": estimate}
    print(save("hamiltonian_1202", {"setting": setting, **result}, path=options.output))


if __name__ == "__main__":
    main()
