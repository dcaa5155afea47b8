"""Fields into fields: figures by hand in float64, whatever the batches and processes; training, resuming, pictures."""

import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from safetensors.torch import load_file
from torch import nn

from dynamicblocks.cli.main import main
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.tasks import FieldConfig, ModelConfig, Regress, load_run
from dynamicblocks.training import HardwareConfig, OptimizerConfig, Place, RefineConfig, TrainConfig, Training, evaluate
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.evaluation import answered
from dynamicblocks.training.hardware import make_fabric

CPU = HardwareConfig(accelerator="cpu", precision="32-true", compile=False, channels_last=False)
EXACT = make_fabric(replace(CPU, precision="64-true"))
DOUBLE = Place(dtype=torch.float64)


def written(folder, space=(8,), channels=(2, 3), change=None, model=None, **options):
    """A task with random fields, whose channels are of different size; perhaps with changed targets."""
    draw = np.random.default_rng(0)
    inputs, targets = (draw.normal(-1, 3, (40, count, *space)) for count in channels)
    targets *= np.arange(1, channels[1] + 1).reshape(-1, *(1,) * len(space))
    if change is not None:
        change(targets)
    path = folder / "fields.npz"
    np.savez(path, inputs=inputs, targets=targets)
    data = FieldConfig(name=f"fields:{path}", batch_size=8, test=0.25, **options)
    return Regress(data=data) if model is None else Regress(data=data, model=model)


