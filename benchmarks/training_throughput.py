"""Training of the 2-2-2 Euler ContinuousNet: images a second here, over the same network built on torchdiffeq.

Three comparisons, each with the same weights and batches on both sides:

- defaults: what ``dynamicblocks train`` chooses for a long training on this machine (precision, memory format,
  compilation), against torchdiffeq in float32 and the ordinary layout;
- float32: here with the fastest layout and compilation, against torchdiffeq in float32 and the ordinary layout;
- bfloat16: the same under bfloat16 autocast on both sides.

And what the input costs: shuffling, cropping, mirroring and normalising a batch, as a share of a training step.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from harness import add_device, make_parser, paired, save, settle, show
from torch import Tensor, nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.data import Augmentation, ImageBatches, MemorySplit
from dynamicblocks.tasks.classify import Classify
from dynamicblocks.training import HardwareConfig
from dynamicblocks.training import hardware_rules as rules
from dynamicblocks.training.work import count_work
from torchdiffeq import odeint

BATCH = 128
# Training steps of 45 epochs on 49,000 images.
STEPS = 17_190
TARGETS = {"defaults": 2.5, "float32": 1.5, "bfloat16": 1.5}
INPUT_TARGET = 0.05


class Field(nn.Module):
    """dy/dt = F(y; theta_k) for t in [k, k + 1), as one writes it for torchdiffeq."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers[min(int(t), len(self.layers) - 1)](y)


class Solved(nn.Module):
    """A block: the state at the end of the times."""

    def __init__(self, block: db.DynamicBlock) -> None:
        super().__init__()
        self.field = Field(block.controls.layers)
        self.register_buffer("times", torch.tensor(block.times.points))

    def forward(self, y: Tensor) -> Tensor:
        return odeint(self.field, y, self.times, method="euler")[-1]


def networks(device: str) -> tuple[nn.Module, nn.Module]:
    """The network here, and its twin on torchdiffeq, with the same weights."""
    torch.manual_seed(0)
    ours, theirs = (db.create_model("continuousnet", units=2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    theirs.body = nn.Sequential(*(Solved(m) if isinstance(m, db.DynamicBlock) else m for m in theirs.body))
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    return ours.train().to(device), theirs.train().to(device)


def training_step(net: nn.Module, hardware: HardwareConfig) -> Callable[[], object]:
    """Forward, backward and SGD on a fixed batch."""
    device = next(net.parameters()).device
    last = hardware.channels_last is True
    memory_format = torch.channels_last if last else torch.contiguous_format
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=draw).to(device).contiguous(memory_format=memory_format)
    labels = torch.randint(10, (BATCH,), generator=draw).to(device)
    net.to(memory_format=memory_format)
    model = torch.compile(net, dynamic=False) if hardware.compile is True else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision == "bf16-mixed"):
            logits = model(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def input_seconds(repeats: int, device: str) -> float:
    """Median time to make a batch of CIFAR's size from 50,000 images in memory."""
    images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
    split = MemorySplit(images, torch.zeros(50_000, dtype=torch.int64)).to(device)
    usual = Augmentation(shift=4, flip=True)
    batches = ImageBatches(split, BATCH, [125.0] * 3, [60.0] * 3, augmentation=usual, channels_last=True)
    stream, found = batches.training(0), []
    for _ in range(20 + repeats):
        begin = time.perf_counter()
        next(stream)
        settle()
        found.append(time.perf_counter() - begin)
    return median(found[20:])


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "python benchmarks/training_throughput.py --repeats 15", repeats=15)
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    plain = HardwareConfig(precision="32-true", channels_last=False, compile=False)
    device = options.device
    batch = torch.randn(BATCH, 3, 32, 32).to(device), torch.randint(10, (BATCH,)).to(device)
    net = networks(device)[0]
    work = count_work(Classify(), net, batch)
    chosen, why = rules.settle(HardwareConfig(), batch[0].device, net, batch[0], work, STEPS, bears_half=True)
    fast = {"channels_last": True, "compile": True}
    sides = {
        "defaults": (chosen, plain),
        "float32": (HardwareConfig(precision="32-true", **fast), plain),
        "bfloat16": (
            HardwareConfig(precision="bf16-mixed", **fast),
            HardwareConfig(precision="bf16-mixed", channels_last=False, compile=False),
        ),
    }
    rows, found = [], {}
    for name, (ours, theirs) in sides.items():
        here, there = networks(device)
        result = paired(training_step(there, theirs), training_step(here, ours), options.repeats, warmup=3)
        found[name] = {"here": vars(ours), "torchdiffeq": vars(theirs), **result.as_dict()}
        rows.append(
            {
                "comparison": name,
                "throughput, here / torchdiffeq": result.ratios,
                "of minima": f"{result.ratio_of_minima:.3f}",
                "target": TARGETS[name],
                "here": f"{BATCH / median(result.seconds_b):.0f} images/s",
                "torchdiffeq": f"{BATCH / median(result.seconds_a):.0f} images/s",
            }
        )
    show(f"Training step of the 2-2-2 Euler ContinuousNet, batch {BATCH} x 3 x 32 x 32", rows)
    seconds = input_seconds(100, device)
    step = median(found["defaults"]["seconds_b"])
    print(f"input: {1000 * seconds:.2f} ms a batch, {seconds / step:.1%} of the step at defaults ({INPUT_TARGET:.0%})")
    payload = {
        "batch": BATCH,
        "targets": TARGETS,
        "chosen": {name: vars(each) for name, each in why.items()},
        "torchdiffeq_over_here_seconds": found,
        "input_ms": 1000 * seconds,
        "input_share_of_step": seconds / step,
    }
    print(save("training_throughput", payload, device, options.output))


if __name__ == "__main__":
    main()
