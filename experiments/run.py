"""Train one of the configurations here and keep its result.

Example: python experiments/run.py fast_euler_2 --data_dir data
"""

import argparse
import json
from dataclasses import replace
from datetime import date
from pathlib import Path

from dynamicblocks.training import Training
from dynamicblocks.training.config import load_config
from dynamicblocks.training.run_folder import RunFolder

HERE = Path(__file__).parent
CHOICES = ("auto", "true", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(path.stem for path in (HERE / "configs").glob("*.yaml")))
    parser.add_argument("--data_dir", help="local copy of the data; by default it is downloaded")
    parser.add_argument("--seed", type=int, help="instead of the configuration's")
    parser.add_argument("--output", default="runs", help="where the run is written (default runs)")
    parser.add_argument("--precision", help="instead of the configuration's: 32-true, bf16-mixed, ...")
    parser.add_argument("--compile", choices=CHOICES, help="instead of the configuration's")
    parser.add_argument("--channels_last", choices=CHOICES, help="instead of the configuration's")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the result")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    options = parser.parse_args()
    config = load_config(HERE / "configs" / f"{options.name}.yaml")
    seed = config.seed if options.seed is None else options.seed
    name = options.name if seed == config.seed else f"{options.name}_seed{seed}"
    config = replace(
        config, data=replace(config.data, data_dir=options.data_dir), seed=seed, output=options.output, run=name
    )
    asked = {"precision": options.precision}
    for choice in ("compile", "channels_last"):
        value = getattr(options, choice)
        asked[choice] = value if value in (None, "auto") else value == "true"
    hardware = replace(config.hardware, **{choice: value for choice, value in asked.items() if value is not None})
    config = replace(config, hardware=hardware)
    training = Training(config, resume=Path(options.output) / name if options.resume else None)
    outcome = training.run()
    folder = RunFolder(outcome.folder)
    record = folder.record()
    # Where the data lay and the run was written is this machine's business.
    used = training.config.as_dict()
    used["data"]["data_dir"], used["output"] = None, "runs"
    result = {
        "experiment": options.name,
        "date": f"{date.today()}",
        "seed": seed,
        "weights": outcome.weights,
        "test_accuracy": outcome.test.accuracy,
        "validation_accuracy": outcome.validation.accuracy,
        "training_minutes": round(outcome.seconds / 60, 2),
        "kept_epoch": outcome.kept_epoch + 1,
        "versions": record["versions"],
        "hardware": record["hardware"],
        "data": record["data"].replace(f"local copy in {options.data_dir}", "local copy in the official layout"),
        "note": options.note,
        "measured_steps": record["measured_steps"],
        "configuration": used,
        "epochs": folder.metrics(),
    }
    path = HERE / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{outcome.test.accuracy:.2%} in {outcome.seconds / 60:.1f} min; result in {path}, run in {outcome.folder}")


if __name__ == "__main__":
    main()
