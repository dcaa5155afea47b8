"""Derivatives of blocks carried forward, against differences, and against those carried backward."""

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

import dynamicblocks as db

BLOCKS = {
    "euler": ("symmetric(4)", {}),
    "rk4": ("antisymmetric(4)", {"integrator": "rk4"}),
    "linear controls": ("symmetric(4)", {"integrator": "midpoint", "controls": "linear(2)"}),
    "halves": ("hamiltonian(4)", {"integrator": "verlet"}),
    "two steps": ("symmetric(4)", {"integrator": "leapfrog"}),
    "normalised": ("preact_double(4)", {"integrator": "heun2"}),
    "checkpoint": ("symmetric(4)", {"integrator": "rk4", "gradient": "checkpoint"}),
    "adaptive": ("symmetric(4)", {"integrator": "dopri5(rtol=1e-9, atol=1e-9)"}),
}


def made(name, **more):
    layer, keywords = BLOCKS[name]
    return db.DynamicBlock(layer, **{"times": 3, "controls": 3, **keywords, **more}).eval()


def inputs(block):
    x, params = torch.randn(2, 4, 5, 5), {name: each.detach() for name, each in block.named_parameters()}
    return (x, params), (torch.randn_like(x), {name: torch.randn_like(each) for name, each in params.items()})


@pytest.mark.parametrize("name", BLOCKS)
def test_state_and_weights(name, float64):
    block = made(name)
    (x, params), (v, along) = inputs(block)
    function = lambda x, params: functional_call(block, params, (x,))  # noqa: E731
    value, found = jvp(function, (x, params), (v, along))
    torch.testing.assert_close(value, block(x), rtol=1e-12, atol=1e-12)
    if name != "adaptive":  # whose steps change with the weights
        h = 1e-6
        there, back = (
            function(x + step * v, {key: each + step * along[key] for key, each in params.items()}) for step in (h, -h)
        )
        torch.testing.assert_close(found, (there - back) / (2 * h), rtol=1e-6, atol=1e-6)
    w = torch.randn_like(value)
    by_x, by_params = vjp(function, x, params)[1](w)
    dual = (by_x * v).sum() + sum((by_params[key] * along[key]).sum() for key in along)
    torch.testing.assert_close((w * found).sum(), dual, rtol=1e-9, atol=1e-9)


def test_levels_of_forward_ad_and_jacobians(float64):
    block = made("rk4")
    (x, _), (v, _) = inputs(block)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(block(forward_ad.make_dual(x, v))).tangent
    torch.testing.assert_close(found, jvp(block, (x,), (v,))[1])
    small = torch.randn(2, 1, 4, 2, 2)
    each = torch.stack([jacrev(block)(part) for part in small])
    torch.testing.assert_close(vmap(jacfwd(block))(small), each)


@pytest.mark.parametrize("name", ["rk4", "checkpoint"])
def test_a_loss_that_holds_a_forward_derivative(name, float64):
    block = made(name)
    (x, params), (v, along) = inputs(block)

    def loss(params):
        return jvp(lambda x: functional_call(block, params, (x,)), (x,), (v,))[1].square().sum()

    found, h = grad(loss)(params), 1e-6
    there, back = (loss({key: each + step * along[key] for key, each in params.items()}) for step in (h, -h))
    slope = sum((found[key] * along[key]).sum() for key in along)
    torch.testing.assert_close(slope, (there - back) / (2 * h), rtol=1e-6, atol=1e-6)


def test_a_compiled_block_runs_as_it_is_there(float64):
    block, plain = made("euler", compile=True), made("euler")
    plain.load_state_dict(block.state_dict())
    (x, _), (v, _) = inputs(block)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(jvp(block, (x,), (v,)), jvp(plain, (x,), (v,)))


@pytest.mark.parametrize("more", [
    {"gradient": "adjoint"}, {"gradient": "reversible", "integrator": "alf"}, {"integrator": "implicit_euler"},
    {"gradient": "adjoint", "integrator": "dopri5(rtol=1e-3)"},
    {"gradient": "checkpoint", "integrator": "dopri5(rtol=1e-3)"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("of", ["state", "weights"])
def test_what_has_no_forward_derivatives_says_so(more, of):
    block = made("rk4", **more)
    (x, params), (v, along) = inputs(block)
    function, at, to = (block, x, v) if of == "state" else (lambda p: functional_call(block, p, (x,)), params, along)
    with pytest.raises(db.ConfigurationError, match="forward mode"):
        jvp(function, (at,), (to,))
