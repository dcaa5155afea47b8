"""The way back as a function: of reversible networks, and of blocks whose integrators are taken back from the state."""

import pytest
import torch
from torch import nn

import dynamicblocks as db


class Parts(nn.Module):
    """A layer for couplings, with a statistic and a time."""

    parts = {"field": "forward", "first": "first", "second": "second"}  # noqa: RUF012

    def __init__(self, out=2):
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(2, out), nn.Linear(2, out), nn.BatchNorm1d(2)

    def first(self, t, z):
        return torch.tanh(self.one(self.norm(z))) * (1 + t)

    def second(self, t, y):
        return torch.sin(self.two(y))

    def forward(self, t, y):
        a, b = y.chunk(2, 1)
        return torch.cat((self.first(t, b), self.second(t, a)), 1)


BLOCKS = {
    "additive_coupling": Parts,
    "affine_coupling": lambda: Parts(4),
    "affine_coupling(bound=1.0)": lambda: Parts(4),
    "symplectic_euler": Parts,
    "verlet": Parts,
}


@pytest.mark.parametrize("gradient", ["reversible", "backprop", "checkpoint"])
@pytest.mark.parametrize("integrator", BLOCKS)
def test_blocks_come_back_in_training_with_gradients(integrator, gradient):
    torch.manual_seed(0)
    times = db.graded(0, 2, steps=12, ratio=2)
    block = db.DynamicBlock(BLOCKS[integrator], "linear(4)", times, integrator, gradient).double()
    x = torch.randn(6, 4).double()
    y = block(x)
    statistics = [buffer.clone() for buffer in block.buffers()]
    y = y.detach().requires_grad_()
    found = block.inverse(y)
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)
    for one, two in zip(block.buffers(), statistics, strict=True):
        assert torch.equal(one, two)
    # The gradient of the inverse is the inverse of the gradient.
    along = torch.randn_like(x)
    (back,) = torch.autograd.grad((found * along).sum(), y)
    begin = found.detach().requires_grad_()
    (there,) = torch.autograd.grad((block(begin) * back).sum(), begin)
    torch.testing.assert_close(there, along, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("integrator", BLOCKS)
def test_gradients_of_blocks_are_those_of_backpropagation(integrator):
    torch.manual_seed(0)
    block = db.DynamicBlock(BLOCKS[integrator], 5, db.uniform(0, 2, steps=10), integrator, "reversible").double()
    x = torch.randn(6, 4).double().requires_grad_()
    inputs = (x, *(weight for weight in block.parameters()))
    found, expected = (
        torch.autograd.grad(each(x).square().sum(), inputs) for each in (block, block.replaced(gradient="backprop"))
    )
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


def test_additive_coupling_is_symplectic_euler():
    block = db.DynamicBlock(Parts, "linear(4)", 9, "additive_coupling").eval()
    x = torch.randn(6, 4)
    assert torch.equal(block(x), block.replaced(integrator="symplectic_euler")(x))


def test_couplings_are_of_order_one():
    class Turning:
        parts = {"field": "__call__", "first": "first", "second": "second"}  # noqa: RUF012

        def __call__(self, t, y):
            return torch.cat((y[1:], -y[:1]))

        def first(self, t, z):
            return z

        def second(self, t, y):
            return -y

    errors = []
    for steps in (50, 100, 200):
        t = torch.linspace(0, 1, steps + 1).double()
        y = db.odeint(Turning(), torch.tensor([[1.0, 0.0]]).T.double(), t, method="additive_coupling(dim=0)")
        errors.append(
            float(
                (y[-1].flatten() - torch.tensor([1.0, -1.0]).double() * torch.stack([t[-1].cos(), t[-1].sin()])).norm()
            )
        )
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (lambda: db.DynamicBlock(Parts, 4, integrator="rk4"), "rk4 has no unstep, for the state before"),
        (lambda: db.DynamicBlock(Parts, 4, integrator="alf"), "alf carries more than the state"),
        (lambda: db.DynamicBlock(Parts, 4, integrator="dopri5"), "dopri5 chooses its own steps"),
    ],
)
def test_what_has_no_inverse_says_why(block, message):
    with pytest.raises(db.ConfigurationError, match=message):
        block().inverse(torch.ones(3, 4))


def test_dropout_has_no_inverse_in_training():
    net = db.ReversibleSequential([nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))] * 2).double()
    x = torch.randn(3, 4).double()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with pytest.raises(db.ConfigurationError, match=r"draws random numbers.*eval\(\)"):
        net.inverse(x)
    assert torch.equal(torch.get_rng_state(), state)
    net.eval()
    torch.testing.assert_close(net.inverse(net(x)), x)


def test_the_way_back_keeps_as_little():
    kept = set()
    for count in (8, 64):
        net = db.ReversibleSequential([nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(count)])
        own, sizes = {each.data_ptr() for each in net.parameters()}, {}

        def pack(tensor, own=own, sizes=sizes):
            if tensor.data_ptr() not in own:
                sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            before = net.inverse(torch.randn(5, 4, requires_grad=True))
        before.sum().backward()
        kept.add(sum(sizes.values()))
    assert len(kept) == 1
