"""``dynamicblocks train``."""

import shlex
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training import Outcome, TrainConfig, Training
from dynamicblocks.training.config import add_config_arguments, config_of, load_config
from dynamicblocks.training.evaluation import caveat, own_integrator, solves_its_equation
from dynamicblocks.training.run_folder import RunFolder

# A list of every flag above each error would hide the error.
USAGE = "dynamicblocks train [--config FILE] [--FLAG VALUE ...] [--resume RUN]"
DESCRIPTION = """Train a network of dynamic blocks on images, then evaluate the same weights under other integrators.

Without arguments: scikit-learn's digits and a small network, under two minutes on a laptop.
Example: dynamicblocks train --model.name resnet20 --model.unit post --epochs 20
Example: dynamicblocks train --config runs/OLD/config.yaml --seed 1
Example: dynamicblocks train --refine.epochs 10 20 --refine.restart true --optimizer.smoothness 2e-4 --optimizer.box 1
Example: dynamicblocks train --model ContinuousNet --scheme rk4_classic --dataset CIFAR10 --initial-time-d 1 --refine 25

Several values are written one after the other or as a list: --refine.epochs 10 20, --refine.epochs [10,20].
The last example is ContinuousNet's. Its flags are accepted with - or _: --model, --arch (a published name takes
the original's defaults), --scheme, --dataset, --data-dir, --batch-size, --test-batch-size, --lr, --lr-decay,
--lr-decay-epoch, --weight-decay, --[no-]batch-norm, --device, --alpha, --widen-factor, --initial-time-d,
--n-time-steps-per, --time-epsilon, --use-skipinit, --refine, --refine-variance, --name, --depth-res, --depth-wide."""


def add_arguments(parser: ArgumentParser) -> None:
    """Every field of the configuration is a flag."""
    add_config_arguments(parser)
    parser.add_argument("--resume", type=str, default=None, help="folder of a run to continue, as it was configured")


def run(options: Namespace) -> None:
    """Train and show what came out."""
    training = _resumed(options) if options.resume is not None else Training(config_of(options))
    console = training.console
    console.print(training.data.note, soft_wrap=True)
    console.print(
        f"{training.config.model.name}: {training.net.num_weights:,} weights, {training.net.evaluations} layer "
        f"evaluations a pass, on {training.fabric.device}; writing to {training.folder.path}",
        soft_wrap=True,
        highlight=False,
    )
    show(training.run(), training, console)


def _resumed(options: Namespace) -> Training:
    if config_of(options) != TrainConfig():
        raise ConfigurationError(
            "--resume continues a run as it was configured and takes no other options; to change some, start a new "
            f"run with --config {Path(options.resume) / 'config.yaml'}"
        )
    path = Path(options.resume)
    config = load_config(RunFolder.open(path).configuration())
    return Training(config, resume=path)


def show(outcome: Outcome, training: Training, console: Console) -> None:
    """The result, the same weights in other manifestations, and what to do next."""
    test, chosen = outcome.test, outcome.validation
    console.print(
        f"\nTest accuracy [bold]{test.accuracy:.2%}[/] ({test.correct} of {test.images} images, read once). Weights of "
        f"epoch {outcome.kept_epoch + 1}, the {training.config.keep} ({chosen.accuracy:.2%} on the validation images). "
        f"{outcome.seconds:.1f} s of training.",
        highlight=False,
    )
    if outcome.manifestations:
        console.print(manifestation_table(outcome))
    other = " --integrator rk4 --steps 16" if solves_its_equation(outcome.net, "rk4") else ""
    run = shlex.quote(str(outcome.folder))
    console.print(f"Run written to {outcome.folder}\nNext:", highlight=False, soft_wrap=True)
    for command in (
        f"dynamicblocks converge {run}",
        f"dynamicblocks compress {run}",
        f"dynamicblocks evaluate {run}{other}",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def manifestation_table(outcome: Outcome) -> Table:
    """Test accuracy by integrator and number of steps."""
    factors = sorted({other.steps_factor for other in outcome.manifestations})
    trained = own_integrator(outcome.net)
    names = [other.integrator for other in outcome.manifestations]
    table = Table(
        title="Test accuracy of the same weights, by integrator and steps",
        title_justify="left",
        caption=caveat(outcome.net, names) or None,
        caption_justify="left",
    )
    table.add_column("integrator")
    for factor in factors:
        table.add_column("steps as trained" if factor == 1 else f"{factor} x steps", justify="right")
    found: dict[tuple[str, int], Any] = {(o.integrator, o.steps_factor): o for o in outcome.manifestations}
    for integrator in dict.fromkeys(names):
        name = f"{integrator} (trained)" if integrator == trained else integrator
        table.add_row(name, *(f"{found[integrator, factor].accuracy:.2%}" for factor in factors))
    return table
