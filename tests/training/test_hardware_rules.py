"""Precision, memory format and compilation by rules: the same whenever and beside whatever they are asked."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

import dynamicblocks as db
from dynamicblocks.tasks import Classify, DataConfig, ModelConfig
from dynamicblocks.training import HardwareConfig, RunFolder, Task, TrainConfig, Training
from dynamicblocks.training import environment as environment_module
from dynamicblocks.training import hardware_rules as rules
from dynamicblocks.training.environment import differences
from dynamicblocks.training.hardware_rules import bfloat16_units, is_planar, layout_rule, settle
from dynamicblocks.training.tensor_batches import TensorBatches
from dynamicblocks.training.work import Work, count_work

CPU = torch.device("cpu")
IMAGES = torch.randn(4, 3, 8, 8)
CONVOLUTIONS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
MUCH = Work(operations=100, flops=10**10)
LITTLE = Work(operations=100, flops=10**6)


@pytest.fixture
def with_units(monkeypatch):
    """A processor that computes in bfloat16, PyTorch on one thread, and a compiler."""
    monkeypatch.setattr(rules, "cpu_flags", lambda: frozenset({"avx2", "avx512_bf16"}))
    monkeypatch.setattr(rules, "can_compile", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def chosen(work=MUCH, steps=1500, hardware=None, net=CONVOLUTIONS, inputs=IMAGES, *, bears_half=True, device=CPU):
    found, _ = settle(hardware or HardwareConfig(), device, net, inputs, work, steps, bears_half=bears_half)
    return found.precision, found.channels_last, found.compile


def test_much_arithmetic_is_done_in_bfloat16_and_little_is_not(with_units):
    assert chosen(MUCH) == ("bf16-mixed", True, False)
    assert chosen(LITTLE) == ("32-true", True, False)
    assert chosen(None) == ("32-true", True, False)


def test_convolutions_of_images_gain_by_less(with_units):
    between = Work(operations=100, flops=3 * 10**8)
    assert chosen(between, 10_000)[0] == "bf16-mixed"
    assert chosen(between, 10_000, net=nn.Linear(8, 8))[0] == "32-true"


def test_short_trainings_stay_in_float32(with_units):
    assert [chosen(MUCH, steps)[0] for steps in (100, 300, 400)] == ["32-true", "32-true", "bf16-mixed"]


def test_more_threads_need_more_arithmetic(with_units, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert chosen(Work(operations=100, flops=3 * 10**8))[0] == "32-true"
    assert chosen(MUCH)[0] == "bf16-mixed"


def test_a_processor_without_bfloat16_units_stays_in_float32(with_units, monkeypatch):
    monkeypatch.setattr(rules, "cpu_flags", lambda: frozenset({"avx2", "avx512f", "amx_tile"}))
    assert bfloat16_units(CPU) == ""
    assert chosen(MUCH, steps=10**9) == ("32-true", True, True)


@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE_VNNI", "SSE41"])
def test_units_that_onednn_may_not_use_are_none(limit, with_units, monkeypatch):
    assert bfloat16_units(CPU) == "AVX-512 BF16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    assert bfloat16_units(CPU) == "AVX-512 BF16"
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", limit)
    assert bfloat16_units(CPU) == ""


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed")])
def test_a_gpu_computes_in_bfloat16_from_the_first_that_can(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    work = Work(operations=100, flops=10**13)
    half = precision != "32-true"
    assert chosen(work, device=torch.device("cuda")) == (precision, half, False)


def test_other_devices_stay_plain():
    assert chosen(MUCH, steps=10**9, device=torch.device("mps")) == ("32-true", False, False)


def test_flags_are_those_of_the_processor():
    flags = rules.cpu_flags()
    assert not flags or flags & {"avx", "avx2", "sse2", "neon", "asimd"}


def test_a_task_that_needs_full_precision_keeps_it(with_units):
    assert chosen(MUCH, bears_half=False)[0] == "32-true"
    assert not Task.bears_half
    assert Classify.bears_half


def test_long_trainings_are_compiled_by_their_count_of_steps(with_units, monkeypatch):
    assert [chosen(MUCH, steps)[2] for steps in (100, 1000, 100_000)] == [False, False, True]
    monkeypatch.setattr(rules, "can_compile", lambda: False)
    assert chosen(MUCH, 100_000)[2] is False


def test_what_is_asked_for_is_kept(with_units):
    asked = HardwareConfig(precision="bf16-mixed", channels_last=False, compile=True)
    assert settle(asked, CPU, CONVOLUTIONS, IMAGES, LITTLE, 1, bears_half=False) == (asked, {})
    assert chosen(hardware=HardwareConfig(precision="64-true")) == ("64-true", True, False)


def test_channels_last_is_for_images_alone():
    volumes = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv2d(1, 1, 1))
    assert is_planar(CONVOLUTIONS, IMAGES)
    assert not is_planar(nn.Conv1d(3, 4, 3), IMAGES[0])
    assert not is_planar(volumes, IMAGES)
    assert not is_planar(nn.Linear(3, 3), IMAGES)
    assert not is_planar(CONVOLUTIONS, {"images": IMAGES})


def test_processes_agree_whatever_their_numbers_of_threads(with_units, monkeypatch):
    work = Work(operations=100, flops=4 * 10**8)
    found = set()
    for threads in (1, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.add(chosen(work, 10_000, HardwareConfig(devices=2)))
    assert found == {("bf16-mixed", True, False)}


@dataclass(frozen=True)
class Line(Task[tuple[torch.Tensor, torch.Tensor]]):
    """Straight lines through points."""

    name: ClassVar[str] = "line"
    width: int = 3

    def load(self):
        return "points"

    def build(self):
        return nn.Linear(self.width, 2)

    def batches(self, split, place):
        return TensorBatches((torch.ones(8, self.width), torch.ones(8, 2)), 4, place)

    def loss(self, net, batch):
        loss = F.mse_loss(net(batch[0]), batch[1])
        return loss, torch.stack([loss.new_tensor(len(batch[0])), loss * len(batch[0])])


class Mean(Line):
    """Of what the network gives, for batches of any shapes."""

    def loss(self, net, batch):
        loss = net(batch[0]).mean()
        return loss, torch.stack([loss.new_tensor(1), loss])


def test_work_is_counted_as_it_is():
    batch = (torch.ones(4, 3), torch.ones(4, 2))
    work = count_work(Line(), nn.Linear(3, 2), batch)
    # Forwards 4 x 3 by 3 x 2; backwards the gradient of the weights alone, for the input needs none.
    assert work.flops == 2 * (2 * 4 * 3 * 2)
    assert 5 < work.operations < 30


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_work_of_blocks_is_counted_under_every_gradient(gradient):
    net = db.create_model("hamiltonian_resnet", depth=14, in_channels=3, gradient=gradient)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    batch = (IMAGES, torch.tensor([0, 1, 2, 3]))
    work, again = (count_work(Classify(), net, batch) for _ in range(2))
    assert work == again
    assert work.flops > 10**7
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


class Reading(Line):
    """Reads a number of the batch, which takes a batch that has numbers."""

    def loss(self, net, batch):
        assert batch[0].sum().item() == 12
        return super().loss(net, batch)


def test_a_step_that_reads_numbers_is_counted_on_the_batch_as_it_is():
    counted = [count_work(task(), nn.Linear(3, 2), (torch.ones(4, 3), torch.ones(4, 2))) for task in (Line, Reading)]
    assert counted[0].flops == counted[1].flops
    assert 5 < counted[1].operations < 30


def test_counting_computes_nothing_where_shapes_say_it_all():
    net = nn.Sequential(*(nn.Conv2d(400, 400, 3, padding=1) for _ in range(4)))
    batch = (torch.ones(1, 1, 1, 1).expand(4096, 400, 100, 100), torch.ones(1))  # 65 GB, if it were moved
    work = count_work(Mean(), net, batch)
    assert work.flops > 10**15


def test_a_step_that_cannot_be_run_is_not_counted():
    assert count_work(Line(), nn.Linear(5, 2), (torch.ones(4, 3), torch.ones(4, 2))) is None


TASK = Classify(data=DataConfig(train_images=128), model=ModelConfig(name="continuousnet", width=8, units=1))


def config(tmp_path, run="run", **options):
    return TrainConfig(epochs=1, output=str(tmp_path), run=run, **options)


def test_choices_are_shown_and_recorded_and_leave_the_draws_alone(tmp_path):
    console = Console(record=True, width=300)
    training = Training(TASK, config(tmp_path), console=console)
    line = next(line for line in console.export_text().splitlines() if line.startswith("Chosen: "))
    record = training.folder.record()
    assert record["chosen"]["precision"]["value"] == "32-true"
    assert record["chosen"]["channels_last"] == {"value": True, "why": "two-dimensional convolutions on a CPU"}
    assert record["chosen"]["compile"]["value"] is False
    assert all(each["why"] in line for each in record["chosen"].values())
    assert record["counted_step"]["flops"] > 0
    assert record["measured_steps"] == []
    assert training.folder.hardware() == HardwareConfig(precision="32-true", channels_last=True, compile=False)
    asked = HardwareConfig(precision="32-true", channels_last=True, compile=False)
    other = Training(TASK, config(tmp_path, "other", hardware=asked), console=Console(quiet=True))
    assert other.folder.record()["chosen"] == {}
    for (name, one), two in zip(training.net.state_dict().items(), other.net.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert torch.equal(next(iter(training.batches.training(0)))[0], next(iter(other.batches.training(0)))[0])


def test_what_may_give_other_bits_is_said_in_one_line():
    record = {"hardware": {"torch_threads": 2, "processor": "A", "gpus": []}, "versions": {"torch": "2.12.0"}}
    assert list(differences(record, record)) == []
    other = {"hardware": {"torch_threads": 4, "processor": "A", "gpus": ["G"]}, "versions": {"torch": "2.13.0"}}
    (line,) = differences(record, other)
    assert "threads of PyTorch 4 (run.json: 2)" in line
    assert "GPU G (run.json: none)" in line
    assert "PyTorch 2.13.0 (run.json: 2.12.0)" in line
    assert "processor" not in line
    assert list(differences({}, other)) == []


def test_a_resume_on_another_number_of_threads_says_so(tmp_path, monkeypatch):
    Training(TASK, config(tmp_path), console=Console(quiet=True))
    console = Console(record=True, width=300)
    Training(TASK, config(tmp_path), resume=tmp_path / "run", console=console)
    assert "bits may differ" not in console.export_text()
    before = RunFolder(tmp_path / "run").record()["hardware"]["torch_threads"]
    monkeypatch.setattr(environment_module.torch, "get_num_threads", lambda: 7)
    console = Console(record=True, width=300)
    Training(TASK, config(tmp_path), resume=tmp_path / "run", console=console)
    assert f"threads of PyTorch 7 (run.json: {before})" in console.export_text()


@pytest.mark.parametrize(
    ("convolution", "last"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(8, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
    ],
)
def test_a_convolution_that_would_write_behind_its_memory_stays_channels_first(convolution, last):
    chosen = layout_rule(torch.device("cpu"), nn.Sequential(convolution), torch.zeros(1, 4, 8, 8), "32-true")
    assert chosen.value is last
