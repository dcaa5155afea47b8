"""What each gradient mode of a block needs as the block gets deeper: peak memory, time, and how exact it is.

One block, ``PreactDouble`` with batch norm, a state of 32 x 64 x 32 x 32, float32, eight constant controls on [0, 8],
cut into 8 to 512 steps: the weights stay as many, so all that grows is what the backward pass keeps.

Memory: one forward and backward pass in a fresh process (``depth_worker.py``) after one over a small state, which loads
the kernels. Bytes are those beyond what the process held before: the operating system's peak (``VmHWM``), on a GPU
that of PyTorch's allocator. Allocations beyond a limit fail, and what does not fit is marked so.
Time: passes of all modes in turn, in one process. Accuracy: gradients of the input and all weights in one 2-norm beside
those of backpropagation in float64 through the same steps, with a state of 8 x 64 x 8 x 8, for ReLU and tanh.

Example: python benchmarks/gradient_depth.py --modes checkpoint reversible --depths 8 64 --output /tmp/depth.json
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from depth_worker import CONTROLS, SPAN, STATE, Pass
from harness import Spread, add_device, interleaved, make_parser, save, show

# The modes with one and the same integrator, and a method that was made reversible.
MODES = {
    "backprop": ("alf", "backprop"),
    "checkpoint": ("alf", "checkpoint"),
    "reversible": ("alf", "reversible"),
    "adjoint": ("alf", "adjoint"),
    "reversible-rk4": ("reversible('rk4')", "reversible"),
}
# Steps of eight evaluations, and a memory that is flat by then: no more of them, unless asked for alone.
DEEPEST = {"reversible-rk4": 64}
DEPTHS = (8, 16, 32, 64, 128, 256, 512)
SMALL = (8, 64, 8, 8)
ACTIVATIONS = ("relu", "tanh")
# Tensors are mapped one by one and given back when they die. By default the heap of glibc keeps those of a few MiB, and
# holes between them: a peak that is up to twice as high, by what was freed in which order.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


def depths_of(options: argparse.Namespace, name: str) -> list[int]:
    """The numbers of steps of a mode."""
    most = DEEPEST.get(name) if len(options.modes) > 1 else None
    return [depth for depth in options.depths if most is None or depth <= most]


def peaks(options: argparse.Namespace, name: str) -> list[dict[str, object]]:
    """Measure one mode: on a CPU each depth in a process of its own; the allocator of a GPU forgets between two."""
    integrator, gradient = MODES[name]
    found = []
    depths = depths_of(options, name)
    for part in [[depth] for depth in depths] if options.device == "cpu" else [depths]:
        request = {
            "integrator": integrator,
            "gradient": gradient,
            "depths": part,
            "device": options.device,
            "limit": options.limit,
            "threads": torch.get_num_threads(),
        }
        worker = [sys.executable, str(Path(__file__).with_name("depth_worker.py")), json.dumps(request)]
        with subprocess.Popen(worker, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}) as process:
            for line in process.stdout or ():
                print(f"{name}: {line}", end="", flush=True)
                found.append({"mode": name, "integrator": integrator, **json.loads(line)})
        if process.returncode:
            raise SystemExit(f"the process of {name} at {part} steps ended with {process.returncode}")
    return found


def errors(options: argparse.Namespace) -> list[dict[str, object]]:
    """How far the gradients of each mode in float32 are from those of backpropagation in float64."""
    found = []
    for act in ACTIVATIONS:
        for depth in options.depths:
            exact: dict[str, torch.Tensor] = {}
            for name in (each for each in options.modes if depth in depths_of(options, each)):
                integrator, gradient = MODES[name]
                setting = (depth, options.device, SMALL, act)
                if integrator not in exact:
                    exact[integrator] = Pass(integrator, "backprop", *setting).double().gradients()
                theirs = exact[integrator]
                error = (Pass(integrator, gradient, *setting).gradients() - theirs).norm() / theirs.norm()
                found.append({"mode": name, "activation": act, "depth": depth, "error": error.item()})
                print(found[-1], flush=True)
    return found


def times(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a pass of every mode, in turn."""
    runs = {name: Pass(*MODES[name], options.timed, options.device) for name in options.modes}
    return interleaved(runs, options.repeats, warmup=1)


def rows(result: Mapping[str, list], seconds: Mapping[str, list[float]]) -> list[dict[str, object]]:
    """A line for each mode."""
    found: dict[str, dict[str, object]] = {}
    for each in result["memory"]:
        row = found.setdefault(each["mode"], {"mode": each["mode"]})
        row[f"{each['depth']}"] = f"{each['bytes'] / 2**20:.0f} MiB" if each["fits"] else "does not fit"
    for name, row in found.items():
        for act in ACTIVATIONS:
            mine = [each["error"] for each in result["errors"] if (each["mode"], each["activation"]) == (name, act)]
            row[f"error, {act}"] = f"{min(mine):.0e} to {max(mine):.0e}" if mine else ""
        if "backprop" in seconds:
            row["time"] = over_backprop(seconds, name)
        row["s"] = f"{median(seconds[name]):.2f}"
    return list(found.values())


def over_backprop(seconds: Mapping[str, Sequence[float]], name: str) -> Spread:
    """The ratios of each round."""
    return Spread.of([mine / plain for mine, plain in zip(seconds[name], seconds["backprop"], strict=True)])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/gradient_depth.py --device cuda --repeats 10", repeats=3)
    parser.add_argument("--depths", nargs="+", type=int, default=[*DEPTHS], help="numbers of steps (default: 8 to 512)")
    parser.add_argument("--modes", nargs="+", choices=[*MODES], default=[*MODES], help="(default: all)")
    parser.add_argument("--limit", type=float, default=6.0, help="GB for a pass (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=16, help="steps at which times are taken (default: %(default)s)")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    result = {"memory": [each for name in options.modes for each in peaks(options, name)], "errors": errors(options)}
    seconds = times(options)
    show(
        f"Peak memory over depth, errors of gradients, time over backprop at {options.timed} steps",
        rows(result, seconds),
    )
    setting = {"state": STATE, "span": SPAN, "controls": CONTROLS, "limit_gb": options.limit, "small_state": SMALL}
    payload = {**setting, **result, "timed_steps": options.timed, "seconds": seconds}
    print(save("gradient_depth", payload, options.device, options.output))


if __name__ == "__main__":
    main()
