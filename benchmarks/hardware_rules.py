"""What the rules of precision and memory format stand on: a training step of many networks under each of the four.

For every network the counted work of a step, and its time in float32, channels first, over that with channels last, in
bfloat16 autocast, and with both. With one thread times are of the processor, so that a busy machine matters little.

The constants of ``dynamicblocks.training.hardware_rules`` are read off this: bfloat16 pays from 1.5 million
floating-point operations in an operation on in networks of convolutions of images, from 4 million in others; channels
last always pays on a CPU; an operation costs about 30 us, and convolutions run at about 60 GFLOP/s a thread.
``--without`` forbids oneDNN the bfloat16 units, as on a processor that has none.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from harness import Spread, make_parser, save, show
from torch import Tensor, nn

import dynamicblocks as db
from dynamicblocks.tasks import Classify
from dynamicblocks.training.hardware_rules import is_planar
from dynamicblocks.training.work import count_work

Side = tuple[bool, bool]
"""Whether bfloat16, whether channels last."""
SIDES: dict[str, Side] = {
    "float32, first": (False, False),
    "float32, last": (False, True),
    "bfloat16, first": (True, False),
    "bfloat16, last": (True, True),
}
# A side is run for so long, in seconds, before the next one's turn.
TURN = 0.05


def perceptron(width: int, inputs: int) -> nn.Module:
    """Four layers between the first and the last."""
    hidden = [part for _ in range(4) for part in (nn.ReLU(), nn.Linear(width, width))]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), *hidden, nn.Linear(width, 10))


class Convolutions(nn.Module):
    """Five convolutions, a mean over space and a linear map."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        hidden = [part for _ in range(4) for part in (nn.ReLU(), kind(width, width, 3, padding=1))]
        self.body = nn.Sequential(kind(1, width, 3, padding=1), *hidden)
        self.head = nn.Linear(width, 10)

    def forward(self, y: Tensor) -> Tensor:
        return self.head(self.body(y).flatten(2).mean(2))


def known(name: str, **options: object) -> Callable[[], nn.Module]:
    """A network of the package."""
    return partial(db.create_model, name, **options)


DIGITS, CIFAR = (1, 8, 8), (3, 32, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"dynamicnet_small, digits x {n}": (known("dynamicnet_small", in_channels=1), (n, *DIGITS)) for n in (8, 32, 64)
    },
    "dynamicnet_small, digits x 128": (known("dynamicnet_small", in_channels=1), (128, *DIGITS)),
    "dynamicnet_small, CIFAR x 32": (known("dynamicnet_small"), (32, *CIFAR)),
    "dynamicnet_small, CIFAR x 128": (known("dynamicnet_small"), (128, *CIFAR)),
    **{f"continuousnet, CIFAR x {n}": (known("continuousnet"), (n, *CIFAR)) for n in (32, 64, 128)},
    **{f"continuousnet, width {w}, CIFAR x 64": (known("continuousnet", width=w), (64, *CIFAR)) for w in (4, 8)},
    "continuousnet, digits x 8": (known("continuousnet", in_channels=1), (8, *DIGITS)),
    "continuousnet, digits x 64": (known("continuousnet", in_channels=1), (64, *DIGITS)),
    "continuousnet, width 4, digits x 4": (known("continuousnet", in_channels=1, width=4), (4, *DIGITS)),
    **{
        f"continuousnet, width {w}, digits x 64": (known("continuousnet", in_channels=1, width=w), (64, *DIGITS))
        for w in (4, 8, 64)
    },
    "wide_continuousnet, CIFAR x 32": (known("wide_continuousnet", units=2), (32, *CIFAR)),
    "resnet20, digits x 64": (known("resnet", depth=20, in_channels=1), (64, *DIGITS)),
    **{f"resnet20, CIFAR x {n}": (known("resnet", depth=20), (n, *CIFAR)) for n in (32, 128)},
    "lm_resnet20, CIFAR x 32": (known("lm_resnet", depth=20), (32, *CIFAR)),
    "hamiltonian_resnet26, CIFAR x 32": (known("hamiltonian_resnet", depth=26), (32, *CIFAR)),
    **{f"convolutions, width {w}, 16 x 16 x 64": (partial(Convolutions, 2, w), (64, 1, 16, 16)) for w in (2, 4, 8, 16)},
    "convolutions in 1 dimension, width 16, 128 x 64": (partial(Convolutions, 1, 16), (64, 1, 128)),
    "convolutions in 1 dimension, width 64, 256 x 64": (partial(Convolutions, 1, 64), (64, 1, 256)),
    "convolutions in 3 dimensions, width 16, 16^3 x 8": (partial(Convolutions, 3, 16), (8, 1, 16, 16, 16)),
    "perceptron, width 64, 64 x 64": (partial(perceptron, 64, 64), (64, *DIGITS)),
    "perceptron, width 64, 64 x 512": (partial(perceptron, 64, 64), (512, *DIGITS)),
    "perceptron, width 256, 64 x 64": (partial(perceptron, 256, 64), (64, *DIGITS)),
    "perceptron, width 256, 64 x 512": (partial(perceptron, 256, 64), (512, *DIGITS)),
    "perceptron, width 512, 64 x 64": (partial(perceptron, 512, 64), (64, *DIGITS)),
    "perceptron, width 1024, 3072 x 128": (partial(perceptron, 1024, 3072), (128, *CIFAR)),
}


