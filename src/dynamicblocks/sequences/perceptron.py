"""Small networks of dense layers, of which models of sequences are made."""

from collections.abc import Callable

from torch import nn


def perceptron(
    inputs: int, hidden: int, outputs: int, layers: int = 1, activation: Callable[[], nn.Module] = nn.Tanh
) -> nn.Sequential:
    """Dense layers with ``layers`` hidden ones between input and output.

    >>> [type(layer).__name__ for layer in perceptron(4, 20, 2)]
    ['Linear', 'Tanh', 'Linear']
    """
    parts: list[nn.Module] = []
    width = inputs
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), activation()]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, outputs))
