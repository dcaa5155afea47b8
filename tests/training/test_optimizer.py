"""Optimisers by name, against PyTorch's and against sums by hand; what becomes of their state when networks change."""

import math
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

import dynamicblocks as db
from dynamicblocks.training import OptimizerConfig, RediscretiseConfig, RefineConfig, TwistConfig
from dynamicblocks.training.config.optimizer import OPTIMIZERS, SCHEDULES
from dynamicblocks.training.network_changes import Rediscretised, Refined, Twisted, _sources
from dynamicblocks.training.optimizer import MAKERS, learning_rate, make_optimizer, set_learning_rate
from dynamicblocks.training.rehearsal import idle_choices
from dynamicblocks.training.storage import read_tree, write_tree
from tests.training.small_task import Small, assert_same, plan, quiet, stopped

NAMES = ("sgd", "muon", "adam", "adamw")


def test_the_table_and_the_configuration_know_the_same_names():
    assert tuple(MAKERS) == tuple(OPTIMIZERS) == NAMES


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
@pytest.mark.parametrize("decay_all", [False, True])
def test_adam_is_that_of_pytorch(name, kind, decay_all, float64):
    """Weights move as under its own, where those of rank 0 and 1 stand in a group without decay."""
    options = {"betas": (0.8, 0.95), "eps": 1e-3}
    config = OptimizerConfig(name=name, lr=0.05, weight_decay=0.3, decay_all=decay_all, **options)

    def trained(make):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        optimizer = make(net)
        for _ in range(4):
            optimizer.zero_grad()
            net(torch.randn(6, 5)).square().sum().backward()
            optimizer.step()
        return net.state_dict()

    def own(net):
        weights = [
            {"params": [weight for weight in net.parameters() if weight.ndim > 1], "weight_decay": 0.3},
            {
                "params": [weight for weight in net.parameters() if weight.ndim <= 1],
                "weight_decay": 0.3 * decay_all,
            },
        ]
        return kind(weights, lr=0.05, **options)

    assert_same(trained(lambda net: make_optimizer(net, config)), trained(own))


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_is_by_default_the_optimisers_own(name):
    usual = 0.1 if name in ("sgd", "muon") else 1e-3
    config = OptimizerConfig(name=name)
    assert config.rate == usual
    assert replace(OptimizerConfig(), name=name).rate == usual
    assert {group["lr"] for group in make_optimizer(nn.Linear(2, 2), config).param_groups} == {usual}
    assert learning_rate(replace(config, warmup=0.0), 0, 10) == usual
    assert OptimizerConfig(name=name, lr=0.02).rate == 0.02
    assert config.settled() == OptimizerConfig(name=name, lr=usual)


