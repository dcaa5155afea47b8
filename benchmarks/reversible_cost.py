"""What ``gradient="reversible"`` costs and keeps: a training step of a block over that of backpropagation.

Both take the same steps with the same integrator and weights. A step is taken back by one evaluation for each of the
forward pass, which also serves the gradient: 4/3 of the evaluations of backpropagation, where a backward evaluation
counts as two. With ``--networks`` a training step of whole networks, with what they have besides blocks.
"""

import argparse
import gc
import time
from collections.abc import Callable
from statistics import median

import torch
from harness import Spread, add_device, make_parser, save, settle, show
from torch import Tensor
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.models import models

TARGET = 1.6
STEPS = (16, 64)
WIDTH, SIDE = 64, 32
# Of the gradients of a block, relative in the 2-norm: those of alf with 64 steps and ReLU differ by a thousandth.
CLOSE = 1e-2


# Each with a layer for which neither its solution nor its rounding errors grow, and how far the steps lead.
ROWS: dict[str, tuple[str, float]] = {
    "alf": ("preact_double", 8.0),
    "reversible_heun": ("preact_double", 8.0),
    "symplectic_euler": ("hamiltonian", 4.0),
    "verlet": ("hamiltonian", 4.0),
    "leapfrog": ("symmetric", 4.0),
    "two_step_midpoint": ("antisymmetric", 4.0),
}


# By their names in the registry: options, batch and precision, each with its channels last.
NETWORKS: tuple[tuple[str, dict[str, object], int, torch.dtype], ...] = (
    ("hamiltonian_resnet", {"depth": 50, "widths": (16, 48, 128)}, 128, torch.bfloat16),
    ("midpoint_resnet", {"depth": 26, "widths": (16, 32, 88)}, 128, torch.bfloat16),
    ("leapfrog_resnet", {"depth": 26, "widths": (16, 32, 88)}, 128, torch.bfloat16),
    ("hamiltonian_resnet", {"depth": 218}, 32, torch.float32),
    ("hamiltonian_resnet", {"depth": 218}, 4, torch.float32),
)


def training_step(block: db.DynamicBlock, y: Tensor) -> Callable[[], Tensor]:
    """Forward and backward; gives the gradient of the state."""

    def step() -> Tensor:
        block.zero_grad()
        start = y.detach().requires_grad_()
        block(start).square().mean().backward()
        assert start.grad is not None
        return start.grad

    return step


def step_of_network(net: torch.nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Forward and backward; gives the gradients of all weights, behind each other."""

    def step() -> Tensor:
        net.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = net(images)
        F.cross_entropy(logits.float(), labels).backward()
        return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])

    return step


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of the processor."""
    gc.collect()
    settle()
    clock, processor = time.perf_counter(), time.process_time()
    run()
    settle()
    return time.perf_counter() - clock, time.process_time() - processor


def compared(name: str, steps: int, options: argparse.Namespace) -> dict[str, object]:
    """The ratios of rounds A B B A, on the clock and of the processor."""
    torch.manual_seed(0)
    layer, end = ROWS[name]
    block = db.DynamicBlock(f"{layer}({WIDTH})", "constant(8)", db.uniform(0, end, steps=steps), name)
    block.to(options.device)
    y = torch.randn(options.batch, WIDTH, SIDE, SIDE, device=options.device)
    b = training_step(block, y)
    a = training_step(db.with_gradient(block, "reversible"), y)
    off = apart(a(), b())
    if not off < CLOSE:
        raise RuntimeError(f"the gradients of {name} at {steps} steps differ by {off:.2g}")
    row = {"integrator": name, "layer": layer, "steps": steps, "gradients_differ": off}
    return row | ratios(a, b, options.repeats)


def apart(found: Tensor, exact: Tensor) -> float:
    """The relative difference of gradients, in the 2-norm."""
    return (torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)).item()


def ratios(a: Callable[[], Tensor], b: Callable[[], Tensor], repeats: int) -> dict[str, object]:
    """Of the times of two callables in rounds A B B A, after one that is not counted."""
    for run in (a, b):
        run()
    rounds = [[seconds(run) for run in (a, b, b, a)] for _ in range(repeats)]
    clock, processor = (
        Spread.of([(r[0][kind] + r[3][kind]) / (r[1][kind] + r[2][kind]) for r in rounds]) for kind in (0, 1)
    )
    return {
        "time": clock,
        "processor": processor,
        "backprop_seconds": median(each for r in rounds for each in (r[1][0], r[2][0])),
    }


def compared_networks(
    name: str, given: dict[str, object], batch: int, dtype: torch.dtype, options: argparse.Namespace
) -> dict[str, object]:
    """The ratios of a network, whose gradients must be alike in both modes."""
    torch.manual_seed(0)
    net = models.create(name, **given).to(options.device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, SIDE, SIDE, device=options.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=options.device)
    a, b = (step_of_network(db.with_gradient(net, mode), images, labels, dtype) for mode in ("reversible", "backprop"))
    off = apart(a(), b())
    # An untrained deep network: rounding errors of its input alone move the gradients by a few hundredths.
    if not off < 0.2:
        raise RuntimeError(f"the gradients of {name} differ by {off:.2g}")
    description = ", ".join(f"{key} {value}" for key, value in given.items())
    return {
        "network": f"{name}, {description}",
        "batch": batch,
        "precision": str(dtype).removeprefix("torch."),
        "gradients_differ": off,
        **ratios(a, b, options.repeats),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/reversible_cost.py --threads 2", repeats=5)
    parser.add_argument("--batch", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="(default: %(default)s)")
    parser.add_argument("--integrators", nargs="+", default=list(ROWS), choices=list(ROWS), help="(default: all)")
    parser.add_argument("--networks", action="store_true", help="whole networks, in the place of blocks")
    parser.add_argument("--name", help="of the file of results (default: reversible_cost, reversible_training)")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # steps that are taken back magnify the rounding of states
    if options.networks:
        rows = [compared_networks(*each, options) for each in NETWORKS]
        about, payload = f"{SIDE} x {SIDE}", {}
    else:
        rows = [compared(name, steps, options) for steps in options.steps for name in options.integrators]
        about = f"batch {options.batch}, {WIDTH} channels, {SIDE} x {SIDE}"
        payload = {"batch": options.batch, "width": WIDTH}
    show(f"reversible over backprop, {about}; target {TARGET}", rows)
    payload |= {"side": SIDE, "target": TARGET, "threads": torch.get_num_threads()}
    for row in rows:
        row |= {kind: vars(row[kind]) for kind in ("time", "processor")}
    name = options.name or ("reversible_training" if options.networks else "reversible_cost")
    print(save(name, payload | {"rows": rows}, options.device, options.output))


if __name__ == "__main__":
    main()
