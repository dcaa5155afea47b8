"""The network that is trained."""

from dataclasses import asdict, dataclass

from dynamicblocks.models import create_model
from dynamicblocks.network import DynamicNet


@dataclass(frozen=True)
class ModelConfig:
    """The network. Options left out are the model's own (`dynamicblocks models NAME` prints them).

    Args:
        name: one of `dynamicblocks models`.
        widths: channels of each block, for example [16,32].
        layer: layer function, for example preact_double, symmetric.
        norm: normalisation (batch, group, tv, none).
        connector_norm: normalisation of opening and connectors of a network of partial differential equations.
        activation: activation (relu, tanh, silu, ...).
        boundary: boundary condition (zeros, replicate, reflect, circular).
        controls: basis of the weights in time (constant, linear, or with a size: linear(5)).
        units: depth of a block in units of layers, and its number of control intervals.
        steps: time steps of each block.
        step: length of each time step of a network of partial differential equations, or a reversible one.
        integrator: one of `dynamicblocks integrators`.
        gradient: backward pass (backprop, checkpoint, adjoint; with alf, verlet, leapfrog, reversible('rk4') also
            reversible).
        connector: between blocks (pooled, residual).
        pool: of pooled connectors (average, max, none).
        width: channels of the opening of a ContinuousNet, wide network (alpha) or twist_resnet.
        widen: widen factor of a ContinuousNet or wide network.
        steps_per_unit: time steps of a ContinuousNet in each control interval.
        time_epsilon: length of the time of a ContinuousNet's blocks; by default its units.
        skipinit: whether branches of a ContinuousNet end with a trainable scalar, zero at first.
        activation_first: whether a ContinuousNet normalises and activates before it convolves.
        stitch: whether a ContinuousNet has residual units between blocks (else plain convolutions).
        initial: how weights are drawn (torch, he; published for networks of partial differential equations).
        depth: layers of a plain or two-step residual network, 6 n + 2 (wide: 6 n + 4; Hamiltonian: 12 n + 2).
        unit: residual unit of a plain or twisted residual network (a, b, c, d, e, post, bottleneck_a, bottleneck_e), or
            of a Hamiltonian one (preact_symmetric, symmetric).
        shortcut: of strided residual units (padding, convolution, convolution_norm).
        bias: whether convolutions, or layers, have biases.
        per_channel: whether an LM-ResNet has coefficients of its own for each channel.
        stages: which of the four stages of a twist_resnet are twisted, for example TTTF.
        parametrisation: of the twist of a twist_resnet (vector, independent, full).
        degree: of its coefficients, 1 or 2.
    """

    name: str = "dynamicnet_small"
    widths: tuple[int, ...] | None = None
    layer: str | None = None
    norm: str | None = None
    connector_norm: str | None = None
    activation: str | None = None
    boundary: str | None = None
    controls: str | None = None
    units: int | None = None
    steps: int | None = None
    step: float | None = None
    integrator: str | None = None
    gradient: str | None = None
    connector: str | None = None
    pool: str | None = None
    width: int | None = None
    widen: int | None = None
    steps_per_unit: int | None = None
    time_epsilon: float | None = None
    skipinit: bool | None = None
    activation_first: bool | None = None
    stitch: bool | None = None
    initial: str | None = None
    depth: int | None = None
    unit: str | None = None
    shortcut: str | None = None
    bias: bool | None = None
    per_channel: bool | None = None
    stages: str | None = None
    parametrisation: str | None = None
    degree: int | None = None

    def create(self, channels: int, outputs: int) -> DynamicNet:
        """The network for inputs of so many channels, with so many outputs, freshly initialised."""
        options = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        return create_model(self.name, in_channels=channels, num_classes=outputs, **options)
