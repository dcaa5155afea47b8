"""Whole networks refined, projected, and given other integrators and grids."""

import pytest
import torch

import dynamicblocks as db


def trained_like(net):
    """Give running statistics and weights values of their own, as a training would."""
    for _ in range(3):
        net(torch.randn(8, 3, 12, 12))
    return net.eval()


@pytest.mark.parametrize("controls", ["constant", "linear"])
@pytest.mark.parametrize("integrator", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("factor", [2, 3])
def test_doubled_controls_on_the_same_grid_are_the_same_function(controls, integrator, factor, float64):
    net = db.create_model("dynamicnet", widths=(4, 8), units=3, controls=controls, integrator=integrator)
    trained_like(net)
    finer = db.refine(net, factor, steps=False)
    images = torch.randn(4, 3, 12, 12)
    assert [len(block.controls) for block in finer.blocks] == [3 * factor + (controls == "linear")] * 2
    assert [block.steps for block in finer.blocks] == [3, 3]
    torch.testing.assert_close(finer(images), net(images), rtol=1e-12, atol=1e-12)


def test_refining_in_depth_doubles_the_steps_and_leaves_the_original_alone():
    net = db.create_model("dynamicnet", widths=(4,), units=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    finer = db.refine(net)
    assert finer.blocks[0].steps == 6
    assert finer.blocks[0].times.span == net.blocks[0].times.span
    finer(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (db.PiecewiseConstant(3), db.PiecewiseConstant(6)),
        (db.PiecewiseConstant(3), db.PiecewiseConstant(knots=(0, 0.4, 1, 1.7, 2, 3))),
        (db.PiecewiseLinear(4), db.PiecewiseLinear(7)),
        (db.PiecewiseLinear(4), db.PiecewiseLinear(knots=(0, 0.4, 1, 1.7, 2, 3))),
    ],
)
@pytest.mark.parametrize("integrator", ["euler", "rk4_classic"])
def test_projection_onto_a_basis_that_contains_the_old_is_exact(old, new, integrator, float64):
    net = db.create_model("dynamicnet", widths=(4, 8), units=3, controls=old, steps=6, integrator=integrator)
    trained_like(net)
    projected = db.project(net, new)
    images = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(projected(images), net(images), rtol=1e-12, atol=1e-12)
    back = db.project(projected, old)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=1e-12, atol=1e-12)


def test_projected_variances_are_positive():
    net = db.create_model("dynamicnet", widths=(4,), units=4)
    for index, layer in enumerate(net.blocks[0].controls.layers):
        layer.norm1.running_var.fill_(1e-6 if index % 2 else 10.0)
    smooth = db.project(net, db.PiecewiseLinear(3))
    variances = [tensor for name, tensor in smooth.state_dict().items() if name.endswith("running_var")]
    assert all((variance > 0).all() for variance in variances)


def test_more_and_fewer_steps():
    net = db.create_model("dynamicnet", widths=(4, 8), units=4)
    assert [b.steps for b in db.with_integrator(net, "rk4", steps=16).blocks] == [16, 16]
    assert [b.steps for b in db.with_integrator(net, steps_per_control=3).blocks] == [12, 12]
    assert [b.steps for b in db.with_integrator(net, steps_factor=2).blocks] == [8, 8]
    assert [b.integrator.name for b in db.with_integrator(net, steps=2).blocks] == ["euler", "euler"]
    assert db.with_integrator(net, times=(0, 1, 4)).blocks[0].times.sizes == (1.0, 3.0)
    assert net.evaluations == 8
    assert db.with_integrator(net, "rk4", steps=16).evaluations == 128


def test_a_smooth_field_loses_less_when_the_order_is_higher(float64):
    """More steps of the same theta(t) converge at the order of the integrator, whatever trained it."""
    block = db.DynamicBlock("preact_single(4, norm='none', activation='tanh')", "linear(2)", 1)
    y = torch.randn(2, 4, 6, 6)
    reference = db.with_integrator(block, "rk4", steps=256)(y)
    for integrator, order in (("euler", 1), ("midpoint", 2)):
        errors = [(db.with_integrator(block, integrator, steps=n)(y) - reference).norm().item() for n in (32, 64)]
        assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_unused_controls_are_named_frozen_and_freed():
    net = db.create_model("dynamicnet", widths=(4, 8), controls="linear", units=2)
    assert db.freeze_unused_controls(net) == ["body.0.controls.layers.2", "body.2.controls.layers.2"]
    assert not any(weight.requires_grad for weight in net.body[0].controls.layers[2].parameters())
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters() if weight.requires_grad)

    heun = db.with_integrator(net, "heun2")
    assert db.freeze_unused_controls(heun) == []
    assert all(weight.requires_grad for weight in heun.parameters())

    chosen = net.body[0].controls.layers[0].requires_grad_(False)
    db.freeze_unused_controls(net)
    assert not any(weight.requires_grad for weight in chosen.parameters())


