"""Other integrators are shown beside that of a training where they solve the same equation, and else it is said."""

import json

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis.compression import integrators_for
from dynamicblocks.cli.main import main
from dynamicblocks.integrators import FIRST_ORDER, as_integrator
from dynamicblocks.training.manifestations import caveat, comparable, own_integrator

NAMES, FACTORS = ("euler", "midpoint"), (1, 2)


def net_of(*blocks):
    return db.DynamicNet(nn.Identity(), list(blocks), nn.Identity())


def block(layer, integrator):
    return db.DynamicBlock(layer, 3, integrator=integrator)


@pytest.mark.parametrize(
    ("layer", "integrator", "others"),
    [
        ("symmetric(4)", "euler", 1),
        ("symmetric(4)", "two_step_midpoint", 2),
        ("hamiltonian(4)", "verlet", 2),
        ("semi_implicit(4)", "imex(balanced=True)", 2),
        ("symmetric(4)", "lm(scaled=True)", 2),
        ("symmetric(4)", "leapfrog", 0),
        ("symmetric(4)", "leapfrog('equal')", 0),
        ("symmetric(4)", "lm", 0),
        ("symmetric(4)", "momentum(gamma=0.5)", 0),
        ("semi_implicit(4)", "imex", 0),
        ("semi_implicit(4)", "imex(norm=True)", 0),
    ],
)
def test_methods_of_the_same_equation_are_shown(layer, integrator, others):
    net = net_of(block(layer, integrator))
    own = net.blocks[0].integrator.shorthand
    names, factors = comparable(net, NAMES, FACTORS)
    assert own in names
    assert len(names) == 1 + others
    assert tuple(factors) == FACTORS
    assert (caveat(net, names) == "") == (others > 0)
    if not others:
        assert "nother function" in caveat(net, [*names, "euler"])


def test_a_method_is_of_another_equation_exactly_if_its_solutions_are(float64):
    """Of y' = -y by ever shorter steps."""
    for name in ("euler", "rk4", "two_step_midpoint", "leapfrog", "lm(initial=0.5)", "lm(initial=0.5, scaled=True)"):
        method = as_integrator(name)
        if isinstance(method, nn.Module):
            method = method.for_block(4000, None)
        carry = method.start(lambda t, y: -y, 0.0, 1 / 4000, torch.ones(1))
        for step in range(4000):
            carry = method.step(lambda t, y: -y, step / 4000, 1 / 4000, carry)
        solves = abs(method.finish(carry).item() - torch.tensor(-1.0).exp().item()) < 1e-3
        assert solves == (method.equation == FIRST_ORDER), name


def test_a_network_of_so_many_steps_is_shown_with_those_alone():
    net = net_of(block("symmetric(4)", "leapfrog('zero')"))
    assert comparable(net, NAMES, FACTORS) == (["leapfrog('zero')"], [1])
    assert "other steps" in caveat(net, ["leapfrog('zero')"])


def test_several_integrators_are_one_row():
    net = net_of(block("symmetric(4)", "euler"), block("symmetric(4)", "midpoint"))
    assert own_integrator(net) == "euler, midpoint"
    assert comparable(net, NAMES, FACTORS) == (["euler, midpoint", *NAMES], FACTORS)
    mixed = net_of(block("symmetric(4)", "euler"), block("symmetric(4)", "leapfrog"))
    assert comparable(mixed, NAMES, FACTORS)[0] == ["euler, leapfrog"]
    assert comparable(net_of(), NAMES, FACTORS)[0] == []
    assert caveat(net_of(), []) == ""


def test_compression_tries_the_own_integrator_too():
    assert "leapfrog" in integrators_for(block("symmetric(4)", "leapfrog"))
    for other in ("euler", "lm", "leapfrog('zero')", "dopri5"):
        assert integrators_for(block("symmetric(4)", other)) == integrators_for(block("symmetric(4)", "euler"))


def test_commands_say_what_is_another_function(tmp_path, capsys):
    model = ["--model.name", "lm_resnet", "--model.depth", "20", "--model.widths", "[4,4,4]"]
    short = ["--epochs", "1", "--max_steps", "1", "--optimizer.warmup", "0", "--output", str(tmp_path), "--run", "lm"]
    run = str(tmp_path / "lm")
    assert main(["train", *model, *short, "--table", "full"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Trained as (1 + k) y' = f(t, y), which other integrators do not solve." in out
    assert "--integrator rk4" not in out
    result = json.loads((tmp_path / "lm" / "result.json").read_text())
    assert len(result["manifestations"]) == 3
    assert result["manifestations"][0]["accuracy"] == pytest.approx(result["test_accuracy"])
    assert main(["converge", run, "--factors", "[1]"]) == 0
    found = json.loads((tmp_path / "lm" / "convergence.json").read_text())["runs"][0]["manifestations"]
    assert [each["accuracy"] for each in found] == [pytest.approx(result["test_accuracy"])]  # with the trained k
    assert main(["evaluate", run, "--integrator", "euler"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "nothing reads body.0.integrator.k" in out
    assert "Another function of the same weights: euler." in out
