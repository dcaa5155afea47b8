"""(helper) A fresh process that takes blocks of ``gradient_depth.py`` forward and back, and says what it needed.

Its argument is one JSON request; it writes one JSON answer a line, for each depth.
"""

import gc
import json
import resource
import sys
import time
from pathlib import Path

import torch
from harness import settle
from torch import Tensor

import dynamicblocks as db

STATE = (32, 64, 32, 32)
SPAN, CONTROLS = 8.0, 8
# What PyTorch, oneDNN and the C++ library say where there is no more.
NO_MEMORY = ("memory", "alloc", "could not create a primitive")


class Pass:
    """Forward and backward through one block, with a gradient for its input as inside of a network.

    The weights do not grow with the depth: always as many pieces on the same span, which is cut into more steps.
    """

    def __init__(
        self, integrator: str, gradient: str, depth: int, device: str, state: tuple[int, ...] = STATE, act: str = "relu"
    ) -> None:
        torch.manual_seed(0)
        layer, times = f"preact_double({state[1]}, activation='{act}')", db.uniform(0, SPAN, steps=depth)
        self.block = db.DynamicBlock(layer, f"constant({CONTROLS})", times, integrator, gradient).to(device)
        draws = torch.Generator().manual_seed(1)
        self.y, self.by_end = (torch.randn(state, generator=draws).to(device) for _ in range(2))
        self.y.requires_grad_()
        self.evaluations = 0
        for layer in self.block.controls.layers:
            layer.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.evaluations += 1

    def warm(self) -> None:
        """A pass over a small state loads the kernels, and makes the gradients of the weights."""
        small = self.y.detach()[:2, :, :4, :4].clone().requires_grad_()
        self.block(small).sum().backward()

    def __call__(self) -> None:
        for tensor in (self.y, *self.block.parameters()):
            if tensor.grad is not None:
                tensor.grad.zero_()
        self.evaluations = 0
        self.block(self.y).backward(self.by_end)

    def gradients(self) -> Tensor:
        """Those of the input and of all weights, one after the other, in double precision."""
        self()
        return torch.cat([each.grad.flatten().double() for each in (self.y, *self.block.parameters())])

    def double(self) -> "Pass":
        """The same from now on in double precision."""
        self.block.double()
        self.y, self.by_end = (each.detach().double() for each in (self.y, self.by_end))
        self.y.requires_grad_()
        return self


def status(name: str) -> int:
    """Bytes that Linux tells of this process: ``VmRSS`` in memory now, ``VmHWM`` at most, ``VmData`` asked for."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def limit_memory(device: str, limit: float) -> None:
    """Let allocations fail beyond ``limit`` GB more than this process has now."""
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + int(limit * 1e9), resource.RLIM_INFINITY))
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + limit * 1e9) / total))


def measured(run: Pass, device: str, limit: float) -> dict[str, object]:
    """Bytes at most beyond those before, seconds and evaluations; or that there was not enough memory."""
    run.warm()
    gc.collect()
    settle()
    if device == "cpu":
        before = status("VmRSS")
    else:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    limit_memory(device, limit)
    begin = time.perf_counter()
    try:
        run()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error).lower() for text in NO_MEMORY):
            raise
        return {"fits": False}
    settle()
    seconds = time.perf_counter() - begin
    peak = status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    return {"fits": True, "bytes": peak - before, "seconds": seconds, "evaluations": run.evaluations}


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.argv[1])
    device = request["device"]
    torch.set_num_threads(request["threads"])
    for depth in request["depths"]:
        run = Pass(request["integrator"], request["gradient"], depth, device)
        print(json.dumps({"depth": depth, **measured(run, device, request["limit"])}), flush=True)
        del run


if __name__ == "__main__":
    main()