def test_a_run_records_the_learning_rate_that_it_had(tmp_path):
    training = quiet(Small(), plan(tmp_path, optimizer=OptimizerConfig(name="adamw"), max_steps=1))
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["optimizer"]
    assert (recorded["name"], recorded["lr"], recorded["betas"]) == ("adamw", 1e-3, [0.9, 0.999])
    assert training.config.optimizer.lr == 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_groups_keep_their_share_of_the_rate(name):
    net = db.create_model("twist_resnet18", width=4)
    optimizer = make_optimizer(net, OptimizerConfig(name=name, lr=0.2, twist_lr=0.05))
    set_learning_rate(optimizer, 0.1)
    twists = {id(weight) for key, weight in net.named_parameters() if key.endswith(".twist")}
    (group,) = [group for group in optimizer.param_groups if {id(weight) for weight in group["params"]} & twists]
    assert {id(weight) for weight in group["params"]} == twists
    assert group["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamm"}, "unknown optimizer.name 'adamm'; did you mean 'adam'"),
        ({"name": "Adam"}, "unknown optimizer.name 'Adam'"),
        ({"schedule": "cosin"}, "unknown optimizer.schedule 'cosin'; did you mean 'cosine'"),
        ({"lr": 0.0}, "optimizer.lr must be above 0"),
        ({"lr": -1.0}, "optimizer.lr must be zero or more and finite, got -1.0"),
        ({"betas": (0.9, 1.0)}, "each of optimizer.betas must be below 1, got 1.0"),
        ({"betas": (-0.1, 0.9)}, "each of optimizer.betas must be zero or more and finite, got -0.1"),
        ({"betas": (0.9,)}, "optimizer.betas must be two numbers"),
        ({"betas": 0.9}, "optimizer.betas must be two numbers"),
        ({"eps": math.nan}, "optimizer.eps must be zero or more and finite"),
        ({"ema": 1.0}, "optimizer.ema must be below 1, got 1.0"),
        ({"ema": -0.5}, "optimizer.ema must be zero or more"),
        ({"accumulate": 0}, "optimizer.accumulate must be a whole number of at least 1, got 0"),
        ({"accumulate": 1.5}, "optimizer.accumulate must be a whole number"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        OptimizerConfig(**options)


@pytest.mark.parametrize(
    ("name", "options", "idle"),
    [
        ("sgd", {"betas": (0.8, 0.9), "eps": 1e-6}, ["betas", "eps"]),
        ("sgd", {"kernel_lr": 0.02, "kernel_decay": 0.1}, ["kernel_lr", "kernel_decay"]),
        ("muon", {"nesterov": False}, ["nesterov"]),
        ("adam", {"nesterov": False, "momentum": 0.5}, ["momentum", "nesterov"]),
        ("adamw", {"kernel_lr": 0.5}, ["kernel_lr"]),
        ("adam", {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1, "decay_all": True, "twist_lr": 0.1}, []),
        ("muon", {"momentum": 0.5, "kernel_lr": 0.02, "kernel_decay": 0.1}, []),
        ("sgd", {"momentum": 0.5, "nesterov": False}, []),
    ],
)
def test_options_that_the_optimiser_does_not_read_are_said(name, options, idle, tmp_path):
    config = plan(tmp_path, optimizer=OptimizerConfig(name=name, **options))
    notes = list(idle_choices(Small().build(), config))
    assert [note.split()[0] for note in notes] == [f"optimizer.{option}" for option in idle]
    assert all(f"does nothing with optimizer.name {name}; it is read by " in note for note in notes)


def test_options_that_the_schedule_does_not_read_are_said():
    assert list(SCHEDULES) == ["cosine", "linear", "steps", "constant", "xexp"]
    (note,) = OptimizerConfig(decay_epochs=(30, 60)).idle()
    assert note == "optimizer.decay_epochs does nothing with optimizer.schedule cosine; it is read by steps"
    assert not list(OptimizerConfig(schedule="steps", decay_epochs=(30, 60)).idle())
    assert len(list(OptimizerConfig(schedule="xexp", warmup=0.3, lr_end=0.1, peak=0.2).idle())) == 1


# Changes of the network


def trained(name, controls="constant", steps=5, **options):
    """A small network after some steps, its optimiser and the loss that it lowers."""
    torch.manual_seed(0)
    net = Small(norm="group", controls=controls, integrator="rk4").build().double()
    settings = OptimizerConfig(name=name, lr=0.01, **options)
    optimizer = make_optimizer(net, settings)
    images, targets = torch.randn(8, 1, 4, 4, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)

    def step(each, its):
        its.zero_grad()
        (each(images) - targets).square().mean().backward()
        gradients = {key: weight.grad.clone() for key, weight in each.named_parameters()}
        its.step()
        return gradients

    for _ in range(steps):
        step(net, optimizer)
    return net, optimizer, settings, step


def changed(net, optimizer, settings, change):
    new = change.apply(net)
    successor = make_optimizer(new, settings)
    change.carry(net, optimizer.state, new, successor.state)
    return new, successor


def parent(name):
    """The weight that one of a piecewise constant network refined by 2 is a copy of."""
    block, within, rest = name.partition(".controls.layers.")
    index, _, weight = rest.partition(".")
    return f"{block}{within}{int(index) // 2}.{weight}" if within else name


def by_hand(name, weight, gradient, state, settings):
    """A weight after its next step."""
    decay = settings.weight_decay if weight.ndim > 1 else 0.0
    if name == "sgd":
        gradient = gradient + decay * weight
        momentum = settings.momentum * state["momentum_buffer"] + gradient
        return weight - settings.lr * (gradient + settings.momentum * momentum)
    (a, b), count = settings.betas, state["step"].item() + 1
    if name == "adam":
        gradient = gradient + decay * weight
    else:
        weight = weight * (1 - settings.lr * decay)
    mean = a * state["exp_avg"] + (1 - a) * gradient
    square = b * state["exp_avg_sq"] + (1 - b) * gradient**2
    root = (square / (1 - b**count)).sqrt() + settings.eps
    return weight - settings.lr * mean / (1 - a**count) / root


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_next_step_after_a_refinement_is_that_of_a_computation_by_hand(name):
    """Copies have the moments of what they are copies of, and the same number of steps behind them."""
    net, optimizer, settings, step = trained(name)
    old = {key: weight.detach().clone() for key, weight in net.named_parameters()}
    states = {
        key: {entry: value.clone() for entry, value in optimizer.state[weight].items()}
        for key, weight in net.named_parameters()
    }
    new, successor = changed(net, optimizer, settings, Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1))
    gradients = step(new, successor)
    assert len(gradients) > len(old)
    for key, weight in new.named_parameters():
        source = parent(key)
        expected = by_hand(name, old[source], gradients[key], states[source], settings)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-14, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_copies_have_the_state_of_their_parents_to_the_last_bit(name):
    net, optimizer, settings, _ = trained(name)
    new, successor = changed(net, optimizer, settings, Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1))
    old = dict(net.named_parameters())
    kept = set()
    for key, weight in new.named_parameters():
        mine, its = successor.state[weight], optimizer.state[old[parent(key)]]
        assert_same(dict(mine), dict(its))
        assert not {value.data_ptr() for value in mine.values()} & {value.data_ptr() for value in its.values()}
        kept |= set(mine)
    assert kept == ({"momentum_buffer"} if name in ("sgd", "muon") else {"exp_avg", "exp_avg_sq", "step"})


