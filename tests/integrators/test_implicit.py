"""Implicit Runge-Kutta methods, and the solver of their equations."""

import math
import warnings
from itertools import pairwise

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.integrators import newton_krylov
from dynamicblocks.integrators.implicit import IMPLICIT, ImplicitRungeKutta, ImplicitTableau
from dynamicblocks.integrators.newton_krylov import Rows, attach, gmres, newton

double = torch.float64
BY_NAME = {tableau.name: tableau for tableau in IMPLICIT}
every_method = pytest.mark.parametrize("tableau", IMPLICIT, ids=lambda tableau: tableau.name)


def method(name, **keywords):
    return ImplicitRungeKutta(BY_NAME[name], **keywords)


def field(t, y):
    """Two fields that depend on time, the second one nonlinear."""
    return torch.stack([math.cos(t) * y[0], -(1 + math.sin(2 * t)) * y[1] ** 2])


def exact(t):
    return torch.tensor([math.exp(math.sin(t)), 1 / (1 + t + (1 - math.cos(2 * t)) / 2)], dtype=double)


def integrate(integrator, f, y, t0, t1, steps):
    h = (t1 - t0) / steps
    carry = integrator.begin(None, 0.0, y)
    for n in range(steps):
        carry = integrator.step(f, t0 + n * h, h, carry)
    return integrator.finish(carry)


def one_step(integrator, f, y, h):
    return integrator.advance(lambda c, y: f(y), h, y)


@every_method
def test_measured_order_is_the_declared_one(tableau):
    counts = [4, 8, 16, 32] if tableau.order >= 5 else [16, 32, 64, 128]
    with torch.no_grad():
        errors = [
            (integrate(ImplicitRungeKutta(tableau), field, exact(0), 0.0, 2.0, n) - exact(2)).abs().max().item()
            for n in counts
        ]
    assert errors[-1] > 1e-13, "below rounding nothing is measured"
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(tableau.order, abs=0.1)


@pytest.mark.parametrize("name", ["gl6", "radauIIA5"])
def test_high_orders_reach_rounding(name):
    error = (integrate(method(name), field, exact(0), 0.0, 2.0, 160) - exact(2)).abs().max().item()
    assert error < 1e-12


def test_stages_of_gl4_stand_at_the_points_of_gauss():
    assert method("gl4").fractions == pytest.approx((1 / 2 - math.sqrt(3) / 6, 1 / 2 + math.sqrt(3) / 6), abs=1e-15)
    seen = set()

    def stage(c, y):
        seen.add(c)
        return -y

    method("gl4").advance(stage, 0.1, torch.ones(1))
    assert seen == set(method("gl4").fractions)


@pytest.mark.parametrize("name", ["radauIIA3", "radauIIA5", "sdirk2", "trbdf2", "trapezoid", "implicit_euler"])
def test_a_last_stage_at_the_end_stands_there_exactly(name):
    assert method(name).fractions[-1] == 1.0


GAMMA = 1 - 1 / math.sqrt(2)
STABILITY = {
    "implicit_euler": lambda z: 1 / (1 - z),
    "implicit_midpoint": lambda z: (1 + z / 2) / (1 - z / 2),
    "trapezoid": lambda z: (1 + z / 2) / (1 - z / 2),
    "gl4": lambda z: (1 + z / 2 + z**2 / 12) / (1 - z / 2 + z**2 / 12),
    "gl6": lambda z: (1 + z / 2 + z**2 / 10 + z**3 / 120) / (1 - z / 2 + z**2 / 10 - z**3 / 120),
    "radauIIA3": lambda z: (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6),
    "radauIIA5": lambda z: (1 + 2 * z / 5 + z**2 / 20) / (1 - 3 * z / 5 + 3 * z**2 / 20 - z**3 / 60),
    "sdirk2": lambda z: (1 + (1 - 2 * GAMMA) * z) / (1 - GAMMA * z) ** 2,
    "trbdf2": lambda z: (1 + (1 - 2 * GAMMA) * z) / (1 - GAMMA * z) ** 2,
}


