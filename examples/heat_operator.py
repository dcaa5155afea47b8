"""Networks learn the solution operator of the heat equation on a ring, u(0) -> u(T), from pairs of fields in a file.

Each point of u(T) depends on u(0) within some 25 points on both sides. A convolution sees its neighbours, a
semi-implicit layer all points of the ring. The networks have about as many weights; the explicit one is the
semi-implicit one without its operator.

Example: python examples/heat_operator.py
Example: python examples/heat_operator.py --full  (more fields and epochs: the figures of the documents, of one seed)
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dynamicblocks.tasks import FieldConfig, ModelConfig, Regress
from dynamicblocks.training import HardwareConfig, OptimizerConfig, Outcome, TrainConfig, Training

POINTS, TIME = 128, 0.0016  # of a ring of length one and diffusivity one
RING = {"norm": "none", "boundary": "circular"}
NETWORKS = {
    "semi-implicit": ModelConfig("imexnet", widths=(16,), integrator="imex", **RING),
    "explicit": ModelConfig("imexnet", widths=(16,), operator=None, **RING),
    "residual": ModelConfig("dynamicnet", widths=(8,), units=6, layer="preact_double", activation="tanh", **RING),
    "deep residual": ModelConfig("dynamicnet", widths=(6,), units=11, layer="preact_double", activation="tanh", **RING),
}
SMALL = {"samples": 400, "epochs": 12, "networks": ("semi-implicit", "residual")}
FULL = {"samples": 800, "epochs": 30, "networks": tuple(NETWORKS)}


def fields(samples: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random smooth temperatures (samples, 1, POINTS), and what they are at TIME: exact, wave by wave."""
    waves = np.arange(POINTS // 2 + 1)
    sizes = np.exp(-((waves / 6) ** 2) / 2)
    drawn = np.random.default_rng(seed).normal(size=(2, samples, 1, len(waves)))
    before = sizes * (drawn[0] + 1j * drawn[1]) * POINTS / 4
    after = before * np.exp(-((2 * math.pi * waves) ** 2) * TIME)
    return np.fft.irfft(before, n=POINTS), np.fft.irfft(after, n=POINTS)


def write_fields(path: Path, samples: int) -> None:
    """A file of which a tenth is validation, a quarter test."""
    inputs, targets = fields(samples, seed=0)
    np.savez(path, inputs=inputs.astype(np.float32), targets=targets.astype(np.float32))


def training(path: Path, network: str, epochs: int, seed: int = 0, resume: Path | None = None) -> Training:
    """The training of one of the networks, beside the file of the fields."""
    task = Regress(data=FieldConfig(f"fields:{path}", test=0.25, batch_size=16), model=NETWORKS[network])
    config = TrainConfig(
        optimizer=OptimizerConfig(name="adam", lr=0.01, weight_decay=0, schedule="cosine", warmup=0.1),
        hardware=HardwareConfig(accelerator="cpu", precision="32-true", compile=False),
        epochs=epochs,
        seed=seed,
        output=str(path.parent),
        run=f"{network.replace(' ', '_')}_{seed}",
    )
    return Training(task, config, resume=resume, console=Console(quiet=True))


def unchanged(task: Regress) -> float:
    """The relative error of giving the input for the answer."""
    pairs = task.fields.test
    sizes = ((pairs.targets - pairs.inputs).flatten(1).norm(dim=1), pairs.targets.flatten(1).norm(dim=1))
    return (sizes[0] / sizes[1]).mean().item()


def main() -> None:
    plan = FULL if "--full" in sys.argv else SMALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heat.npz"
        write_fields(path, plan["samples"])
        outcomes: dict[str, Outcome] = {}
        for network in plan["networks"]:
            one = training(path, network, plan["epochs"])
            outcomes[network] = one.run()
        print(one.note)
        print(f"relative error of the test fields, u(T) = u(0): {unchanged(one.task):.1%}")
        for network, outcome in outcomes.items():
            print(f"{network}, {outcome.weights:,} weights: {outcome.test['relative_error']:.1%}")


if __name__ == "__main__":
    main()
