"""What a twisted convolution costs: its time over that of other convolutions, forward and in training.

Beside it stand one plain convolution of the same size; three separate convolutions whose results are multiplied with
the coordinates and added, as one writes a twist by hand; and one convolution with three times the output channels,
which is the arithmetic of a twist and nothing else.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from harness import Spread, interleaved, make_parser, save, show
from torch import Tensor, nn

from dynamicblocks.layers import TwistConv2d
from dynamicblocks.layers.coordinates import pixel_centres

# Batch, channels in, channels out, side of the image, stride: stages of networks for 32 x 32 and 224 x 224 images.
SHAPES = (
    (128, 16, 16, 32, 1),
    (128, 32, 32, 16, 1),
    (128, 64, 64, 8, 1),
    (128, 64, 64, 32, 1),
    (128, 128, 128, 16, 1),
    (64, 32, 64, 32, 2),
    (16, 64, 64, 56, 1),
    (16, 256, 256, 14, 1),
    (16, 512, 512, 7, 1),
)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
TARGETS = {"three": 1.0, "threefold": 1.15}


class ByHand(nn.Module):
    """W * x + X (Wx * x) + Y (Wy * x) with three convolutions and coordinates made beforehand."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int) -> None:
        super().__init__()
        size = (side - 1) // stride + 1
        self.plain, self.wx, self.wy = (nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False) for _ in range(3))
        self.register_buffer("x", pixel_centres(size)[None, :])
        self.register_buffer("y", pixel_centres(size)[:, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.plain(images) + self.x * self.wx(images) + self.y * self.wy(images)


def contestants(inputs: int, outputs: int, side: int, stride: int) -> dict[str, nn.Module]:
    """The four layers, the first two with the same weights."""
    twist = TwistConv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.normal_(twist.twist, std=0.1)
    three = ByHand(inputs, outputs, side, stride)
    with torch.no_grad():
        for convolution, kernel in zip(
            (three.plain, three.wx, three.wy), (twist.weight, *twist.twist_kernels()), strict=True
        ):
            convolution.weight.copy_(kernel)
        images = torch.randn(2, inputs, side, side)
        torch.testing.assert_close(twist(images), three(images), rtol=1e-4, atol=1e-4)
    return {
        "twist": twist,
        "three": three,
        "threefold": nn.Conv2d(inputs, 3 * outputs, 3, stride, padding=1, bias=False),
        "plain": nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
    }


def runs(layers: dict[str, nn.Module], images: Tensor, *, training: bool) -> dict[str, Callable[[], object]]:
    """A forward pass of each layer, or forward and backward with gradients of weights and images."""

    def run(layer: nn.Module) -> Callable[[], object]:
        def forward() -> None:
            with torch.no_grad():
                layer(images)

        def both() -> None:
            output = layer(images)
            output.backward(torch.ones_like(output))

        return both if training else forward

    return {name: run(layer) for name, layer in layers.items()}


def measure(shape: tuple[int, ...], dtype: str, layout: str, *, training: bool, repeats: int) -> dict[str, object]:
    """Median milliseconds of the twist, and the spread of its time over each other layer's."""
    batch, inputs, outputs, side, stride = shape
    torch.manual_seed(0)
    layers = contestants(inputs, outputs, side, stride)
    images = torch.randn(batch, inputs, side, side, dtype=TYPES[dtype]).contiguous(memory_format=LAYOUTS[layout])
    for layer in layers.values():
        layer.to(dtype=TYPES[dtype], memory_format=LAYOUTS[layout])
    images.requires_grad_(training)
    seconds = interleaved(runs(layers, images, training=training), repeats)
    ratios = {
        name: Spread.of([own / other for own, other in zip(seconds["twist"], seconds[name], strict=True)])
        for name in ("three", "threefold", "plain")
    }
    return {"milliseconds": 1000 * median(seconds["twist"]), "twist_over": {k: vars(v) for k, v in ratios.items()}}


def parse() -> argparse.Namespace:
    return make_parser(__doc__, "python benchmarks/twist_cost.py --repeats 10", repeats=10).parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = []
    for training in (False, True):
        for dtype in TYPES:
            for layout in LAYOUTS:
                for shape in SHAPES:
                    result = measure(shape, dtype, layout, training=training, repeats=options.repeats)
                    case = {"pass": "training" if training else "forward", "type": dtype, "layout": layout}
                    found.append({**case, "shape": shape, **result})
    rows = [
        {
            "pass": each["pass"],
            "type, layout": f"{each['type']}, {each['layout']}",
            "batch, in, out, side, stride": ", ".join(map(str, each["shape"])),
            "ms": f"{each['milliseconds']:.1f}",
            **{
                f"/ {name}": f"{spread['median']:.2f} [{spread['lower_quartile']:.2f}, {spread['upper_quartile']:.2f}]"
                for name, spread in each["twist_over"].items()
            },
        }
        for each in found
    ]
    show("Time of TwistConv2d over other convolutions, median [quartiles]", rows)
    for name, target in TARGETS.items():
        medians = [each["twist_over"][name]["median"] for each in found]
        met = sum(value <= target for value in medians)
        print(f"over {name}: at most {target:g} in {met} of {len(medians)} cases, at worst {max(medians):.2f}")
    print(save("twist_cost", {"targets": TARGETS, "cases": found}, path=options.output))


if __name__ == "__main__":
    main()