@every_method
@pytest.mark.parametrize("z", [-1e6, -1.0, 3j, -2 + 5j], ids=str)
def test_a_linear_step_is_the_stability_function(tableau, z):
    """Known rational approximations of exp(z): A-stable, and L-stable where they vanish far to the left."""
    h = 0.1
    y = torch.tensor([1.0 + 0.5j], dtype=torch.complex128)
    found = one_step(ImplicitRungeKutta(tableau), lambda y: (z / h) * y, y, h)
    assert torch.allclose(found, STABILITY[tableau.name](z) * y, rtol=1e-9, atol=1e-12)


@every_method
def test_a_stiff_problem_stays_on_its_slow_solution(tableau):
    def stiff(t, y):
        return -1e6 * (y - math.cos(t)) - math.sin(t)

    y = integrate(ImplicitRungeKutta(tableau), stiff, torch.ones(1, dtype=double), 0.0, 1.0, 20)
    assert abs(y.item() - math.cos(1)) < 1e-3


def test_a_linear_system_is_solved_exactly():
    basis = torch.linalg.qr(torch.randn(30, 30, dtype=double))[0]
    matrix = basis @ torch.diag(-torch.logspace(-2, 4, 30, dtype=double)) @ basis.T
    y, h, eye = torch.randn(30, dtype=double), 0.1, torch.eye(30, dtype=double)
    expected = torch.linalg.solve(eye - h / 2 * matrix, (eye + h / 2 * matrix) @ y)
    for name in ("implicit_midpoint", "trapezoid"):
        found = one_step(method(name), lambda y: matrix @ y, y, h)
        assert torch.allclose(found, expected, rtol=0, atol=1e-10), name


def test_gauss_methods_keep_quadratic_invariants():
    """Euler's rigid body: energy and momentum are sums of squares."""
    moments = torch.tensor([1.0, 2.0, 3.0], dtype=double)

    def body(_t, y):
        return torch.linalg.cross(y, y / moments)

    y0 = torch.tensor([1.0, 0.5, -0.3], dtype=double)
    y = integrate(method("gl4"), body, y0, 0.0, 20.0, 100)
    assert (y @ y).item() == pytest.approx((y0 @ y0).item(), abs=1e-13)
    assert (y @ (y / moments)).item() == pytest.approx((y0 @ (y0 / moments)).item(), abs=1e-13)


@pytest.mark.parametrize("name", ["gl4", "gl6", "implicit_midpoint", "trapezoid"])
def test_symmetric_methods_go_back_with_a_negative_step(name):
    there = method(name).step(field, 0.5, 0.3, exact(0.5))
    back = method(name).step(field, 0.8, -0.3, there)
    assert torch.allclose(back, exact(0.5), rtol=0, atol=1e-13)


def swing(theta):
    return lambda c, y: torch.stack([torch.sin(y[1]) - theta * y[0] * (1 + c), y[0] * theta - y[1] ** 3])


@every_method
def test_gradients(tableau):
    integrator = ImplicitRungeKutta(tableau)
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)
    h = torch.tensor(0.4, dtype=double, requires_grad=True)

    def two_steps(y, theta, h):
        return integrator.advance(swing(theta), h / 2, integrator.advance(swing(theta), h, y))

    assert torch.autograd.gradcheck(two_steps, (y, theta, h))


@pytest.mark.parametrize("name", ["implicit_euler", "gl4", "trbdf2"])
def test_second_derivatives(name):
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)
    h = torch.tensor(0.4, dtype=double, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda y, theta, h: method(name, derivatives=2).advance(swing(theta), h, y), (y, theta, h)
    )


def test_third_derivatives():
    """Implicit Euler for y' = -y^2: z + h z^2 = y, so z is known."""
    y = torch.tensor([2.0], dtype=double, requires_grad=True)
    (found,) = one_step(method("implicit_euler", derivatives=3), lambda y: -(y**2), y, 0.5)
    expected = ((1 + 4 * 0.5 * y) ** 0.5 - 1).sum()
    for _ in range(3):
        (found,) = torch.autograd.grad(found, y, create_graph=True)
        (expected,) = torch.autograd.grad(expected, y, create_graph=True)
        assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_derivatives_beyond_those_asked_for_are_an_error():
    y = torch.tensor([2.0], dtype=double, requires_grad=True)
    one = one_step(method("gl4"), lambda y: -(y**2), y, 0.5)
    (first,) = torch.autograd.grad(one, y, create_graph=True)
    assert first.requires_grad
    with pytest.raises(ConfigurationError, match="derivatives=2"):
        torch.autograd.grad(first, y)


