"""Series with times of their own: one solve to the union of all times, or a solve with steps of its own for each?

Times a training step of the decoder's half of a latent ODE, from the begins of the states to the gradient of a loss at
the times of each series, where times lie on a common grid and where no two series share one; where all series move at
one pace, and where one in ten moves twenty times as fast.
"""

import torch
from harness import Spread, make_parser, paired, save, show

from dynamicblocks.sequences import Solver
from dynamicblocks.sequences.latent_ode import LatentField
from dynamicblocks.sequences.union_of_times import states_at

SIZES = [(16, 100), (50, 30), (50, 100), (50, 400), (200, 100), (1000, 30), (1000, 100)]


class Paced(torch.nn.Module):
    """A turning state, each series at a pace of its own, and a network of the size that one would train."""

    def __init__(self, pace):
        super().__init__()
        self.net, self.pace = LatentField(4, 20, 2), pace

    def forward(self, t, z):
        turned = torch.stack([z[:, 1], -z[:, 0], z[:, 3], -z[:, 2]], 1)
        return self.pace * turned + self.net(t, z)


def times_of(kind, number, length):
    if kind == "common grid":
        grid = torch.linspace(0, 1, 4 * length)
        return torch.stack([grid[torch.randperm(len(grid))[:length].sort().values] for _ in range(number)])
    return torch.rand(number, length).sort(1).values


def step(field, z0, elapsed, times):
    field.zero_grad()
    states_at(Solver(), field, z0, elapsed, times).square().mean().backward()


def main():
    parser = make_parser(__doc__, "python benchmarks/series_times.py --repeats 3", repeats=3)
    parser.set_defaults(threads=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    results, rows = [], []
    for kind in ("common grid", "no shared times"):
        for paces in ("equal", "one in ten fast"):
            for number, length in SIZES:
                if kind == "no shared times" and number * number * length > 4_000_000:
                    # The states of all series at all times of all would not be a fair sight, nor fit a small machine.
                    continue
                pace = torch.full((number, 1), 3.0)
                if paces != "equal":
                    pace[::10] = 60.0
                field, z0, elapsed = Paced(pace), torch.randn(number, 4), times_of(kind, number, length)
                found = paired(
                    lambda: step(field, z0, elapsed, "own"),  # noqa: B023
                    lambda: step(field, z0, elapsed, "union"),  # noqa: B023
                    repeats=chosen.repeats,
                    warmup=1,
                )
                asked = len(elapsed.unique())
                case = {"times": kind, "paces": paces, "series": number, "length": length, "union": asked}
                results.append({**case, **found.as_dict()})
                rows.append({**case, "own / union": str(found.ratios)})
                print(rows[-1], Spread.of(found.seconds_b), flush=True)
    show("seconds of a training step, own times over union", rows)
    print(save("series_times", {"cases": results}, path=chosen.output))


if __name__ == "__main__":
    main()
