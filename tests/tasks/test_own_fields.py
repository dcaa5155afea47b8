"""Fields of flows in a caller's file: trained, read again by whoever has the file, and what cannot be."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.flows import Exact
from dynamicblocks.tasks import Density, DensityConfig, DensityModel, load_run, own_field
from dynamicblocks.tasks.own_parts import _read

FILE = """
import torch
from torch import nn

class Shifted(nn.Module):
    def __init__(self, features, context=0):
        super().__init__()
        self.net = nn.Linear(features + context + 1, features)

    def forward(self, t, x, context=None):
        parts = [x, t.expand(len(x))[:, None]] + ([] if context is None else [context])
        return self.net(torch.cat(parts, 1))

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, t, x):
        return self.net(x)

class Narrow(nn.Module):
    def forward(self, t, x):
        return x[:, :1]

class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()

class Pixels(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.net = nn.Conv2d(shape[0], shape[0], 3, padding=1)

    def forward(self, t, x):
        return self.net(x)

class Shrinking(nn.Module):
    context_width = 0

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, t, x, context=None):
        return -self.rate * x

    def divergence(self, t, x, context=None):
        return -self.rate * x, (-self.rate * x[0].numel()).expand(len(x))

def slope(t, x):
    return -x
"""
SMALL = ["--data.samples", "60", "--data.steps", "2", "--data.batch_size", "16", "--epochs", "1"]
HERE = ["--hardware.accelerator", "cpu", "--hardware.compile", "false"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setattr("dynamicblocks.tasks.density_pictures.draw_density", lambda *_: [])
    monkeypatch.setattr("dynamicblocks.data.densities.catalogue.DRAWN", (60, 20, 20))
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def train(mine, field, *more):
    where = ["--output", mine.parent / "runs", "--run", "one"]
    flags = ["train", "--task", "density", "--model.field", f"{mine}:{field}", *SMALL, *HERE, *where, *more]
    return code_of(flags)


def code_of(flags):
    try:
        return main([str(flag) for flag in flags])
    except SystemExit as stop:  # of arguments that cannot be
        return stop.code


def test_a_run_is_read_by_whoever_has_the_file(mine, capsys):
    run = mine.parent / "runs" / "one"
    assert train(mine, "Shifted", "--data.context", "label", "--objective", "flow-matching") == 0
    assert str(mine) not in (run / "config.yaml").read_text()
    capsys.readouterr()
    _read.clear()  # as in a process of its own
    with pytest.raises(db.ConfigurationError, match=r"^the run has a field of its own, Shifted"):
        load_run(run)
    sample = ["sample", run, "--number", 3, "--context", "label=1"]
    assert code_of(sample) != 0
    assert "add --task FILE.py:Shifted" in " ".join(capsys.readouterr().err.split())
    assert code_of([*sample, "--task", f"{mine}:Shifted"]) == 0
    assert load_run(run).sample(2, context=[1.0, 0.0]).shape == (2, 2)
    again = ["train", "--config", run / "config.yaml", "--task", f"{mine}:Shifted", "--run", "two"]
    assert code_of([*again, "--output", mine.parent / "runs"]) == 0
    resumed = ["train", "--resume", mine.parent / "runs" / "two", "--task", f"{mine}:Shifted"]
    assert code_of(resumed) == 0
    assert "is finished" in capsys.readouterr().out
    _read.clear()
    mine.write_text(FILE.replace("return -x", "return -2 * x"))
    assert code_of([*sample, "--task", f"{mine}:Shifted"]) != 0
    assert "has changed since" in " ".join(capsys.readouterr().err.split())


def test_its_density_is_that_of_the_same_module_in_python(mine, float64):
    """Of a linear field log p is known up to the solver's tolerance."""
    reference = own_field(f"{mine}:Fixed")
    task = Density(DensityConfig("moons", samples=60), DensityModel(reference, standardise=False), trace="exact")
    torch.manual_seed(0)
    flow = task.build().double().flow
    net, x = flow.transform.field.module.net, torch.randn(5, 2)
    a, b = net.weight, net.bias[:, None]
    moved = torch.linalg.solve(a, torch.linalg.matrix_exp(-a) @ (a @ x.T + b) - b)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(moved.T).sum(1) - a.trace()
    torch.testing.assert_close(flow.log_prob(x), wanted, rtol=0, atol=1e-3)


def test_a_trace_in_closed_form_is_taken_however_many_numbers_there_are(mine):
    given = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    task = Density(DensityConfig(), DensityModel(own_field(f"{mine}:Shrinking"), standardise=False)).with_data(given)
    flow = task.build().flow
    assert isinstance(flow.transform.trace, Exact)
    # What is at x was at x e^{1/2}: the trace is the same everywhere.
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(given * math.exp(0.5)).sum(1) + 150
    torch.testing.assert_close(flow.log_prob(given), wanted, rtol=1e-4, atol=0.01)


def test_images_have_fields_of_their_shape(mine):
    field = DensityModel(own_field(f"{mine}:Pixels"), scales=2)
    net = Density(DensityConfig("digits"), field, trace="hutchinson").build()
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert {each.in_channels for each in convolutions} == {1, 4, 2}


@pytest.mark.parametrize(("field", "more", "said"), [
    ("Narrow", [], "for each number of the state, of shape (4, 2); got (4, 1)"),
    ("Wide", [], "the field Wide cannot be made: "),
    ("slope", [], "is no field: it must be a class of torch modules"),
    ("Shiftd", [], "did you mean 'Shifted'? Known: Fixed, Narrow, Pixels, Shifted, Shrinking, Wide"),
    ("Fixed", ["--data.context", "label"], "the field Fixed takes none"),
    ("Fixed", ["--model.hidden", "8"], "model.hidden"),
    ("Fixed", ["--penalties.hjb", "1"], "hjb is of fields with a potential"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_training(mine, field, more, said, capsys):
    assert train(mine, field, *more) != 0
    heard = " ".join(capsys.readouterr().err.split())
    assert said in heard
    assert "Traceback" not in heard
    assert not list(mine.parent.glob("runs/*/metrics.jsonl"))