def training_step(net: nn.Module, images: Tensor, labels: Tensor, side: Side) -> Callable[[], None]:
    """Forward, backward and SGD on a batch."""
    half, last = side
    net = copy.deepcopy(net).train()
    if last and images.ndim == 4:
        net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, nesterov=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measured(make: Callable[[], nn.Module], shape: tuple[int, ...], repeats: int) -> dict[str, object]:
    """Counted work, milliseconds of the plain side, and how many times as fast the others are."""
    torch.manual_seed(0)
    net, images, labels = make(), torch.randn(shape), torch.randint(10, shape[:1])
    work = count_work(Classify(), net, (images, labels))
    steps = {name: training_step(net, images, labels, side) for name, side in SIDES.items()}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    plain = next(iter(steps.values()))
    for step in (*steps.values(), *steps.values()):
        step()
    begin = clock()
    plain()
    count = max(1, int(TURN / (clock() - begin)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats):
        for name, step in list(steps.items())[:: 1 if turn % 2 else -1]:
            begin = clock()
            for _ in range(count):
                step()
            seconds[name].append((clock() - begin) / count)
    first = seconds[next(iter(SIDES))]
    ratios = {name: Spread.of([a / b for a, b in zip(first, each, strict=True)]) for name, each in seconds.items()}
    return {
        "planar": is_planar(net, images),
        "operations": work.operations,
        "flops": work.flops,
        "milliseconds": 1000 * median(first),
        "faster": {name: vars(ratio) for name, ratio in ratios.items() if name != next(iter(SIDES))},
    }


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "python benchmarks/hardware_rules.py --threads 1 --repeats 7", repeats=7)
    parser.add_argument("--without", action="store_true", help="forbid oneDNN the bfloat16 units")
    parser.add_argument("--only", default="", help="networks with this in their names")
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.without:
        # Before the first convolution.
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"
    torch.set_num_threads(options.threads or 1)
    found = {}
    for name, (make, shape) in NETWORKS.items():
        if options.only in name:
            found[name] = measured(make, shape, options.repeats)
            print(name, flush=True)
    rows = [
        {
            "network": name,
            "MFLOP an operation": f"{each['flops'] / each['operations'] / 1e6:.2f}",
            "float32, first (ms)": f"{each['milliseconds']:.1f}",
            **{side: f"{spread['median']:.2f}" for side, spread in each["faster"].items()},
        }
        for name, each in sorted(found.items(), key=lambda item: item[1]["flops"] / item[1]["operations"])
    ]
    show("How many times as fast as float32, channels first", rows)
    suffix = "_without_bfloat16" if options.without else ""
    if not options.only:
        print(save(f"hardware_rules{suffix}", {"threads": torch.get_num_threads(), "networks": found}))


if __name__ == "__main__":
    main()
