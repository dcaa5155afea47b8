"""Continuous flows of images, trained for a fixed time: digits and MNIST in bits a dimension, and samples beside data.

Trained as RNODE (Finlay et al. 2020) trains: rk4 of step 0.25, both penalties, logits of uniformly dequantised pixels;
tested with dopri5 of tolerance 1e-5. The time is that of the processor, of all its cores together, so that it does not
matter what else they do; the learning rate falls to zero at its end, whatever was reached by then. A training is a row
of ``results/densities_images.json``; one that was cut off goes on from its last checkpoint.

Examples:
    python experiments/densities_images.py digits --minutes 10
    python experiments/densities_images.py mnist --minutes 30 --data_dir data
    python experiments/densities_images.py --table
"""

import argparse
import math
import os
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from common import HERE, RESULTS, keep, put_table, read
from torch import Tensor
from torch.nn import functional

from dynamicblocks.counting import counting
from dynamicblocks.data.images.catalogue import Raw, Where, read_raw
from dynamicblocks.draws import generator
from dynamicblocks.flows import Flow, negative_log_likelihood
from dynamicblocks.flows.images import Dequantise, Marginals, bits_per_dim, make_image_flow
from dynamicblocks.functional import Solver
from dynamicblocks.training.environment import environment

RESULT = RESULTS / "densities_images.json"
PICTURES = HERE.parent / "docs" / "figures"
DOCUMENTS = (HERE / "README.md",)
BEGIN, END = "<!-- table: python experiments/densities_images.py --table -->", "<!-- end of densities of images -->"
# FFJORD's multiscale MNIST: six GPUs, days (Grathwohl et al. 2019, arXiv:1810.01367, table 2 and appendix).
PUBLISHED = {"mnist": 0.99}
TRAINED, TESTED = Solver("rk4", step_size=0.25), Solver("dopri5", rtol=1e-5, atol=1e-5)
# RNODE's 0.01 each, of half the mean over pixels and in bits; here sums in nats.
PENALTIES = {"kinetic": 0.005 * math.log(2), "jacobian": 0.01 * math.log(2)}
WARMUP, CLIP, CHECKPOINT_SECONDS, TEST_BATCH = 0.03, 1.0, 60.0, 250
SOME = 10_000
SHOWN = (5, 10)


@dataclass(frozen=True)
class Setting:
    """A flow and its training.

    Args:
        marginals: whether pixels become normal by how often their values are, or by a logit.
        alpha: of the logit, see :class:`Dequantise`.
        hidden, patch, scales, flows: see :func:`make_image_flow`.
        batch, lr: of the training, by Adam.
    """

    marginals: bool = True
    alpha: float = 1e-6
    hidden: tuple[int, ...] = (64, 64, 64)
    patch: int = 1
    scales: int = 1
    flows: int = 1
    batch: int = 100
    lr: float = 5e-3


SETTINGS = {
    "digits": Setting(patch=2, batch=32),
    # As much work in a step as 64 channels on patches of 4 x 4; in a minute it learns more.
    "mnist": Setting(patch=2, hidden=(32, 32, 32), batch=32),
}


def flow_of(setting: Setting, images: Tensor, levels: int) -> Flow:
    """An untrained flow; pixels become normal by their frequencies, or logits are standardised by the first images."""
    given: dict[str, Any] = {"counts": Marginals.count(images, levels)}
    if not setting.marginals:
        some = images[:SOME].float()
        logits = Dequantise(levels, setting.alpha).to_base(some, generator=generator(0)).value
        given = {"mean": logits.mean(0), "std": logits.std(0)}
    return make_image_flow(
        images.shape[1:], levels, alpha=setting.alpha, hidden=setting.hidden, patch=setting.patch,
        scales=setting.scales, flows=setting.flows, solver=TRAINED,
        trace="hutchinson", penalties=tuple(PENALTIES), **given,
    )  # fmt: skip


