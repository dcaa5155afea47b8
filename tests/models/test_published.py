"""The published networks and the published commands."""

import numpy as np
import pytest
import torch
import yaml

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.cli.published import rewritten
from dynamicblocks.tasks import load_run


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        ("continuousnet", {"units": 1}, 175_770),
        ("continuousnet", {"units": 2}, 273_210),
        ("continuousnet", {"units": 4}, 468_090),
        ("continuousnet", {"units": 8}, 857_850),
        ("continuousnet", {"units": 2, "activation_first": True}, 273_242),
        ("continuousnet", {"units": 2, "skipinit": True, "norm": "none"}, 271_843),
        ("continuousnet", {"units": 8, "num_classes": 100}, 863_700),
        ("wide_continuousnet", {"widen": 4, "units": 8}, 13_607_546),
        ("wide_continuousnet", {"widen": 4, "units": 8, "num_classes": 100}, 13_630_676),
        ("resnet", {"depth": 20, "unit": "post", "shortcut": "convolution_norm"}, 272_474),
        ("resnet", {"depth": 56, "unit": "post", "shortcut": "convolution_norm"}, 855_770),
    ],
)
def test_weight_counts_are_the_published_ones(name, options, weights):
    assert db.create_model(name, **options).num_weights == weights


def test_every_weight_is_used():
    """The originals count the stitch's second norm but never apply it."""
    for name, options in (
        ("continuousnet", {"width": 4}),
        ("wide_continuousnet", {"width": 4, "widen": 2, "units": 2}),
    ):
        net = db.create_model(name, **options)
        net(torch.randn(4, 3, 8, 8)).square().sum().backward()
        unused = [key for key, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
        # A bias before a batch norm cancels, and gets rounding errors for gradients at most; none is without one.
        assert [key for key in unused if not key.endswith("conv1.bias") and not key.endswith("conv2.bias")] == []


def test_with_time_epsilon_euler_takes_shorter_steps():
    """Two steps a unit over the time of the units are steps of one half; so is the stitch's."""
    net = db.create_model("continuousnet", width=4, units=2, steps_per_unit=2).eval()
    assert net.blocks[0].times.points == (0.0, 0.5, 1.0, 1.5, 2.0)
    half = db.create_model("continuousnet", width=4, units=2, time_epsilon=1.0)
    assert half.blocks[0].times.points == (0.0, 0.5, 1.0)
    stitch = half.body[1 - 1]
    y = torch.randn(2, 4, 8, 8)
    stitch.eval()
    torch.testing.assert_close(stitch(y), stitch.shortcut(y) + 0.5 * stitch.branch(y))


def test_a_network_with_skipinit_starts_as_its_shortcuts():
    for first in (False, True):
        net = db.create_model("continuousnet", width=4, skipinit=True, norm="none", activation_first=first)
        y = net.opening(torch.randn(2, 3, 8, 8))
        expected = y
        for part in net.body:
            expected = part.shortcut(expected) if hasattr(part, "shortcut") else expected
        torch.testing.assert_close(net.body(y), expected)


def test_without_stitches_blocks_are_joined_by_strided_convolutions():
    net = db.create_model("continuousnet", width=4, stitch=False)
    assert [type(part).__name__ for part in net.body] == ["DynamicBlock", "Conv2d"] * 2 + ["DynamicBlock"]
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_kernels_are_drawn_by_fan_out():
    torch.manual_seed(0)
    net = db.create_model("continuousnet", units=8)
    kernels = torch.cat([layer.branch.conv2.weight.flatten() for layer in net.blocks[2].controls.layers])
    assert kernels.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.01)
    assert not net.blocks[2].controls.layers[0].branch.conv2.bias.any()
    with pytest.raises(db.ConfigurationError, match="did you mean 'he'"):
        db.create_model("continuousnet", initial="hee")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Random images in the official layout of CIFAR-10."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        rows = draw.integers(0, 256, (130, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(130) % 10
        rows.tofile(folder / f"{name}.bin")
    (folder / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n")
    return folder.parent


# As the original's README prints them, after the name of the program.
PUBLISHED = {
    "resnet": "--name cifar10 --epochs 120 --arch ResNet --lr_decay_epoch 30 60 90 --depth_res 20",
    "euler": "--model ContinuousNet --scheme euler --dataset CIFAR10 --epochs 120  --lr_decay_epoch 30 60 90 "
    "--initial_time_d 2",
    "rk4": "--model ContinuousNet --scheme rk4_classic --dataset CIFAR10 --epochs 120  --lr_decay_epoch 30 60 90 "
    "--initial_time_d 2 --weight_decay 1e-4",
}


@pytest.mark.parametrize(
    "name", [name if name == "rk4" else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_the_published_commands_run(name, cifar, tmp_path):
    flags = [*PUBLISHED[name].split(), "--max-steps", "2", "--data-dir", str(cifar)]
    assert main(["train", *flags, "--output", str(tmp_path), "--run", name]) == 0
    config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
    assert config["epochs"] == 120
    assert config["optimizer"]["decay_epochs"] == [30, 60, 90]
    assert config["optimizer"]["weight_decay"] == (1e-4 if name == "rk4" else 5e-4)
    assert (config["data"]["batch_size"], config["seed"]) == (128, 1)
    net = load_run(tmp_path / name).net
    assert net.num_weights == (272_474 if name == "resnet" else 273_210)
    assert net.blocks[0].integrator.name == {"rk4": "rk4_classic"}.get(name, "euler")


def test_every_flag_of_the_originals_has_a_place(cifar, tmp_path):
    flags = (
        "--model WideContinuousNet --scheme midpoint --dataset cifar10 --batch-size 8 --test_batch_size 16 --epochs 2 "
        "--lr 0.05 --lr-decay 0.2 --lr_decay_epoch 1 --weight-decay 1e-3 --no-batch-norm --device cpu --seed 4 "
        "--alpha 4 --widen-factor 2 --refine 1 --refine-variance 0.1 --initial_time_d 1 --n-time-steps-per 2 "
        "--time-epsilon 3 --use-skipinit --max-steps 2"
    )
    run = ["--data_dir", str(cifar), "--output", str(tmp_path), "--run", "run"]
    assert main(["train", *flags.split(), *run]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    chosen = {key: value for key, value in config["model"].items() if value is not None}
    assert chosen == {
        "name": "wide_continuousnet",
        "width": 4,
        "widen": 2,
        "units": 1,
        "steps_per_unit": 2,
        "time_epsilon": 3.0,
        "skipinit": True,
        "norm": "none",
        "integrator": "midpoint",
    }
    assert (config["data"]["batch_size"], config["data"]["test_batch_size"]) == (8, 16)
    optimizer = config["optimizer"]
    assert (optimizer["lr"], optimizer["decay"], optimizer["decay_epochs"]) == (0.05, 0.2, [1])
    assert (optimizer["weight_decay"], config["seed"], config["hardware"]["accelerator"]) == (1e-3, 4, "cpu")
    assert config["refine"] == {"epochs": [1], "factor": 2, "variance": 0.1, "restart": False}


def test_presets_hold_the_programs_own_defaults_and_give_way_to_everything():
    arguments = rewritten(["--epochs", "7", "--model", "ContinuousNet", "--config", "mine.yaml"])
    preset, rest = arguments[:-4], arguments[-4:]
    assert rest == ["--epochs", "7", "--config", "mine.yaml"]
    for flag in (
        "--model.name=continuousnet",
        "--model.units=3",
        "--epochs=160",
        "--optimizer.decay_epochs=[30,60,90]",
        "--data.test_batch_size=512",
        "--seed=1",
    ):
        assert flag in preset
    assert "--model.activation_first=true" in rewritten(["--model=ContinuousNetActFirst"])
    assert "--model.depth=34" in rewritten(["--arch", "WideResNet"])
    assert rewritten(["--model", "resnet56"]) == ["--model.name=resnet56"]
    assert rewritten(["--use_skipinit", "False", "--batch-norm"]) == ["--model.skipinit=false", "--model.norm=batch"]
    assert rewritten(["--model.name", "resnet20", "--max-steps", "3"]) == [
        "--model.name",
        "resnet20",
        "--max_steps",
        "3",
    ]


def test_a_published_flag_without_its_value(capsys):
    assert main(["train", "--lr-decay-epoch", "--seed", "1"]) == 2
    assert "--lr-decay-epoch expects a value" in capsys.readouterr().err
