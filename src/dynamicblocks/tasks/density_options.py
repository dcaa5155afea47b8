"""Options of the task of densities."""

from dataclasses import dataclass
from typing import Any, get_args

from dynamicblocks.data.densities import DensityDataset, PointSet, load_density, split_density
from dynamicblocks.data.densities.catalogue import check_named
from dynamicblocks.data.series.checks import check_share
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.flows.fields import TimeName
from dynamicblocks.tasks.handed import GIVEN
from dynamicblocks.tasks.own_field import FIELD
from dynamicblocks.times import check_amount, check_count, check_counts, check_positive, check_seed
from dynamicblocks.training.config.plain import plain

# The share of the training images that makes 1,000.
JUDGED = {"mnist": 1 / 60, "fashion-mnist": 1 / 60, "cifar10": 1 / 50}


@dataclass(frozen=True)
class DensityConfig:
    """Points.

    Args:
        name: moons, circles, checkerboard, swiss_roll, eight_gaussians, pinwheel (drawn on the fly); csv:PATH or
            parquet:PATH, tables with a row for each point; npy:PATH or npz:PATH, arrays (n, features), of .npz files
            with the keys points and, if any, context; digits, mnist, fashion-mnist, cifar10, or images:FOLDER, images
            of one size.
        values: of a table, the columns that make a point; by default all others that hold numbers.
        context: of a table, the columns that a point depends on, of which densities are conditional; label is the
            class of a point that is drawn on the fly, or of an image.
        samples: of points drawn on the fly, how many to train on.
        validation: share of the points by which each epoch is judged, and which are not trained on; by default 0.1, of
            mnist, fashion-mnist and cifar10 1,000 images.
        test: share of the points held out to the end; images with a name have their own.
        split_seed: which points those are, and what is drawn on the fly.
        batch_size: points in a training step, over all processes; by default 200, of images 32.
        test_batch_size: points in a step of evaluation; None for as in training.
        steps: training steps in an epoch, however few points there are; by default 100, or 1000 of flow matching,
            which solves nothing in a step; of images 50 and 200.
        data_dir: where a relative path of a file begins, and folder with a local copy of images; by default the
            working directory, and a cache to which images are downloaded.
    """

    name: str = "moons"
    values: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    samples: int | None = None
    validation: float | None = None
    test: float = 0.1
    split_seed: int = 0
    batch_size: int | None = None
    test_batch_size: int | None = 1000
    steps: int | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.split_seed, "data.split_seed")
        for option in ("samples", "batch_size", "test_batch_size", "steps"):
            if getattr(self, option) is not None:
                check_count(getattr(self, option), f"data.{option}")
        check_share(self.test, "data.test")
        check_share(self.judged, "data.validation")
        for option in ("values", "context"):
            names = getattr(self, option)
            if len(set(names)) < len(names):
                raise ConfigurationError(f"data.{option} must be different names, got {', '.join(names)}")
        both = [name for name in self.values if name in self.context]
        if both:
            raise ConfigurationError(
                f"{both[0]!r} is among data.values and data.context; a density of what is known is none, so leave it "
                "out of one"
            )

    @property
    def judged(self) -> float:
        """The share of the points by which each epoch is judged."""
        return JUDGED.get(self.name, 0.1) if self.validation is None else self.validation

    def check(self) -> None:
        """Raise where there is no such set of points."""
        if self.name != GIVEN:
            check_named(self.name)

    def load(self) -> DensityDataset:
        """The points, split."""
        return load_density(
            self.name,
            seed=self.split_seed,
            samples=self.samples,
            values=self.values or None,
            context=self.context,
            validation=self.judged,
            test=self.test,
            data_dir=self.data_dir,
        )

    def split(self, points: PointSet) -> DensityDataset:
        """Points from Python, split."""
        return split_density(points, self.name, self.judged, self.test, self.split_seed)


@dataclass(frozen=True)
class DensityModel:
    """The flow: dx/dt = v(t, x, context) from noise at t = 0 to data at the horizon.

    Args:
        field: v: concat, concatsquash or hyper (perceptrons that read the time in three ways), potential (the gradient
            of a potential, whose trace has a closed form), conv (of images); or FILE.py:Name, a class of torch modules
            f(t, x) or f(t, x, context); auto is concatsquash, of images conv.
        hidden: units of each hidden layer, or channels of each hidden convolution; by default those of the field: 64
            64 64, of hyper 64 32, of potential and conv 32 32.
        activation: of the field; by default tanh, of conv softplus.
        time: how the field is told the time: linear (as it is), fourier (sines and cosines).
        horizon: the time of the data.
        base: what noise is drawn from: gaussian, eight_gaussians.
        standardise: whether data are brought to mean zero and deviation one first, inside the flow; by default they
            are where noise is gaussian. Of images it is the logits of their pixels.
        marginals: of images, whether each pixel is made normal by how often its values are in training, so that the
            flow begins where independent pixels end; if not, pixels go through a logit. By default they are where
            there are four images or more for each value.
        flows: how many equations, one behind the other; of images, before and after each change of scale.
        scales: of images, how many: behind each but the last, half of the numbers are noise already.
        patch: the field conv sees patches of so many pixels a side as one place, for patch^2 less work; by default 2 or
            4 where that divides the sides, 1 of several scales.
        alpha: of images whose pixels go through a logit, how far that stays from infinity; 0.05 is usual of
            photographs.
    """

    field: str = "auto"
    hidden: tuple[int, ...] = ()
    activation: str | None = None
    time: TimeName = "linear"
    horizon: float = 1.0
    base: str = "gaussian"
    standardise: bool | None = None
    marginals: bool | None = None
    flows: int = 1
    scales: int = 1
    patch: int | None = None
    alpha: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden:
            check_counts(self.hidden, "model.hidden")
        if self.time not in get_args(TimeName):
            raise unknown_name("model.time", self.time, get_args(TimeName))
        check_positive(self.horizon, "model.horizon")
        for option in ("flows", "scales"):
            check_count(getattr(self, option), f"model.{option}")
        if self.patch is not None:
            check_count(self.patch, "model.patch")
        if not 0 < check_amount(self.alpha, "model.alpha") < 0.5:
            raise ConfigurationError(f"model.alpha must lie above 0 and below 0.5, got {self.alpha:g}")

    def as_dict(self) -> dict[str, Any]:
        """As files hold it: a field of somebody's own by its name and hash, never by where its file lies."""
        return {name: plain(value) for name, value in vars(self).items()} | {"field": FIELD.reference(self.field)}


@dataclass(frozen=True)
class PenaltyConfig:
    """What is added to the negative log-likelihood, so that paths are short and straight; 0.01 is usual.

    Args:
        kinetic: weight of the integral of |v|^2 along the path of a point.
        jacobian: of the integral of the squared Frobenius norm of dv/dx, by the products that the trace is made of.
        hjb: of the residual of the Hamilton-Jacobi-Bellman equation along the path, for the field potential.
    """

    kinetic: float = 0.0
    jacobian: float = 0.0
    hjb: float = 0.0

    def __post_init__(self) -> None:
        for option in ("kinetic", "jacobian", "hjb"):
            check_amount(getattr(self, option), f"penalties.{option}")

    @property
    def weights(self) -> dict[str, float]:
        """Those above zero, by name."""
        return {name: weight for name, weight in vars(self).items() if weight}