class Pointwise(nn.Module):
    """A matrix at each point."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(outputs, inputs, dtype=torch.float64))

    def forward(self, y):
        return torch.einsum("oi,bi...->bo...", self.matrix, y)


def by_hand(task, net, split):
    """The figures of a network, in the units of the file, by NumPy."""
    pairs, train = getattr(task.fields, split), task.fields.train
    over = (0, *range(2, train.inputs.ndim))

    def statistics(values):
        std = values.std(over, keepdims=True)
        return values.mean(over, keepdims=True), np.where(std > 1e-12, std, 1)

    (x_mean, x_std), (y_mean, y_std) = (statistics(each.double().numpy()) for each in (train.inputs, train.targets))
    inputs, targets = pairs.inputs.double().numpy(), pairs.targets.double().numpy()
    matrix = net.matrix.detach().numpy()
    found = np.einsum("oi,bi...->bo...", matrix, (inputs - x_mean) / x_std) * y_std + y_mean
    error = found - targets
    norms = np.sqrt((targets**2).sum(tuple(range(1, targets.ndim))))
    usual = np.sqrt((train.targets.double().numpy() ** 2).sum() / len(train))
    relative = np.sqrt((error**2).sum(tuple(range(1, error.ndim)))) / np.where(norms > 0, norms, usual)
    return {
        "loss": ((error / y_std) ** 2).mean(),
        "relative_error": relative.mean(),
        "mean_square": (error**2).mean(),
        **{f"mean_square_{channel}": (error[:, channel] ** 2).mean() for channel in range(error.shape[1])},
    }


def with_a_constant_channel(targets):
    targets[:, -1] = 7


def with_zero_targets(targets):
    targets[::3] = 0


@pytest.mark.parametrize("space", [(8,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("change", [None, with_a_constant_channel, with_zero_targets])
def test_figures_are_those_of_numpy(tmp_path, space, change):
    task = written(tmp_path, space, change=change, test_batch_size=3)  # 10 samples: batches of unequal size
    torch.manual_seed(0)
    net = Pointwise(2, 3)
    score = evaluate(task, net, task.batches("test", DOUBLE), EXACT)
    expected = by_hand(task, net, "test")
    assert score.samples == 10
    assert set(score.figures) == set(expected)
    for name, value in expected.items():
        assert score[name] == pytest.approx(value, rel=1e-12), name
    other = replace(task, criterion="relative")
    score = evaluate(other, net, other.batches("test", DOUBLE), EXACT)
    assert score.loss == pytest.approx(expected["relative_error"], rel=1e-12)
    assert score["mean_square"] == pytest.approx(expected["mean_square"], rel=1e-12)


def test_one_channel_has_one_mean_square(tmp_path):
    task = written(tmp_path, channels=(1, 1))
    net = Pointwise(1, 1)
    figures = dict(evaluate(task, net, task.batches("validation", DOUBLE), EXACT).figures)
    expected = by_hand(task, net, "validation")
    assert figures == pytest.approx({name: expected[name] for name in ("loss", "relative_error", "mean_square")})
    assert list(figures) == [figure.name for figure in task.figures]
    assert task.headline.name == "relative_error"
    assert task.headline.worse(0.1, 0.2) > 0


def test_sums_do_not_depend_on_the_number_of_processes(tmp_path):
    task, net = written(tmp_path), Pointwise(2, 3)

    def total(place):
        return sum(task.score(net, batch) for batch in task.batches("test", place).evaluation())

    shares = [total(replace(DOUBLE, rank=rank, world=4)) for rank in range(4)]
    torch.testing.assert_close(sum(shares), total(DOUBLE), rtol=1e-12, atol=0)
    assert not total(DOUBLE).requires_grad


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_figures_bear_any_unit(tmp_path, scale):
    """Also in float32, where the squares of such numbers are zero or infinite."""
    net = Pointwise(2, 3).float()
    scores = []
    for factor in (1.0, scale):

        def change(targets, factor=factor):
            targets *= factor

        task = written(tmp_path, change=change)
        scores.append(evaluate(task, net, task.batches("test", Place()), make_fabric(CPU)))
    for name in ("loss", "relative_error"):
        assert scores[1][name] == pytest.approx(scores[0][name], rel=1e-5)
    assert scores[1]["mean_square"] == pytest.approx(scores[0]["mean_square"] * scale**2, rel=1e-5)


def test_targets_that_are_all_zero_make_no_nan(tmp_path):
    def nothing(targets):
        targets[:] = 0

    task = written(tmp_path, change=nothing)
    net = Pointwise(2, 3)
    figures = evaluate(task, net, task.batches("test", DOUBLE), EXACT).figures
    assert all(np.isfinite(value) for value in figures.values())
    nn.init.zeros_(net.matrix)
    assert set(evaluate(task, net, task.batches("test", DOUBLE), EXACT).figures.values()) == {0.0}


@pytest.mark.parametrize("criterion", ["mse", "relative"])
def test_losses_have_the_gradient_of_finite_differences(tmp_path, criterion):
    task, net = replace(written(tmp_path), criterion=criterion), Pointwise(2, 3)
    batch = next(task.batches("train", DOUBLE).training(0))

    def loss(matrix):
        return task.loss(lambda y: torch.einsum("oi,bi...->bo...", matrix, y), batch)[0]

    assert torch.autograd.gradcheck(loss, net.matrix)


def test_no_error_has_no_gradient(tmp_path):
    task = replace(written(tmp_path, channels=(2, 2)), criterion="relative")
    inputs, _, sizes = next(task.batches("train", DOUBLE).training(0))
    net = Pointwise(2, 2)
    nn.init.eye_(net.matrix)
    loss, _ = task.loss(net, (inputs, inputs, sizes))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(net.matrix.grad, torch.zeros(2, 2, dtype=torch.float64))


def test_its_own_answers_are_right(tmp_path):
    task, net = written(tmp_path), Pointwise(2, 3)
    batch = next(task.batches("test", DOUBLE).evaluation())
    own = tuple(each.clone() for each in answered(task, net, batch, EXACT))  # no longer of inference
    assert torch.equal(own[0], task.inputs(batch))
    assert dict(zip(task.sums, task.score(net, own).tolist(), strict=True)) == {
        **dict.fromkeys(task.sums, 0.0),
        "fields": 8.0,
    }
    units = task.fields.targets.in_units(own[1])
    largest = task.fields.targets.std.max()
    torch.testing.assert_close(own[2], torch.linalg.vector_norm(units.flatten(1), dim=1) / largest)


# Training


SMALL = ModelConfig("imexnet", widths=(4,), units=2, norm="none", boundary="circular", integrator="imex")


def smoothing(folder, samples=60, points=16, **options):
    """Fields and what is left of them after a step of diffusion."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(2, 3, (samples, 1, points)).astype(np.float32)
    targets = (np.roll(inputs, 1, -1) + 2 * inputs + np.roll(inputs, -1, -1)) / 4
    np.savez(folder / "smooth.npz", inputs=inputs, targets=targets)
    return Regress(data=FieldConfig(name=f"fields:{folder / 'smooth.npz'}", batch_size=8), model=SMALL, **options)


def config(folder, run, **options):
    usual = {"epochs": 2, "hardware": CPU, "optimizer": OptimizerConfig(lr=0.05), "output": str(folder), "run": run}
    return TrainConfig(**{**usual, **options})


def test_a_training_learns_and_its_run_is_read_again(tmp_path):
    task = smoothing(tmp_path)
    adam = OptimizerConfig(name="adam", lr=0.1, weight_decay=0)
    outcome = Training(task, config(tmp_path, "run", epochs=8, optimizer=adam)).run()
    assert outcome.test["relative_error"] < 0.2  # 0.7, were they left unchanged
    assert [path.name for path in outcome.pictures] == ["predictions.png"]
    assert imread(outcome.folder / "predictions.png").std() > 0.01
    run = load_run(outcome.folder)
    assert run.task == task
    again = evaluate(run.task, run.net, run.task.batches("test", Place()), make_fabric(CPU))
    assert again.figures == outcome.test.figures
    assert "6 samples, split seed 0" in run.folder.record()["data"]


