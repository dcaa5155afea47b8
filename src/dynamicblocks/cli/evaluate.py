"""``dynamicblocks evaluate``."""

from argparse import Namespace
from typing import Literal

from dynamicblocks.cli import checks
from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.console import Bars, add_quiet_argument, make_console, say
from dynamicblocks.cli.loading import add_device_arguments, load, refusal, say_where
from dynamicblocks.cli.table import table
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import evaluations_of, named_blocks
from dynamicblocks.surgery import reintegrated, with_gradient
from dynamicblocks.training import evaluate
from dynamicblocks.training.manifestations import caveat
from dynamicblocks.training.progress import evaluation_steps

FILE = "evaluations.jsonl"

USAGE = "dynamicblocks evaluate RUN [--integrator NAME] [--steps N | --steps_per_control N] [--split SPLIT] ..."
DESCRIPTION = """Evaluate the weights of a run as they were trained, and under another integrator or number of steps.

Example: dynamicblocks evaluate runs/MINE --integrator rk4 --steps 16"""


def add_arguments(parser: Arguments) -> None:
    """The run, and its other manifestation."""
    parser.add_argument("run", type=str, help="the folder of a run", check=checks.run_folder)
    parser.add_argument("--integrator", help="one of `dynamicblocks integrators`", check=checks.integrator)
    parser.add_argument("--steps", type=int, help="equal steps of each block", check=checks.steps)
    parser.add_argument(
        "--steps_per_control", type=int, help="equal steps of each control interval", check=checks.steps
    )
    parser.add_argument("--split", type=Literal["test", "validation"], default="test", help="which samples")
    add_device_arguments(parser)
    add_quiet_argument(parser, "the file that holds the figures")


def run(options: Namespace) -> None:
    """Evaluate both, print a table and add a line to the run."""
    console = make_console(options)
    if None not in (options.steps, options.steps_per_control):
        raise ConfigurationError("--steps and --steps_per_control each say how many steps there are; give one of them")
    bars = Bars(console)
    one = load(options, options.run, options.split, bars)
    unit, figures = one.task.unit, one.task.figures
    nets = {"as trained": one.net}
    if (options.integrator, options.steps, options.steps_per_control) != (None, None, None):
        # Nothing is differentiated here, so no integrator is asked whether it serves the mode of the training.
        plain = with_gradient(one.net, "backprop")
        nets["as asked"], dropped = reintegrated(
            plain, options.integrator, steps=options.steps, steps_per_control=options.steps_per_control
        )
        if dropped:
            say(console, f"As asked, nothing reads {', '.join(dropped)}.")
    rows, records = [], []
    for name, variant in nets.items():
        with bars.bar(f"{options.split} {unit}, {name}", evaluation_steps(one.batches)) as bar:
            score = evaluate(one.task, variant, one.batches, one.fabric, bar.step)
        integrators = ", ".join(dict.fromkeys(block.integrator.shorthand for block in named_blocks(variant).values()))
        steps = [block.steps for block in named_blocks(variant).values()]
        rows.append(
            (
                name,
                integrators,
                ", ".join(str(count) for count in dict.fromkeys(steps)),
                str(evaluations_of(variant)),
                *(figure.shown(score[figure.name]) for figure in figures),
                f"{score.samples_per_second:,.0f}",
            )
        )
        entry = {"integrator": integrators, "steps": steps, "evaluations": evaluations_of(variant)}
        records.append({**entry, "split": options.split, **score.as_record(unit)})
    asked = {block.integrator.shorthand for variant in nets.values() for block in named_blocks(variant).values()}
    headings = (figure.heading for figure in figures)
    title = f"{one.folder.path} on {one.batches.samples} {options.split} {unit}"
    head = ("", "integrator", "steps a block", "evaluations", *headings, f"{unit}/s")
    say(console, table(title, head, rows, text=2))
    said = caveat(one.net, sorted(asked))
    say(console, f"{said}\n" if said else "")
    say_where([one.folder.path / FILE], refusal(lambda: one.folder.append(FILE, *records)))
