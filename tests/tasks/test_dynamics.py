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
from dynamicblocks.training import HardwareConfig, OptimizerConfig, Place, TrainConfig, Training

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


def trained(task, folder, **options):
    hardware = HardwareConfig(accelerator="cpu", precision="32-true", compile=False)
    usual = {"epochs": 2, "output": str(folder), "run": "run", "hardware": hardware}
    optimizer = OptimizerConfig("adam", lr=0.05, weight_decay=0.0)
    training = Training(task, TrainConfig(**{"optimizer": optimizer, **usual, **options}), console=Console(quiet=True))
    return training.run()


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


def test_a_table_of_ones_own_end_to_end(tmp_path, capsys):
    series = decays()
    rows = ["id,time,a,b"]
    for name, times, values in zip("abcdef", series.times.tolist(), series.values.tolist(), strict=True):
        rows += [
            f"{name},{time},{a},{'' if time == times[2] else b}" for time, (a, b) in zip(times, values, strict=True)
        ]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(rows) + "\n")
    flags = {"data.name": f"csv:{path}", "solver.method": "rk4", "epochs": 2, "data.steps": 2, "model.hidden": 4}
    flags |= {"output": tmp_path / "runs", "run": "mine", "hardware.accelerator": "cpu", "hardware.compile": "false"}
    main(
        ["train", "--task", "dynamics", *(text for name, value in flags.items() for text in (f"--{name}", f"{value}"))]
    )
    shown = capsys.readouterr().out
    assert "trajectories.png" in shown
    assert "dynamicblocks converge" not in shown
    told = tmp_path / "told.csv"
    main(["predict", str(tmp_path / "runs" / "mine"), str(path), "--output", str(told)])
    lines = told.read_text().splitlines()
    assert lines[0] == "id,time,a,b"
    assert len(lines) == len(rows)
    first = [float(each) for each in lines[1].split(",")[1:]]
    assert first == pytest.approx([float(each) for each in rows[1].split(",")[1:]], rel=1e-5)
    assert main(["train", "--task", "dynamics", "--data.name", f"csv:{path}", "--data.time", "year"])
    assert "there is no column 'year'; there are 'id', 'time', 'a', 'b'" in capsys.readouterr().err
