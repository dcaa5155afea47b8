"""How long do 50 Euler steps of a learnt flow's sampler take, beside torchdiffeq?

The field of torchcfm's two-dimensional examples, state and time into three hidden layers of 64 with SELU; 256
particles, float32, no gradients. All make the same 50 steps along the same times and are compared with one in float64
before anything is timed. "last state": the state at t = 1 alone, with step_size; otherwise all 51 states, as
torchdiffeq returns them. A round runs all in turn, there and back; ratios are those of a round. "the field alone" is
the bound for whoever calls the field as it is, step by step. The first solve compiles, without caches on disk; its
seconds are beside.

Example: python benchmarks/compiled_samplers.py --repeats 15
"""

import time
import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
import torch._inductor.config
from harness import Spread, interleaved, make_parser, save, show

import dynamicblocks as db
from dynamicblocks.solving import compiled_grid, compiled_steps

STEPS, PARTICLES, WIDTH, TARGET = 50, 256, 64, 2.0


class Velocity(torch.nn.Module):
    """Of particles in the plane."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, WIDTH, WIDTH, WIDTH]
        hidden = [part for a, b in pairwise(sizes) for part in (torch.nn.Linear(a, b), torch.nn.SELU())]
        self.net = torch.nn.Sequential(*hidden, torch.nn.Linear(WIDTH, 2))

    def forward(self, t, x):
        return self.net(torch.cat([x, t.expand(len(x), 1)], 1))


def compiled_in(steps: int, run: Callable[[], torch.Tensor]) -> tuple[float, Callable[[], torch.Tensor]]:
    """Seconds of the first solve with so many steps in a call, compiled anew, and the solve from then on."""

    def again() -> torch.Tensor:
        compiled_grid.STEPS, before = steps, compiled_grid.STEPS
        try:
            return run()
        finally:
            compiled_grid.STEPS = before

    start = time.perf_counter()
    again()
    return time.perf_counter() - start, again


def main() -> None:
    parser = make_parser(__doc__, "python benchmarks/compiled_samplers.py --repeats 15", repeats=15)
    parser.add_argument("--chunks", type=int, nargs="*", default=[], help="other numbers of steps in a call")
    options = parser.parse_args()
    import torchdiffeq

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch._inductor.config.force_disable_caches = True
    warnings.filterwarnings("error", message="the solve was not compiled")
    field, x0, times = Velocity(), torch.randn(PARTICLES, 2), torch.linspace(0, 1, STEPS + 1)
    ends, one_size = times[[0, -1]], {"step_size": 1 / STEPS}
    euler = {"method": "euler"}

    def last(**more: object) -> torch.Tensor:
        return db.odeint(field, x0, ends, **euler, options={**one_size, **more})[-1]

    def field_alone() -> torch.Tensor:
        for t in times[:-1]:
            field(t, x0)
        return x0

    seconds, compiled_last = compiled_in(compiled_grid.STEPS, lambda: last(compile=True))
    first = {"compiled, last state": seconds}
    first["compiled"], compiled_all = compiled_in(
        compiled_grid.STEPS, lambda: db.odeint(field, x0, times, **euler, options={"compile": True})[-1]
    )
    runs: dict[str, Callable[[], torch.Tensor]] = {
        "torchdiffeq": lambda: torchdiffeq.odeint(field, x0, times, **euler)[-1],
        "odeint": lambda: db.odeint(field, x0, times, **euler)[-1],
        "odeint, last state": last,
        "odeint, compiled": compiled_all,
        "odeint, compiled, last state": compiled_last,
    }
    for chunk in options.chunks:
        compiled_steps._kept.clear()
        name = f"compiled, last state, {chunk} steps in a call"
        torch._dynamo.reset()
        first[name], runs[f"odeint, {name}"] = compiled_in(chunk, lambda: last(compile=True))
    exact = db.odeint(field.double(), x0.double(), times.double(), **euler)[-1]
    field.float()
    errors = {name: (run() - exact).abs().max().item() for name, run in runs.items()}
    assert max(errors.values()) < 1e-5, errors
    runs["the field alone"] = field_alone
    taken = interleaved(runs, options.repeats, warmup=3)
    rows, results = [], {}
    for name, seconds_of in taken.items():
        ratios = Spread.of([a / b for a, b in zip(taken["torchdiffeq"], seconds_of, strict=True)])
        results[name] = {
            "seconds": seconds_of,
            "torchdiffeq_over_this": ratios.__dict__,
            "error": errors.get(name),
            "first_solve_seconds": first.get(name.removeprefix("odeint, ")),
        }
        rows.append(
            {
                "sampler": name,
                "ms": f"{1e3 * Spread.of(seconds_of).median:.2f}",
                "times torchdiffeq's speed": str(ratios),
                "target": str(TARGET) if "compiled" in name else "",
                "first solve, s": f"{first.get(name.removeprefix('odeint, '), float('nan')):.1f}",
                "error": f"{errors.get(name, float('nan')):.1e}",
            }
        )
    show(f"{STEPS} Euler steps, {PARTICLES} particles, {WIDTH} wide, float32", rows)
    payload = {"setting": __doc__, "steps_in_a_call": compiled_grid.STEPS, "results": results}
    print(f"written to {save('compiled_samplers', payload, 'cpu', options.output)}")


if __name__ == "__main__":
    main()
