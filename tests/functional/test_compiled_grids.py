"""Solves on a grid whose steps are compiled."""

import gc
import math
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.functional import Solver
from dynamicblocks.solving import compiled_steps

COMPILE = {"compile": True}
KIND = torch.float64
NOT_COMPILED = "the solve was not compiled"
METHODS = ["euler", "midpoint", "rk4", "heun3", "alf", "reversible_heun", "two_step_midpoint", "adams_bashforth"]


@pytest.fixture(scope="module", autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _few_steps_in_a_call(monkeypatch):
    monkeypatch.setattr("dynamicblocks.solving.compiled_grid.STEPS", 2)  # ten take longer to compile


@pytest.fixture
def no_compiling(monkeypatch):
    """The same programs, traced alone."""
    real = torch.compile

    def traced(function, **keywords):
        keywords.pop("options")
        return real(function, backend="eager", **keywords)

    monkeypatch.setattr(torch, "compile", traced)
    compiled_steps._kept.clear()
    yield
    compiled_steps._kept.clear()


class Field(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width + 1, 8), nn.SELU(), nn.Linear(8, width)).to(KIND)

    def forward(self, t, y):
        return self.net(torch.cat([y, t.expand(len(y), 1)], 1))


def graphs():
    """How many were compiled."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_sampler_has_the_numbers_of_the_loop_and_compiles_once():
    field, y0, made = Field(), torch.randn(5, 2, dtype=KIND), []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=NOT_COMPILED)
        for steps, ends in ((7, (0.0, 1.0)), (7, (1.0, 0.0)), (10, (0.0, 1.0)), (3, (-1.0, 2.5))):
            t, options = torch.tensor(ends, dtype=KIND), {"step_size": abs(ends[1] - ends[0]) / steps}
            found = db.odeint(field, y0, t, method="euler", options={**options, **COMPILE})
            close(found, db.odeint(field, y0, t, method="euler", options=options))
            field.net[0].weight.mul_(0.9)
            made.append(graphs())
    assert made[0] >= 2
    assert made == [made[0]] * 4, "weights, times and numbers of steps are no reason to compile again"
    assert torch.equal(found[0], y0)
    assert found[0].data_ptr() != y0.data_ptr()


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize("method", METHODS)
def test_every_explicit_method_has_the_states_and_gradients_of_the_loop(method):
    field, t = Field(), torch.tensor([0.0, 0.1, 0.3, 1.2], dtype=KIND, requires_grad=True)
    y0 = torch.randn(3, 2, dtype=KIND, requires_grad=True)
    wanted, before = [y0, t, *field.parameters()], graphs()

    def run(**options):
        states = db.odeint(field, y0, t, method=method, options=options)
        return [states.detach(), *torch.autograd.grad(states.sin().sum(), wanted)]

    for found, expected in zip(run(compile=True), run(), strict=True):
        close(found, expected)
    assert graphs() > before
    assert not any(programs.failed for programs, _ in compiled_steps._kept.values())


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize("options", [
    {"step_size": 0.07}, {"step_size": 0.07, "interp": "cubic"}, {"step_size": 0.3, "perturb": True},
    {"grid_constructor": lambda f, y, t: torch.linspace(0, 2, 12, dtype=KIND)},
], ids=["steps", "cubic", "perturb", "grid"])  # fmt: skip
@pytest.mark.parametrize("times", [[0.0, 2.0], [0.0, 0.33, 0.34, 1.99, 2.0]])
@pytest.mark.parametrize("of_times", [False, True])
def test_times_of_output_between_the_points_of_a_grid(options, times, of_times):
    y0, t = torch.randn(4, dtype=KIND, requires_grad=True), torch.tensor(times, dtype=KIND, requires_grad=of_times)
    func = lambda t, y: torch.cos(3 * t) * y  # noqa: E731

    def run(**more):
        states = db.odeint(func, y0, t, method="midpoint", options={**options, **more})
        return [states.detach(), *torch.autograd.grad(states.sin().sum(), [y0, t] if of_times else [y0])]

    for found, expected in zip(run(compile=True), run(), strict=True):
        close(found, expected)


def test_gradients_come_from_the_compiled_steps():
    field, t = Field(), torch.tensor([0.0, 1.0], dtype=KIND)
    y0, scale = torch.randn(3, 2, dtype=KIND, requires_grad=True), torch.tensor(0.7, dtype=KIND, requires_grad=True)
    func, options = (lambda t, y, scale: scale * field(t, y)), {"step_size": 0.25}
    wanted = [y0, scale, *field.parameters()]

    def run(**more):
        found = db.solve(func, y0, t, args=(scale,), method="heun2", options=options, **more)
        assert found.status.name == "DONE"
        return [found.y.detach(), *torch.autograd.grad((found.y[-1] ** 2).sum(), wanted)], found.statistics.evaluations

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NOT_COMPILED)
        (found, evaluations), (expected, counted) = run(compile=True), run()
    assert evaluations == counted == 8
    for one, two in zip(found, expected, strict=True):
        close(one, two)


class Pair(NamedTuple):
    place: torch.Tensor
    speed: torch.Tensor


@pytest.mark.usefixtures("no_compiling")
def test_nested_states_and_arguments_in_types_of_their_own():
    start = (torch.ones(2, dtype=KIND), torch.ones(2, dtype=KIND))
    y0 = {"of": Pair(*start), "cost": torch.zeros((), dtype=torch.float32)}

    def func(t, y, args):
        assert y["cost"].dtype == torch.float32
        place, speed = y["of"]
        return {"cost": (speed * speed).sum().float(), "of": Pair(speed, -args["rate"] * place)}

    t, args = torch.linspace(0, 1, 6, dtype=KIND), ({"rate": torch.tensor(2.0, dtype=KIND)},)
    found, expected = (db.solve(func, y0, t, method="heun2", args=args, **more).y for more in (COMPILE, {}))
    assert type(found["of"]) is Pair
    assert found["cost"].dtype == torch.float32
    close(found["of"], expected["of"])
    torch.testing.assert_close(found["cost"], expected["cost"])
    pair = lambda t, y: (y[1], -y[0])  # noqa: E731
    for options in ({}, {"step_size": 0.1}):
        found, expected = (
            db.odeint(pair, start, t, method="euler", options={**options, **more}) for more in (COMPILE, {})
        )
        close(found, expected)


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.bfloat16, 0.02), (torch.complex128, 1e-12)])
def test_other_types_of_numbers(kind, tolerance):
    y0, t = torch.ones(3, dtype=kind), torch.tensor([0.0, 1.0])
    func = lambda t, y: 1j * y if kind.is_complex else -y  # noqa: E731
    found, expected = (
        db.odeint(func, y0, t, method="heun2", options={"step_size": 0.1, **more}) for more in (COMPILE, {})
    )
    assert found.dtype == kind
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("no_compiling")
def test_functions_made_anew_share_programs_and_see_what_they_close_over():
    fields, t, y0 = [Field(), Field()], torch.linspace(0, 1, 4, dtype=KIND), torch.randn(3, 2, dtype=KIND)

    def sample(field, shift):
        func = lambda t, y: field(t, y) + shift  # noqa: E731
        with torch.no_grad():
            found, expected = (db.odeint(func, y0, t, method="euler", options=more) for more in (COMPILE, {}))
        close(found, expected)

    sample(fields[0], torch.ones(2, dtype=KIND))
    made = graphs()
    for field in fields * 3:
        sample(field, torch.randn(2, dtype=KIND))
    assert graphs() <= made + 1
    assert len(compiled_steps._kept) == 1


@pytest.mark.usefixtures("no_compiling")
def test_programs_go_with_their_function_and_are_no_more_than_so_many(monkeypatch):
    t, y0 = torch.tensor([0.0, 1.0], dtype=KIND), torch.randn(3, 2, dtype=KIND)
    field = Field()
    with torch.no_grad():
        db.odeint(field, y0, t, method="euler", options=COMPILE)
        assert len(compiled_steps._kept) == 1
        del field
        gc.collect()
        assert not compiled_steps._kept
        monkeypatch.setattr(compiled_steps, "PROGRAMS", 2)
        for method in ("euler", "midpoint", "heun2"):
            db.odeint(math_field, y0, t, method=method, options=COMPILE)
    assert len(compiled_steps._kept) == 2


def math_field(t, y):
    return y * math.pi


@pytest.mark.usefixtures("no_compiling")
def test_a_solver_of_plain_values_compiles_its_grid():
    y0, t = torch.ones(2, dtype=KIND), torch.linspace(0, 1, 3, dtype=KIND)
    found = Solver("rk4", step_size=0.1, compile=True)(math_field, y0, t)
    close(found.y, Solver("rk4", step_size=0.1)(math_field, y0, t).y)
    assert compiled_steps._kept


@pytest.mark.usefixtures("no_compiling")
def test_what_cannot_be_compiled_runs_as_usual():
    def func(t, y):
        return -y if y.max() > -10 else y  # reads a number back

    y0, t = torch.ones(2, dtype=KIND), torch.linspace(0, 1, 5, dtype=KIND)
    with pytest.warns(UserWarning, match="was not compiled and runs as usual") as told:
        found = db.solve(func, y0, t, method="rk4", compile=True)
    assert told[0].filename == __file__
    assert found.statistics.evaluations == 16
    close(found.y, db.solve(func, y0, t, method="rk4").y)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NOT_COMPILED)
        close(db.solve(func, y0, t, method="rk4", compile=True).y, found.y)  # told once


@pytest.mark.usefixtures("no_compiling")
def test_states_that_are_not_finite_are_said_so():
    with pytest.raises(db.SolveError, match="non-finite values in the state at t = 1"):
        db.solve(lambda t, y: y / 0, torch.ones(2), torch.tensor([0.0, 1.0]), method="euler", compile=True)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("'backprop'", lambda f, y, t: db.solve(f, y, t, method="rk4", compile=True, gradient="checkpoint")),
        ("'backprop'", lambda f, y, t: db.solve(f, y, t, method="rk4", compile=True, gradient="adjoint")),
        ("'backprop'", lambda f, y, t: db.odeint(f, y, t, method="alf", options=COMPILE, gradient="reversible")),
        ("dense=True and compile", lambda f, y, t: db.solve(f, y, t, method="rk4", compile=True, dense=True)),
        ("an event and compile", lambda f, y, t: db.solve(f, y, t, method="rk4", compile=True, event_fn=f)),
        ("do not go together", lambda f, y, t: db.odeint(f, y, t, method="rk4", event_fn=f, options=COMPILE)),
        ("explicit adaptive", lambda f, y, t: db.solve(f, y, t, method="rk4", compile=True, batched=True)),
        ("explicit adaptive", lambda f, y, t: db.odeint_adjoint(f, y, t, method="rk4", options=COMPILE)),
        ("gl4 takes steps whose cost", lambda f, y, t: db.odeint(f, y, t, method="gl4", options=COMPILE)),
        ("fixed_adams takes steps", lambda f, y, t: db.odeint(f, y, t, method="fixed_adams", options=COMPILE)),
        ("lm has weights", lambda f, y, t: db.odeint(f, y, t, method="lm", options=COMPILE)),
        ("verlet reads other parts", lambda f, y, t: db.odeint(f, y, t, method="verlet", options=COMPILE)),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it(message, call):
    field = Field()
    field.parts = {"field": "forward", "first": "forward", "second": "forward"}
    with pytest.raises(db.ConfigurationError, match=message):
        call(field, torch.ones(2, 2, dtype=KIND), torch.tensor([0.0, 1.0], dtype=KIND))


def test_it_is_said_that_callbacks_are_not_called():
    def func(t, y):
        return -y

    func.callback_step = lambda t, y, h: None
    with pytest.warns(UserWarning, match="a compiled loop does not call"):
        db.odeint(func, torch.ones(2), torch.tensor([0.0]), method="euler", options=COMPILE)
    with pytest.warns(UserWarning, match="a compiled loop does not call callback_step"):
        db.solve(func, torch.ones(2), torch.tensor([0.0]), method="euler", compile=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_without_gradients_it_is_a_graph_whose_memory_is_nobody_elses():
    field, t = Field().cuda(), torch.tensor([0.0, 1.0], dtype=KIND, device="cuda")
    states = [torch.randn(5, 2, dtype=KIND, device="cuda") for _ in range(3)]
    for times, options in ((t, {"step_size": 1 / 7}), (torch.linspace(0, 1, 7, dtype=KIND, device="cuda"), {})):
        with torch.no_grad():
            for _ in range(3):  # warmed up, recorded, and run again
                found = [db.odeint(field, y, times, method="euler", options={**options, **COMPILE}) for y in states]
            expected = [db.odeint(field, y, times, method="euler", options=options) for y in states]
        close(found, expected)  # a later run left the results of earlier ones alone
    forms = [form for programs, _ in compiled_steps._kept.values() for form in programs._made]
    assert any(form.graphs for form in forms)
    y0 = states[0].requires_grad_()
    one, two = (
        torch.autograd.grad(db.odeint(field, y0, t, method="euler", options={"step_size": 0.25, **more}).sum(), y0)
        for more in (COMPILE, {})
    )
    close(one, two)
