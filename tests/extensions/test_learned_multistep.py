"""An integrator with weights: whose they are, what becomes of them, and how they are trained, stored and read."""

import io
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from rich.console import Console
from torch import nn

import dynamicblocks as db
from dynamicblocks.structure import discretisation, with_discretisation
from dynamicblocks.tasks import DataConfig, ModelConfig, load_run
from dynamicblocks.training import OptimizerConfig, RefineConfig, Training
from tests.extensions.cases import moved
from tests.extensions.learned_multistep import LearnedMultistep
from tests.extensions.worker import CHOICES, data, network, train, trained, work
from tests.trainings import classification


def net_of_two(integrator="euler", **options):
    choices = {"in_channels": 1, "num_classes": 3, "widths": (2, 4), "units": 3, "norm": "tv", **options}
    return db.create_model("dynamicnet", integrator=integrator, **choices)


def weights_of(net):
    return {name: weight for name, weight in net.named_parameters() if ".integrator." in name}


IMAGES = torch.linspace(-1, 1, 2 * 36).view(2, 1, 6, 6)


def test_each_block_has_an_instance_of_its_own():
    given = LearnedMultistep(torch.tensor([0.5]))
    for net in (net_of_two(given), db.with_integrator(net_of_two(), given)):
        assert list(weights_of(net)) == ["body.0.integrator.k", "body.2.integrator.k"]
        for block in net.blocks:
            assert block.integrator is not given
            assert torch.equal(block.integrator.k, torch.zeros(3))
        assert net.blocks[0].integrator is not net.blocks[1].integrator
    longer = db.with_integrator(net_of_two(), given, steps=5)
    assert [len(block.integrator.k) for block in longer.blocks] == [5, 5]


def test_at_first_it_is_euler():
    net = net_of_two()
    other = db.with_integrator(net, LearnedMultistep())
    assert torch.equal(other(IMAGES), net(IMAGES))
    moved(other)
    assert not torch.equal(other(IMAGES), net(IMAGES))


@pytest.mark.filterwarnings("ignore:weights of the integrators")
def test_weights_have_the_type_of_the_network():
    net = net_of_two().double()
    assert db.with_integrator(net, LearnedMultistep()).blocks[0].integrator.k.dtype == torch.float64
    assert net_of_two(LearnedMultistep()).double().blocks[0].integrator.k.dtype == torch.float64
    longer = db.with_integrator(net_of_two(LearnedMultistep()).double(), LearnedMultistep(), steps=5)
    assert longer.blocks[0].integrator.k.dtype == torch.float64


def test_replacing_it_warns_and_names_what_is_dropped():
    net = moved(net_of_two(LearnedMultistep()))
    for change in ({"integrator": "midpoint"}, {"steps": 4}, {"integrator": LearnedMultistep()}):
        with pytest.warns(UserWarning, match=r"body\.0\.integrator\.k, body\.2\.integrator\.k") as seen:
            other = db.with_integrator(net, **change)
        assert len(seen) == 1
        assert seen[0].filename == __file__
        assert all(not weight.any() for weight in weights_of(other).values())


