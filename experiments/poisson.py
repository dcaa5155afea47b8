"""Rates of events that are learnt, beside the true ones: how far below them is the likelihood of events held out?

For the three known rates of the task ``events``, its default options, and more than 10,000 events held out (a table and
a picture, ``docs/figures/poisson.png``). Held-out events are weighed in float64 with a solve of tolerance 1e-9, so that
what the solver errs by in training is no part of the figure. Rows that are there are left alone, and a run that was cut
off goes on.

    python experiments/poisson.py --seeds 0 1 2
    python experiments/poisson.py --table --draw docs/figures/poisson.png
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch
from common import RESULTS, begun, keep, read
from matplotlib.figure import Figure

from dynamicblocks.data.series.known_rates import known_rates
from dynamicblocks.sequences import Solver
from dynamicblocks.tasks import EventConfig, Events, load_config
from dynamicblocks.tasks.option_table import OptionTable
from dynamicblocks.training import Place, Training
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder

RESULT = RESULTS / "poisson.json"
RATES = ("constant", "sinusoidal", "state_driven")
# So many sequences, of the 1,000 that are trained on, are drawn besides: about 12,000 events.
HELD_OUT = 0.6
EXACT = Solver(rtol=1e-9, atol=1e-10)
LEARNT, TRUE, EVENTS = "#d1495b", "#00798c", "#6c757d"


def row(rate: str, seed: int, options: argparse.Namespace) -> dict:
    name = f"poisson-{rate}-{seed}"
    task = Events(EventConfig(rate, test=HELD_OUT, split_seed=seed))
    config = replace(OptionTable(Events).training({}), seed=seed, output=options.runs, run=name)
    place = begun(options.runs, name)
    if place is not None:
        task, config = load_config(RunFolder.open(place).configuration())
    training = Training(task, config, resume=place)
    outcome = training.run()
    net = copy.deepcopy(outcome.net).double().eval()
    net.solver = EXACT
    sums = torch.zeros(len(task.sums), dtype=torch.float64)
    with torch.no_grad():
        for batch in task.batches("test", Place(dtype=torch.float64)).evaluation():
            sums += task.score(net, batch)
    exact = task.measured(dict(zip(task.sums, sums.tolist(), strict=True)))
    return {
        "rate": rate,
        "seed": seed,
        "held_out_events": task.events.test.events,
        "held_out_sequences": len(task.events.test),
        "nats_per_event": exact["loss"],
        "excess": exact["excess"],
        "gain_on_a_constant_rate": exact["gain"],
        "excess_as_trained": outcome.test["excess"],
        "seconds": outcome.seconds,
        "data": task.events.note,
        "task": task.as_dict(),
        "epochs": config.epochs,
        "environment": environment(),
        "picture": curves(task, outcome.net.eval()),
    }


def curves(task: Events, net: torch.nn.Module) -> dict:
    """Of the first sequence held out: times, true rate, learnt rate, events."""
    one = task.events.test.select(torch.tensor([0]))
    line = torch.linspace(one.t0, one.t1, 101, dtype=torch.float64)
    learnt = task.predict(net, one.initial, times=line).values[0, :, 0]
    true = known_rates.create(task.data.name).along(one.initial, one.t0, one.t1)(line[None])[0]
    return {
        "t": line.tolist(),
        "learnt": [round(each, 5) for each in learnt.tolist()],
        "true": [round(each, 5) for each in true.tolist()],
        "events": [round(each, 4) for each in one.times[0, : one.lengths[0]].tolist()],
    }


def four(value: float) -> str:
    """A number to four decimals, zero without a sign."""
    return f"{round(value, 4) + 0.0:.4f}"


def table(rows: list[dict]) -> str:
    lines = [
        "| rate | held-out events | nats an event below the true rate: mean (lowest to highest) | gained on a constant "
        "rate | seconds |",
        "|---|---|---|---|---|",
    ]
    for rate in RATES:
        mine = [each for each in rows if each["rate"] == rate]
        if mine:
            excess, gain, seconds, events = (
                [each[name] for each in mine]
                for name in ("excess", "gain_on_a_constant_rate", "seconds", "held_out_events")
            )
            lines.append(
                f"| {rate} | {min(events):,} or more | {four(sum(excess) / len(mine))} ({four(min(excess))} to "
                f"{four(max(excess))}) | {four(sum(gain) / len(mine))} | {sum(seconds) / len(mine):.0f} |"
            )
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for rate, axes in zip(RATES, figure.subplots(1, len(RATES), sharey=True), strict=True):
        shown = next(each for each in rows if each["rate"] == rate and each["seed"] == 0)
        found = shown["picture"]
        axes.plot(found["events"], [0] * len(found["events"]), "|", color=EVENTS, ms=14, label="events of a sequence")
        axes.plot(found["t"], found["true"], color=TRUE, lw=3, alpha=0.5, label="true rate")
        axes.plot(found["t"], found["learnt"], color=LEARNT, lw=1.5, label="learnt rate")
        axes.set_title(f"{rate.replace('_', '-')}: {four(shown['excess'])} nats an event", fontsize=9)
        axes.set_xlabel("time", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[0].set_ylabel("events per unit of time", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw what was measured")
    options = parser.parse_args()
    if options.table or options.draw:
        rows = read(options.output, "rows")["rows"]
        if options.table:
            print(table(rows))
        if options.draw:
            draw(rows, options.draw)
        return
    for seed in options.seeds:
        for rate in options.rates:
            there = {(each["rate"], each["seed"]) for each in read(options.output, "rows")["rows"]}
            if (rate, seed) not in there:
                new = row(rate, seed, options)
                keep(options.output, "rows", lambda record, new=new: record["rows"].append(new))
                print(rate, seed, new["excess"], flush=True)


if __name__ == "__main__":
    main()
