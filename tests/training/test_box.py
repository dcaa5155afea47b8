"""Weights in time held in a box: its bounds by hand, what they mean for operators, and that they hold at every step."""

import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dynamicblocks as db
from dynamicblocks.tasks import DataConfig, ModelConfig
from dynamicblocks.training import HardwareConfig, OptimizerConfig, RefineConfig, Training
from dynamicblocks.training.box import Box, largest_within
from dynamicblocks.training.config import RediscretiseConfig
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.rehearsal import idle_choices
from tests.trainings import classification

B = 0.3


def bounds(net, **options):
    """The bound of each weight, by name."""
    box = Box(net, OptimizerConfig(box=B, **options))
    return {name: box.bounds[weight] for name, weight in net.named_parameters() if weight in box.bounds}


def layer():
    return nn.Sequential(
        nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1), nn.LayerNorm([6, 5, 5])
    )


@pytest.mark.parametrize(
    ("scales", "kernel", "matrix", "other"),
    [
        ((), 1, 1, 1),
        (("step",), 0.5, 0.5, 0.5),
        (("pixels",), 9, 1, 1),
        (("channels",), 3, 6, 1),
        (("channels", "pixels"), 27, 6, 1),
        (("step", "pixels", "channels"), 13.5, 3, 0.5),
    ],
)
def test_bounds_are_those_computed_by_hand(scales, kernel, matrix, other):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), db.DynamicBlock(layer, controls=2, times="uniform(0, 2, steps=4)"))
    found = bounds(net, box_scale=scales)
    assert len(found) == 2 * 8, "of the block and of nothing else"
    for name, bound in found.items():
        divisor = {"0.weight": kernel, "2.weight": matrix}.get(name.partition("layers.")[2].partition(".")[2], other)
        assert bound == pytest.approx(B / divisor, rel=1e-7), name
    kernels = bounds(net, box_scale=scales, box_kernels_only=True)
    assert kernels == {name: bound for name, bound in found.items() if name.endswith(("0.weight", "2.weight"))}


def test_kernels_of_transposed_convolutions_and_volumes_are_counted_by_their_inputs():
    transposed = db.DynamicBlock(lambda: nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2), 1)
    volume = db.DynamicBlock(lambda: nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1)), 1)
    for block, divisor in ((transposed, 27), (volume, 36)):
        found = bounds(block, box_scale=("pixels", "channels"), box_kernels_only=True)
        assert list(found.values()) == pytest.approx([B / divisor])


@pytest.mark.parametrize("padding", ["zeros", "replicate", "circular", "reflect"])
@pytest.mark.parametrize("groups", [1, 2])
def test_with_pixels_and_channels_the_operator_norm_is_at_most_the_bound(padding, groups, float64):
    def convolution():
        return nn.Conv2d(4, 4, 3, padding=1, padding_mode=padding, groups=groups, bias=False)

    block = db.DynamicBlock(convolution, 1)
    with torch.no_grad():
        block.controls.layers[0].weight.mul_(100)
    Box(block, OptimizerConfig(box=B, box_scale=("pixels", "channels"))).project()
    units = torch.eye(4 * 25).view(-1, 4, 5, 5)
    dense = block.controls.layers[0](units).flatten(1).T
    # Of a row inside the image all entries are at their bounds.
    assert dense.abs().sum(dim=1).max().item() == pytest.approx(B, rel=1e-12)