CHANGES = [
    ("linear", Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1)),
    ("bspline", Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1)),
    ("legendre", Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1)),
    ("linear(5)", Rediscretised(controls=2, steps=6)),
    ("linear(5)", Rediscretised(controls=3, steps=None)),
    ("constant(4)", Rediscretised(controls=2, steps=None)),
    ("discontinuous_linear", Rediscretised(controls=3, steps=6)),
    ("legendre(4)", Rediscretised(controls=2, steps=None)),
    ("constant", Rediscretised(controls=None, steps=6)),
]


@pytest.mark.parametrize(("controls", "change"), CHANGES, ids=str)
def test_moments_under_any_linear_map(controls, change):
    """First moments move as weights; second moments stay positive and in the range of those that they come from."""
    net, optimizer, settings, step = trained("adam", controls)
    lengths = [  # of a step along the moments, for each old weight
        (optimizer.state[weight]["exp_avg"].abs() / optimizer.state[weight]["exp_avg_sq"].sqrt()).max().item()
        for weight in net.parameters()
    ]
    new, successor = changed(net, optimizer, settings, change)
    old, sources = dict(net.named_parameters()), _sources(net, new)
    assert set(sources) == {key for key, _ in new.named_parameters()}
    for key, weight in new.named_parameters():
        shares = sources[key]
        mine, its = successor.state[weight], {source: optimizer.state[old[source]] for source in shares}
        # The shares are those by which the weights themselves were combined.
        expected = sum(share * old[source].detach() for source, share in shares.items())
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-10, atol=1e-12, msg=key)
        expected = sum(share * its[source]["exp_avg"] for source, share in shares.items())
        torch.testing.assert_close(mine["exp_avg"], expected, rtol=1e-10, atol=1e-12, msg=key)
        squares = torch.stack([state["exp_avg_sq"] for state in its.values()])
        assert (mine["exp_avg_sq"] >= squares.amin(dim=0) * (1 - 1e-12)).all(), key
        assert (mine["exp_avg_sq"] <= squares.amax(dim=0) * (1 + 1e-12)).all(), key
        assert mine["step"].item() == 5
        length = (mine["exp_avg"].abs() / mine["exp_avg_sq"].sqrt()).max().item()
        assert length <= max(lengths) * sum(map(abs, shares.values())) * (1 + 1e-10), key
    step(new, successor)
    assert all(torch.isfinite(weight).all() for weight in new.parameters())


def test_a_projection_has_shares_below_zero():
    """So the test above meets them: mapped as weights are, second moments would be negative."""
    net = trained("adam", "linear(5)", steps=0)[0]
    change = Rediscretised(controls=3, steps=None)
    new = change.apply(net)
    shares = [share for origins in _sources(net, new).values() for share in origins.values()]
    assert min(shares) < -0.05


def test_blocks_inside_the_layers_of_a_block_are_combined_too():
    torch.manual_seed(0)
    inner = db.DynamicBlock("symmetric(2)", "linear(3)", times=4)
    net = nn.Sequential(db.DynamicBlock(inner, "linear(2)", times=2)).double()
    settings = OptimizerConfig(name="adam")
    optimizer = make_optimizer(net, settings)
    net(torch.randn(2, 2, 4, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    change = Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1)
    new, successor = changed(net, optimizer, settings, change)
    old = dict(net.named_parameters())
    for key, weight in new.named_parameters():
        shares = _sources(net, new)[key]
        expected = sum(share * old[source].detach() for source, share in shares.items())
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-10, atol=1e-12, msg=key)
        assert (successor.state[weight]["exp_avg_sq"] >= 0).all()
    assert max(map(len, _sources(net, new).values())) == 4


