"""Levels of a training: schedules of their own, and numbers of controls and steps that go up and down."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.cli.published import rewritten
from dynamicblocks.structure import discretisation
from dynamicblocks.tasks import Classify, DataConfig, ModelConfig, load_config, load_run
from dynamicblocks.training import (
    HardwareConfig,
    OptimizerConfig,
    RediscretiseConfig,
    RefineConfig,
    TrainConfig,
    Training,
)
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.evaluation import Score
from dynamicblocks.training.hardware import make_fabric
from dynamicblocks.training.network_changes import Rediscretised, changes_before
from dynamicblocks.training.optimizer import learning_rate, set_learning_rate
from dynamicblocks.training.run_folder import RunFolder
from tests.training.test_refinement import loss_of, trained_net
from tests.trainings import classification

pytestmark = pytest.mark.usefixtures("without_manifestations")

# Of a training whose learning rates are recorded.
EPOCHS, STEPS = 9, 4


def config(tmp_path, run="run", **changes):
    model = ModelConfig(name="dynamicnet", widths=(4,), units=2, layer="preact_single")
    small = {"model": model, "epochs": 4, "data": DataConfig(batch_size=300), "keep": "last"}
    return classification(
        **{**small, "hardware": HardwareConfig("cpu"), "output": str(tmp_path), "run": run, **changes}
    )


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rates(tmp_path, monkeypatch, **changes):
    """The learning rate of every step of a training in which nothing is learnt."""
    found = []
    monkeypatch.setattr("dynamicblocks.training.train.set_learning_rate", lambda _, rate: found.append(rate))
    monkeypatch.setattr(Training, "_step", lambda self, *_: self.sums.add_(1))
    monkeypatch.setattr(Training, "_validated", lambda self, seen=None: Score({"loss": 1.0, "accuracy": 0.0}, 1, 1.0))
    training = Training(*config(tmp_path, epochs=EPOCHS, data=DataConfig(batch_size=320), **changes))
    assert training.batches.steps == STEPS
    training.run()
    return found


def half_cosine(low, high, steps):
    return [low + (high - low) * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


PUBLISHED = {"lr": 0.5, "lr_end": 0.001, "warmup": 0.0}


def test_each_level_has_the_published_cosine_of_its_own(tmp_path, monkeypatch):
    options = OptimizerConfig(**PUBLISHED)
    found = rates(tmp_path, monkeypatch, optimizer=options, refine=RefineConfig((3, 7), restart=True))
    expected = [rate for epochs in (3, 4, 2) for rate in half_cosine(0.001, 0.5, STEPS * epochs)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_without_restart_one_cosine_leads_over_all_levels(tmp_path, monkeypatch):
    found = rates(tmp_path, monkeypatch, optimizer=OptimizerConfig(**PUBLISHED), refine=RefineConfig((3, 7)))
    assert found == pytest.approx(half_cosine(0.001, 0.5, STEPS * EPOCHS), rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "steps", "constant", "xexp"])
def test_a_level_is_scheduled_as_a_training_of_its_length(schedule, tmp_path, monkeypatch):
    """Also with warm-up; decay_epochs count from the begin of the level; the last level may be cut by max_steps."""
    options = OptimizerConfig(schedule=schedule, warmup=0.3, decay_epochs=(1, 2), lr_end=0.01)
    other = RediscretiseConfig((6,), steps=(3,), restart=True)
    found = rates(tmp_path, monkeypatch, optimizer=options, rediscretise=other, refine=RefineConfig((1,)), max_steps=33)
    _, level = config(tmp_path, optimizer=options, epochs=6)
    monkeypatch.undo()
    first = [learning_rate(level.optimizer, step, 24, step // STEPS) for step in range(24)]
    second = [learning_rate(level.optimizer, step, 9, step // STEPS) for step in range(9)]
    assert found == pytest.approx(first + second, rel=1e-12)


def test_levels_are_ranges_of_epochs(tmp_path):
    _, both = config(
        tmp_path,
        epochs=9,
        refine=RefineConfig((2, 7), restart=True),
        rediscretise=RediscretiseConfig((4,), controls=(3,), restart=True),
    )
    assert [both.level(epoch) for epoch in (0, 1, 2, 3, 4, 6, 7, 8)] == [
        *[range(2)] * 2,
        *[range(2, 4)] * 2,
        *[range(4, 7)] * 2,
        *[range(7, 9)] * 2,
    ]
    assert replace(both, refine=RefineConfig((2, 7))).level(8) == range(4, 9)


SMALLEST = {"width": 4, "units": 1, "widen": 1, "steps_per_unit": 1}


def tiny(name):
    """The options that make a network of that name small."""
    options = db.model_options(name)
    found = {option: value for option, value in SMALLEST.items() if option in options}
    for option, value in (("widths", 4), ("units", 2)):
        default = getattr(options.get(option), "default", None)
        if isinstance(default, tuple):
            found[option] = (value,) * len(default)
    return found


# A deeper network of the same kind takes longer and shows no more.
SKIPPED = ("resnet32", "resnet44", "resnet56", "resnet110", "twist_resnet34", "twist_resnet50")


@pytest.mark.parametrize("name", [name for name in db.list_models() if name not in SKIPPED])
def test_every_network_is_refined_in_a_training_with_a_step_on_each_side(name):
    hardware = HardwareConfig("cpu", precision="32-true")
    options = OptimizerConfig(box=1.0, smoothness=1e-4)
    plan = TrainConfig(epochs=2, refine=RefineConfig((1,), restart=True), optimizer=options, hardware=hardware)
    fabric = make_fabric(hardware)
    # The least that all of them take.
    images, labels = torch.randn(2, 1, 10, 10), torch.tensor([3, 1])

    def trained(engine):
        engine.net.train()
        set_learning_rate(engine.bare_optimizer, 1e-3)
        loss, _ = engine.loss((images, labels))
        engine.step(loss)
        assert all(torch.isfinite(weight).all() for weight in engine.net.parameters())
        return engine

    before = trained(Engine(db.create_model(name, in_channels=1, **tiny(name)), Classify(), plan, fabric))
    (change,) = changes_before(plan, 1)
    after = Engine(change.apply(before.net), Classify(), plan, fabric)
    change.carry(before.net, before.bare_optimizer.state, after.net, after.bare_optimizer.state)
    trained(after)
    assert [block.steps for block in after.net.blocks] == [2 * block.steps for block in before.net.blocks]


def test_rediscretisation_to_multiples_is_refinement_to_the_last_bit():
    net, *_ = trained_net()
    twice, at_once = db.refine(db.refine(net)), db.rediscretise(net, controls=8, steps=8)
    assert discretisation(at_once) == discretisation(twice)
    for (name, weight), other in zip(at_once.named_parameters(), twice.parameters(), strict=True):
        assert torch.equal(weight, other), name


@pytest.mark.parametrize("basis", ["constant", "linear", "bspline", "discontinuous_linear"])
def test_theta_is_kept_where_the_new_basis_holds_it_and_comes_back(basis):
    net, _, images, labels = trained_net(controls=basis, norm="group")
    for factor in (2, 3):
        finer = db.rediscretise(net, controls=2 * factor)
        assert {len(block.controls.basis.points) - 1 for block in finer.blocks} == {2 * factor}
        assert loss_of(finer, images, labels) == pytest.approx(loss_of(net, images, labels), abs=1e-12)
        back = db.rediscretise(finer, controls=2)
        for (name, weight), other in zip(net.named_parameters(), back.parameters(), strict=True):
            torch.testing.assert_close(other, weight, rtol=1e-9, atol=1e-10, msg=name)


def test_knots_that_are_kept_by_equal_intervals_are_kept_exactly():
    """Also of unequal intervals, where the equal ones hold them; in between theta is projected."""
    basis = db.PiecewiseLinear(knots=(0, 1, 4))
    values = [nn.Linear(1, 1) for _ in range(3)]
    controls = db.Controls(values, basis)
    finer = controls.with_intervals(4)
    assert finer.basis.points == (0, 1, 2, 3, 4)
    assert torch.equal(finer.layers[1].weight, values[1].weight)
    assert finer.layers[2].weight.item() == pytest.approx((2 * values[1].weight + values[2].weight).item() / 3)
    assert controls.with_intervals(3).basis.points == pytest.approx((0, 4 / 3, 8 / 3, 4))
    assert finer.with_intervals(4) is finer


@pytest.mark.parametrize("basis", ["legendre", "chebyshev"])
def test_polynomials_are_counted_by_their_controls(basis):
    net, _, images, labels = trained_net(controls=basis, norm="group")
    finer = db.rediscretise(net, controls=5)
    assert {len(block.controls) for block in finer.blocks} == {5}
    assert loss_of(finer, images, labels) == pytest.approx(loss_of(net, images, labels), abs=1e-10)
    back = db.rediscretise(finer, controls=2)
    assert loss_of(back, images, labels) == pytest.approx(loss_of(net, images, labels), abs=1e-10)


@pytest.mark.parametrize(("controls", "count"), [("constant", 3), ("linear", 1), ("legendre", 3), ("bspline", 5)])
def test_momentum_is_projected_as_the_weights_are(controls, count):
    """A step along the new momentum is what becomes of a step along the momentum."""
    net, optimizer, _, _ = trained_net(controls=controls, integrator="midpoint")
    change = Rediscretised(controls=count, steps=3)
    other = change.apply(net)
    carried = torch.optim.SGD(other.parameters(), lr=1.0, momentum=0.9)
    change.carry(net, optimizer.state, other, carried.state)
    with torch.no_grad():
        for weight in net.parameters():
            weight.sub_(optimizer.state[weight]["momentum_buffer"])
        for weight in other.parameters():
            weight.sub_(carried.state[weight]["momentum_buffer"])
    for (name, expected), weight in zip(change.apply(net).named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-11, atol=1e-11, msg=name)


def test_a_training_goes_through_its_sequences_and_is_read_back(tmp_path, capsys):
    other = RediscretiseConfig((1, 2, 3), controls=(4, 6, 3), steps=(4, 8, 6))
    training = Training(*config(tmp_path, rediscretise=other))
    outcome = training.run()
    (block,) = training.net.blocks
    assert (len(block.controls), block.steps, block.times.span) == (3, 6, (0.0, 2.0))
    entries = metrics(outcome.folder)
    assert "rediscretised" not in entries[0]
    assert [entry["rediscretised"]["evaluations"] for entry in entries[1:]] == [4, 8, 6]
    assert entries[1]["rediscretised"]["validation_loss"][0] == entries[0]["validation_loss"]
    assert entries[3]["rediscretised"]["weights"] == outcome.weights < entries[2]["rediscretised"]["weights"]
    assert "Rediscretised before epoch 3 to" in capsys.readouterr().out
    read = load_run(outcome.folder)
    net = read.net
    assert read.config.rediscretise == other
    assert discretisation(net) == discretisation(training.net)
    for name, tensor in training.net.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name


@pytest.mark.parametrize(("optimizer", "epochs"), [("sgd", (3,)), pytest.param("muon", (2, 3), marks=pytest.mark.slow)])
def test_a_run_cut_off_in_the_middle_of_a_level_goes_on_to_the_same_bits(optimizer, epochs, tmp_path, monkeypatch):
    """With levels, sequences, a box, a penalty and clipping."""

    class CutError(Exception):
        pass

    def everything(run):
        return config(
            tmp_path,
            run,
            epochs=5,
            data=DataConfig(batch_size=600),
            model=ModelConfig(name="dynamicnet", widths=(4,), units=2, layer="preact_single", controls="linear"),
            optimizer=OptimizerConfig(
                name=optimizer,
                clip=1.0,
                smoothness=1e-3,
                smoothness_kind="smooth_l1",
                smoothness_kernels_only=True,
                box=0.2,
                box_scale=("step", "pixels"),
            ),
            refine=RefineConfig((1,), restart=True, variance=0.01),
            rediscretise=RediscretiseConfig((3,), controls=(3,), steps=(6,), restart=True),
            checkpoint_steps=1,
        )

    whole = Training(*everything("whole"))
    whole.run()
    saved = RunFolder.write_checkpoint
    for epoch in epochs:
        run = f"cut{epoch}"

        def cut(self, state, epoch=epoch):
            saved(self, state)
            if (state["position"]["epoch"], state["position"]["step"]) == (epoch, 1):
                raise CutError

        monkeypatch.setattr(RunFolder, "write_checkpoint", cut)
        with pytest.raises(CutError):
            Training(*everything(run)).run()
        monkeypatch.setattr(RunFolder, "write_checkpoint", saved)
        resumed = Training(*everything(run), resume=tmp_path / run)
        assert (resumed.state.epoch, resumed.state.step) == (epoch, 1)
        resumed.run()
        for name, tensor in whole.net.state_dict().items():
            assert torch.equal(tensor, resumed.net.state_dict()[name]), name
        for one, other in zip(*(optimizer_state(training) for training in (whole, resumed)), strict=True):
            assert torch.equal(one, other)
        drop = {"seconds", "images_per_second"}
        for one, other in zip(metrics(tmp_path / "whole"), metrics(tmp_path / run), strict=True):
            assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


def optimizer_state(training):
    return [state["momentum_buffer"] for state in training.engine.bare_optimizer.state.values()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RediscretiseConfig((1, 2), controls=(4,)), "rediscretise.controls needs a number for each"),
        (lambda: RediscretiseConfig((1,), steps=(4, 8)), "rediscretise.steps needs a number for each"),
        (lambda: RediscretiseConfig((), steps=(4,)), "rediscretise.steps needs a number for each"),
        (lambda: RediscretiseConfig((1,)), "rediscretise.epochs needs rediscretise.controls, rediscretise.steps or"),
        (lambda: RediscretiseConfig((2, 2), steps=(4, 8)), r"rediscretise.epochs must increase, got \[2, 2\]"),
        (lambda: RediscretiseConfig((0,), steps=(4,)), "rediscretise.epochs must be a whole number of at least 1"),
        (lambda: RediscretiseConfig((1,), steps=(0,)), "rediscretise.steps must be a whole number of at least 1"),
        (lambda: RediscretiseConfig((1,), controls=(0,)), "rediscretise.controls must be a whole number of at least 1"),
        (
            lambda: TrainConfig(epochs=4, rediscretise=RediscretiseConfig((1, 4), steps=(4, 8))),
            r"rediscretise.epochs must lie in the training, from 1 to epochs - 1 = 3, got \[1, 4\]",
        ),
        (
            lambda: TrainConfig(epochs=4, refine=RefineConfig((4,))),
            r"refine.epochs must lie in the training, from 1 to epochs - 1 = 3, got \[4\]",
        ),
        (
            lambda: TrainConfig(refine=RefineConfig((2,)), rediscretise=RediscretiseConfig((2,), steps=(4,))),
            r"refine.epochs and rediscretise.epochs both hold \[2\]",
        ),
    ],
)
def test_impossible_sequences(make, message):
    with pytest.raises(db.ConfigurationError, match=message):
        make()


def test_controls_that_were_never_read_learn_once_they_are_read():
    block = db.DynamicBlock("symmetric(4, norm='none')", "linear(3)")
    assert db.freeze_unused_controls(block) == ["controls.layers.2"]
    for other in (db.rediscretise(block, controls=3, steps=6), db.refine(block), db.project(block, "constant(2)")):
        unread = db.freeze_unused_controls(other)
        frozen = {name for name, weight in other.named_parameters() if not weight.requires_grad}
        assert {name.rpartition(".layers.")[2].partition(".")[0] for name in frozen} == {
            name.rpartition(".")[2] for name in unread
        }
    whole = db.DynamicBlock("symmetric(4, norm='none')", 2)
    next(whole.parameters()).requires_grad_(False)
    assert not next(db.refine(whole).parameters()).requires_grad, "what the caller froze stays so"


def test_what_a_network_cannot_become_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    @db.layers.layers.register("unsteady_steps")
    class Layer(nn.Conv2d):
        def __init__(self, width, **_):
            super().__init__(width, width, 3, padding=1)

    def refused(self, grid):
        raise db.ConfigurationError("it starts with as many steps as it ends with")

    monkeypatch.setattr(db.DynamicBlock, "_stretched", refused)
    model = ModelConfig(name="dynamicnet", widths=(4,), layer="unsteady_steps")
    changed = config(tmp_path, model=model, rediscretise=RediscretiseConfig((1,), steps=(3,)))
    with pytest.raises(db.ConfigurationError, match="as many steps as it ends with"):
        Training(*changed)
    assert not (tmp_path / "run").exists()
    with pytest.raises(db.ConfigurationError, match="holds no DynamicBlock"):
        db.rediscretise(nn.Sequential(), steps=3)


def test_weights_that_belong_to_steps_are_not_lost_unseen():
    class Scaled(nn.Module, db.Integrator):
        name, order, reads = "scaled_steps", 1, ((0.0, "field"),)

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def advance(self, stage, h, carry):
            return carry + h * self.scale * stage(0.0, carry)

    block = db.DynamicBlock("symmetric(4)", 2, integrator=Scaled())
    assert db.rediscretise(block, steps=4).steps == 4
    with pytest.raises(db.ConfigurationError, match=r"the weights of scaled_steps belong to steps.* multiple of 2"):
        db.rediscretise(block, steps=3)


def test_a_configuration_of_before_with_a_refinement_that_never_came_is_still_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 5\nrefine:\n  epochs: [2, 7]\n")
    assert load_config(path)[1].refine.epochs == (2,)


def test_sequences_are_written_one_after_the_other_or_as_lists(tmp_path):
    flags = ["--rediscretise.epochs", "10", "20", "--rediscretise.controls=[4,8]", "--optimizer.box_scale", "step"]
    assert rewritten(flags) == [
        "--rediscretise.epochs=[10,20]",
        "--rediscretise.controls=[4,8]",
        "--optimizer.box_scale=[step]",
    ]
    small = ["--model.name", "dynamicnet", "--model.widths", "[4]", "--model.layer", "preact_single"]
    small += ["--data.batch_size", "600", "--epochs", "3", "--output", str(tmp_path), "--run", "run"]
    flags = ["--rediscretise.epochs", "1", "2", "--rediscretise.controls", "4", "2", "--rediscretise.restart", "true"]
    flags += ["--optimizer.box", "1", "--optimizer.box_scale", "step", "pixels"]
    assert main(["train", *small, *flags]) == 0
    task, read = load_config(tmp_path / "run" / "config.yaml")
    assert read.rediscretise == RediscretiseConfig((1, 2), controls=(4, 2), restart=True)
    assert read.optimizer.box_scale == ("step", "pixels")
    assert task.model.options["widths"] == (4,)


def test_help_shows_the_flags(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for flag in (
        "--optimizer.smoothness",
        "--optimizer.smoothness_kind",
        "--optimizer.smoothness_kernels_only",
        "--optimizer.box",
        "--optimizer.box_scale",
        "--optimizer.box_kernels_only",
        "--refine.restart",
        "--rediscretise.epochs",
        "--rediscretise.controls",
        "--rediscretise.steps",
        "--rediscretise.restart",
    ):
        assert flag in text