@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)", "bspline(6)", "discontinuous_linear(6)"])
@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_with_step_the_length_of_every_step_times_the_weights_it_reads_is_bound(controls, integrator, float64):
    block = db.DynamicBlock(lambda: nn.Conv1d(2, 2, 1), controls, (0, 0.1, 1, 1.4, 2.5, 3), integrator)
    for net in (block, db.refine(block), db.with_integrator(block, steps=7)):
        with torch.no_grad():
            for weight in net.parameters():
                weight.fill_(1e3)
        Box(net, OptimizerConfig(box=B, box_scale=("step",))).project()
        largest = []
        for step, h in enumerate(net.times.sizes):
            read = [net.controls.parameters_at(net.field.terms(step, c))["weight"] for c in net.integrator.fractions]
            largest.append(h * max(weight.abs().max().item() for weight in read))
        assert max(largest) <= B * (1 + 1e-12)
        assert max(largest) > 0.7 * B
    # Steps of half the length allow weights twice as large.
    halved = db.refine(block)
    coarse, fine = (list(bounds(net, box_scale=("step",)).values()) for net in (block, halved))
    if controls == "constant(3)" and integrator == "euler":
        assert fine[0] == pytest.approx(2 * coarse[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [0.1, 0.3, 1.0, 1 / 27])
def test_a_bound_is_never_rounded_up(bound, dtype):
    found = largest_within(bound, dtype)
    assert found <= bound
    assert found == pytest.approx(bound, rel=2 * torch.finfo(dtype).eps)
    weight = nn.Parameter(torch.tensor([5.0, -5.0], dtype=dtype))
    block = db.DynamicBlock(lambda: Given(weight), 1)
    Box(block, OptimizerConfig(box=bound)).project()
    assert [abs(entry) <= bound for entry in next(block.parameters()).tolist()] == [True, True]


class Given(nn.Module):
    """A layer with a weight that is there."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, y):
        return y * self.weight.sum()


def test_what_is_not_a_number_stays_to_be_seen():
    block = db.DynamicBlock(lambda: Given(nn.Parameter(torch.tensor([math.nan, 5.0, -math.inf, 0.1]))), 1)
    Box(block, OptimizerConfig(box=B)).project()
    found = next(block.parameters()).tolist()
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([B, -B, 0.1])


def config(tmp_path, run="run", **changes):
    model = ModelConfig(name="dynamicnet", widths=(4,), units=2, layer="preact_single", controls="linear")
    small = {"model": model, "epochs": 3, "data": DataConfig(batch_size=200), "keep": "last"}
    return classification(
        **{**small, "hardware": HardwareConfig("cpu"), "output": str(tmp_path), "run": run, **changes}
    )


@pytest.fixture(autouse=True)
def _no_other_manifestations(monkeypatch):
    monkeypatch.setattr("dynamicblocks.training.outcome.FEW", 0)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 2.0},
        {"lr": 2.0, "clip": 0.5, "box_scale": ("step", "pixels", "channels")},
        {"name": "muon", "kernel_lr": 0.5, "box_kernels_only": True, "box_scale": ("channels",)},
    ],
    ids=["sgd", "clipped and scaled", "muon"],
)
def test_bounds_hold_at_the_start_and_after_every_step(options, tmp_path, monkeypatch):
    seen = []

    def look(engine):
        named = bounds_of(engine.net, engine.options)
        assert named
        seen.append(max(weight.abs().max().item() / bound for weight, bound in named))
        outside = [weight for name, weight in engine.net.named_parameters() if not name.startswith("body.0.controls")]
        assert max(weight.abs().max() for weight in outside) > 0.05, "other weights are free"

    begin, step = Engine.__init__, Engine.step

    def begun(self, *arguments):
        begin(self, *arguments)
        look(self)

    def stepped(self, loss, *group):
        step(self, loss, *group)
        look(self)

    monkeypatch.setattr(Engine, "__init__", begun)
    monkeypatch.setattr(Engine, "step", stepped)
    optimizer = OptimizerConfig(**{"box": 0.05, "smoothness": 1e-4, **options})
    refined = RefineConfig((1,), variance=0.5)
    other = RediscretiseConfig((2,), controls=(3,), steps=(5,))
    Training(*config(tmp_path, optimizer=optimizer, refine=refined, rediscretise=other)).run()
    assert len(seen) >= 3 * 6 + 3
    assert max(seen) == pytest.approx(1.0, abs=1e-6)
    assert max(seen) <= 1.0


def bounds_of(net, options):
    box = Box(net, options)
    return [(weight.detach(), bound) for weight, bound in box.bounds.items()]


def test_weights_of_half_precision_are_bound_too(tmp_path):
    hardware = HardwareConfig("cpu", precision="bf16-true")
    training = Training(*config(tmp_path, epochs=1, hardware=hardware, optimizer=OptimizerConfig(box=0.1, lr=1.0)))
    training.run()
    weights = list(training.net.blocks[0].controls.parameters())
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert max(weight.abs().max().item() for weight in weights) <= 0.1


@pytest.mark.slow
def test_two_processes_keep_the_same_box(tmp_path):
    flags = ["--model.name", "dynamicnet", "--model.widths", "4", "8", "--model.norm", "group(groups=2)"]
    flags += ["--optimizer.box", "0.1", "--optimizer.lr", "1", "--optimizer.smoothness", "1e-3", "--epochs", "1"]
    command = [sys.executable, "-m", "dynamicblocks.cli.main", "train", *flags, "--hardware.devices", "2"]
    command += ["--hardware.accelerator", "cpu", "--output", str(tmp_path), "--run", "two"]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL)
    weights = load_file(tmp_path / "two" / "model.safetensors")
    inside = [weights[name] for name in weights if ".controls." in name and "running" not in name]
    assert 0.09 < max(weight.abs().max().item() for weight in inside if weight.is_floating_point()) <= 0.1


def test_a_box_around_nothing_is_refused(tmp_path):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(
        db.ConfigurationError, match=r"optimizer.box binds the weights of dynamic blocks, but the network"
    ):
        Box(plain, OptimizerConfig(box=1.0))
    scaling = db.DynamicBlock(lambda: Given(nn.Parameter(torch.ones(1))), 2)
    with pytest.raises(db.ConfigurationError, match=r"optimizer.box binds the kernels of dynamic blocks"):
        Box(scaling, OptimizerConfig(box=1.0, box_kernels_only=True))
    adaptive = db.DynamicBlock("symmetric(4, norm='none')", 2, integrator="dopri5")
    with pytest.raises(
        db.ConfigurationError, match=r"optimizer.box_scale step needs steps of given lengths, but dopri5"
    ):
        Box(adaptive, OptimizerConfig(box=1.0, box_scale=("step",)))
    model = ModelConfig(name="dynamicnet", widths=(4,), integrator="dopri5", norm="none")
    with pytest.raises(db.ConfigurationError, match="chooses its own"):
        Training(*config(tmp_path, model=model, optimizer=OptimizerConfig(box=1.0, box_scale=("step",))))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": -1.0}, "optimizer.box must be zero or more"),
        ({"box": math.inf}, "optimizer.box must be zero or more and finite"),
        ({"box": 1.0, "box_scale": ("stpe",)}, r"unknown optimizer.box_scale 'stpe'; did you mean 'step'\?"),
        ({"box": 1.0, "box_scale": ("step", "step")}, "optimizer.box_scale names a divisor twice"),
        ({"smoothness": 1.0, "smoothness_kind": "l3"}, "unknown optimizer.smoothness_kind 'l3'"),
    ],
)
def test_impossible_choices(options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        OptimizerConfig(**options)


def test_choices_that_do_nothing_are_named(tmp_path, capsys):
    def notes(**changes):
        task, plan = config(tmp_path, **changes)
        return list(idle_choices(task.model.create(1, 10), plan))

    single = ModelConfig(name="dynamicnet", widths=(4,), units=1)
    assert (
        "box_kernels_only do nothing without optimizer.box" in notes(optimizer=OptimizerConfig(box_scale=("step",)))[0]
    )
    assert "do nothing without optimizer.smoothness" in notes(optimizer=OptimizerConfig(smoothness_kind="l1"))[0]
    assert notes(refine=RefineConfig(restart=True)) == ["refine.restart does nothing without refine.epochs"]
    alone = {"model": single, "optimizer": OptimizerConfig(smoothness=1.0)}
    assert "every block has a single control" in notes(**alone)[0]
    assert notes(**alone, refine=RefineConfig((1,))) == notes(optimizer=OptimizerConfig(box=1.0, smoothness=1.0)) == []
    Training(*config(tmp_path, **alone))
    assert "optimizer.smoothness does nothing" in " ".join(capsys.readouterr().out.split())
