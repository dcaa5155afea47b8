"""Precision, memory format and compilation measured, as --fast asks; and the way back from a precision that fails."""

import json
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.cli.published import rewritten
from dynamicblocks.errors import SolverError
from dynamicblocks.tasks import Classify, ModelConfig
from dynamicblocks.training import HardwareConfig, Training, measured
from dynamicblocks.training.measured import Measurement, choose
from tests.trainings import classification

pytestmark = pytest.mark.usefixtures("without_manifestations")

IMAGES, LABELS = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
NET = torch.nn.Conv2d(1, 1, 1)


def pretend(monkeypatch, seconds, losses=None):
    """Let steps take so many seconds by precision and layout."""
    seen = []

    def measure(task, net, batch, precision, channels_last):
        seen.append((precision, channels_last))
        loss = (losses or {}).get(precision, 2.3)
        return Measurement(precision, channels_last, seconds[precision, channels_last], loss)

    monkeypatch.setattr(measured, "measure", measure)
    monkeypatch.setattr(measured, "can_compile", lambda: True)
    return seen


SECONDS = {("32-true", False): 0.3, ("32-true", True): 0.2, ("bf16-mixed", False): 0.18, ("bf16-mixed", True): 0.1}


def chosen(hardware, steps):
    found, _ = choose(Classify(), hardware, NET, (IMAGES, LABELS), steps)
    return found.precision, found.channels_last, found.compile


def test_the_fastest_is_taken_on_long_trainings_only(monkeypatch):
    seen = pretend(monkeypatch, SECONDS)
    assert chosen(HardwareConfig(), steps=100) == ("32-true", False, False)
    assert seen == [("32-true", False)]
    assert chosen(HardwareConfig(), steps=1000) == ("bf16-mixed", True, False)
    assert chosen(HardwareConfig(), steps=10_000) == ("bf16-mixed", True, True)


def test_what_is_asked_for_is_kept(monkeypatch):
    pretend(monkeypatch, SECONDS)
    assert chosen(HardwareConfig(precision="32-true"), 10_000) == ("32-true", True, True)
    assert chosen(HardwareConfig(channels_last=False, compile=False), 10_000) == ("bf16-mixed", False, False)
    assert chosen(HardwareConfig(precision="64-true"), 10_000) == ("64-true", False, False)
    asked = HardwareConfig(precision="bf16-mixed", channels_last=True, compile=True)
    assert choose(Classify(), asked, NET, (IMAGES, LABELS), 10_000) == (asked, [])


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2.6])
def test_a_precision_that_is_not_safe_is_not_taken(loss, monkeypatch):
    pretend(monkeypatch, SECONDS, {"bf16-mixed": loss})
    assert chosen(HardwareConfig(), 10_000)[0] == "32-true"


def test_a_gain_within_the_noise_is_not_taken(monkeypatch):
    pretend(monkeypatch, dict.fromkeys(SECONDS, 0.29) | {("32-true", False): 0.3})
    assert chosen(HardwareConfig(), 1000) == ("32-true", False, False)