def killed_at(step, training, monkeypatch):
    """Run a training until it is to make a step too many."""
    made, steps = Engine.step, count()

    def counted(engine, *args):
        if next(steps) == step:
            raise InterruptedError
        return made(engine, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "step", counted)
        with pytest.raises(InterruptedError):
            training.run()


def test_a_training_goes_on_bit_for_bit_across_a_refinement(tmp_path, monkeypatch):
    options = {"epochs": 3, "refine": RefineConfig(epochs=(1,)), "checkpoint_steps": 2}
    whole = Training(smoothing(tmp_path), config(tmp_path, "whole", **options)).run()
    task, planned = smoothing(tmp_path), config(tmp_path, "killed", **options)
    killed_at(8, Training(task, planned), monkeypatch)  # in the second epoch, which began with the refinement
    resumed = Training(task, planned, resume=tmp_path / "killed").run()
    assert resumed.test.figures == whole.test.figures
    expected, weights = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_training_in_float64_computes_in_it(tmp_path):
    task = written(tmp_path, model=SMALL)
    training = Training(task, config(tmp_path, "run", max_steps=2, hardware=replace(CPU, precision="64-true")))
    (inputs, targets, _), *_ = training.validation.evaluation()
    assert inputs.dtype == targets.dtype == torch.float64
    expected = task.fields.inputs.normalised(task.fields.validation.inputs, torch.float64)
    assert torch.equal(inputs, expected[: len(inputs)])
    outcome = training.run()
    assert {weight.dtype for weight in outcome.net.parameters()} == {torch.float64}


# Commands


def test_the_command_line_trains_resumes_and_measures(tmp_path, capsys):
    smoothing(tmp_path)
    flags = ["--data.name", f"fields:{tmp_path / 'smooth.npz'}", "--data.batch_size", "8", "--criterion", "relative"]
    model = ["--model.name", "imexnet", "--model.widths", "[4]", "--model.norm", "none", "--model.integrator", "imex"]
    run = ["--output", str(tmp_path), "--run", "run", "--epochs", "2", "--optimizer.lr", "0.05"]
    assert main(["train", "--task", "regress", *flags, *model, *run]) == 0
    out = capsys.readouterr().out
    assert "smooth.npz: 48 training samples on 16 points, 1 to 1 channels" in out
    assert "Test relative error" in out
    assert "(6 fields, read once)" in out
    folder = tmp_path / "run"
    result = json.loads((folder / "result.json").read_text())
    assert result["test_loss"] == result["test_relative_error"]
    assert result["pictures"] == ["predictions.png"]
    written_config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (written_config["task"], written_config["criterion"]) == ("regress", "relative")
    assert main(["evaluate", str(folder)]) == 0
    line = json.loads((folder / "evaluations.jsonl").read_text())
    assert line["relative_error"] == pytest.approx(result["test_relative_error"], rel=1e-6)
    assert main(["converge", str(folder)]) == 0
    assert "relative error" in capsys.readouterr().out
    before = load_file(folder / "model.safetensors")
    assert main(["train", "--resume", str(folder)]) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(folder / "model.safetensors").items())


# Pictures


@pytest.mark.parametrize(("space", "channels"), [((8,), (1, 1)), ((4, 5), (1, 2)), ((2, 3, 4), (2, 1))])
def test_pictures_are_drawn_in_all_dimensions(tmp_path, space, channels):
    task = written(tmp_path, space, channels, with_a_constant_channel)
    net = Pointwise(*channels).train()
    assert task.conclude(net, DOUBLE, tmp_path) == [tmp_path / "predictions.png"]
    assert net.training
    picture = imread(tmp_path / "predictions.png")
    assert picture[..., :3].std() > 0.01


# What will not do


def test_what_will_not_do_is_said_before_a_run_begins(tmp_path):
    with pytest.raises(ConfigurationError, match=r"unknown criterion 'l3'.* Known: mse, relative"):
        Regress(criterion="l3")
    with pytest.raises(ConfigurationError, match=r"data.batch_size must be a whole number"):
        FieldConfig(batch_size=0)
    with pytest.raises(ConfigurationError, match=r"data.test, a share of the samples, must be in \(0, 1\), got 2"):
        FieldConfig(test=2)
    with pytest.raises(ConfigurationError, match=r"data.name must be fields:PATH"):
        Training(Regress(), config(tmp_path, "run"))
    with pytest.raises(StorageError, match="got none that can be opened"):
        Training(Regress(data=FieldConfig(name=f"fields:{tmp_path / 'no.npz'}")), config(tmp_path, "run"))
    images_alone = replace(smoothing(tmp_path), model=ModelConfig("resnet20"))
    with pytest.raises(ConfigurationError, match="dims"):
        Training(images_alone, config(tmp_path, "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train.npz", "heat.npz"])
def test_a_run_is_named_after_its_data(name):
    task = Regress(data=FieldConfig(name=f"fields:data/{name}"))
    assert task.title == f"{name[:-4]}-imexnet"
