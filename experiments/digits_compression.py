"""An 8-unit RK4 ContinuousNet on the digits, compressed after its training, beside a plain ResNet of equal size.

The plain network is given half its steps, its weights projected as the other's are: its accuracy falls.

Example: python experiments/digits_compression.py --seeds 0 1 2
"""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

from compression import compressed

from dynamicblocks.cli.main import main as command
from dynamicblocks.training.environment import environment

RESULT = Path(__file__).parent / "results" / "digits_compression.json"
TOLERANCES = ["--tolerance", "0.3%", "--disagreement", "1%"]
# The penalty on d theta/dt makes weights that bear longer steps; the plain network has no time to be smooth in.
COMMON = ["--epochs", "40", "--optimizer.lr", "0.05", "--hardware.precision", "32-true"]
MODELS = {
    "rk4": [
        "--model.name",
        "continuousnet",
        "--model.units",
        "8",
        "--model.integrator",
        "rk4_classic",
        "--optimizer.smoothness",
        "1e-3",
    ],
    "plain": [
        "--model.name",
        "resnet",
        "--model.depth",
        "56",
        "--model.unit",
        "post",
        "--model.shortcut",
        "convolution_norm",
        "--model.initial",
        "he",
    ],
}


def one_seed(seed: int) -> dict:
    """Both trainings and the compression."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run, model in MODELS.items():
            command(["train", *model, *COMMON, "--seed", f"{seed}", "--output", name, "--run", run])
        result = compressed(folder / "rk4", "--beside", str(folder / "plain"), *TOLERANCES)
        trained = {run: json.loads((folder / run / "result.json").read_text()) for run in MODELS}
    return {"date": f"{date.today()}", **environment(), "seed": seed, "compression": result, "trainings": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of both trainings (default 0 1 2)")
    for seed in parser.parse_args().seeds:
        run = one_seed(seed)
        known = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
        runs = sorted([*(each for each in known if each["seed"] != seed), run], key=lambda each: each["seed"])
        record = {"flags": {"common": COMMON, "tolerances": TOLERANCES, **MODELS}, "runs": runs}
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
        print(f"seed {seed} written to {RESULT}")


if __name__ == "__main__":
    main()
