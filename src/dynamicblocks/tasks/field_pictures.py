"""Pictures of fields: what a network was given, what it should have given, what it gave, and the difference."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamicblocks.training.storage import write_picture

INPUT, TARGET, PREDICTION = "#6c757d", "#00798c", "#d1495b"
# Rows of a picture, and channels of the targets among them, at most.
ROWS, CHANNELS = 4, 3


@dataclass(frozen=True)
class Shown:
    """Some samples, in the units of the file.

    Args:
        inputs, targets, predictions: (samples, channels, *space).
        errors: the relative error of each sample.
    """

    inputs: Tensor
    targets: Tensor
    predictions: Tensor
    errors: Tensor

    @property
    def dims(self) -> int:
        """Dimensions of space."""
        return self.targets.ndim - 2

    def rows(self) -> Iterator[tuple[int, int]]:
        """Sample and channel of each row."""
        channels = min(self.targets.shape[1], CHANNELS)
        places = [(sample, channel) for sample in range(len(self.targets)) for channel in range(channels)]
        yield from places[: ROWS // channels * channels]

    def flat(self, values: Tensor, sample: int, channel: int) -> Tensor:
        """A line or an image: of a volume the middle slice along its first axis."""
        chosen = values[sample, min(channel, values.shape[1] - 1)].double()
        return chosen[chosen.shape[0] // 2] if self.dims == 3 else chosen


def draw_fields(shown: Shown, path: Path) -> None:
    """Input, target, prediction and error: a row for each sample and channel; lines in one dimension, else images.

    Targets and predictions have one scale, errors have one of their own.
    """
    rows = list(shown.rows())
    columns, width = (3, 4.4) if shown.dims == 1 else (4, 3.6)
    height = 2.7 * len(rows)
    figure = Figure(figsize=(width * columns, height))
    # Matplotlib's own layouts draw everything twice.
    figure.subplots_adjust(
        left=0.05,
        right=0.98,
        bottom=0.5 / height,
        top=1 - 0.35 / height,
        hspace=0.4,
        wspace=0.2 if shown.dims == 1 else 0.3,
    )
    drawn = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (sample, channel) in zip(drawn, rows, strict=True):
        given, wanted, found = (
            shown.flat(values, sample, channel) for values in (shown.inputs, shown.targets, shown.predictions)
        )
        if shown.dims == 1:
            _lines(axes, given, wanted, found)
        else:
            _images(figure, axes, given, wanted, found)
        of_many = f", channel {channel}" if shown.targets.shape[1] > 1 else ""
        axes[0].set_title(f"test sample {sample}: input{_channel(shown, channel)}", fontsize=9)
        axes[-1].set_title(f"error{of_many}; relative, of the sample: {shown.errors[sample]:.2%}", fontsize=9)
        if shown.dims == 1:
            axes[1].set_title(f"target and prediction{of_many}", fontsize=9)
        else:
            axes[1].set_title(f"target{of_many}", fontsize=9)
            axes[2].set_title(f"prediction{of_many}", fontsize=9)
    write_picture(path, figure.savefig, dpi=130)


def _channel(shown: Shown, channel: int) -> str:
    count = shown.inputs.shape[1]
    return f", channel {min(channel, count - 1)}" if count > 1 else ""


def _lines(axes: list[Axes], given: Tensor, wanted: Tensor, found: Tensor) -> None:
    axes[0].plot(given.numpy(), color=INPUT, lw=1.5)
    axes[1].plot(wanted.numpy(), color=TARGET, lw=3, alpha=0.5, label="target")
    axes[1].plot(found.numpy(), color=PREDICTION, lw=1.2, label="prediction")
    axes[1].legend(frameon=False, fontsize=8)
    axes[2].plot((found - wanted).numpy(), color=PREDICTION, lw=1.2)
    axes[2].axhline(0, color="black", lw=0.5)
    for each in axes:
        each.set_xlabel("grid point", fontsize=8)
        each.tick_params(labelsize=8)
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("value", fontsize=8)


def _images(figure: Figure, axes: list[Axes], given: Tensor, wanted: Tensor, found: Tensor) -> None:
    error = found - wanted
    most = error.abs().max().item()
    alike = {"vmin": wanted.min().item(), "vmax": wanted.max().item()}
    options: list[dict[str, object]] = [
        {"cmap": "viridis"},
        {"cmap": "viridis", **alike},
        {"cmap": "viridis", **alike},
        {"cmap": "RdBu_r", "vmin": -most, "vmax": most},
    ]
    for each, values, option in zip(axes, (given, wanted, found, error), options, strict=True):
        image = each.imshow(values.numpy(), **option)  # type: ignore[arg-type]
        figure.colorbar(image, ax=each, shrink=0.85).ax.tick_params(labelsize=7)
        each.tick_params(labelsize=7)
