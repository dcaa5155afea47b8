"""The task of trajectories: trained, resumed, read, predicted; figures by hand; what cannot be is said before."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.data.series import SeriesSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences import Solver
from dynamicblocks.tasks import Dynamics, DynamicsModel, ShootingConfig, TrajectoryConfig, load_run, own_equation
from dynamicblocks.tasks.own_parts import _read as own_equations
from dynamicblocks.training import HardwareConfig, OptimizerConfig, Place, TrainConfig, Training
from tests.killed_runs import assert_same_runs

RK4 = Solver("rk4")
DATA = TrajectoryConfig(steps=3, batch_size=4, later=0.25)
TINY = DynamicsModel(hidden=4, layers=1)


def decays(number=6, length=9):
    """y = y0 exp(-0.7 t) and a constant times that, from several starts, each at times of its own."""
    draw = np.random.default_rng(0)
    times = np.sort(draw.uniform(0.1, 3, (number, length)), axis=1)
    times[:, 0] = 0
    first = draw.uniform(1, 2, (number, 1))
    values = first * np.exp(-0.7 * times)
    return SeriesSet.of(times, np.stack([values, 3 * values], -1), features=("a", "b"))


def training(task, folder, **options):
    hardware = HardwareConfig(accelerator="cpu", precision="32-true", compile=False)
    usual = {"epochs": 2, "output": str(folder), "run": "run", "hardware": hardware}
    optimizer = OptimizerConfig("adam", lr=0.05, weight_decay=0.0)
    resume = options.pop("resume", None)
    config = TrainConfig(**{"optimizer": optimizer, **usual, **options})
    return Training(task, config, resume=resume, console=Console(quiet=True))


def trained(task, folder, **options):
    return training(task, folder, **options).run()


def write_table(path, rows=None):
    """The decays as a table; one value is missing."""
    if rows is None:
        series = decays()
        rows = [
            f"{name},{time},{a},{'' if time == times[2] else b}"
            for name, times, values in zip("abcdef", series.times.tolist(), series.values.tolist(), strict=True)
            for time, (a, b) in zip(times, values, strict=True)
        ]
    path.write_text("\n".join(["id,time,a,b", *rows]) + "\n")
    return path


def flags(table, folder, **more):
    """Of a training of a few steps on a table."""
    given = {"data.name": f"csv:{table}", "solver.method": "rk4", "epochs": 2, "data.steps": 2, "model.hidden": 4}
    given |= {"output": folder, "run": "mine", "hardware.accelerator": "cpu", "hardware.compile": "false"}
    given |= {name.replace("__", "."): value for name, value in more.items()}
    return [
        "train",
        "--task",
        "dynamics",
        *(text for name, value in given.items() for text in (f"--{name}", f"{value}")),
    ]


def code_of(arguments):
    """What the program ends with, whether it returns or exits."""
    try:
        return main([str(each) for each in arguments])
    except SystemExit as stop:
        return stop.code


def test_unknown_constants_are_found_and_a_run_is_read_and_predicts(tmp_path):
    task = Dynamics(DATA, solver=RK4)
    outcome = trained(replace_equation(task, tmp_path), tmp_path, epochs=60)
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert found["test_constant_rate"] == pytest.approx(0.7, rel=0.01)
    assert found["test_rmse"] < 0.01
    assert {path.name for path in outcome.pictures} == {"trajectories.png", "phases.png"}
    assert str(tmp_path) not in (tmp_path / "run" / "config.yaml").read_text().split("output")[0]
    run = load_run(tmp_path / "run")
    times = torch.tensor([0.0, 1.0, 2.0])
    answer = run.predict((torch.tensor([[2.0, 6.0]]), times))
    exact = torch.tensor([2.0, 6.0]) * torch.exp(-0.7 * times)[:, None]
    torch.testing.assert_close(answer.values[0].float(), exact, rtol=0.02, atol=0)
    assert next(answer.table()) == ("id", "time", "a", "b")
    with pytest.raises(ConfigurationError, match="handed over in Python"):
        run.task.load()


def replace_equation(task, folder):
    """The same with an equation from a file."""
    path = folder / "mine.py"
    path.write_text("def decay(t, y, rate=0.3):\n    return -rate * y\n")
    return replace(task, model=DynamicsModel(equation=f"{path}:decay")).with_data(decays())


def test_figures_are_those_of_numpy():
    task = Dynamics(DATA, DynamicsModel(equation="logistic"), Solver(rtol=1e-8, atol=1e-9)).with_data(decays())
    net = task.build().double().eval()
    place = double()
    batch = next(iter(task.batches("test", place).evaluation()))
    measured = task.measured(dict(zip(task.sums, task.score(net, batch).tolist(), strict=True)))
    series = task.series.test
    t, y = series.times.numpy(), series.values.numpy()
    exact = 1 / (1 + (1 / y[:, :1] - 1) * np.exp(-t)[..., None])  # rate and capacity one
    early = t <= 0.75 * t[:, -1:]
    early[:, :2] = True
    inner = early.copy()
    inner[:, 0] = False
    square = (exact - y) ** 2
    assert measured["rmse"] == pytest.approx(np.sqrt(square[inner].mean()), rel=1e-5)
    assert measured["rmse_b"] == pytest.approx(np.sqrt(square[inner][:, 1].mean()), rel=1e-5)
    assert measured["rmse_later"] == pytest.approx(np.sqrt(square[~early].mean()), rel=1e-5)
    assert measured["constant_capacity"] == pytest.approx(1.0)


def double():
    return Place(dtype=torch.float64)


def test_windows_a_growing_horizon_and_learnt_starts_train_and_what_is_seen_depends_on_epoch_and_step():
    shooting = ShootingConfig(horizon=0.4, window=4)
    task = Dynamics(DATA, replace(TINY, augment=1, start="learnt"), RK4, shooting).with_data(decays())
    net = task.build().train()
    batches = task.batches("train", double())
    whole = list(batches.training(1))
    assert len(whole) == 3
    torch.testing.assert_close(next(iter(batches.training(1, 2))).values, whole[2].values)
    batch = whole[0]._replace(progress=torch.tensor(0.0))
    net = net.double()
    early, late = (net(batch._replace(progress=torch.tensor(at))).values.shape[1] for at in (0.0, 1.0))
    assert early < late
    loss, sums = task.loss(net, batch)
    loss.backward()
    assert net.starts.grad.abs().sum() > 0
    assert len(sums) == len(task.sums)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TrajectoryConfig(later=1.0), "data.later must be a share"),
        (lambda: DynamicsModel(field="both"), "needs model.equation"),
        (lambda: DynamicsModel(field="network", equation="pendulum"), "leave one of the two out"),
        (lambda: DynamicsModel(equation="pendulum", augment=2), "is for networks"),
        (lambda: ShootingConfig(window=1), "window must be 0"),
        (lambda: ShootingConfig(horizon=0), "shooting.horizon must lie above 0"),
        (lambda: Dynamics(model=DynamicsModel(equation="pendulm")).check(), "did you mean 'pendulum'"),
        (lambda: Dynamics(DATA, DynamicsModel(equation="lorenz@12")).check(), "equation of its own, lorenz"),
        (lambda: own_equation("nowhere.py:f"), "cannot be read"),
        (lambda: sketched(values=[[[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]]), "column 'x0' is constant"),
        (lambda: sketched(values=[[[1.0], [2.0], [3.0]]], equation="pendulum"), "state of 1 features"),
    ],
)
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()


def sketched(values, **model):
    series = SeriesSet.of(torch.arange(3.0), torch.tensor(values))
    return Dynamics(DATA, DynamicsModel(**model)).with_data(series).sketch()


def test_five_lines_of_python():
    t, y = torch.linspace(0, 1, 6), torch.exp(-torch.linspace(0, 1, 6))[None, :, None]
    model = db.NeuralODE(db.MLPField(1, hidden=8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(20):
        loss = (model(y[:, 0], t) - y).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert loss.item() < 1e-2


def test_a_run_that_goes_on_is_as_if_it_had_not_stopped(tmp_path):
    task = Dynamics(DATA, replace(TINY, start="learnt"), RK4, ShootingConfig(horizon=0.4, window=4))
    trained(task.with_data(decays()), tmp_path, run="whole")
    broken = training(task.with_data(decays()), tmp_path, run="broken", checkpoint_steps=2)
    step = broken._step

    def stop_after_four(batch):
        if broken.steps_done == 4:
            raise OSError("gone")
        step(batch)

    broken._step = stop_after_four
    with pytest.raises(OSError, match="gone"):
        broken.run()
    trained(task.with_data(decays()), tmp_path, run="broken", checkpoint_steps=2, resume=tmp_path / "broken")
    assert_same_runs(tmp_path / "whole", tmp_path / "broken")


def test_a_table_of_ones_own_end_to_end(tmp_path, capsys):
    path = write_table(tmp_path / "mine.csv")
    assert code_of(flags(path, tmp_path / "runs")) == 0
    shown = capsys.readouterr().out
    assert "trajectories.png" in shown
    assert "dynamicblocks converge" not in shown
    run, told = tmp_path / "runs" / "mine", tmp_path / "told.csv"
    assert code_of(["evaluate", run, "--accelerator", "cpu"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert f"{result['test_rmse']:.4g}" in capsys.readouterr().out
    assert code_of(["predict", run, path, "--output", told]) == 0
    lines = told.read_text().splitlines()
    assert lines[0] == "id,time,a,b"
    assert len(lines) == len(path.read_text().splitlines())
    first = [float(each) for each in lines[1].split(",")[1:]]
    assert first == pytest.approx([float(each) for each in path.read_text().splitlines()[1].split(",")[1:]], rel=1e-5)
    # What is told of a first value alone is the same, and a table of one may hold nothing else.
    begun = write_table(tmp_path / "begun.csv", ["n,0,2,6", "n,1,,", "n,2,,"])
    answer = load_run(run).predict(begun)
    pair = load_run(run).predict((torch.tensor([2.0, 6.0]), torch.tensor([0.0, 1.0, 2.0])))
    torch.testing.assert_close(answer.values, pair.values)


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (None, {"data__time": "year"}, "there is no column 'year'; there are 'id', 'time', 'a', 'b'"),
        (None, {"data__values": "a,c"}, "there is no column 'c'; there are 'id', 'time', 'a', 'b'"),
        (["p,0,1,2", "p,2,2,3", "p,1,3,4"], {}, "series 'p': time 1 comes after 2; sort the rows by time"),
        (["p,0,1,2", "p,1,2,3", "p,1,3,4"], {}, "series 'p': time 1 repeats"),
        (["p,0,1,2", "p,1,2,3", "q,1,3,4"], {}, "series 'q' has one time"),
        (["p,0,1,2"], {}, "series 'p' has one time"),
        (["p,0,1,2", "p,1,2,3", "q,1,,", "q,2,,"], {}, "series 'q': all its values are missing"),
        (["p,0,1,2", "p,1,2,2", "q,1,3,2", "q,2,3,2"], {}, "'b' is constant"),
        (["p,0,1,", "p,1,2,", "q,1,3,", "q,2,3,"], {}, "'b'"),
        (["p,nan,1,2", "p,1,2,3"], {}, "time"),
        (["p,0,inf,2", "p,1,2,3"], {}, "inf"),
        (None, {"data__name": "lotka_voltera"}, "did you mean 'lotka_volterra'"),
        (None, {"data__name": "csv:nowhere.csv"}, "nowhere.csv"),
        (None, {"model__equation": "nowhere.py:f"}, "cannot be read"),
        (None, {"model__equation": "pendulm"}, "did you mean 'pendulum'"),
        (None, {"solver__method": "dopri6"}, "dopri6"),
        (None, {"solver__gradient": "adjoined"}, "adjoined"),
        (None, {"solver__method": "dopri5", "solver__max_steps": 0}, "max_steps"),
    ],
)
def test_what_cannot_be_is_said_on_the_command_line_before_training(rows, more, said, tmp_path, capsys):
    path = write_table(tmp_path / "mine.csv", rows)
    assert code_of(flags(path, tmp_path / "runs", **more)) != 0
    heard = " ".join(capsys.readouterr().err.split())
    assert said in heard
    assert "Traceback" not in heard
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))


def test_a_budget_of_steps_is_kept_and_said(tmp_path, capsys):
    path = write_table(tmp_path / "mine.csv")
    assert code_of(flags(path, tmp_path / "runs", solver__method="dopri5", solver__max_steps=1)) != 0
    assert "max_steps" in capsys.readouterr().err


def test_an_equation_of_a_file_is_asked_for_again_and_its_changes_are_told(tmp_path, capsys):
    path, mine = write_table(tmp_path / "mine.csv"), tmp_path / "mine.py"
    mine.write_text("def decay(t, y, speed=0.31):\n    return -speed * y\n")
    assert code_of(flags(path, tmp_path / "runs", model__equation=f"{mine}:decay")) == 0
    assert "constant_speed" in (tmp_path / "runs" / "mine" / "result.json").read_text()
    evaluate = ["evaluate", tmp_path / "runs" / "mine", "--accelerator", "cpu"]
    own_equations.clear()  # as in a process of its own
    assert code_of(evaluate) != 0
    heard = " ".join(capsys.readouterr().err.split())
    assert heard.startswith("error: the run has an equation of its own, decay, and where its file lies is not recorded")
    assert "add --task FILE.py:decay" in heard
    assert code_of([*evaluate, "--task", f"{mine}:decay"]) == 0
    own_equations.clear()
    mine.write_text("def decay(t, y, speed=0.32):\n    return -speed * y\n")
    assert code_of([*evaluate, "--task", f"{mine}:decay"]) != 0
    assert "has changed since" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint", "adjoint(interpolant=True)"])
def test_gradients_of_all_modes_are_those_of_backprop(gradient):
    def slopes(mode):
        torch.manual_seed(0)
        task = Dynamics(DATA, TINY, Solver("dopri5", rtol=1e-8, atol=1e-9, gradient=mode)).with_data(decays())
        net = task.build().double()
        task.loss(net, next(iter(task.batches("test", double()).evaluation())))[0].backward()
        return [weight.grad for weight in net.parameters()]

    for one, other in zip(slopes("backprop"), slopes(gradient), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
