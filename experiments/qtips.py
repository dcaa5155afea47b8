"""Q-tips: what an IMEX network sees at once, a plain convolution network sees step by step.

Every pixel of a rod must know both of its ends. One network with semi-implicit steps, its explicit partner (the same
network, the same f, Euler's steps, no solve), a plain convolution network that is deep and thin in the place of the
solve, and what it comes to when background is all that is said. Equal weights, the same recipe, three seeds of the
training on the same images. Each training is a row of ``results/qtips.json``; rows that are there are not trained
again, and a training that was cut off goes on where it was.

Example: python experiments/qtips.py --seeds 0 1 2
"""

import argparse
import shutil
from datetime import date
from pathlib import Path
from statistics import mean
from time import process_time

from common import HERE, RESULTS, begun, keep, put_table, read

from dynamicblocks.tasks import ModelConfig, Segment
from dynamicblocks.training import RunFolder, TrainConfig, Training
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.runs import recorded

RESULT = RESULTS / "qtips.json"
DOCUMENTS = (HERE / "README.md", HERE.parent / "docs" / "segmentation.md")
PICTURE = HERE.parent / "docs" / "figures" / "qtips.png"
DRAWN = ("IMEX", 0)
BEGIN, END = "<!-- table: python experiments/qtips.py --table -->", "<!-- end of Q-tips -->"
RODS = ("white-white", "white-black", "black-black")
EPOCHS = 10
# The choices that a processor with bfloat16 units gets by default, fixed: all networks are trained in the same way.
HARDWARE = HardwareConfig(accelerator="cpu", precision="bf16-mixed", channels_last=True, compile=False)
NETWORKS = {
    "IMEX": Segment().model,
    "explicit partner": ModelConfig("dynamicnet", widths=(16,), units=3),
    "deep and thin": ModelConfig("dynamicnet", widths=(8,), units=12),
}
MEANING = {
    "IMEX": "one block, width 16, three steps of `imex(balanced=True)`",
    "explicit partner": "the same f, three steps of Euler's method: a pixel sees 7 others on each side",
    "deep and thin": "one block, width 8, twelve steps of Euler's method: a pixel sees 25 others on each side",
}


def train(name: str, seed: int, output: str, note: str) -> dict:
    """One training; what came out."""
    run = run_name(name, seed)
    task = Segment(model=NETWORKS[name])
    config = TrainConfig(epochs=EPOCHS, hardware=HARDWARE, keep="last", seed=seed, output=output, run=run)
    resume = begun(output, run)
    training = Training(task, config, resume=resume)
    before = process_time()
    outcome = training.run()
    folder = RunFolder(outcome.folder)
    return {
        "network": name,
        "seed": seed,
        "date": f"{date.today()}",
        "weights": outcome.weights,
        "test_rods": rods(outcome.test.figures),
        "validation_rods": rods(outcome.validation.figures),
        **{f"test_{figure}": value for figure, value in outcome.test.figures.items()},
        "training_seconds": outcome.seconds,
        "processor_seconds": process_time() - before,
        "resumed": resume is not None,
        "data": training.note,
        "note": note,
        "configuration": {**recorded(task, config), "output": "runs"},
        "epochs": folder.metrics(),
        **environment(),
    }


def run_name(name: str, seed: int) -> str:
    """The name of the run of a row."""
    return f"{name.replace(' ', '_')}_{seed}"


def rods(figures: dict) -> float:
    """The mean IoU of the classes of rods."""
    return mean(figures.get(f"iou_{name}", 0.0) for name in RODS)


def record() -> dict:
    """The results so far."""
    return read(RESULT, "rows")


def table() -> str:
    """The record as Markdown."""
    found = record()["rows"]
    lines = [
        "| network | | weights | mean IoU of rods, test: mean (lowest to highest) | by seed | seconds of a training |",
        "|---|---|---|---|---|---|",
        "| background everywhere | says no rod anywhere | 0 | 0.00 % | | |",
    ]
    for name, meaning in MEANING.items():
        rows = sorted((row for row in found if row["network"] == name), key=lambda row: row["seed"])
        if not rows:
            lines.append(f"| {name} | {meaning} | not measured | not measured | | |")
            continue
        shares = [100 * row["test_rods"] for row in rows]
        spread = f" ({min(shares):.2f} to {max(shares):.2f})" if len(shares) > 1 else ", one seed"
        # The rest of a training that was cut off says nothing of the whole.
        whole = [row["processor_seconds"] for row in rows if not row["resumed"]]
        cells = [
            name,
            meaning,
            f"{rows[0]['weights']:,}",
            f"{mean(shares):.2f} %{spread}",
            ", ".join(f"{share:.2f}" for share in shares),
            f"{mean(whole):.0f}" if whole else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the trainings (default 0 1 2)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], help="default all")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
        return
    for name in options.networks:
        for seed in options.seeds:
            if any((row["network"], row["seed"]) == (name, seed) for row in record()["rows"]):
                continue
            row = train(name, seed, options.output, options.note)
            keep(RESULT, "rows", lambda found, row=row: found["rows"].append(row))
            if (name, seed) == DRAWN:
                shutil.copy(Path(options.output) / run_name(name, seed) / "segmentation.png", PICTURE)
            print(f"{name}, seed {seed}: {row['test_rods']:.2%}, {row['weights']:,} weights", flush=True)


if __name__ == "__main__":
    main()
