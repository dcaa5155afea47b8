"""The network of the task density: a flow, and the objective that it is trained by."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dynamicblocks.flows import Flow, FlowMatching, negative_log_likelihood
from dynamicblocks.functional import Solver
from dynamicblocks.tasks.density_batches import PointBatch
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tracing import untraced

ObjectiveName = Literal["likelihood", "flow-matching", "ot-flow-matching"]
OBJECTIVES = get_args(ObjectiveName)
TOLD = ("loss", "scored", "nll")
"""What the network says of a batch: means over its points; scored is 1 where the likelihood is known, else 0."""


class DensityNet(nn.Module):
    """A flow with its objective.

    Called with a batch it gives the numbers :data:`TOLD`, the loss with gradient, so that it may be compiled and
    wrapped as a whole. In training they are those of the objective alone; in evaluation the negative log-likelihood is
    told whatever the objective.

    Args:
        flow: from points in data units to noise.
        known: of the data.
        objective: what is lowered.
        penalties: weights of what is added to the negative log-likelihood.
        sigma: deviation of the noise about straight paths, of flow matching.
        paired: points among which partners are found in evaluation: those of a larger batch would be nearer than in
            training, and their loss another one.
    """

    context_mean: Tensor
    context_std: Tensor

    def __init__(
        self,
        flow: Flow,
        known: DensityFacts,
        objective: ObjectiveName = "likelihood",
        penalties: Mapping[str, float] | None = None,
        sigma: float = 0.1,
        paired: int = 256,
    ) -> None:
        super().__init__()
        self.flow = flow
        self.shape = known.shape
        self.context_width = len(known.context_names)
        self.register_buffer("context_mean", torch.tensor(known.context_mean))
        self.register_buffer("context_std", torch.tensor(known.context_std))
        self.penalties = dict(penalties or {})
        self.paired = paired
        self.matching = None
        if objective != "likelihood":
            self.matching = FlowMatching(sigma, pairing="ot" if objective == "ot-flow-matching" else "independent")

    def forward(self, batch: PointBatch) -> Tensor:
        if self.training:
            return self._told(batch)
        # An estimated trace takes gradients, which inference mode has none of, and no tensor made in it.
        with torch.inference_mode(mode=False), torch.no_grad():
            points, context = batch.points.clone(), batch.context.clone()
            return self._told(PointBatch(points, context, batch.seed))

    def _told(self, batch: PointBatch) -> Tensor:
        x, context = batch.points, self.scaled(batch.context)
        draws = _draws(batch.seed)
        nll: Tensor | None = None
        if self.matching is None:
            nll, penalty = negative_log_likelihood(self.flow, x, context, weights=self.penalties, generator=draws)
            loss = (nll + penalty).mean()
        else:
            if not self.training:
                nll = -self.flow.log_prob(x, context, generator=draws)
            parts = torch.split(torch.arange(len(x), device=x.device), self.paired)
            some = ((x[rows], None if context is None else context[rows]) for rows in parts)
            loss = torch.cat([self.matching(self.flow, *each, generator=draws) for each in some]).mean()
        none = loss.new_zeros(())
        return torch.stack([loss, none, none] if nll is None else [loss, none + 1, nll.mean().to(loss)])

    # In data units

    def scaled(self, context: Tensor | None) -> Tensor | None:
        """A context (n, c) as the flow is called with it."""
        if not self.context_width or context is None:
            return None
        return (context.to(self.context_mean) - self.context_mean) / self.context_std

    def log_prob(self, points: Tensor, context: Tensor | None = None, seed: int = 0) -> Tensor:
        """The logarithm of the density at points (n, *shape), without a graph."""
        draws = _draws(seed)
        with torch.no_grad():
            return self.flow.log_prob(points.to(self.context_mean), self.scaled(context), generator=draws)

    def sample(
        self, number: int, context: Tensor | None = None, *, seed: int = 0, solver: Solver | None = None
    ) -> Tensor:
        """New points (number, *shape), of a context (number, c) each, by another solver if one is given."""
        flow = self.flow if solver is None else self.flow.with_solver(solver)
        draws = _draws(seed)
        with torch.no_grad():
            return flow.sample(number, self.scaled(context), generator=draws)


@untraced
def _draws(seed: Tensor | int) -> torch.Generator:
    """Random numbers by a seed, which is read, so that no graph can hold it."""
    return torch.Generator().manual_seed(int(seed))
