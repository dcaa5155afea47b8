"""torch.compile around functions that call a solve: eager's values and gradients, and one graph along a known grid."""

import inspect
import itertools

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.errors import warn_caller
from dynamicblocks.integrators import METHODS, AdaptiveMethod

ADAPTIVE = [name for name, method in METHODS.items() if isinstance(method, AdaptiveMethod)]
GRIDS = ["euler", "midpoint", "rk4", "heun3", "alf", "reversible_heun"]
ITERATED = {
    "implicit_euler": {},
    "gl4": {},
    "explicit_adams": {"step_size": 0.1},
    "fixed_adams": {"step_size": 0.1, "max_iters": 50},
}
# Tracing looks at `grad` of inputs that are no leaves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore:Skipping serialization"),
]
HAS_REASON = "reason" in inspect.signature(torch.compiler.disable).parameters


@pytest.fixture(autouse=True)
def _forgotten():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Spring(nn.Module):
    """A damped oscillator whose stiffness is learned; it remembers whether it was traced."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor([1.5, 2.5, 4.0], dtype=dtype))
        self.traced = set()

    def forward(self, t, y):
        self.traced.add(torch.compiler.is_compiling())
        return torch.cos(3 * t) - self.stiffness * y - 0.1 * y**3


class Layer(nn.Linear):
    def forward(self, y):
        return torch.tanh(super().forward(y)) - y


def block(integrator, gradient="backprop"):
    torch.manual_seed(3)
    made = db.DynamicBlock(lambda: Layer(3, 3), "linear(3)", db.graded(0, 2, steps=4, ratio=2), integrator, gradient)
    return made.double()


def solved(func, x, t, **keywords):
    return db.solve(func, x, t, **keywords).y


def event(func, x, t, **keywords):
    time, states = db.odeint_event(func, x, t[0], event_fn=lambda t, y: y.sum() / 100 + t - 0.8, **keywords)
    return states * time


def ended(func, x, t, **keywords):
    found = db.solve(func, x, t, event_fn=lambda t, y: y.sum() - 0.9 * x.sum().detach(), **keywords)
    return found.event_y * found.event_t


def dense(func, x, t, **keywords):
    return db.odeint_dense(func, x, float(t[0]), float(t[-1]), **keywords)(t * 0.9)


def dense_solution(func, x, t, **keywords):
    return db.solve(func, x, t, dense=True, **keywords).interpolant(t * 0.9)


def nested(func, x, t, **keywords):
    both = db.odeint(lambda t, y: (func(t, y[0]), -y[1] * x.mean()), (x, 2 * x), t, **keywords)
    return torch.cat(both, dim=-1)


WAYS = {
    "odeint": (db.odeint, {}),
    "odeint bosh3": (db.odeint, {"method": "bosh3"}),
    "odeint implicit": (db.odeint, {"method": "kvaerno5", "rtol": 1e-2, "atol": 1e-3}),
    "odeint on steps": (db.odeint, {"method": "rk4", "options": {"step_size": 0.13}}),
    "odeint reversible": (db.odeint, {"method": "alf", "gradient": "reversible"}),
    "nested": (nested, {}),
    "odeint_adjoint": (db.odeint_adjoint, {}),
    "odeint_adjoint on a grid": (db.odeint_adjoint, {"method": "rk4"}),
    "odeint_adjoint interpolant": (db.odeint_adjoint, {"adjoint_options": {"interpolant": True}}),
    "odeint_event": (event, {}),
    "odeint_event adjoint": (event, {"odeint_interface": db.odeint_adjoint, "rtol": 1e-6, "atol": 1e-6}),
    "odeint_dense": (dense, {}),
    "solve": (solved, {}),
    "solve dense": (dense_solution, {}),
    "solve batched dense": (dense_solution, {"batched": True}),
    "solve event": (ended, {}),
    "solve adjoint": (solved, {"gradient": "adjoint"}),
    "solve checkpoint": (solved, {"gradient": "checkpoint"}),
    "solve reversible": (solved, {"method": "reversible_heun", "gradient": "reversible"}),
    "solve batched": (solved, {"batched": True}),
    **{f"odeint {name}": (db.odeint, {"method": name, "options": own}) for name, own in ITERATED.items()},
}


def run_with_gradients(call, func, x, t):
    """The value, and the gradients for the state and the parameters."""
    x = x.clone().requires_grad_()
    value = call(func, x, t)
    wanted = [x, *func.parameters()]
    found = torch.autograd.grad((value * torch.arange(1, value.numel() + 1).view_as(value).cos()).sum(), wanted)
    return [value.detach(), *found]


def close_with_gradients(compiled, plain, func, x, t, tolerance):
    pairs = zip(run_with_gradients(compiled, func, x, t), run_with_gradients(plain, func, x, t), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def around(way, keywords):
    return lambda func, x, t: way(func, x * 2, t, **keywords)[-1] + 1


@pytest.mark.parametrize("name", WAYS)
def test_a_compiled_caller_gets_the_values_and_gradients_of_an_eager_one(name):
    plain = around(*WAYS[name])
    compiled, func = torch.compile(plain, backend="aot_eager"), Spring()
    for seed, count in enumerate((3, 5)):  # another batch, with other times, the second time
        x, t = numbers(count, 3, seed=seed), torch.linspace(0, 1 + seed, 6 - seed, dtype=torch.float64)
        for one, two in zip(
            run_with_gradients(compiled, func, x, t), run_with_gradients(plain, func, x, t), strict=True
        ):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    assert func.traced == {False}


@pytest.mark.parametrize(
    "name", ["odeint", *(pytest.param(name, marks=pytest.mark.slow) for name in ("odeint_adjoint", "solve batched"))]
)
def test_inductor_gives_the_exact_solution_for_values_that_change_between_calls(name):
    way, keywords = WAYS[name]

    class Decay(nn.Module):
        rate = 0.0

        def forward(self, t, y):
            return -self.rate * y

    func, t = Decay(), torch.tensor([0.0, 0.3, 1.1, 1.7], dtype=torch.float64)
    run = torch.compile(lambda x: way(func, x, t, rtol=1e-8, atol=1e-10, **keywords).sin())
    with torch.no_grad():
        for func.rate, count in ((0.5, 2), (1.25, 4), (3.0, 3)):
            x = numbers(count, 2)
            exact = (x * torch.exp(-func.rate * t)[:, None, None]).sin()
            torch.testing.assert_close(run(x), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("integrator", ["dopri5(rtol=1e-3)", "kencarp4(rtol=1e-2)", "implicit_euler", "explicit_adams"])
def test_a_compiled_caller_of_a_block(integrator):
    made = block(integrator, "backprop" if integrator == "implicit_euler" else "checkpoint")
    plain = lambda func, x, t: func(x * 2) + func.trajectory(x)[1]  # noqa: E731
    close_with_gradients(torch.compile(plain, backend="aot_eager"), plain, made, numbers(4, 3), None, 1e-9)


@pytest.mark.parametrize("method", GRIDS)
def test_along_a_known_grid_a_solve_is_part_of_one_graph(method):
    func, x, t = Spring(), numbers(4, 3), torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    plain = around(db.odeint, {"method": method})
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    close_with_gradients(compiled, plain, func, x, t, 1e-12)
    assert True in func.traced


@pytest.mark.slow
def test_one_graph_of_inductor_has_eager_values_in_single_precision():
    func, t = Spring(torch.float32), torch.linspace(0, 1, 3)
    plain = around(nested, {"method": "midpoint"})
    compiled = torch.compile(plain, fullgraph=True)
    for count in (3, 5):
        x = numbers(count, 3, dtype=torch.float32)
        for one, two in zip(
            run_with_gradients(compiled, func, x, t), run_with_gradients(plain, func, x, t), strict=True
        ):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_one_graph_has_gradients_of_times_and_keeps_a_state_without_dimensions():
    plain = lambda y, t: db.odeint(lambda t, y: torch.sin(t) * y, y, t, method="heun3")  # noqa: E731
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    for y in (torch.tensor(0.7), torch.tensor([0.7, 0.2])):
        one, two = compiled(y, t), plain(y, t)
        assert one.dtype == two.dtype == torch.float32
        torch.testing.assert_close(one, two)
    t.requires_grad_()
    one, two = (torch.autograd.grad(call(y.double(), t).sum(), [t])[0] for call in (compiled, plain))
    torch.testing.assert_close(one, two)


BLOCK = block("dopri5(rtol=1e-3)")


@pytest.mark.parametrize("call", [
    lambda x, t: db.odeint(lambda t, y: -y, x, t),
    lambda x, t: db.odeint(lambda t, y: -y, x, t, method="rk4", options={"step_size": 0.1}),
    lambda x, t: db.odeint_adjoint(lambda t, y: -y, x, t, adjoint_params=()),
    lambda x, t: db.odeint_event(lambda t, y: -y, x, t[0], event_fn=lambda t, y: y.sum() - 1)[1],
    lambda x, t: db.odeint_dense(lambda t, y: -y, x, 0.0, 1.0)(t),
    lambda x, t: db.solve(lambda t, y: -y, x, t).y,
    lambda x, t, made=BLOCK: made(x),
], ids=["odeint", "steps", "adjoint", "event", "dense", "solve", "block"])  # fmt: skip
def test_what_is_no_graph_says_so_where_one_is_asked_for(call):
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    says = "steps that depend on values.*fullgraph=True" if HAS_REASON else "disable|inline in skipfiles"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=f"(?s){says}"):
        compiled(numbers(2, 3), torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "name", ["odeint", "odeint implicit", "odeint_adjoint", "solve checkpoint", "solve reversible"]
)
def test_a_backward_pass_inside_a_compiled_function_is_not_traced_either(name):
    way, keywords = WAYS[name]
    func, t = Spring(), torch.linspace(0, 1, 4, dtype=torch.float64)

    def step(x):
        loss = way(func, x * 2, t, **keywords)[-1].square().sum()
        loss.backward()
        return loss + 1

    found = []
    for run in (step, torch.compile(step, backend="aot_eager")):
        func.zero_grad()
        found.append((run(numbers(2, 3)).detach(), func.stiffness.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    assert func.traced == {False}


def test_it_is_not_traced_where_the_compiler_gives_its_caller_up():
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    x, t = numbers(2, 3), torch.linspace(0, 1, 3, dtype=torch.float64)
    with torch._dynamo.config.patch({limit: 1}):
        compiled = torch.compile(lambda func, n: db.odeint(func, x * n, t) + n, backend="aot_eager")
        for n in range(4):
            func = Spring()
            torch.testing.assert_close(compiled(func, n), db.odeint(func, x * n, t) + n, rtol=1e-10, atol=1e-10)
            assert func.traced == {False}


def test_a_field_that_is_compiled_itself_and_one_made_in_a_compiled_function():
    func, t = Spring(), torch.linspace(0, 1, 4, dtype=torch.float64)
    inner = torch.compile(func, backend="aot_eager", dynamic=False)

    def run(x):
        scale = x.mean()
        return db.odeint(lambda t, y: inner(t, y) * scale, x, t, rtol=1e-6, atol=1e-6)[-1] * 2

    compiled = torch.compile(run, backend="aot_eager")
    for seed in range(2):
        x = numbers(2, 3, seed=seed)
        found = compiled(x)
        assert True in func.traced
        torch.testing.assert_close(found, run(x), rtol=1e-10, atol=1e-10)


def test_a_compiled_function_can_be_recomputed():
    func, t = Spring(), torch.linspace(0, 1, 4, dtype=torch.float64)
    plain = around(db.odeint, {})
    compiled = torch.compile(plain, backend="aot_eager")
    again = lambda func, x, t: torch.utils.checkpoint.checkpoint(compiled, func, x, t, use_reentrant=False)  # noqa: E731
    close_with_gradients(again, plain, func, numbers(2, 3), t, 1e-10)


def test_errors_and_warnings_reach_the_caller():
    x, t = numbers(2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    compiled = torch.compile(lambda x, options: db.odeint(lambda t, y: -y, x, t, options=options), backend="aot_eager")
    with pytest.raises(db.SolveError, match="max_num_steps"):
        compiled(x, {"max_num_steps": 1})
    with pytest.raises(db.ConfigurationError, match="unknown method"):
        torch.compile(lambda x: db.odeint(lambda t, y: -y, x, t, method="rk5"), backend="aot_eager")(x)
    with pytest.warns(UserWarning, match="unexpected options step") as warned:
        db.odeint(lambda t, y: -y, x, t, options={"step": 1})
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="a warning") as warned:
        warn_caller("a warning")
    assert warned[0].filename == __file__


MODES = {
    "odeint": (db.odeint, {}),
    "adjoint": (db.odeint_adjoint, {}),
    "checkpoint": (solved, {"gradient": "checkpoint"}),
    "dense": (dense, {}),
    "event": (event, {}),
    "batched": (solved, {"batched": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "mode", "backend"),
    [
        *((method, mode, "aot_eager") for method in ADAPTIVE for mode in MODES),
        *((method, mode, "inductor") for method in ("dopri5", "kvaerno5") for mode in MODES),
    ],
)
def test_every_adaptive_method(method, mode, backend):
    """With 2, 3 and 9 times, rough and sharp tolerances, both precisions, with gradients and without."""
    explicit = not METHODS[method].own
    if mode == "batched" and not explicit:
        pytest.skip("explicit methods alone")
    way, keywords = MODES[mode]
    kinds = itertools.product((2, 3, 9), (1e-4, 1e-8), (torch.float32, torch.float64))
    for n, (count, tolerance, dtype) in enumerate(kinds):
        if dtype == torch.float32:
            tolerance = max(tolerance, 1e-5)
        if METHODS[method].make().order < 4:
            tolerance = max(tolerance, 1e-6)
        func, t = Spring(dtype), torch.linspace(0, 1, count, dtype=dtype)
        chosen = {"method": method, "rtol": tolerance, "atol": tolerance, **keywords}
        plain = around(way, chosen)
        if n % 4 == 0:  # shapes are dynamic from the second call on
            torch._dynamo.reset()
        compiled = torch.compile(plain, backend=backend)
        x = numbers(2 + count % 4, 3, dtype=dtype)
        close = 1e-5 if dtype == torch.float32 else 1e-9
        with torch.no_grad():
            torch.testing.assert_close(compiled(func, x, t), plain(func, x, t), rtol=close, atol=close)
        close_with_gradients(compiled, plain, func, x, t, close)
        assert func.traced == {False}


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_a_compiled_loop_inside_of_a_compiled_function(gradient):
    func, t = Spring(), torch.linspace(0, 1, 4, dtype=torch.float64)
    plain = around(solved, {"compile": True, "gradient": gradient})
    close_with_gradients(torch.compile(plain), plain, func, numbers(2, 3), t, 1e-10)
