"""Compiled networks: one graph, the same numbers, statistics moved once."""

import copy

import pytest
import torch

import dynamicblocks as db


def make_net(controls, gradient, norm, widths=(4,), steps=2):
    return db.create_model(
        "dynamicnet",
        widths=widths,
        units=2,
        steps=steps,
        controls=controls,
        integrator="midpoint",
        gradient=gradient,
        norm=norm,
        layer="preact_single",
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", ["batch", "group(groups=2)", "tv"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("controls", ["constant", "linear"])
def test_compiled_equals_eager(controls, gradient, norm, training):
    check_compiled(make_net(controls, gradient, norm).train(training), training)


@pytest.mark.parametrize("controls", ["legendre(3)", "bspline(4)"])
def test_compiled_equals_eager_where_many_controls_are_blended(controls):
    check_compiled(make_net(controls, "backprop", "batch").train(), training=True)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("controls", ["constant", "linear"])
def test_compiled_equals_eager_with_two_blocks_and_more_steps(controls, gradient):
    """Steps that end inside control intervals, so that blended stages occur in every block."""
    check_compiled(make_net(controls, gradient, "batch", widths=(4, 8), steps=3).train(), training=True)


def check_compiled(net, training):
    torch._dynamo.reset()
    twin = copy.deepcopy(net)
    images = torch.randn(4, 3, 8, 8)

    eager = net(images)
    eager.square().sum().backward()
    compiled = torch.compile(twin, fullgraph=True)(images)
    compiled.square().sum().backward()

    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    for (name, weight), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if weight.grad is not None:
            scale = weight.grad.abs().max().clamp(min=1)
            torch.testing.assert_close(other.grad / scale, weight.grad / scale, rtol=1e-5, atol=1e-5, msg=name)
    for (name, buffer), other in zip(net.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, rtol=1e-5, atol=1e-5, msg=name)
    counted = [b.item() for name, b in twin.named_buffers() if name.endswith("num_batches_tracked")]
    assert not training or all(count > 0 for count in counted)