def test_gradients_of_a_stiff_step():
    rate = torch.tensor(1e5, dtype=double, requires_grad=True)
    y = torch.tensor([2.0, 0.5], dtype=double, requires_grad=True)
    one = method("implicit_euler").advance(lambda c, y: -rate * y, 0.1, y)
    by_rate, by_y = torch.autograd.grad(one.sum(), (rate, y))
    assert by_rate.item() == pytest.approx(-0.25 / (1 + 1e4) ** 2, rel=1e-9)
    assert by_y.tolist() == pytest.approx([1 / (1 + 1e4)] * 2, rel=1e-9)


def test_gradients_of_complex_states():
    y = torch.tensor([0.7 - 0.2j, -0.4j], dtype=torch.complex128, requires_grad=True)
    theta = torch.tensor(0.8 + 0.3j, dtype=torch.complex128, requires_grad=True)

    def step(y, theta):
        # Not analytic: it needs real and imaginary parts as separate unknowns.
        return method("radauIIA3").advance(lambda c, y: theta * y.conj() - y * y.abs() ** 2, 0.3, y)

    assert torch.autograd.gradcheck(step, (y, theta))


def test_a_graph_is_made_where_it_is_needed_only():
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)
    y = torch.tensor([0.7, -0.4], dtype=double)
    assert method("gl4").advance(swing(theta), 0.1, y).requires_grad
    assert not method("gl4").advance(swing(theta.detach()), 0.1, y).requires_grad
    with torch.no_grad():
        assert not method("gl4").advance(swing(theta), 0.1, y).requires_grad
    with torch.inference_mode():
        inside = method("gl4").advance(swing(theta), 0.1, y)
    assert torch.equal(inside, method("gl4").advance(swing(theta), 0.1, y).detach())


