"""How much memory a training step of an ODE-Net needs, over its tolerance: backprop, checkpoint, adjoint.

The model ``odenet`` on a batch of MNIST's size, float32, relative and absolute tolerance from 1e-1 to 1e-6: the finer
it is, the more steps there are, and the more ``backprop`` keeps. Forward and backward pass; bytes are of living tensors
(``live_bytes``), on a GPU of PyTorch's allocator, beyond weights and images. Fresh weights, the same for all.

Example: python benchmarks/odenet_memory.py --batch 128
Example: python benchmarks/odenet_memory.py --draw
"""

import json
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, add_device, device_peak, make_parser, save, show
from live_bytes import peak_bytes
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.errors import SolverError
from dynamicblocks.network import evaluations_of

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SEMINORM = "options={'norm': 'seminorm'}"
MODES = {
    "backprop": "backprop",
    "checkpoint": "checkpoint",
    "adjoint": f"adjoint({SEMINORM})",
    "adjoint, interpolant": f"adjoint(interpolant=True, {SEMINORM})",
}
COLOURS = {"backprop": "#d1495b", "checkpoint": "#edae49", "adjoint": "#30638e", "adjoint, interpolant": "#00798c"}
NAME = "odenet_memory"
FIGURES = Path(__file__).parent.parent / "docs" / "figures"


def measured(mode: str, tolerance: float, batch: int, device: str) -> dict[str, Any]:
    """The peak of a training step, and the evaluations of its forward pass."""
    torch.manual_seed(0)
    net = db.create_model("odenet", in_channels=1, num_classes=10)
    net = db.with_gradient(db.with_tolerance(net, tolerance), MODES[mode]).to(device).train()
    images, labels = torch.randn(batch, 1, 28, 28, device=device), torch.randint(10, (batch,), device=device)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()

    found = {"mode": mode, "tolerance": tolerance}
    try:
        peak = peak_bytes(step) if device == "cpu" else device_peak(step)
    except SolverError as error:
        return {**found, "bytes": None, "said": f"{error}"}
    return {**found, "bytes": peak, "evaluations": evaluations_of(net)}


def table(result: dict[str, Any]) -> str:
    """As Markdown: MiB of each mode over the tolerance."""
    cells = {(each["mode"], each["tolerance"]): each for each in result["results"]}
    # Of one that was cut off, those that all modes have.
    tolerances = [tolerance for tolerance in TOLERANCES if all((mode, tolerance) in cells for mode in MODES)]
    first = [cells["backprop", tolerance].get("evaluations", "none") for tolerance in tolerances]
    lines = [
        f"| MiB at a tolerance of | {' | '.join(f'{tolerance:g}' for tolerance in tolerances)} |",
        "|---" * (len(tolerances) + 1) + "|",
        f"| evaluations, forward | {' | '.join(map(str, first))} |",
    ]
    for mode in MODES:
        peaks = [cells[mode, tolerance]["bytes"] for tolerance in tolerances]
        shown = ["no solution" if peak is None else f"{peak / 2**20:,.0f}" for peak in peaks]
        lines.append(f"| {mode} | {' | '.join(shown)} |")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """The same as a picture, finer tolerances to the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for mode, colour in COLOURS.items():
        mine = [each for each in result["results"] if each["mode"] == mode and each["bytes"] is not None]
        x, y = [each["tolerance"] for each in mine], [each["bytes"] / 2**20 for each in mine]
        axes.plot(x, y, "o-", color=colour, lw=2, label=mode)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.invert_xaxis()
    axes.set_xlabel("tolerance, relative and absolute")
    axes.set_ylabel(f"MiB of a training step of {result['batch']} images")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = make_parser(__doc__, "python benchmarks/odenet_memory.py --batch 32", repeats=0)
    parser.add_argument("--batch", type=int, default=128, help="images (default: %(default)s)")
    parser.add_argument("--draw", action="store_true", help="print the table and draw the picture of what was measured")
    add_device(parser)
    options = parser.parse_args()
    if options.draw:
        result = json.loads((options.output or RESULTS / f"{NAME}.json").read_text())
        print(table(result))
        draw(result, FIGURES / f"{NAME}.png")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"setting": __doc__, "batch": options.batch, "results": []}
    # The finest tolerances take longest, under the adjoint above all: each is written as soon as it is measured.
    for tolerance in TOLERANCES:
        for mode in MODES:
            found["results"].append(measured(mode, tolerance, options.batch, options.device))
            path = save(NAME, found, options.device, options.output)
    results = found["results"]
    print(path)
    show(
        "Peak of a training step",
        [{"mode": one["mode"], "tolerance": one["tolerance"], "bytes": one["bytes"]} for one in results],
    )
    print(table(found))


if __name__ == "__main__":
    main()
