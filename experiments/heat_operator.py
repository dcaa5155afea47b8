"""The heat equation's solution operator, learnt by a semi-implicit, an explicit and a residual network.

The trainings of ``examples/heat_operator.py --full`` with several seeds, on the same fields. Each is a row of
``results/heat_operator.json``; rows that are there are not trained again, so a run that was cut off goes on.

Example: python examples/heat_operator.py
Example: python experiments/heat_operator.py --seeds 0 1 2
"""

import argparse
import importlib.util
import shutil
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from types import ModuleType

import yaml
from common import HERE, RESULTS, begun, keep, put_table, read

from dynamicblocks.training import RunFolder
from dynamicblocks.training.environment import environment

RESULT = RESULTS / "heat_operator.json"
PICTURE = HERE.parent / "docs" / "figures" / "heat_operator.png"
DOCUMENTS = (HERE / "README.md", HERE.parent / "docs" / "fields.md")
BEGIN, END = "<!-- table: python experiments/heat_operator.py --table -->", "<!-- end of heat -->"
DRAWN = ("semi-implicit", 0)


def example() -> ModuleType:
    """The example of the same name."""
    spec = importlib.util.spec_from_file_location("heat_example", HERE.parent / "examples" / "heat_operator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


heat = example()


def train(network: str, seed: int, path: Path, note: str) -> dict:
    """One training; what came out, without where the data lay."""
    resume = begun(path.parent, f"{network.replace(' ', '_')}_{seed}")
    training = heat.training(path, network, heat.FULL["epochs"], seed, resume)
    before = process_time()
    outcome = training.run()
    seconds = process_time() - before
    if (network, seed) == DRAWN:
        shutil.copyfile(outcome.folder / "predictions.png", PICTURE)
    run = RunFolder(outcome.folder)
    configuration = yaml.safe_load(run.configuration().read_text())
    configuration["data"]["name"], configuration["output"] = "fields:heat.npz", "runs"
    return {
        "network": network,
        "seed": seed,
        "date": f"{date.today()}",
        "weights": outcome.weights,
        **{f"test_{name}": value for name, value in outcome.test.figures.items()},
        **{f"validation_{name}": value for name, value in outcome.validation.figures.items()},
        "unchanged_relative_error": heat.unchanged(training.task),
        "training_seconds": outcome.seconds,
        "processor_seconds": seconds,
        "data": run.record()["data"].replace(f"{path}", "heat.npz"),
        "note": note,
        "configuration": configuration,
        "epochs": run.metrics(),
        **environment(),
    }


def table() -> str:
    """The rows as Markdown."""
    rows = read(RESULT, "rows")["rows"]
    lines = [
        "| network | weights | relative error, test: mean (lowest to highest) | standard deviation | seeds |",
        "|---|---|---|---|---|",
    ]
    for network in heat.NETWORKS:
        mine = [row for row in rows if row["network"] == network]
        errors = [100 * row["test_relative_error"] for row in mine]
        if errors:
            spread = f"{stdev(errors):.2f}" if len(errors) > 1 else "-"
            reached = f"{mean(errors):.2f} % ({min(errors):.2f} to {max(errors):.2f})"
            lines.append(f"| {network} | {mine[0]['weights']:,} | {reached} | {spread} | {len(errors)} |")
        else:
            lines.append(f"| {network} | not measured | | | |")
    if rows:
        lines.append(f"| u(T) = u(0) | 0 | {100 * rows[0]['unchanged_relative_error']:.2f} % | | |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the trainings (default 0 1 2)")
    parser.add_argument("--networks", nargs="+", choices=[*heat.NETWORKS], default=[*heat.NETWORKS], help="default all")
    parser.add_argument("--output", default="runs/heat_operator", help="where the runs are written")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
        return
    path = Path(options.output) / "heat.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    heat.write_fields(path, heat.FULL["samples"])
    for seed in options.seeds:
        for network in options.networks:
            if any((row["network"], row["seed"]) == (network, seed) for row in read(RESULT, "rows")["rows"]):
                continue
            row = train(network, seed, path, options.note)
            keep(RESULT, "rows", lambda found, row=row: found["rows"].append(row))
            error, seconds = row["test_relative_error"], row["processor_seconds"]
            print(f"{network}, seed {seed}: {error:.2%}, {seconds:.0f} s of the processor", flush=True)


if __name__ == "__main__":
    main()