def test_gradients_through_checkpointing_and_modules():
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    y = torch.randn(3, 4, dtype=double, requires_grad=True)

    def steps(y):
        for _ in range(3):
            y = one_step(method("gl4"), module, y, 0.3)
        return y

    wanted = (y, *module.parameters())
    plain = torch.autograd.grad(steps(y).square().sum(), wanted)
    repeated = torch.utils.checkpoint.checkpoint(steps, y, use_reentrant=False)
    for a, b in zip(plain, torch.autograd.grad(repeated.square().sum(), wanted), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@every_method
def test_single_precision_and_any_shape(tableau):
    y = torch.rand(2, 1, 3)
    found = one_step(ImplicitRungeKutta(tableau), lambda y: -y * y, y, 0.25)
    reference = one_step(ImplicitRungeKutta(tableau), lambda y: -y * y, y.double(), 0.25)
    assert found.dtype == torch.float32
    assert found.shape == y.shape
    assert torch.allclose(found.double(), reference, atol=1e-6)
    scalar = one_step(ImplicitRungeKutta(tableau), lambda y: -y, torch.tensor(1.0), 0.25)
    assert scalar.shape == ()
    zero = one_step(ImplicitRungeKutta(tableau), lambda y: -y, torch.zeros(3), 0.25)
    assert torch.equal(zero, torch.zeros(3))
    from_zero = one_step(ImplicitRungeKutta(tableau), lambda y: 1 - 1e3 * y, torch.zeros(3), 1e-4)
    assert torch.allclose(from_zero, torch.full((3,), (1 - math.exp(-0.1)) / 1e3), rtol=0.1)


def test_too_few_iterations_are_reported():
    y = torch.tensor([3.0], dtype=double)
    with pytest.warns(UserWarning, match=r"Functional iteration did not converge\. Solution may be incorrect\."):
        found = one_step(method("implicit_euler", max_iters=1), lambda y: -(y**3), y, 1.0)
    assert torch.isfinite(found).all()
    with pytest.warns(UserWarning, match="did not converge"):
        # No solution: z = 2 + z^2 has no real root.
        one_step(method("implicit_euler"), lambda y: 2 + y**2, torch.zeros(1, dtype=double), 1.0)
    with pytest.raises(SolverError, match=r"non-finite values in a stage of implicit_euler: .* first at \[0\]: nan"):
        one_step(method("implicit_euler"), lambda y: y * math.nan, torch.ones(1, dtype=double), 1.0)


def test_rows_are_systems_of_their_own():
    rates = torch.tensor([0.1, 1.0, 1e3, 1e6], dtype=double)[:, None]
    y = torch.randn(4, 5, dtype=double)
    apart = torch.cat(
        [one_step(method("radauIIA5"), lambda y, r=r: -r * y**3, y[n : n + 1], 0.1) for n, r in enumerate(rates)]
    )
    for rows in (True, False):
        found = one_step(method("radauIIA5", rows=rows), lambda y: -rates * y**3, y, 0.1)
        assert torch.allclose(found, apart, rtol=1e-10, atol=1e-12)
    y.requires_grad_()
    for rows in (True, False):
        (gradient,) = torch.autograd.grad(
            one_step(method("radauIIA5", rows=rows), lambda y: -rates * y**3, y, 0.1).sin().sum(), y
        )
        expected = torch.cat(
            [
                torch.autograd.grad(
                    one_step(method("radauIIA5"), lambda y, r=r: -r * y**3, y[n : n + 1], 0.1).sin().sum(), y
                )[0][n : n + 1]
                for n, r in enumerate(rates)
            ]
        )
        assert torch.allclose(gradient, expected, rtol=1e-8, atol=1e-11)


class Backward(torch.autograd.Function):
    """The cube, without a forward derivative."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return y**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


def cut(y):
    """The cube as a derivative, made inside: no graph leads to y."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        return torch.autograd.grad((leaf**4 / 4).sum(), leaf)[0]


class Once(Backward):
    """The cube, with a backward pass that has no derivative."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


@pytest.mark.parametrize("cube", [Backward.apply, Once.apply, cut])
@pytest.mark.parametrize("rate", [3.0, 300.0, 3e4])
def test_fields_with_fewer_derivatives(cube, rate):
    y = torch.tensor([1.5, -0.5, 2.0], dtype=double)
    for name in ("gl4", "implicit_euler"):
        expected = one_step(method(name), lambda y: -rate * y**3, y, 0.1)
        with torch.no_grad():
            found = one_step(method(name), lambda y: -rate * cube(y), y, 0.1)
        assert torch.allclose(found, expected, rtol=0, atol=1e-11)


def test_a_field_without_forward_derivative_has_gradients():
    y = torch.tensor([1.5, -0.5], dtype=double, requires_grad=True)
    first = torch.autograd.grad(one_step(method("gl4"), lambda y: -Backward.apply(y), y, 0.1).sum(), y)[0]
    second = torch.autograd.grad(one_step(method("gl4"), lambda y: -(y**3), y, 0.1).sum(), y)[0]
    assert torch.allclose(first, second, rtol=1e-12)


def test_a_gradient_that_cannot_be_found_is_an_error(monkeypatch):
    matrix = torch.randn(8, 8, dtype=double) * 50
    y = torch.randn(8, dtype=double, requires_grad=True)
    one = one_step(method("implicit_euler"), lambda y: matrix @ y, y, 1.0)
    monkeypatch.setattr(newton_krylov, "KRYLOV", 1)
    with pytest.raises(SolverError, match=r"did not solve.*float64"):
        one.sum().backward()


def test_gradients_that_are_not_finite_pass():
    y = torch.ones(2, dtype=double, requires_grad=True)
    one = one_step(method("gl4"), lambda y: -y, y, 0.1)
    (gradient,) = torch.autograd.grad(one, y, torch.tensor([math.inf, 1.0], dtype=double))
    assert not torch.isfinite(gradient).any()


def test_newton_finds_each_row():
    wanted = torch.tensor([[4.0, 9.0], [2.0, 1e6], [-1.0, 1.0]], dtype=double)
    start, size = torch.ones(3, 2, dtype=double), torch.ones(3, 1, dtype=double)
    root, found = newton(lambda z: z**2 - wanted, start, size, max_iters=20)
    assert found.tolist() == [True, True, False]
    assert torch.allclose(root[:2], wanted[:2].sqrt(), rtol=1e-14)


def test_newton_shortens_steps_that_lead_away():
    """From 3, whole steps on the arc tangent diverge."""
    root, found = newton(torch.atan, torch.full((1, 1), 3.0, dtype=double), torch.ones(1, 1, dtype=double))
    assert found.item()
    assert abs(root.item()) < 1e-14


def test_newton_stops_at_the_unit():
    calls = []

    def residual(z):
        calls.append(1)
        return z**2 - 2

    coarse, found = newton(residual, torch.ones(1, 1, dtype=double), torch.ones(1, 1), torch.full((1, 1), 1e-3))
    rough = len(calls)
    newton(residual, torch.ones(1, 1, dtype=double), torch.ones(1, 1))
    assert found.item()
    assert abs(coarse.item() - math.sqrt(2)) < 1e-3
    assert len(calls) - rough > rough


def test_gmres_in_a_small_space_and_on_zero():
    matrix = torch.eye(6, dtype=double) + torch.diag(torch.ones(5, dtype=double), 1)
    b = torch.stack([torch.ones(6, dtype=double), torch.zeros(6, dtype=double), torch.eye(6, dtype=double)[0]])
    target = torch.full((3, 1), 1e-12, dtype=double)
    x, left = gmres(lambda x: x @ matrix.T, b, target, 50)
    assert torch.allclose(x, torch.linalg.solve(matrix, b.T).T, atol=1e-12)
    assert (left <= target).all()
    _, left = gmres(lambda x: x @ matrix.T, b, target, 2)
    assert left[0] > 1e-3


def test_gmres_reports_a_singular_system():
    x, left = gmres(lambda x: x * torch.tensor([1.0, 0.0]), torch.ones(1, 2), torch.zeros(1, 1), 10)
    assert torch.isfinite(x).all()
    assert left.item() > 0.5


def test_attach_without_gradients_returns_the_root():
    root = torch.ones(1, 2)
    assert attach(lambda z: z - 1, root) is root


def test_rows_pack_and_unpack():
    y = torch.randn(3, 2, 2, dtype=torch.complex128)
    for each in (True, False):
        layout = Rows.of(y, each=each)
        packed = layout.pack(y, 2 * y)
        assert packed.shape == ((3, 16) if each else (1, 48))
        first, second = layout.unpack(packed, 2)
        assert torch.equal(first, y)
        assert torch.equal(second, 2 * y)


def test_bad_tableaus_and_options():
    with pytest.raises(ConfigurationError, match=r"got lengths \[1, 2\]"):
        ImplicitTableau("bad", 1, ((1,), (1, 0)), (0, 1))
    with pytest.raises(ConfigurationError, match=r"sum to 1, got 0\.5"):
        ImplicitTableau("bad", 1, ((1,),), (0.5,))
    with pytest.raises(ConfigurationError, match="max_iters"):
        method("gl4", max_iters=0)


def test_no_warning_on_a_block_of_layers():
    block = db.DynamicBlock(
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), 2, db.uniform(0, 2, steps=2), method("gl4")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block(torch.randn(3, 4)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize("method", ["gl4", "sdirk2", "kvaerno3", "kvaerno5"])
def test_roots_are_looked_for_without_the_graph_of_the_steps_before(method):
    """Each product with a Jacobian walks through the graph that it is made of: it must not grow with the steps."""

    def size_of_graph(y):
        seen, nodes = set(), [y.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                nodes.extend(following for following, _ in node.next_functions)
        return len(seen)

    sizes = []

    def func(t, y):
        sizes.append(size_of_graph(y))
        return -(y**3)

    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0, 1, 12, dtype=torch.float64)
    states = db.odeint(func, y0, t, method=method, rtol=1e-4, atol=1e-6)
    stages = 2 + 7 * 11  # of these one evaluation each joins the graph
    assert sum(size > 60 for size in sizes) <= stages
    assert len(sizes) > 2 * stages if method != "sdirk2" else len(sizes) > stages
    before = len(sizes)
    states[-1].sum().backward()
    assert max(sizes[before:]) < 60
    if method in ("gl4", "sdirk2"):
        above, below = (db.odeint(func, y0.detach() + e, t, method=method)[-1] for e in (1e-5, -1e-5))
        assert torch.allclose(y0.grad, (above - below) / 2e-5, rtol=1e-6)
    else:  # of steps that are chosen: the gradient of y0 / sqrt(1 + 2 y0^2)
        assert torch.allclose(y0.grad, torch.full_like(y0, 3.0**-1.5), rtol=1e-3)
