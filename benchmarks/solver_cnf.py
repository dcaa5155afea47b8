"""How long does one training iteration of a continuous normalizing flow take, beside torchdiffeq?

dz/dt = f(t, z), d log p/dt = -tr(df/dz), 2 dimensions, three tanh layers of 64, exact trace by forward differentiation,
batch 512, t from 1 to 0, dopri5, float32, tolerances 1e-5; solve, loss, backward. The gradients of both are compared
before anything is timed. The field's own evaluations, forward and backward, are what no solver can save; those of its
matrix products alone, what no compiler can: both are timed beside, as "field" and "products".

Example: python benchmarks/solver_cnf.py --repeats 5
"""

import warnings
from itertools import pairwise

import torch
from harness import Spread, add_device, make_parser, paired, save, show
from torch import nn

import dynamicblocks as db

BATCH, TOLERANCE = 512, 1e-5
TARGETS = {"backprop": 1.5, "adjoint": 1.5, "backprop, compiled": 3.0, "adjoint, compiled": 3.0}


class Flow(nn.Module):
    """A field with the trace of its Jacobian: the tangents of both coordinates go through the layers beside them."""

    def __init__(self):
        super().__init__()
        sizes = [3, 64, 64, 64, 2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, t, state):
        z, _ = state
        h = torch.cat([z, t.expand(len(z), 1)], 1)
        tangents = torch.eye(2, 3, device=z.device)[:, None].expand(2, len(z), 3)
        for place, layer in enumerate(self.layers):
            h, tangents = layer(h), tangents @ layer.weight.T
            if place < len(self.layers) - 1:
                h = torch.tanh(h)
                tangents = tangents * (1 - h * h)
        return h, -(tangents[0, :, :1] + tangents[1, :, 1:])


def iteration(odeint, flow, z, t, **keywords):
    flow.zero_grad()
    states, log_p = odeint(flow, (z, z.new_zeros(BATCH, 1)), t, rtol=TOLERANCE, atol=TOLERANCE, **keywords)
    loss = (0.5 * (states[-1] ** 2).sum(1, keepdim=True) + log_p[-1]).mean()
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in flow.parameters()]


def field_alone(flow, z, evaluations):
    """The evaluations that one solve makes, with their backward passes."""
    flow.zero_grad()
    state = (z.clone().requires_grad_(), z.new_zeros(BATCH, 1))
    time = torch.tensor(0.5, device=z.device)
    slopes = [flow(time, state) for _ in range(evaluations)]
    torch.autograd.backward([part for pair in slopes for part in pair], [torch.ones_like(p) for s in slopes for p in s])


def products_alone(flow, z, evaluations):
    """The matrix products of those: one forward and two backward, for the state and both of its tangents."""
    hidden = [z.new_zeros(rows, 64) for rows in (BATCH, 2 * BATCH)]
    for layer in flow.layers[1:-1]:
        for h in hidden:
            for _ in range(evaluations):
                torch.mm(h, layer.weight.detach())
                torch.mm(h, layer.weight.detach().T)
                torch.mm(h.T, h)


class Counted(nn.Module):
    """A flow that counts its evaluations."""

    def __init__(self, flow):
        super().__init__()
        self.flow, self.count = flow, 0

    def forward(self, t, state):
        self.count += 1
        return self.flow(t, state)


def evaluations_of(odeint, flow, z, t):
    counted = Counted(flow)
    iteration(odeint, counted, z, t)
    return counted.count


def main() -> None:
    parser = make_parser(__doc__, "python benchmarks/solver_cnf.py --repeats 5", repeats=5)
    add_device(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    import torchdiffeq

    torch.manual_seed(0)
    flow, t = Flow().to(options.device), torch.tensor([1.0, 0.0], device=options.device)
    z = (torch.randn(BATCH, 2) * torch.tensor([2.0, 0.5])).to(options.device)
    cases = {
        "backprop": (torchdiffeq.odeint, db.odeint, {}),
        "adjoint": (torchdiffeq.odeint_adjoint, db.odeint_adjoint, {}),
        "backprop, compiled": (torchdiffeq.odeint, db.odeint, {"options": {"compile": True}}),
        "adjoint, compiled": (torchdiffeq.odeint_adjoint, db.odeint_adjoint, {"options": {"compile": True}}),
    }
    counts = {each.__name__: evaluations_of(each, flow, z, t) for each in (db.odeint, db.odeint_adjoint)}
    assert counts == {
        each.__name__: evaluations_of(each, flow, z, t) for each in (torchdiffeq.odeint, torchdiffeq.odeint_adjoint)
    }
    # Every evaluation of backprop has a backward pass; of the adjoint's, half.
    evaluations = counts["odeint"]
    rows, results = [], {}
    for name, (theirs, ours, keywords) in cases.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            expected, found = iteration(theirs, flow, z, t), iteration(ours, flow, z, t, **keywords)
        # Such as: what could not be compiled and runs as usual.
        told = [f"{each.message}" for each in caught if each.category is UserWarning]
        apart = max((a - b).abs().max().item() for a, b in zip(found[1], expected[1], strict=True))
        comparison = paired(
            lambda theirs=theirs: iteration(theirs, flow, z, t),
            lambda ours=ours, keywords=keywords: iteration(ours, flow, z, t, **keywords),
            repeats=options.repeats,
        )
        results[name] = {"largest_difference_of_gradients": apart, "torchdiffeq_over_this": comparison.as_dict()}
        if told:
            results[name]["warnings"] = told
        rows.append(
            {
                "gradient": name,
                "ms": f"{1e3 * Spread.of(comparison.seconds_b).median:.1f}",
                "torchdiffeq ms": f"{1e3 * Spread.of(comparison.seconds_a).median:.1f}",
                "times as fast": str(comparison.ratios),
                "target": str(TARGETS[name]),
                "gradients differ by": f"{apart:.1e}",
            }
        )
    for name, alone in (("field", field_alone), ("products", products_alone)):
        comparison = paired(
            lambda: iteration(torchdiffeq.odeint, flow, z, t),
            lambda alone=alone: alone(flow, z, evaluations),
            repeats=options.repeats,
        )
        results[name] = {"evaluations": evaluations, "torchdiffeq_over_this": comparison.as_dict()}
        rows.append(
            {
                "gradient": f"backprop: {name} alone",
                "ms": f"{1e3 * Spread.of(comparison.seconds_b).median:.1f}",
                "torchdiffeq ms": f"{1e3 * Spread.of(comparison.seconds_a).median:.1f}",
                "times as fast": str(comparison.ratios),
                "target": "",
                "gradients differ by": "",
            }
        )
    show("CNF, 2-D, 3 x 64 tanh, exact trace, batch 512, dopri5, 1e-5, one training iteration", rows)
    payload = {"setting": __doc__, "results": results}
    print(f"written to {save('solver_cnf', payload, options.device, options.output)}")


if __name__ == "__main__":
    main()
