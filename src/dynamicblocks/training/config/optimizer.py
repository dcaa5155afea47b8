"""How weights are changed."""

from dataclasses import dataclass
from typing import Literal

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.times import check_amount, check_count

SMOOTHNESS = ("l2", "l1", "smooth_l1")
BOX_SCALES = ("step", "pixels", "channels")


@dataclass(frozen=True)
class OptimizerConfig:
    """Stochastic gradient descent.

    Args:
        name: sgd, or muon, which makes the updates of kernels orthogonal and needs fewer epochs.
        lr: highest learning rate.
        lr_end: lowest learning rate, at the end of a cosine or a line.
        momentum: of the gradient.
        nesterov: whether momentum looks ahead (under muon it always does).
        weight_decay: of matrices and kernels.
        kernel_lr: highest learning rate of kernels under muon, where it is a relative size of steps.
        kernel_decay: weight decay of kernels under muon, which is decoupled from the gradient.
        twist_lr: highest learning rate of twists, by default that of other kernels. Under muon the steps of a kernel
            have a size of their own, whatever its gradient: a twist then becomes as large as the plain kernel.
        decay_all: whether biases and normalisations decay too.
        schedule: learning rate over the training: half a cosine, a straight line (one cycle), steps, or constant;
            after the warm-up. Or xexp, lr x exp(1 - x) over lr_end with x = 1 at ``peak``, which has a rise of its own.
        peak: share of the steps at which xexp is highest.
        warmup: share of the steps in which the learning rate rises linearly.
        decay: factor of the learning rate at each of ``decay_epochs``, with schedule ``steps``.
        decay_epochs: those epochs.
        smoothness: weight alpha of a penalty on the change of the weights in time, d theta/dt, of all blocks:
            alpha times the sum over control steps d of d |(theta_next - theta) / d|^2; 0 for none.
        smoothness_kind: l2 (squares), l1 (absolute values, which let weights jump at a few knots) or smooth_l1
            (absolute values, rounded off below slopes of 0.001).
        smoothness_kernels_only: whether only kernels are penalised, not biases and the weights of normalisations.
        box: bound B of every weight in time (of the controls of blocks), |theta| <= B: weights are projected at the
            start and after each step of the optimiser; 0 for none.
        box_scale: divisors of the bound, any of step (the longest step h that reads the weight: h |theta| <= B),
            pixels (entries of a kernel for each input channel) and channels (input channels of a group). With pixels
            and channels no row sum of a kernel, its norm in the maximum norm, is larger than B.
        box_kernels_only: whether only kernels are bound, not biases and the weights of normalisations.
        clip: largest norm of the gradient; 0 for none.
    """

    name: Literal["sgd", "muon"] = "sgd"
    lr: float = 0.1
    lr_end: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    kernel_lr: float = 0.01
    kernel_decay: float = 0.01
    twist_lr: float | None = None
    decay_all: bool = False
    schedule: Literal["cosine", "linear", "steps", "constant", "xexp"] = "cosine"
    peak: float = 0.1
    warmup: float = 0.15
    decay: float = 0.1
    decay_epochs: tuple[int, ...] = ()
    smoothness: float = 0.0
    smoothness_kind: Literal["l2", "l1", "smooth_l1"] = "l2"
    smoothness_kernels_only: bool = False
    box: float = 0.0
    box_scale: tuple[Literal["step", "pixels", "channels"], ...] = ()
    box_kernels_only: bool = False
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "lr",
            "lr_end",
            "momentum",
            "weight_decay",
            "kernel_lr",
            "kernel_decay",
            "warmup",
            "decay",
            "smoothness",
            "box",
            "clip",
        ):
            check_amount(getattr(self, name), f"optimizer.{name}")
        if self.twist_lr is not None:
            check_amount(self.twist_lr, "optimizer.twist_lr")
        if self.lr == 0:
            raise ConfigurationError("optimizer.lr must be above 0")
        for name in ("momentum", "warmup"):
            if getattr(self, name) >= 1:
                raise ConfigurationError(f"optimizer.{name} must be below 1, got {getattr(self, name)}")
        if self.smoothness_kind not in SMOOTHNESS:
            raise unknown_name("optimizer.smoothness_kind", self.smoothness_kind, SMOOTHNESS)
        for scale in self.box_scale:
            if scale not in BOX_SCALES:
                raise unknown_name("optimizer.box_scale", scale, BOX_SCALES)
        if len(set(self.box_scale)) < len(self.box_scale):
            raise ConfigurationError(f"optimizer.box_scale names a divisor twice: {list(self.box_scale)}")
        if not 0 < self.peak <= 1:
            raise ConfigurationError(f"optimizer.peak must lie between 0 and 1, got {self.peak}")
        for epoch in self.decay_epochs:
            check_count(epoch, "optimizer.decay_epochs")
