"""What the continuous form costs: a training step of an Euler network over that of the same ResNet in plain PyTorch.

Both networks do the same arithmetic with the same weights, so whatever the ratio exceeds one by is the price of
choosing controls, grids and integrators freely.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from harness import add_device, make_parser, paired, save, show
from torch import Tensor, nn
from torch.nn import functional as F

import dynamicblocks as db

UNITS = 2
WIDTHS = (16, 32, 64)
CLASSES = 10
BATCH = (128, 3, 32, 32)
# So small that little but the overhead of Python and of the dispatcher is left.
TINY_BATCH = (2, 3, 4, 4)
TARGET = 1.03


class PlainUnit(nn.Module):
    """A residual unit with full pre-activation (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        z = self.conv1(F.relu(self.norm1(y)))
        return y + self.conv2(F.relu(self.norm2(z)))


class PlainDown(nn.Module):
    """More channels and a quarter of the pixels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 1, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, y: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(self.norm(self.conv(y))), 2)


class PlainResNet(nn.Module):
    """The default ``dynamicnet`` as anyone would write it without the package."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(WIDTHS[0])
        body: list[nn.Module] = []
        for index, width in enumerate(WIDTHS):
            if index:
                body.append(PlainDown(WIDTHS[index - 1], width))
            body += [PlainUnit(width) for _ in range(UNITS)]
        self.body = nn.Sequential(*body)
        self.norm2 = nn.BatchNorm2d(WIDTHS[-1])
        self.linear = nn.Linear(WIDTHS[-1], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        y = self.body(F.relu(self.norm1(self.conv(images))))
        return self.linear(F.relu(self.norm2(y)).mean(dim=(-2, -1)))


def networks(device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """The network of dynamic blocks and the plain one, with the same weights."""
    torch.manual_seed(0)
    dynamic = db.create_model("dynamicnet", num_classes=CLASSES, widths=WIDTHS, units=UNITS)
    plain = PlainResNet()
    # Both list their tensors in the order in which an image meets them; shapes are checked on loading.
    plain.load_state_dict(dict(zip(plain.state_dict(), dynamic.state_dict().values(), strict=True)))
    return dynamic.to(device), plain.to(device)


def training_step(net: nn.Module, shape: tuple[int, ...] = BATCH) -> Callable[[], Tensor]:
    """Forward, backward and SGD with momentum on a fixed batch; gives the loss."""
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(CLASSES, shape[:1], generator=generator).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def check_equal(dynamic: nn.Module, plain: nn.Module, when: str) -> None:
    """Raise unless both networks give the same logits: times of different functions are not worth comparing."""
    device = next(plain.parameters()).device
    images = torch.randn(8, *BATCH[1:], generator=torch.Generator().manual_seed(2)).to(device)
    outputs = []
    for net in (dynamic, plain):
        net.eval()
        with torch.no_grad():
            outputs.append(net(images))
        net.train()
    torch.testing.assert_close(*outputs, msg=lambda text: f"the networks differ {when}: {text}")


def overhead(repeats: int, device: str) -> float:
    """Milliseconds that a step of the dynamic network takes longer, whatever the batch: a difference on a tiny one."""
    result = paired(*(training_step(net, TINY_BATCH) for net in networks(device)), repeats, warmup=10)
    return 1000 * (median(result.seconds_a) - median(result.seconds_b))


def profile(dynamic: Callable[[], Tensor], plain: Callable[[], Tensor], steps: int = 5) -> None:
    """Print the profiler's table of the dynamic network, and which operators it runs more or longer than the plain."""
    tables = []
    for step in (dynamic, plain):
        step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                step()
        tables.append({event.key: event for event in profiler.key_averages()})
        if step is dynamic:
            print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))
    rows = []
    for key in sorted({*tables[0], *tables[1]}):
        (calls, own), (plain_calls, plain_own) = (
            (table[key].count, table[key].self_cpu_time_total) if key in table else (0, 0.0) for table in tables
        )
        rows.append((own - plain_own, key, calls - plain_calls))
    rows.sort(key=lambda row: -abs(row[0]))
    named = [
        {"operator": key, "more calls": more / steps, "more ms": f"{own / steps / 1000:+.3f}"}
        for own, key, more in rows[:20]
    ]
    show("Dynamic minus plain, a training step, self CPU time", named)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/resnet_cost.py --repeats 40 --threads 2", repeats=30)
    parser.add_argument("--profile", action="store_true", help="print where the time goes; measure and save nothing")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    nets = networks(options.device)
    check_equal(*nets, "before training")
    dynamic, plain = map(training_step, nets)
    torch.testing.assert_close(dynamic(), plain())
    if options.profile:
        profile(dynamic, plain)
        return
    result = paired(dynamic, plain, options.repeats)
    if options.device == "cpu":  # a GPU's sums have no fixed order, and training carries the differences on
        check_equal(*nets, "after training")
    extra = overhead(3 * options.repeats, options.device)
    row = {
        "dynamic / plain": result.ratios,
        "of medians": f"{result.ratio_of_medians:.3f}",
        "of minima": f"{result.ratio_of_minima:.3f}",
        "target": TARGET,
        "plain ms": f"{1000 * median(result.seconds_b):.3g}",
        "overhead ms": f"{extra:.2f}",
    }
    show(f"Training step, {UNITS} units, widths {WIDTHS}, batch {BATCH}", [row])
    payload = {"batch": BATCH, "widths": WIDTHS, "units": UNITS, "target": TARGET}
    payload |= {"dynamic_over_plain": result.as_dict(), "overhead_ms": extra}
    print(save("resnet_cost", payload, options.device, options.output))


if __name__ == "__main__":
    main()