def test_measuring_leaves_the_network_as_it_was():
    net = db.create_model("continuousnet", in_channels=1, width=4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = measured.measure(Classify(), net, (IMAGES, LABELS), "bf16-mixed", channels_last=True)
    assert found.seconds > 0
    assert found.loss == pytest.approx(math.log(10), rel=0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


def config(tmp_path, **hardware):
    return classification(
        model=ModelConfig(name="continuousnet", width=4, units=1),
        hardware=HardwareConfig(**hardware),
        epochs=2,
        output=str(tmp_path),
        run="run",
    )


def test_a_task_that_needs_full_precision_is_not_tried_without(monkeypatch):
    pretend(monkeypatch, SECONDS)
    monkeypatch.setattr(Classify, "bears_half", False)
    assert chosen(HardwareConfig(), 10_000) == ("32-true", True, True)


def test_layouts_are_tried_with_convolutions_of_images_alone(monkeypatch):
    seen = pretend(monkeypatch, SECONDS)
    choose(Classify(), HardwareConfig(), torch.nn.Linear(1, 1), (IMAGES, LABELS), 1000)
    assert seen == [("32-true", False), ("bf16-mixed", False)]


def test_a_loss_below_zero_is_compared_as_any_other(monkeypatch):
    pretend(monkeypatch, SECONDS, {"32-true": -2.3, "bf16-mixed": -2.31})
    assert chosen(HardwareConfig(), 1000)[0] == "bf16-mixed"


def test_what_is_measured_is_shown_and_recorded_and_leaves_the_draws_alone(monkeypatch, tmp_path):
    pretend(monkeypatch, {side: 10 * seconds for side, seconds in SECONDS.items()})
    console = Console(record=True, width=300)
    training = Training(*config(tmp_path, fast=True), console=console)
    # 40 steps of 3 s.
    found = training.config.hardware
    assert (found.precision, found.channels_last, found.compile) == ("bf16-mixed", True, False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [each["seconds"] for each in record["measured_steps"]] == pytest.approx([3.0, 2.0, 1.8, 1.0])
    assert record["chosen"]["precision"]["value"] == "bf16-mixed"
    assert "measured, 1 s a step" in record["chosen"]["precision"]["why"]
    assert "Chosen: precision bf16-mixed (measured" in console.export_text()
    asked = {"precision": "bf16-mixed", "channels_last": True, "compile": False}
    other = Training(*config(tmp_path / "other", **asked))
    for (name, one), two in zip(training.net.state_dict().items(), other.net.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_without_fast_nothing_is_measured(monkeypatch, tmp_path):
    seen = pretend(monkeypatch, {side: 10 * seconds for side, seconds in SECONDS.items()})
    training = Training(*config(tmp_path))
    assert seen == []
    assert training.folder.record()["measured_steps"] == []


def test_a_training_too_short_to_be_measured_follows_the_rules(monkeypatch, tmp_path):
    seen = pretend(monkeypatch, SECONDS)
    fast = Training(*config(tmp_path, fast=True))
    assert seen == [("32-true", False)]
    assert fast.folder.record()["measured_steps"][0]["seconds"] == 0.3
    rules = Training(*config(tmp_path / "other"))
    assert replace(fast.config.hardware, fast=False) == rules.config.hardware
    assert fast.folder.record()["chosen"] == rules.folder.record()["chosen"]


def test_the_short_flag():
    assert rewritten(["--fast", "--epochs", "3"])[0] == "--hardware.fast=true"
    assert rewritten(["--fast", "false"]) == ["--hardware.fast=false"]
    assert rewritten(["--data.workers", "2"]) == ["--hardware.workers=2"]


class Overflow(torch.nn.Module):
    """Not finite where it is called under autocast, from a certain call on."""

    calls = 0

    def forward(self, y):
        Overflow.calls += 1
        if torch.is_autocast_enabled("cpu") and Overflow.calls > 25:
            return y * math.inf
        return y


def test_a_loss_that_overflows_in_bfloat16_goes_on_in_float32_loudly(monkeypatch, tmp_path):
    Overflow.calls = 0
    build = Classify.build

    def overflowing(self):
        net = build(self)
        net.body.append(Overflow())
        return net

    monkeypatch.setattr(Classify, "build", overflowing)
    console = Console(record=True, width=200)
    training = Training(*config(tmp_path, precision="bf16-mixed"), console=console)
    training.run()
    assert "not finite under bf16-mixed" in console.export_text()
    assert training.config.hardware.precision == "32-true"
    entries = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [0, 1]
    event = json.loads((tmp_path / "run" / "events.jsonl").read_text())
    assert (event["from"], event["to"]) == ("bf16-mixed", "32-true")
    # What goes on later does so in float32 too.
    resumed = Training(*config(tmp_path, precision="bf16-mixed"), resume=tmp_path / "run")
    assert resumed.config.hardware.precision == "32-true"


def test_in_float32_there_is_no_way_back(monkeypatch, tmp_path):
    training = Training(*config(tmp_path, precision="32-true"))
    with torch.no_grad():
        training.net.head.linear.bias.fill_(math.nan)
    with pytest.raises(SolverError, match="not finite in epoch 1, step 1"):
        training.run()
