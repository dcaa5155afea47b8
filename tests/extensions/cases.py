"""The extensions by name, with layers that integrators can step, for the tests and the processes that they spawn."""

from contextlib import contextmanager

import torch

import dynamicblocks as db
from dynamicblocks.controls import bases
from dynamicblocks.gradients import gradients
from dynamicblocks.integrators import integrators
from dynamicblocks.layers import layers
from tests.extensions.adams_bashforth import AdamsBashforth
from tests.extensions.gated import Gated
from tests.extensions.leapfrog import Leapfrog
from tests.extensions.learned_multistep import LearnedMultistep
from tests.extensions.quadratic import Quadratic
from tests.extensions.semi_implicit import Damped, SemiImplicit
from tests.extensions.ssprk43 import ssprk43
from tests.extensions.truncated import Truncated
from tests.extensions.verlet import Halves, Verlet

INTEGRATORS = {
    "own_leapfrog": Leapfrog,
    "own_adams_bashforth": AdamsBashforth,
    "learned_multistep": LearnedMultistep,
    "semi_implicit": SemiImplicit,
    "own_verlet": Verlet,
    "ssprk43": ssprk43,
}
WIDTH = 4


def layer(name):
    """A layer of vectors that the integrator of that name can step."""
    return Halves(WIDTH) if name == "own_verlet" else Damped(WIDTH)


def block(name, controls="linear(4)", times="graded(0, 3, steps=7, ratio=3)", gradient="backprop", **choices):
    """A block with an integrator whose weights, if it has any, are not neutral."""
    made = db.DynamicBlock(lambda: layer(name), controls, times, INTEGRATORS[name](), gradient, **choices)
    return moved(made)


def moved(net):
    """The network, in place with other weights of its integrators than those they begin with."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "integrator" in name.split("."):
                weight.copy_(torch.linspace(-0.3, 0.4, weight.numel()))
    return net


def gradients_of(net, y):
    """The output, and the gradients of a loss in which no two entries are alike: of the state, and of the weights."""
    y = y.clone().requires_grad_()
    out = net(y)
    loss = (torch.linspace(1, 2, out.numel()).view_as(out) * out).sum() + out.square().sum()
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    found = torch.autograd.grad(loss, [y, *weights.values()], allow_unused=True)
    return {"output": out.detach(), **dict(zip(["state", *weights], found, strict=True))}


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert (found[name] is None) == (wanted is None), name
        if wanted is not None:
            torch.testing.assert_close(found[name], wanted, rtol=tolerance, atol=tolerance, msg=name)


@contextmanager
def names():
    """All extensions registered for a while."""
    added = [
        (integrators, INTEGRATORS),
        (bases, {"quadratic": Quadratic}),
        (layers, {"gated": Gated}),
        (gradients, {"truncated": Truncated}),
    ]
    for registry, made in added:
        for name, factory in made.items():
            registry.register(name)(factory)
    try:
        yield
    finally:
        for registry, made in added:
            for name in made:
                registry._factories.pop(name)