def train(flow: Flow, images: Tensor, setting: Setting, seed: int, minutes: float, checkpoint: Path) -> dict[str, Any]:
    """Train until the processor time is over; what it took."""
    optimizer = torch.optim.Adam(flow.parameters(), setting.lr)
    done: dict[str, Any] = {"steps": 0, "seconds": 0.0, "processor_seconds": 0.0, "curve": [], "resumed": False}
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=True)
        flow.load_state_dict(held["flow"])
        optimizer.load_state_dict(held["optimizer"])
        done = {**held["done"], "resumed": True}
    flow.train()
    recent: list[float] = []
    begin, processor = perf_counter() - done["seconds"], process_time() - done["processor_seconds"]
    saved, budget = done["processor_seconds"], 60 * minutes
    while done["processor_seconds"] < budget:
        share = done["processor_seconds"] / budget
        for group in optimizer.param_groups:
            group["lr"] = setting.lr * min(1.0, share / WARMUP + 0.01) * 0.5 * (1 + math.cos(math.pi * share))
        draws = generator(seed, done["steps"])
        rows = torch.randint(len(images), (setting.batch,), generator=draws)
        nll, penalty = negative_log_likelihood(flow, images[rows].float(), weights=PENALTIES, generator=draws)
        optimizer.zero_grad()
        bits_per_dim(-(nll + penalty), flow.shape).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
        optimizer.step()
        recent.append(bits_per_dim(-nll.detach(), flow.shape).mean().item())
        done["steps"] += 1
        done |= {"seconds": perf_counter() - begin, "processor_seconds": process_time() - processor}
        over = done["processor_seconds"] >= budget
        if done["processor_seconds"] - saved >= CHECKPOINT_SECONDS or over or done["steps"] == 1:
            saved = done["processor_seconds"]
            done["curve"].append([round(saved, 1), done["steps"], round(sum(recent) / len(recent), 4)])
            print(f"{saved:7.0f} s, {done['steps']} steps: {done['curve'][-1][2]:.4f} bits/dim in training", flush=True)
            recent.clear()
            held = {"flow": flow.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
            part = checkpoint.with_suffix(".part")
            torch.save(held, part)
            part.replace(checkpoint)
    return done


@torch.no_grad()
def tested(flow: Flow, images: Tensor, batch: int) -> dict[str, Any]:
    """Bits a dimension, with a draw of the noise and of the trace's estimate for each image."""
    flow = flow.eval().with_solver(TESTED)
    found, counts = [], []
    for place, some in enumerate(images.split(batch)):
        with counting() as count:
            found.append(bits_per_dim(flow.log_prob(some.float(), generator=generator(1, place)), flow.shape))
        counts.append(count.forward)
    bits = torch.cat(found)
    return {
        "bits_per_dim": bits.mean().item(),
        "standard_error": bits.std().item() / math.sqrt(len(bits)),
        "test_images": len(bits),
        "evaluations": sum(counts) / len(counts),
    }


def independent(train: Tensor, test: Tensor, levels: int) -> float:
    """Bits a dimension of the frequencies of each pixel's levels in training, each counted once more."""
    flat, numbers = train.flatten(1), train[0].numel()
    # Each pixel has a row of levels.
    first = levels * torch.arange(numbers)
    counts = sum(torch.bincount((first + some).flatten(), minlength=levels * numbers) for some in flat.split(SOME))
    shares = (counts.view(numbers, levels).double() + 1) / (len(train) + levels)
    log_prob = shares.log()[torch.arange(numbers), test.flatten(1).long()].sum(-1)
    return bits_per_dim(log_prob, test.shape[1:]).mean().item()


def draw(flow: Flow, images: Tensor, levels: int, path: Path, seed: int) -> None:
    """The first test images beside as many samples."""
    from matplotlib.figure import Figure

    rows, columns = SHOWN
    made = flow.eval().with_solver(TESTED).sample(rows * columns, generator=generator(seed, 2))
    figure = Figure(figsize=(10, 2.8))
    for place, (title, some) in enumerate((("test images", images[: rows * columns].float()), ("samples", made))):
        axes = figure.add_subplot(1, 2, place + 1)
        framed = functional.pad(some[:, 0], (1, 1, 1, 1), value=0.4 * levels)
        height, width = framed.shape[1:]
        whole = framed.view(rows, columns, height, width).transpose(1, 2).reshape(rows * height, columns * width)
        axes.imshow(whole.numpy(), cmap="gray", vmin=0, vmax=levels - 1)
        axes.set_title(title)
        axes.set_axis_off()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def stack(split: Any) -> Tensor:
    return torch.as_tensor(split.images)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One training; what came out, without where the data lay."""
    setting, raw = SETTINGS[name], read_raw(name, Where(options.data_dir))
    levels, (images, held) = raw.white + 1, (stack(each) for each in (raw.train, raw.test))
    some = held[: options.test_images]
    folder = Path(options.output) / f"densities_{name}_{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    flow = flow_of(setting, images, levels)
    done = train(flow, images, setting, options.seed, options.minutes, folder / "flow.pt")
    print("testing", flush=True)
    told = tested(flow, some, TEST_BATCH)
    draw(flow, held, levels, Path(options.pictures) / f"density_{name}.png", options.seed)
    return {
        "data": name,
        "seed": options.seed,
        "minutes": options.minutes,
        **told,
        "independent_pixels": independent(images, some, levels),
        "published": PUBLISHED.get(name),
        "images_seen": done["steps"] * setting.batch,
        "epochs": done["steps"] * setting.batch / len(images),
        **done,
        "weights": sum(weight.numel() for weight in flow.parameters()),
        "setting": asdict(setting),
        "levels": levels,
        "penalties": PENALTIES,
        "solver": {"training": asdict(TRAINED), "test": asdict(TESTED)},
        "date": f"{date.today()}",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "note": options.note,
        "data_note": _where_no_more(raw, options.data_dir),
        **environment(),
    }


def _where_no_more(raw: Raw, data_dir: str | None) -> str:
    return raw.note.replace(f"local copy in {data_dir}", "local copy in the official layout")


def table() -> str:
    """The record as Markdown."""
    lines = [
        "| data | bits/dim on test images | independent pixels | published (FFJORD, days on six GPUs) | minutes of a "
        "processor core | passes over the training images | evaluations of dopri5 1e-5 | weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SETTINGS:
        for row in (each for each in read(RESULT, "rows")["rows"] if each["data"] == name):
            published = f"{row['published']:.2f}" if row["published"] else "-"
            lines.append(
                f"| {name}, seed {row['seed']} | **{row['bits_per_dim']:.3f}** ± {row['standard_error']:.3f} "
                f"({row['test_images']:,} images) | {row['independent_pixels']:.3f} | {published} | "
                f"{row['minutes']:g} | {row['epochs']:.1f} | {row['evaluations']:.0f} | "
                f"{row['weights']:,} |"
            )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", choices=[*SETTINGS, []], help="what is trained on")
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of each training (default 10)")
    parser.add_argument("--test_images", type=int, default=2000, help="the first so many are tested (default 2000)")
    parser.add_argument("--data_dir", help="local copy of MNIST; by default it is downloaded")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and samples (default 0)")
    parser.add_argument("--output", default="runs", help="where checkpoints are written (default runs)")
    parser.add_argument("--pictures", default=str(PICTURES), help="where pictures are written (default docs/figures)")
    parser.add_argument("--result", default=str(RESULT), help="the record (default results/densities_images.json)")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
        return
    for name in options.data:
        row = measure(name, options)

        def replaced(record: dict[str, Any], row: dict[str, Any] = row) -> None:
            others = [each for each in record["rows"] if (each["data"], each["seed"]) != (row["data"], row["seed"])]
            record["rows"] = [*others, row]

        keep(Path(options.result), "rows", replaced)
        print(f"{name}: {row['bits_per_dim']:.4f} bits/dim, {row['epochs']:.2f} epochs", flush=True)


if __name__ == "__main__":
    main()
