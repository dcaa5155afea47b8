"""How long should the next step be, where a field is smooth and where it has kinks?

Solves with dopri5 by torchdiffeq, by this package, and by this package with other controllers, all in double precision,
and compares evaluations of the field with the error at the last time. The cost at equal error is read off the curves of
evaluations over error, each averaged over draws of the problem (means of logarithms): a solve of a field with kinks
depends on rounding, so one draw says nothing.
"""

import math
from statistics import mean

import numpy as np
import torch
from harness import make_parser, save, show
from torch import nn

import dynamicblocks as db
from dynamicblocks.solving import options as solver_options
from dynamicblocks.solving.step_control import StepControl

TOLERANCES = [10.0**-n for n in range(2, 9)]


class Eager(StepControl):
    """An accepted step grows, also after a rejected one."""

    def next_size(self, *arguments, was_rejected, **keywords):
        return super().next_size(*arguments, **keywords)


CONTROLLERS = {
    "the default": ({}, StepControl),
    "growth after a rejection": ({}, Eager),
    "PI: 0.7, -0.4": ({"pcoeff": 0.4, "icoeff": 0.3}, StepControl),
    "safety 0.8": ({"safety": 0.8}, StepControl),
}


def spline(draw, kink):
    """A controlled equation along a random Hermite spline of 9 pieces, whose second derivative jumps at the knots."""
    points = torch.randn(10, 3, generator=draw).cumsum(0) / 2
    slopes = torch.cat([points[1:2] - points[:1], points.diff(dim=0)])
    net = network(draw, 8, 24, kink)

    def field(t, y):
        n = min(int(t), 8)
        x, a, b = t - n, slopes[n], slopes[n + 1]
        rise = points[n + 1] - points[n]
        change = a + x * (6 * rise - 4 * a - 2 * b) + x * x * (3 * a + 3 * b - 6 * rise)
        return torch.tanh(net(y)).unflatten(-1, (8, 3)) @ change

    return field, torch.randn(8, generator=draw), 9.0


def network(draw, inputs, outputs, kink):
    """Two layers, with ReLU or tanh between them."""
    layers = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU() if kink else nn.Tanh(), nn.Linear(32, outputs))
    with torch.no_grad():
        for weights in layers.parameters():
            weights.copy_(torch.randn(weights.shape, generator=draw) / math.sqrt(weights.shape[-1]))
    return layers


def autonomous(draw, kink):
    """A network turned into a bounded field."""
    net, turn = network(draw, 6, 6, kink), torch.randn(6, 6, generator=draw)
    return lambda t, y: net(y) - y / 2 + (turn - turn.T) @ y, torch.randn(6, generator=draw), 4.0


def forced(draw, kink):
    """An oscillator under a force with corners in time, or a smooth one."""
    phase = torch.rand(2, generator=draw) * 6

    def field(t, y):
        force = torch.sin(2.3 * t + phase[0])
        return torch.stack([y[1], -y[0] - y[1] / 5 + (force.abs() if kink else force * force)])

    return field, torch.cos(phase), 6.0


def contact(draw, kink):
    """Two masses with a spring that pulls on one side alone, or one that is the stiffer the longer."""
    start = torch.randn(4, generator=draw)

    def field(t, y):
        pull = 8 * torch.relu(y[0] - y[1]) if kink else 2 * (y[0] - y[1]) ** 3
        return torch.stack([y[2], y[3], -y[0] - pull, -2 * y[1] + pull])

    return field, start, 5.0


PROBLEMS = {"spline": spline, "network": autonomous, "forced": forced, "contact": contact}


def solved(odeint, problem, tolerance, options):
    """Evaluations, and the state at the last time."""
    field, y0, end = problem
    calls = [0]

    def counted(t, y):
        calls[0] += 1
        return field(t, y)

    t = torch.tensor([0.0, end])
    y = odeint(counted, y0, t, rtol=tolerance, atol=tolerance / 100, method="dopri5", options=options)
    return calls[0], y[-1]


def curves(problems, solvers):
    """For each solver and tolerance the logarithms of evaluations and error, means over the draws."""
    exact = [solved(db.odeint, problem, 1e-11, {})[1] for problem in problems]
    found = {}
    for name, (odeint, options, control) in solvers.items():
        solver_options.StepControl = control
        rows = []
        for tolerance in TOLERANCES:
            pairs = []
            for problem, truth in zip(problems, exact, strict=True):
                calls, y = solved(odeint, problem, tolerance, options)
                pairs.append((math.log(calls), math.log(float((y - truth).norm() / truth.norm()) + 1e-16)))
            rows.append(tuple(mean(each) for each in zip(*pairs, strict=True)))
        found[name] = rows
    solver_options.StepControl = StepControl
    return found


def cost_at_equal_error(curve, usual):
    """Evaluations of a solver over those of the usual one, at the errors that both reach."""
    (calls, errors), (usual_calls, usual_errors) = (np.array(each).T for each in (curve, usual))
    low, high = max(errors.min(), usual_errors.min()), min(errors.max(), usual_errors.max())
    at = np.linspace(low, high, 50)
    order, usual_order = np.argsort(errors), np.argsort(usual_errors)
    ours = np.interp(at, errors[order], calls[order])
    theirs = np.interp(at, usual_errors[usual_order], usual_calls[usual_order])
    return float(np.exp(np.mean(ours - theirs)))


def main():
    parser = make_parser(__doc__, "python benchmarks/step_control.py --repeats 4", repeats=4)
    parser.set_defaults(threads=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_default_dtype(torch.float64)
    solvers = {name: (db.odeint, *each) for name, each in CONTROLLERS.items()}
    try:
        import torchdiffeq
    except ImportError:
        print("torchdiffeq is not installed, so its rows are left out")
    else:
        solvers["torchdiffeq"] = (torchdiffeq.odeint, {}, StepControl)
    results, rows = {}, []
    with torch.no_grad():
        for name, make in PROBLEMS.items():
            for kink in (True, False):
                draws = [torch.Generator().manual_seed(n) for n in range(chosen.repeats)]
                found = curves([make(draw, kink) for draw in draws], solvers)
                usual, title = next(iter(found.values())), f"{name}, {'kinks' if kink else 'smooth'}"
                costs = {solver: cost_at_equal_error(curve, usual) for solver, curve in found.items()}
                results[title] = {
                    solver: {
                        "cost_at_equal_error": costs[solver],
                        "evaluations": [math.exp(calls) for calls, _ in curve],
                        "errors": [math.exp(error) for _, error in curve],
                    }
                    for solver, curve in found.items()
                }
                rows.append({"problem": title} | {solver: f"{cost:.3f}" for solver, cost in costs.items()})
                print(rows[-1], flush=True)
    show("evaluations at equal error, over those of the default", rows)
    payload = {"tolerances": TOLERANCES, "draws": chosen.repeats, "problems": results}
    print(save("step_control", payload, path=chosen.output))


if __name__ == "__main__":
    main()
