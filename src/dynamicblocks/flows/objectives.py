"""What flows are trained by: the likelihood, or the velocity on straight ways from base samples to data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dynamicblocks.draws import normal, uniform
from dynamicblocks.errors import ArgumentError, unknown_name
from dynamicblocks.flows.flow import Flow
from dynamicblocks.flows.pairing import pairs
from dynamicblocks.times import check_amount

Pairing = Literal["independent", "ot"]


def negative_log_likelihood(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """-log p(x) of each sample, and the penalties along its way, weighted.

    Args:
        flow: whose continuous transforms integrate the penalties that are weighted.
        x: (n, *shape).
        context: (n, c).
        weights: of penalties, by name.
        generator: of the draws of an estimated trace.

    Returns:
        (n,) in nats, and (n,).

    >>> from dynamicblocks.flows import make_flow
    >>> flow = make_flow(2, hidden=(16,), penalties=("kinetic",))
    >>> nll, penalty = negative_log_likelihood(flow, torch.zeros(5, 2), weights={"kinetic": 0.01})
    >>> nll.shape, bool((penalty >= 0).all())
    (torch.Size([5]), True)
    """
    log_prob, found = flow.transformed(x, context, generator)
    penalty = torch.zeros_like(log_prob)
    for name, weight in (weights or {}).items():
        if name not in found.penalties:
            raise unknown_name("penalty of this flow", name, tuple(found.penalties))
        penalty = penalty + weight * found.penalties[name]
    return -log_prob, penalty


@dataclass(frozen=True)
class FlowMatching:
    """The squared error of the velocity on straight ways, without a solve:

        x_t = (1 - s) x_0 + s x_1 + sigma e,   s = t / T,   v(t, x_t) ~ (x_1 - x_0) / T

    with x_0 of the base, x_1 a datum, e normal and s uniform on [0, 1]. What is learnt has the density of the data at
    T (but for sigma), under any solver.

    Source: Lipman et al. 2023; Tong et al. 2024 (I-CFM, OT-CFM).

    Args:
        sigma: the deviation of e, in units of the base.
        pairing: x_0 and x_1 of a batch are independent, or of least squared distance (ot), within the same context.

    >>> from dynamicblocks.flows import make_flow
    >>> FlowMatching(pairing="ot")(make_flow(2, hidden=(16,)), torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    sigma: float = 0.1
    pairing: Pairing = "independent"

    def __post_init__(self) -> None:
        check_amount(self.sigma, "sigma")
        if self.pairing not in get_args(Pairing):
            raise unknown_name("pairing", self.pairing, get_args(Pairing))

    def __call__(
        self, flow: Flow, x: Tensor, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The squared error of each sample, (n,): the mean over its numbers.

        Args:
            flow: with one continuous transform.
            x: (n, *shape), data.
            context: (n, c).
            generator: of all draws.

        Raises:
            ConfigurationError: the flow has several continuous transforms.
            ArgumentError: the field gives another shape than that of the state.
        """
        context = flow.checked(x, context)
        continuous = flow.continuous
        with torch.no_grad():
            x1 = flow.near_base(x, context)
            x0 = flow.base.sample(len(x), generator).to(x1)
            if self.pairing == "ot":
                x0 = x0[pairs(x0, x1, context)]
            s = uniform((len(x),), x1, generator)
            share = s.view(-1, *(1,) * (x1.ndim - 1))
            at = torch.lerp(x0, x1, share)
            if self.sigma:
                at = at + self.sigma * normal(at.shape, at, generator)
            wanted = (x1 - x0) / continuous.horizon
        found = continuous.velocity(continuous.horizon * s, at, context)
        if found.shape != wanted.shape:
            raise ArgumentError(
                f"the field gives a velocity of the shape of its state, {tuple(wanted.shape)}, got "
                f"{tuple(found.shape)}; with flow matching it is called with a time for each sample, of shape (n,)"
            )
        return (found - wanted).square().flatten(1).mean(-1)