def test_a_single_block_is_a_network_too():
    block = db.DynamicBlock("symmetric(4)", 3)
    assert db.refine(block).steps == 6
    assert db.freeze_unused_controls(db.DynamicBlock("symmetric(4)", "linear(3)")) == ["controls.layers.2"]


def test_models_by_name():
    assert {"dynamicblocks_rk4", "resnet20", "resnet110"} <= set(db.list_models())
    with pytest.raises(db.ConfigurationError, match="did you mean 'resnet20'"):
        db.create_model("resnt20")
    with pytest.raises(db.ConfigurationError, match=r"did you mean 'unit'.*shortcut"):
        db.create_model("resnet20", units="e")
    with pytest.raises(db.ConfigurationError, match=r"6 n \+ 2"):
        db.create_model("resnet", depth=21)
    with pytest.raises(db.ConfigurationError, match="unknown connector 'poled'; did you mean 'pooled'"):
        db.create_model("dynamicnet", connector="poled")
    with pytest.raises(db.ConfigurationError, match="widths must be a list of whole numbers"):
        db.create_model("dynamicnet", widths=())


@pytest.mark.parametrize("connector", ["pooled", "residual"])
@pytest.mark.parametrize("pool", ["average", "max", "none"])
def test_connectors_change_sizes(connector, pool):
    net = db.create_model("dynamicnet", widths=(4, 8), connector=connector, pool=pool)
    size = net.body[1](net.body[0](net.opening(torch.randn(1, 3, 8, 8)))).shape
    assert size == ((1, 8, 8, 8) if (connector, pool) == ("pooled", "none") else (1, 8, 4, 4))


@pytest.mark.parametrize("shortcut", ["padding", "convolution", "convolution_norm"])
def test_residual_connector_with_a_silent_branch_is_its_shortcut(shortcut):
    connector = db.ResidualConnector(4, 6, shortcut=shortcut, unit="e").eval()
    torch.nn.init.zeros_(connector.branch.conv2.weight)
    y = torch.randn(2, 4, 6, 6)
    out = connector(y)
    assert torch.equal(out, connector.shortcut(y))
    if shortcut == "padding":
        assert torch.equal(out[:, 1:5], y[:, :, ::2, ::2])
        assert out[:, [0, 5]].abs().sum() == 0


def test_networks_of_ones_own_layers():
    net = db.create_model("dynamicnet", widths=(4, 8), layer=lambda width: torch.nn.Conv2d(width, width, 1))
    assert [block.controls.layers[0].out_channels for block in net.blocks] == [4, 8]


def test_bad_connectors():
    with pytest.raises(db.ConfigurationError, match="unknown shortcut"):
        db.ResidualConnector(4, 8, shortcut="none")
    with pytest.raises(db.ConfigurationError, match="cannot lower 8 channels to 4"):
        db.ResidualConnector(8, 4, shortcut="padding")
    with pytest.raises(db.ConfigurationError, match="unknown pooling 'avg'"):
        db.PooledConnector(4, 8, pool="avg")


def test_an_integrator_that_the_gradient_mode_cannot_run_gets_backpropagation_with_a_warning():
    net = torch.nn.Sequential(db.DynamicBlock("symmetric(4)", 2, integrator="alf", gradient="reversible"))
    with pytest.warns(UserWarning, match="cannot run rk4: the gradients are those of 'backprop' now"):
        other = db.with_integrator(net, "rk4")
    assert other[0].gradient == db.Backprop()
    assert db.with_integrator(net, "reversible_heun")[0].gradient == db.Reversible()
    assert db.with_integrator(net, steps_factor=2)[0].gradient == db.Reversible()
