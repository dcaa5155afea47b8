"""(helper) What the experiments share: results without where they were made, and training steps that are timed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn import functional as F

from dynamicblocks.training.run_folder import RunFolder

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def told(folder: RunFolder, data_dir: str | None) -> dict[str, Any]:
    """Configuration, data and epochs of a run; where the data lay and the run was written is its machine's business."""
    configuration = yaml.safe_load(folder.configuration().read_text())
    configuration["data"]["data_dir"], configuration["output"] = None, "runs"
    return {
        "data": folder.record()["data"].replace(f"local copy in {data_dir}", "local copy in the official layout"),
        "configuration": configuration,
        "epochs": folder.metrics(),
    }


def begun(output: str | Path, name: str) -> Path | None:
    """The folder of a run that was cut off, which a training goes on from; None where there is none."""
    folder = Path(output) / name
    return folder if (folder / "checkpoint.safetensors").exists() else None


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{os.getpid()}.part")
    written.write_text(json.dumps(record, indent=1) + "\n")
    written.replace(path)


def read(path: Path, kind: str) -> dict[str, Any]:
    """The record on disk; one without entries where there is none."""
    return json.loads(path.read_text()) if path.exists() else {kind: []}


def keep(path: Path, kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record on disk."""
    record = read(path, kind)
    change(record)
    write(path, record)


def fresh(script: str, *arguments: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a script says last with these arguments, in a process of its own."""
    command = [sys.executable, script, *arguments]
    environment = {**os.environ, **(environ or {})}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def put_table(table: str, documents: Iterable[Path], begin: str, end: str) -> None:
    """Put a table between its marks, in the place of the one there."""
    for document in documents:
        before, rest = document.read_text().split(begin)
        document.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def training_step(net: nn.Module, batch: int) -> Callable[[], float]:
    """A step of a training on random images of CIFAR's size, in bfloat16 on a CPU; it says how many seconds it took."""
    net.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        begin = perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        return perf_counter() - begin

    return step