def test_what_keeps_it_does_not_warn():
    net = moved(net_of_two(LearnedMultistep()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (
            db.with_gradient(net, "checkpoint"),
            db.project(net, "constant(2)"),
            db.refine(net, steps=False),
        ):
            for name, weight in weights_of(other).items():
                assert torch.equal(weight, weights_of(net)[name])
        for other in (db.refine(net), db.with_integrator(net, steps_factor=2)):
            for name, weight in weights_of(other).items():
                assert torch.equal(weight, weights_of(net)[name].repeat_interleave(2))
        db.with_integrator(net_of_two(), "midpoint")


def test_a_network_and_its_copies_share_no_weights():
    net = moved(net_of_two(LearnedMultistep()))
    for other in (db.with_gradient(net, "checkpoint"), db.project(net, "constant(2)"), db.refine(net, steps=False)):
        assert not {id(weight) for weight in other.parameters()} & {id(weight) for weight in net.parameters()}
    block = net.blocks[0]
    assert block.replaced(gradient="checkpoint").integrator is block.integrator


def test_weights_that_no_step_reads_are_frozen():
    net = net_of_two(LearnedMultistep(), units=1, controls="constant")
    assert db.freeze_unused_controls(net) == ["body.0.integrator.k", "body.2.integrator.k"]
    assert not any(weight.requires_grad for weight in weights_of(net).values())
    finer = db.refine(net)
    assert db.freeze_unused_controls(finer) == []
    assert all(weight.requires_grad for weight in weights_of(finer).values())
    assert db.freeze_unused_controls(net_of_two(LearnedMultistep())) == []


@pytest.mark.usefixtures("registered")
def test_weights_are_in_the_file_under_their_block():
    net = moved(db.refine(net_of_two("learned_multistep")))
    assert {name for name in net.state_dict() if "integrator" in name} == set(weights_of(net))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = with_discretisation(net_of_two(), discretisation(net))
    assert other.load_state_dict(torch.load(file), strict=True).missing_keys == []
    assert torch.equal(other(IMAGES), net(IMAGES))


def test_a_network_that_cannot_be_read_back_is_refused():
    """Without a name nothing could make its integrator."""
    with pytest.raises(db.ConfigurationError, match="learned_multistep"):
        discretisation(net_of_two(LearnedMultistep()))


def test_coefficients_are_found_again_from_outputs(float64):
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 4, 4, LearnedMultistep())
    block.controls.requires_grad_(False)
    wanted = torch.tensor([0.0, 0.3, -0.2, 0.4])
    y = torch.randn(32, 3)
    with torch.no_grad():
        block.integrator.k.copy_(wanted)
        target = block(y)
        block.integrator.k.zero_()
    optimizer = torch.optim.LBFGS([block.integrator.k], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (block(y) - target).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(block.integrator.k.detach(), wanted, rtol=0, atol=1e-3)


# Training


def config(tmp_path, **changes):
    model = ModelConfig("dynamicnet", widths=(4, 4), units=2, layer="gated", integrator="learned_multistep")
    optimizer = OptimizerConfig(lr=0.05, warmup=0.0, schedule="constant")
    given = {"model": model, "optimizer": optimizer, "epochs": 2, "max_steps": 5, "output": str(tmp_path), "run": "run"}
    return classification(**{"data": DataConfig(batch_size=512), **given, **changes})


def quiet(*arguments, **keywords):
    return Training(*arguments, console=Console(quiet=True), **keywords)


@pytest.fixture
def _names_dropped():
    """The networks under other integrators, at the end of a training, are without these weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="weights of the integrators")
        yield


@pytest.mark.usefixtures("registered", "_names_dropped")
def test_a_training_stores_reads_and_resumes_them(tmp_path):
    whole = quiet(*config(tmp_path, run="whole"))
    outcome = whole.run()
    trained_weights = weights_of(outcome.net)
    assert all(weight.any() for weight in trained_weights.values())
    net = load_run(tmp_path / "whole").net
    for name, weight in weights_of(net).items():
        assert torch.equal(weight, trained_weights[name])
    stopped = quiet(*config(tmp_path, run="stopped", checkpoint_steps=1))
    step, done = stopped._step, []

    def interrupted(batch):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        step(batch)

    stopped._step = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = quiet(*config(tmp_path, run="stopped", checkpoint_steps=1), resume=tmp_path / "stopped").run()
    for name, weight in outcome.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], weight), name


@pytest.mark.usefixtures("registered", "_names_dropped")
def test_a_training_in_which_depth_grows(tmp_path):
    growing = quiet(*config(tmp_path, refine=RefineConfig(epochs=(1,)), keep="last"))
    outcome = growing.run()
    assert {name: len(weight) for name, weight in weights_of(outcome.net).items()} == {
        "body.0.integrator.k": 4,
        "body.2.integrator.k": 4,
    }
    net = load_run(tmp_path / "run").net
    for name, weight in outcome.net.state_dict().items():
        assert torch.equal(net.state_dict()[name], weight), name


@pytest.mark.usefixtures("registered")
def test_the_end_of_a_training_is_no_reason_for_warnings(tmp_path):
    """Its own networks under other integrators are there to be compared; nobody loses weights by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(*config(tmp_path, max_steps=1)).run()


def test_two_processes_train_as_one(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for n, choice in enumerate(CHOICES):
        net = network(*choice)
        train(net, data())
        expected = trained(net)
        if choice[0] == "learned_multistep":
            assert expected["0.integrator.k"][1:].all()
            assert "gradient of 2.integrator.k" not in expected
        for found in ranks:
            assert found[n].keys() == expected.keys()
            for name, wanted in expected.items():
                torch.testing.assert_close(found[n][name], wanted, rtol=1e-12, atol=1e-12, msg=f"{choice}: {name}")
