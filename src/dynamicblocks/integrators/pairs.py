"""Embedded pairs of explicit Runge-Kutta methods, as data: a step, an estimate of its error, a state half-way."""

from dataclasses import InitVar, dataclass
from functools import partial

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.embedded import Embedded, Trial
from dynamicblocks.integrators.integrator import Size, Slope
from dynamicblocks.integrators.interpolant import Row, hermite_weights, polynomial
from dynamicblocks.integrators.order_conditions import check_coefficients, check_order
from dynamicblocks.integrators.runge_kutta import add_scaled, weighted
from dynamicblocks.integrators.tableaus import Known, Tableau
from dynamicblocks.integrators.tolerance import Tolerance


@dataclass(frozen=True)
class Pair(Embedded):
    """An explicit Runge-Kutta method whose stages give a second state, of another order, at no cost.

        error = h sum_i e_i k_i,    y(t + h/2) = y + h sum_i m_i k_i,    y(t + x h) = y + h sum_i b_i(x) k_i

    The last stage stands at the end of the step, and its slope begins the next step. Where its weight in the state is
    zero it is the slope of that state ("first same as last"); in the pairs of order two it is close enough to it.

    Args:
        tableau: of the state that is kept.
        error: weights e of the difference of the two states.
        middle: weights m of the state half-way, for the quartic Hermite interpolant; None for the cubic one.
        extension: coefficients of x, x^2, ... in the b_i(x), if the method has an interpolant of its own.
        check: whether the order is checked, which takes milliseconds for a high one.

    Raises:
        ConfigurationError: the wrong number of weights, numbers that are not finite, a last stage elsewhere, or a
            second state whose order is not one less at least.
    """

    tableau: Tableau
    error: tuple[float, ...]
    middle: tuple[float, ...] | None = None
    extension: tuple[tuple[float, ...], ...] | None = None
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        stages = len(self.tableau.b)
        for what, weights in (("error", self.error), ("middle", self.middle)):
            if weights is not None and len(weights) != stages:
                raise ConfigurationError(f"pair {self.name!r}: {what} needs {stages} weights, got {len(weights)}")
        if self.tableau.c[-1] != 1:
            raise ConfigurationError(
                f"pair {self.name!r}: the last stage must stand at the end of the step, got c = {self.tableau.c[-1]}"
            )
        check_coefficients(f"pair {self.name!r}", self.order, self.error, self.middle or (), *(self.extension or ()))
        if check:
            a, other = self.tableau.a, [b - e for b, e in zip(self.tableau.b, self.error, strict=True)]
            check_order(f"pair {self.name!r}, its second state (b - error)", a, other, self.order - 1, pair=True)

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_order(self) -> int:
        return self.tableau.order

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.tableau.c

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is evaluated at the state that is kept."""
        return self.tableau.b[-1] == 0 and self.tableau.a[-1] == self.tableau.b[:-1]

    def attempt(self, stage: Slope, h: Size, y: Tensor, slope: Tensor, tolerance: Tolerance) -> Trial:
        tableau = self.tableau
        slopes, at = [slope], y
        for fraction, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            at = add_scaled(y, slopes, row, h)
            slopes.append(stage(fraction, at))
        y1 = at if self.first_same_as_last else add_scaled(y, slopes, tableau.b, h)
        with torch.no_grad():
            error = weighted(slopes, self.error) * h

        def extra() -> list[Tensor]:
            if self.extension is not None:
                return [k * h for k, row in zip(slopes[1:-1], self.extension[1:-1], strict=True) if any(row)]
            return [] if self.middle is None else [add_scaled(y, slopes, self.middle, h)]

        return Trial(y1, error, slope, slopes[-1], extra)

    @property
    def interpolation_order(self) -> int:
        if self.extension is not None:
            return len(self.extension[0])
        return 3 if self.middle is None else 4

    def weights(self, x: float | Tensor) -> Row:
        if self.extension is None:
            return hermite_weights(x, middle=self.middle is not None)
        start, *inner, end = (polynomial(row, x) for row in self.extension)
        return (1.0, 0.0, start, end, *(b for b, row in zip(inner, self.extension[1:-1], strict=True) if any(row)))


DOPRI8 = (
    14005451 / 335480064,
    0,
    0,
    0,
    0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
    0,
)

_KnownPair = partial(Pair, check=False)

PAIRS = (
    _KnownPair(
        Known(
            "dopri5",
            5,
            (
                (),
                (1 / 5,),
                (3 / 40, 9 / 40),
                (44 / 45, -56 / 15, 32 / 9),
                (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
                (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
                (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
            ),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        ),
        error=(
            35 / 384 - 1951 / 21600,
            0,
            500 / 1113 - 22642 / 50085,
            125 / 192 - 451 / 720,
            -2187 / 6784 + 12231 / 42400,
            11 / 84 - 649 / 6300,
            -1 / 60,
        ),
        # Shampine 1986: of order five half-way.
        middle=(
            6025192743 / 60171106304,
            0,
            51252292925 / 130801643196,
            -2691868925 / 90256659456,
            187940372067 / 3189068634112,
            -1776094331 / 39487288512,
            11237099 / 470086768,
        ),
    ),
    # Tsitouras 2011.
    _KnownPair(
        Known(
            "tsit5",
            5,
            (
                (),
                (0.161,),
                (-0.008480655492356988544, 0.335480655492356988544),
                (2.897153057105493432130, -6.359448489975074843148, 4.362295432869581411018),
                (
                    5.325864828439256604429,
                    -11.74888356406282787775,
                    7.495539342889836208305,
                    -0.09249506636175524925651,
                ),
                (
                    5.861455442946420028659,
                    -12.92096931784710929171,
                    8.159367898576158643180,
                    -0.07158497328140099722453,
                    -0.02826905039406838290900,
                ),
                (
                    0.09646076681806522951816,
                    0.01,
                    0.4798896504144995747752,
                    1.379008574103741893192,
                    -3.290069515436080679901,
                    2.324710524099773982415,
                ),
            ),
            (
                0.09646076681806522951816,
                0.01,
                0.4798896504144995747752,
                1.379008574103741893192,
                -3.290069515436080679901,
                2.324710524099773982415,
                0,
            ),
        ),
        error=(
            -0.001780011052225771443378550607539534776,
            -0.0008164344596567469032236360633546862402,
            0.007880878010261996010314727672526304239,
            -0.1447110071732629075371651479726351167,
            0.5823571654525552250199376106520421795,
            -0.4580821059291869466616365188325542974,
            1 / 66,
        ),
        middle=(
            0.10741235230100377,
            0.01135625,
            0.39560903056045305,
            -0.34475214352593553,
            1.3161853649581645,
            -1.0170608542936508,
            0.03125,
        ),
    ),
    # Bogacki and Shampine 1989; its own interpolant is the cubic one.
    _KnownPair(
        Known("bosh3", 3, ((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)), (2 / 9, 1 / 3, 4 / 9, 0)),
        error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    ),
    # Fehlberg 1969, with the solution of order two kept.
    _KnownPair(
        Known("fehlberg2", 2, ((), (1 / 2,), (1 / 256, 255 / 256)), (1 / 512, 255 / 256, 1 / 512)),
        error=(-1 / 512, 0, 1 / 512),
    ),
    # Heun's method with Euler's beside it.
    _KnownPair(Known("adaptive_heun", 2, ((), (1,)), (1 / 2, 1 / 2)), error=(-1 / 2, 1 / 2)),
    # Prince and Dormand 1981; the interpolant of degree six is the one of which torchdiffeq takes the state half-way.
    _KnownPair(
        Known(
            "dopri8",
            8,
            (
                (),
                (1 / 18,),
                (1 / 48, 1 / 16),
                (1 / 32, 0, 3 / 32),
                (5 / 16, 0, -75 / 64, 75 / 64),
                (3 / 80, 0, 0, 3 / 16, 3 / 20),
                (29443841 / 614563906, 0, 0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
                (
                    16016141 / 946692911,
                    0,
                    0,
                    61564180 / 158732637,
                    22789713 / 633445777,
                    545815736 / 2771057229,
                    -180193667 / 1043307555,
                ),
                (
                    39632708 / 573591083,
                    0,
                    0,
                    -433636366 / 683701615,
                    -421739975 / 2616292301,
                    100302831 / 723423059,
                    790204164 / 839813087,
                    800635310 / 3783071287,
                ),
                (
                    246121993 / 1340847787,
                    0,
                    0,
                    -37695042795 / 15268766246,
                    -309121744 / 1061227803,
                    -12992083 / 490766935,
                    6005943493 / 2108947869,
                    393006217 / 1396673457,
                    123872331 / 1001029789,
                ),
                (
                    -1028468189 / 846180014,
                    0,
                    0,
                    8478235783 / 508512852,
                    1311729495 / 1432422823,
                    -10304129995 / 1701304382,
                    -48777925059 / 3047939560,
                    15336726248 / 1032824649,
                    -45442868181 / 3398467696,
                    3065993473 / 597172653,
                ),
                (
                    185892177 / 718116043,
                    0,
                    0,
                    -3185094517 / 667107341,
                    -477755414 / 1098053517,
                    -703635378 / 230739211,
                    5731566787 / 1027545527,
                    5232866602 / 850066563,
                    -4093664535 / 808688257,
                    3962137247 / 1805957418,
                    65686358 / 487910083,
                ),
                (
                    403863854 / 491063109,
                    0,
                    0,
                    -5068492393 / 434740067,
                    -411421997 / 543043805,
                    652783627 / 914296604,
                    11173962825 / 925320556,
                    -13158990841 / 6184727034,
                    3936647629 / 1978049680,
                    -160528059 / 685178525,
                    248638103 / 1413531060,
                    0,
                ),
                DOPRI8[:-1],
            ),
            DOPRI8,
        ),
        error=(
            14005451 / 335480064 - 13451932 / 455176623,
            0,
            0,
            0,
            0,
            -59238493 / 1068277825 + 808719846 / 976000145,
            181606767 / 758867731 - 1757004468 / 5645159321,
            561292985 / 797845732 - 656045339 / 265891186,
            -1041891430 / 1371343529 + 3867574721 / 1518517206,
            760417239 / 1151165299 - 465885868 / 322736535,
            118820643 / 751138087 - 53011238 / 667516719,
            -528747749 / 2220607170 - 2 / 45,
            1 / 4,
            0,
        ),
        extension=(
            (
                1.0,
                -6.6910181737837595697,
                19.9990069333683970610,
                -30.0610568289666450593,
                22.1396504998094068976,
                -6.3448349392860401388,
            ),
            *((0.0,) * 6,) * 4,
            (
                0.0,
                -7.6142658045872677172,
                52.2273532792945524050,
                -121.4999627731334642623,
                116.4422149550342161651,
                -39.6107919852202505218,
            ),
            (
                0.0,
                10.7281392630428866124,
                -46.8919164181093621583,
                83.1721004639847717481,
                -67.1451318825957197185,
                20.3761213808791436958,
            ),
            (
                0.0,
                0.5526637063753648783,
                -0.1890893225010595467,
                9.5724507555993664382,
                -16.5672243527496524646,
                7.3347098826795362023,
            ),
            (
                0.0,
                4.2186562625665153803,
                -35.7075975946222072821,
                87.8406057677205645007,
                -89.9916014847245016028,
                32.8801774352459155182,
            ),
            (
                0.0,
                -0.6627209125361597559,
                6.2736448083240352160,
                -17.4152107770762969005,
                22.6237489648532849093,
                -10.1588990526426760954,
            ),
            (
                0.0,
                -1.2636789001135462218,
                10.3160881272450748458,
                -28.5903289514790976966,
                32.2362340167355370113,
                -12.5401268098782561200,
            ),
            (
                0.0,
                5.4106037898590422230,
                -34.7650769866611817349,
                81.6630950584341412934,
                -82.1020315488359848644,
                29.5553001484516038033,
            ),
            (
                0.0,
                -7.0321379067945741781,
                47.7457971078225540396,
                -114.9375291377009418170,
                116.2662185791119533462,
                -41.7923486424390588923,
            ),
            (
                0.0,
                2.3537586759714983486,
                -19.0082099341608028453,
                50.2558364226176017553,
                -53.9020777466385396792,
                20.3006925822100825485,
            ),
        ),
    ),
)
