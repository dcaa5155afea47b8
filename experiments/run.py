"""Train one of the configurations here and keep its result.

Example: python experiments/run.py fast_euler_2 --data_dir data
"""

import argparse
from dataclasses import replace
from datetime import date
from pathlib import Path

from common import HERE, RESULTS, begun, told, write

from dynamicblocks.tasks.classify import Classify
from dynamicblocks.tasks.files import load_config
from dynamicblocks.training import Outcome, TrainConfig, Training
from dynamicblocks.training.run_folder import RunFolder

CONFIGS = HERE / "configs"
CHOICES = {"auto": "auto", "true": True, "false": False}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    parser.add_argument("--data_dir", help="local copy of the data; by default it is downloaded")
    parser.add_argument("--seed", type=int, help="instead of the configuration's")
    parser.add_argument("--output", default="runs", help="where the run is written (default runs)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result is written (default here)")
    parser.add_argument("--accelerator", help="instead of the configuration's: cpu, cuda, ...")
    parser.add_argument("--precision", help="instead of the configuration's: 32-true, bf16-mixed, ...")
    parser.add_argument("--compile", choices=CHOICES, help="instead of the configuration's")
    parser.add_argument("--channels_last", choices=CHOICES, help="instead of the configuration's")
    parser.add_argument("--steps", type=int, help="stop after so many, for a trial")
    parser.add_argument("--checkpoint_steps", type=int, help="a checkpoint also after every so many steps of an epoch")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the result")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off, if there is one")
    return parser.parse_args(arguments)


def asked(options: argparse.Namespace) -> tuple[Classify, TrainConfig]:
    """The configuration of that name, with what was asked for otherwise."""
    task, config = load_config(CONFIGS / f"{options.name}.yaml")
    assert isinstance(task, Classify)
    task = replace(task, data=replace(task.data, data_dir=options.data_dir))
    hardware = {"accelerator": options.accelerator, "precision": options.precision}
    hardware |= {name: CHOICES.get(getattr(options, name)) for name in ("compile", "channels_last")}
    given = {"seed": options.seed, "max_steps": options.steps, "checkpoint_steps": options.checkpoint_steps}
    config = replace(
        config,
        hardware=replace(config.hardware, **{name: value for name, value in hardware.items() if value is not None}),
        output=options.output,
        run=run_name(options.name, config.seed, options.seed),
        **{name: value for name, value in given.items() if value is not None},
    )
    return task, config


def run_name(name: str, usual: int, seed: int | None) -> str:
    """Of the run and its result: a seed that is not the configuration's is named."""
    return name if seed in (None, usual) else f"{name}_seed{seed}"


def result(name: str, outcome: Outcome, config: TrainConfig, data_dir: str | None, note: str) -> dict:
    """What is kept of a training."""
    folder = RunFolder(outcome.folder)
    record = folder.record()
    return {
        "experiment": name,
        "date": f"{date.today()}",
        "seed": config.seed,
        "weights": outcome.weights,
        "test_accuracy": outcome.test["accuracy"],
        "validation_accuracy": outcome.validation["accuracy"],
        "training_minutes": round(outcome.seconds / 60, 2),
        "kept_epoch": outcome.kept_epoch + 1,
        "versions": record["versions"],
        "hardware": record["hardware"],
        "note": note,
        "measured_steps": record.get("measured_steps", []),
        **told(folder, data_dir),
    }


def main() -> None:
    options = parse()
    task, config = asked(options)
    assert config.run is not None
    training = Training(task, config, resume=begun(options.output, config.run) if options.resume else None)
    outcome = training.run()
    path = options.results / f"{config.run}.json"
    write(path, result(options.name, outcome, config, options.data_dir, options.note))
    print(
        f"{outcome.test['accuracy']:.2%} in {outcome.seconds / 60:.1f} min; result in {path}, run in {outcome.folder}"
    )


if __name__ == "__main__":
    main()
