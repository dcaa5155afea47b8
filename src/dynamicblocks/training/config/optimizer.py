"""How weights are changed."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.times import check_amount, check_count

SMOOTHNESS = ("l2", "l1", "smooth_l1")
BOX_SCALES = ("step", "pixels", "channels")


class Kind(NamedTuple):
    """What the configuration knows of an optimiser: its usual learning rate, and options that not every one reads."""

    lr: float
    reads: tuple[str, ...]


OPTIMIZERS = {
    "sgd": Kind(0.1, ("momentum", "nesterov")),
    "muon": Kind(0.1, ("momentum", "kernel_lr", "kernel_decay")),
    "adam": Kind(0.001, ("betas", "eps")),
    "adamw": Kind(0.001, ("betas", "eps")),
}
# Of each schedule, the options that not every one reads.
SCHEDULES = {
    "cosine": ("lr_end", "warmup"),
    "linear": ("lr_end", "warmup"),
    "steps": ("warmup", "decay", "decay_epochs"),
    "constant": ("warmup",),
    "xexp": ("lr_end", "peak"),
}


def check_rate(value: float, what: str) -> float:
    """Return ``value``, or raise: a learning rate."""
    try:
        return check_amount(value, what)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; a learning rate is a positive number such as 0.1") from None


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, its learning rate over the training, and what else is done to weights in a step.

    Args:
        name: sgd; muon, which makes the updates of kernels orthogonal and needs fewer epochs; adam or adamw, PyTorch's.
        lr: highest learning rate; by default the optimiser's own, 0.1 of sgd and muon, 0.001 of adam and adamw.
        lr_end: lowest learning rate, at the end of a cosine or a line.
        momentum: of the gradient, under sgd and muon.
        nesterov: whether momentum looks ahead under sgd (under muon it always does).
        betas: under adam and adamw, how much of the running means of the gradient and of its square is kept in a step.
        eps: under adam and adamw, what is added to the root of the mean square, by which steps are divided.
        weight_decay: of matrices and kernels. Under sgd, muon and adam it is part of the gradient (an l2 penalty, which
            adam divides by the root of the mean square like the rest); under adamw weights shrink by lr times it in
            each step, whatever the gradient, and usual values are larger, such as 0.01.
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
        ema: decay of an exponential average of the weights and running statistics, such as 0.999, moved after each step
            of the optimiser; 0 for none. Validation, the weights that are kept and the test are of the average. Its
            first steps follow the weights more closely: step n keeps at most (1 + n) / (10 + n) of the average.
        accumulate: batches whose mean gradient makes one step of the optimiser; the last group of an epoch may be
            smaller. Schedule, clip, box and ema act once a group; max_steps and checkpoint_steps count batches.
    """

    name: Literal["sgd", "muon", "adam", "adamw"] = "sgd"
    lr: float | None = None
    lr_end: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
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
    ema: float = 0.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown_name("optimizer.name", self.name, OPTIMIZERS)
        if self.schedule not in SCHEDULES:
            raise unknown_name("optimizer.schedule", self.schedule, SCHEDULES)
        check_count(self.accumulate, "optimizer.accumulate")
        for name in (
            "lr_end",
            "momentum",
            "eps",
            "weight_decay",
            "kernel_lr",
            "kernel_decay",
            "warmup",
            "decay",
            "smoothness",
            "box",
            "clip",
            "ema",
        ):
            check_amount(getattr(self, name), f"optimizer.{name}")
        for name in ("lr", "twist_lr"):
            if getattr(self, name) is not None:
                check_rate(getattr(self, name), f"optimizer.{name}")
        if self.lr == 0:
            raise ConfigurationError("optimizer.lr must be above 0: a positive number such as 0.1")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ConfigurationError(f"optimizer.betas must be two numbers such as (0.9, 0.999), got {self.betas!r}")
        for beta in self.betas:
            if check_amount(beta, "each of optimizer.betas") >= 1:
                raise ConfigurationError(f"each of optimizer.betas must be below 1, got {beta}")
        for name in ("momentum", "warmup", "ema"):
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

    @property
    def rate(self) -> float:
        """The highest learning rate: the one that is given, or else the optimiser's own.

        >>> OptimizerConfig(name="adam").rate
        0.001
        """
        return OPTIMIZERS[self.name].lr if self.lr is None else self.lr

    def settled(self) -> "OptimizerConfig":
        """The same with the learning rate as a number, for the record."""
        return replace(self, lr=self.rate)

    def idle(self) -> Iterator[str]:
        """What was set and is read neither by this optimiser nor by this schedule."""
        usual = {each.name: each.default for each in fields(self)}
        options = {kind: known.reads for kind, known in OPTIMIZERS.items()}
        for choice, readers in (("name", options), ("schedule", SCHEDULES)):
            chosen = getattr(self, choice)
            for option in dict.fromkeys(option for reads in readers.values() for option in reads):
                if option not in readers[chosen] and getattr(self, option) != usual[option]:
                    others = ", ".join(reader for reader, reads in readers.items() if option in reads)
                    yield f"optimizer.{option} does nothing with optimizer.{choice} {chosen}; it is read by {others}"