@pytest.mark.parametrize("name", NAMES)
def test_controls_that_never_moved_do_not_water_the_moments_of_others_down(name):
    """One of two controls was frozen: what lies between has the second moment of the other, and its number of steps."""
    net, optimizer, settings, _ = trained(name, "linear(3)", steps=0)
    frozen = [weight for key, weight in net.named_parameters() if ".controls.layers.2." in key]
    for weight in frozen:
        weight.requires_grad_(False)
    optimizer = make_optimizer(net, settings)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 1, 4, 4, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    for weight in frozen:
        weight.requires_grad_(True)
    new, successor = changed(net, optimizer, settings, Refined(RefineConfig(epochs=(1,)), seed=0, epoch=1))
    weights, old = dict(new.named_parameters()), dict(net.named_parameters())
    begun = {key for key, weight in weights.items() if weight in successor.state}
    assert {key for key in weights if ".controls.layers.4." in key} == set(weights) - begun
    key = next(key for key in weights if ".controls.layers.3." in key)
    between, beside = successor.state[weights[key]], optimizer.state[old[key.replace("layers.3", "layers.1")]]
    first = "momentum_buffer" if name in ("sgd", "muon") else "exp_avg"
    torch.testing.assert_close(between[first], beside[first] / 2, rtol=1e-12, atol=0)
    if name in ("adam", "adamw"):
        assert torch.equal(between["exp_avg_sq"], beside["exp_avg_sq"])
        assert between["step"].item() == 3


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_twist_begins_anew_beside_weights_that_go_on(name):
    net, optimizer, settings, step = trained(name)
    change = Twisted(TwistConfig(parametrisation="vector", epoch=1))
    new, successor = changed(net, optimizer, settings, change)
    step(net, optimizer)
    step(new, successor)
    old, twists = dict(net.named_parameters()), 0
    for key, weight in new.named_parameters():
        if key.endswith(".twist"):
            assert successor.state[weight]["step"].item() == 1
            twists += 1
        else:
            # A twist of zero changes no gradient of theirs.
            torch.testing.assert_close(weight, old[key], rtol=1e-9, atol=1e-10, msg=key)
            assert successor.state[weight]["step"].item() == 6
    assert twists


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_states_are_stored_and_read_to_the_last_bit(name, tmp_path):
    net, optimizer, settings, step = trained(name)
    write_tree(tmp_path / "state", {"optimizer": optimizer.state_dict(), "weights": net.state_dict()})
    stored = read_tree(tmp_path / "state")
    other = Small(norm="group", integrator="rk4").build().double()
    other.load_state_dict(stored["weights"])
    successor = make_optimizer(other, settings)
    successor.load_state_dict(stored["optimizer"])
    for mine, its in zip(net.parameters(), other.parameters(), strict=True):
        assert_same(dict(optimizer.state[mine]), dict(successor.state[its]))
    step(net, optimizer)
    step(other, successor)
    assert_same(net.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("adam", {"refine": RefineConfig(epochs=(1,), variance=0.01)}),
        ("adamw", {"rediscretise": RediscretiseConfig(epochs=(1,), controls=(3,), steps=(3,))}),
        ("muon", {"twist": TwistConfig(parametrisation="vector", epoch=1)}),
    ],
)
def test_a_run_stopped_after_a_change_goes_on_to_the_same_weights(name, changes, tmp_path, monkeypatch):
    task, optimizer = Small(), OptimizerConfig(name=name)
    whole = quiet(task, plan(tmp_path, "whole", optimizer=optimizer, **changes))
    whole.run()
    config = plan(tmp_path, "broken", optimizer=optimizer, checkpoint_steps=1, **changes)
    stopped(task, config, 6 + 2, monkeypatch)
    resumed = quiet(task, config, resume=tmp_path / "broken")
    assert (resumed.state.epoch, resumed.state.step) == (1, 2)
    assert resumed.state.grown
    resumed.run()
    one, other = (read_tree(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "broken"))
    for key in ("weights", "optimizer", "sums", "random"):
        assert_same(one[key], other[key])
