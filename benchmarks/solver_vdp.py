"""How long does one solve of Van der Pol's oscillator take, beside torchdiffeq, torchode and diffrax?

y1' = y2, y2' = mu (1 - y1^2) y2 - y1 with mu = 10, a batch of 256, 200 outputs on [0, 10], dopri5, float32, tolerances
1e-5, no gradients. torchdiffeq and odeint take steps that are common to the batch; torchode, diffrax (under vmap) and
solve(batched=True) steps for each sample. All solutions are compared with one in float64 before anything is timed.

Example: python benchmarks/solver_vdp.py --repeats 10
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from harness import Spread, add_device, make_parser, paired, save, show

import dynamicblocks as db

MU, BATCH, OUTPUTS, END, TOLERANCE = 10.0, 256, 200, 10.0, 1e-5
TARGETS = {"odeint": 1.5, "odeint, compiled": 20.0}


class VanDerPol(torch.nn.Module):
    """Over states (*, 2)."""

    def forward(self, t, y):
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, MU * (1 - x * x) * v - x], -1)


def initial(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, 2, generator=generator, dtype=torch.float64).mul(4).sub(2).to(dtype)


def setting(device: str) -> tuple[VanDerPol, torch.Tensor, torch.Tensor]:
    return VanDerPol(), initial().to(device), torch.linspace(0, END, OUTPUTS).to(device)


def ours(device: str) -> dict[str, Callable[[], torch.Tensor]]:
    field, y0, t = setting(device)
    tolerances = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
    return {
        "odeint": lambda: db.odeint(field, y0, t, **tolerances),
        "odeint, compiled": lambda: db.odeint(field, y0, t, **tolerances, options={"compile": True}),
        "solve, batched": lambda: db.solve(field, y0, t, **tolerances, batched=True).y,
        "solve, batched, compiled": lambda: db.solve(field, y0, t, **tolerances, batched=True, compile=True).y,
    }


def theirs(device: str) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    field, y0, t = setting(device)
    try:
        import torchode as to

        term = to.ODETerm(field)
        problem = to.InitialValueProblem(y0=y0, t_eval=t.expand(BATCH, -1))

        def adjoint():
            controller = to.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
            return to.AutoDiffAdjoint(to.Dopri5(term=term), controller)

        eager = adjoint()
        found["torchode"] = lambda: eager.solve(problem).ys.transpose(0, 1)
        compiled = torch.compile(adjoint())
        found["torchode, compiled"] = lambda: compiled.solve(problem).ys.transpose(0, 1)
    except ImportError:
        print("torchode is not installed: left out")
    try:
        import diffrax
        import jax
        import jax.numpy as jnp

        def slope(t, y, args):
            return jnp.stack([y[1], MU * (1 - y[0] ** 2) * y[1] - y[0]])

        times = jnp.linspace(0, END, OUTPUTS)

        def one(y):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(slope),
                diffrax.Dopri5(),
                0.0,
                END,
                None,
                y,
                saveat=diffrax.SaveAt(ts=times),
                stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
                max_steps=None,
            ).ys

        whole = jax.jit(jax.vmap(one))
        states = jax.device_put(jnp.asarray(y0.cpu().numpy()), jax.devices("gpu" if device == "cuda" else "cpu")[0])
        found["diffrax"] = lambda: np.array(whole(states).block_until_ready()).transpose(1, 0, 2)
    except ImportError:
        print("diffrax is not installed: left out")
    return found


def main() -> None:
    parser = make_parser(__doc__, "python benchmarks/solver_vdp.py --repeats 10", repeats=10)
    parser.add_argument("--only", nargs="+", help="some of the rows; nothing is saved")
    add_device(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    import torchdiffeq

    field, y0, t = setting(options.device)
    torch.set_grad_enabled(False)

    def reference() -> torch.Tensor:
        return torchdiffeq.odeint(field, y0, t, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")

    exact = db.odeint(field, initial(torch.float64), t.cpu().double(), rtol=1e-11, atol=1e-11)
    rows, results = [], {}
    for name, run in {**ours(options.device), **theirs(options.device)}.items():
        if options.only and name not in options.only:
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            error = (torch.as_tensor(run()).cpu() - exact).abs()
        # Such as: what could not be compiled and runs as usual.
        told = [f"{each.message}" for each in caught if each.category is UserWarning]
        # Where the solution jumps between its branches, a small shift in time is a large error: the median tells.
        typical = error.flatten().median().item()
        comparison = paired(reference, run, repeats=options.repeats)
        results[name] = {"median_error": typical, "torchdiffeq_over_this": comparison.as_dict()}
        if told:
            results[name]["warnings"] = told
        rows.append(
            {
                "solver": name,
                "ms": f"{1e3 * Spread.of(comparison.seconds_b).median:.2f}",
                "torchdiffeq ms": f"{1e3 * Spread.of(comparison.seconds_a).median:.1f}",
                "times as fast": str(comparison.ratios),
                "target": str(TARGETS.get(name, "")),
                "median error": f"{typical:.1e}",
            }
        )
        show("Van der Pol", rows[-1:])
    show("Van der Pol, mu = 10, batch 256, 200 outputs on [0, 10], dopri5, 1e-5, float32", rows)
    if not options.only:
        payload = {"setting": __doc__, "results": results}
        print(f"written to {save('solver_vdp', payload, options.device, options.output)}")


if __name__ == "__main__":
    main()
