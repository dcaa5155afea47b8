"""Gradient descent with orthogonal updates of kernels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

# Newton-Schulz iteration X <- (a + b A + c A A) X with A = X X^T. With these coefficients (Jordan 2024) small singular
# values grow fastest; they end near 1 and not at it, which serves as well.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Gradient descent with Nesterov momentum, in which the update of a kernel is made orthogonal.

        M <- momentum M + G,   U S V^T = G + momentum M,   W <- (1 - lr decay) W - lr sqrt(max(1, rows / columns)) U V^T

    with a kernel W as a matrix of a row for each output channel. All directions of a kernel so move at one speed, where
    plain descent leaves those of small singular values behind. Weights in groups without ``orthogonal`` move by plain
    gradient descent with Nesterov momentum.

    Args:
        groups: parameter groups; ``orthogonal=True`` in those of kernels (two dimensions or more).
        lr: learning rate; of kernels, the length of a step in each of their directions.
        momentum: of the gradient, in [0, 1).

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
    >>> optimizer = Muon([{"params": [weight], "orthogonal": True}], lr=0.1)
    >>> weight.grad = torch.tensor([[100.0, 0, 0], [0, 1.0, 0]])
    >>> optimizer.step()
    >>> bool((weight.diag() < -0.06).all())
    True
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                (self._orthogonal if group["orthogonal"] else self._plain)(weights, group)
        return loss

    def _orthogonal(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights]
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)  # type: ignore[arg-type]
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])  # type: ignore[arg-type]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, orthogonalised(ahead), alpha=-group["lr"])

    def _plain(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        momenta = [self.state[weight].get("momentum_buffer") for weight in weights]
        sgd(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            momenta,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=True,
            maximize=False,
        )
        for weight, momentum in zip(weights, momenta, strict=True):
            self.state[weight]["momentum_buffer"] = momentum


def orthogonalised(updates: Sequence[Tensor]) -> list[Tensor]:
    """sqrt(max(1, rows / columns)) U V^T of each update U S V^T, nearly.

    U V^T = (G G^T)^(-1/2) G: the iteration runs on the small matrices G G^T, of several kernels at once.
    """
    # The short side first, so that the matrices of the iteration are small.
    matrices = [update.flatten(1) if len(update) <= update[0].numel() else update.flatten(1).mT for update in updates]
    grams = [matrix @ matrix.mT for matrix in matrices]
    found: dict[int, Tensor] = {}
    for rows in dict.fromkeys(map(len, grams)):
        places = [place for place, gram in enumerate(grams) if len(gram) == rows]
        roots = inverse_roots(torch.stack([grams[place] for place in places]))
        for place, root in zip(places, roots, strict=True):
            update, matrix = updates[place], root @ matrices[place]
            scale = max(1, len(update) / update[0].numel()) ** 0.5
            found[place] = (scale * (matrix if len(update) == rows else matrix.mT)).reshape(update.shape)
    return [found[place] for place in range(len(updates))]


def inverse_roots(grams: Tensor) -> Tensor:
    """A^(-1/2) of symmetric positive matrices A, (batch, rows, rows): nearly, such that A^(1/2) A^(-1/2) is about 1."""
    a, b, c = COEFFICIENTS
    eye = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    # Singular values of at most 1: the squares of all of them sum to the trace.
    size = grams.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] + torch.finfo(grams.dtype).tiny
    grams, root = grams / size, size.rsqrt() * eye
    for iteration in range(ITERATIONS):
        factor = torch.baddbmm(grams, grams, grams, beta=b, alpha=c) + a * eye
        root = factor @ root
        if iteration + 1 < ITERATIONS:
            grams = factor @ grams @ factor
    return root
