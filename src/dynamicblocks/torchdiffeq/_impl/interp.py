"""The quartic between the ends of a step, as coefficients of the powers of the fraction of the step."""

from collections.abc import Sequence

from torch import Tensor

from dynamicblocks.errors import ArgumentError


def _interp_fit(y0: Tensor, y1: Tensor, y_mid: Tensor, f0: Tensor, f1: Tensor, dt: Tensor) -> list[Tensor]:
    """The coefficients, lowest power first, of the polynomial with these states and these slopes at the ends."""
    # What the line through y0 with the slope f0 leaves at the middle and at the end, and of the slope there.
    rise = dt * f0
    middle, end, slope = y_mid - y0 - rise / 2, y1 - y0 - rise, dt * f1 - rise
    return [
        y0,
        rise,
        16 * middle - 5 * end + slope,
        -32 * middle + 14 * end - 3 * slope,
        16 * middle - 8 * end + 2 * slope,
    ]


def _interp_evaluate(coefficients: Sequence[Tensor], t0: Tensor, t1: Tensor, t: Tensor) -> Tensor:
    """The polynomial at a time between the ends of the step."""
    if not bool((t0 <= t) & (t <= t1)):
        raise ArgumentError(f"invalid interpolation, fails `t0 <= t <= t1`: {t0}, {t}, {t1}")
    x = ((t - t0) / (t1 - t0)).to(coefficients[0].dtype)
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = coefficient + x * total
    return total
