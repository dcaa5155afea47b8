"""Reversible networks of modules: what plain backpropagation gives, in memory that does not depend on their number."""

import copy
import io
import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dynamicblocks as db


def conv(width, out=None, dropout=0.0):
    out = out or width
    return nn.Sequential(
        nn.Conv2d(width, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(out, out, 3, padding=1),
    )


def mlp(width, out=None):
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, out or width))


MAKERS = {
    "additive": lambda dropout=0.0: db.ReversibleSequential(
        [(conv(2, dropout=dropout), conv(2)), conv(2, dropout=dropout), (nn.Conv2d(2, 2, 1), nn.Tanh())]
    ),
    "affine": lambda dropout=0.0: db.ReversibleSequential(
        [(conv(2, 4, dropout), nn.Conv2d(2, 4, 1)), conv(2, 4), conv(2, 4)], "affine"
    ),
    "momentum": lambda dropout=0.0: db.MomentumNet([conv(4, dropout=dropout), nn.Conv2d(4, 4, 1), conv(4)]),
    "nested": lambda dropout=0.0: db.ReversibleSequential(
        [
            (db.ReversibleSequential([nn.Conv2d(1, 1, 3, padding=1)] * 2), conv(2, dropout=dropout)),
            (db.MomentumNet([conv(2), nn.Tanh()]), db.AdditiveCoupling(nn.Tanh())),
            db.AffineCoupling(conv(2, 4), dim=1),
        ]
    ),
}


def run(net, x, *context, amp=False):
    """State, gradients and statistics of a training step."""
    torch.manual_seed(1)
    x = x.detach().clone().requires_grad_()
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = net(x, *context)
    y.square().mean().backward()
    gradients = [x.grad, *(weight.grad for weight in net.parameters())]
    return y.detach(), gradients, [buffer.double() for buffer in net.buffers()]


def plain(net):
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, db.ReversibleSequential):
            module.gradient = "backprop"
    return net


def assert_as_backprop(net, x, *context, tolerance, amp=False):
    other = plain(net)  # before statistics move
    here, there = run(net, x, *context, amp=amp), run(other, x, *context, amp=amp)
    assert torch.equal(here[0], there[0])
    whole = torch.cat([each.flatten() for each in there[1]]).norm()
    apart = [one - two for one, two in zip(here[1], there[1], strict=True)]
    uses = Counter(id(weight) for _, weight in net.named_parameters(remove_duplicate=False))
    # Backpropagation adds the gradients of a module that is used several times in half precision.
    limits = {False: tolerance, True: torch.finfo(torch.bfloat16).eps / 2 if amp else tolerance}
    for shared, limit in limits.items():
        some = [each for each, number in zip(apart, [1, *uses.values()], strict=True) if (number > 1) is shared]
        if some:
            assert torch.cat([each.flatten() for each in some]).norm() <= limit * whole
    for one, two in zip(here[2], there[2], strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("dtype", "amp", "tolerance"),
    [(torch.float64, False, 1e-9), (torch.float32, False, 1e-6), (torch.float32, True, 1e-6)],
    ids=["float64", "float32", "autocast"],
)
def test_gradients_and_statistics_are_those_of_backpropagation(name, dtype, amp, tolerance):
    torch.manual_seed(0)
    net = MAKERS[name](dropout=0.2).to(dtype)
    assert_as_backprop(net, torch.randn(3, 4, 5, 5, dtype=dtype), tolerance=tolerance, amp=amp)


@pytest.mark.parametrize("kind", ["additive", "affine", "momentum"])
@pytest.mark.parametrize("amp", [False, True])
def test_states_that_are_carried_wide_come_back_to_the_last_digit(kind, amp):
    torch.manual_seed(0)
    width, out = (8, 8) if kind == "momentum" else (4, 8 if kind == "affine" else 4)
    modules = [conv(width, out) for _ in range(24)]
    net, x = db.ReversibleSequential(modules, kind), torch.randn(4, 8, 8, 8)
    assert_as_backprop(net, x, tolerance=1e-6, amp=amp)
    narrow = db.ReversibleSequential(modules, kind, wide=False, gradient="reversible(max_drift=10.0)")
    torch.testing.assert_close(narrow(x), net(x), rtol=1e-4, atol=1e-4)
    if not amp:
        assert_as_backprop(narrow, x, tolerance=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    net = db.ReversibleSequential([(nn.Linear(2, 2), nn.Tanh()), nn.Linear(2, 2)]).to(dtype)
    x = torch.randn(3, 4, dtype=dtype)
    assert net(x).dtype == dtype
    assert_as_backprop(net, x, tolerance=1e-2)


@pytest.mark.parametrize("name", MAKERS)
def test_checkpoint_is_a_mode_as_well(name):
    net, x = MAKERS[name](dropout=0.2).double(), torch.randn(3, 4, 5, 5).double()
    expected = run(plain(net), x)
    net.gradient = "checkpoint"
    for one, two in zip(run(net, x)[1], expected[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


class RevNetUnit(nn.Module):
    """By hand, in plain PyTorch."""

    def __init__(self, f, g):
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x):
        a, b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        a = a + self.f(b)
        return torch.cat((a, b + self.g(a)), 1)


class AffineUnit(RevNetUnit):
    def forward(self, x):
        a, b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        for module in (self.f, self.g):
            out = module(b)
            half = out.shape[1] // 2
            a = torch.exp(0.7 * torch.tanh(out[:, :half])) * a + out[:, half:]
            a, b = b, a
        return torch.cat((a, b), 1)


@pytest.mark.parametrize("kind", ["additive", "affine(bound=0.7)"])
def test_a_network_is_what_is_written_by_hand(kind):
    unit, out = (RevNetUnit, 2) if kind == "additive" else (AffineUnit, 4)
    pairs = [(conv(2, out), nn.Conv2d(2, out, 3, padding=1)) for _ in range(3)]
    by_hand = nn.Sequential(*(unit(f, g) for f, g in copy.deepcopy(pairs))).double()
    net = db.ReversibleSequential(pairs, kind).double()
    x = torch.randn(3, 4, 5, 5).double()
    here, there = run(net, x), run(by_hand, x)
    torch.testing.assert_close(here[0], there[0], rtol=1e-12, atol=1e-12)
    for one, two in zip(here[1], there[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def kept(net, x):
    """Bytes that a forward pass keeps, beside the weights."""
    own = {each.untyped_storage().data_ptr() for each in (*net.parameters(), *net.buffers())}
    sizes = {}

    def pack(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            sizes[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)
    y.sum().backward()
    return sum(sizes.values())


@pytest.mark.parametrize("kind", ["additive", "affine", "momentum"])
def test_memory_does_not_grow_with_the_number_of_modules(kind):
    x = torch.randn(4, 4, 6, 6, requires_grad=True)

    def made(count, **options):
        width, out = (4, 4) if kind == "momentum" else (2, 4 if kind == "affine" else 2)
        modules = [nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, out, 1)) for _ in range(count)]
        return db.ReversibleSequential(modules, kind, gamma=0.99, **options)

    few, many = kept(made(8), x), kept(made(128), x)
    assert many <= 1.1 * few
    assert kept(made(32, gradient="backprop"), x) > 4 * many


@pytest.mark.parametrize("kind", ["additive", "affine"])
def test_couplings_of_200_steps_come_back(kind):
    torch.manual_seed(0)
    net = db.ReversibleSequential([mlp(4, 4 if kind == "additive" else 8) for _ in range(200)], kind).double()
    x = torch.randn(16, 8).double()
    with torch.no_grad():
        assert (net.inverse(net(x)) - x).norm() < 1e-10 * x.norm()
        assert (net(net.inverse(x)) - x).norm() < 1e-10 * x.norm()
    assert_as_backprop(net, x, tolerance=1e-9)


@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 4), 1), ((3, 4), -1), ((2, 3, 4), 2), ((4,), 0), ((2, 3, 2, 2, 4), -1)]
)
def test_states_of_any_dimensions(shape, dim):
    net = db.ReversibleSequential([nn.Linear(2, 2), (nn.Tanh(), nn.Linear(2, 2))], dim=dim).double()
    x = torch.randn(shape).double()
    assert_as_backprop(net, x, tolerance=1e-12)
    torch.testing.assert_close(net.inverse(net(x)), x)


def test_the_step_of_a_copy_and_of_shared_modules():
    f = nn.Linear(2, 2)
    copied, shared = db.AdditiveCoupling(f), db.ReversibleSequential([(f, f), f, (f, None)])
    assert len(list(copied.parameters())) == 4
    assert torch.equal(copied.entries[0].g.weight, f.weight)
    assert len(list(shared.parameters())) == 6  # f, and a copy for each g that was not given
    assert_as_backprop(shared.double(), torch.randn(3, 4).double(), tolerance=1e-12)
    assert_as_backprop(db.MomentumNet([f] * 5).double(), torch.randn(3, 2).double(), tolerance=1e-11)


class Rotation(nn.Module):
    """Has an inverse of its own."""

    def __init__(self):
        super().__init__()
        self.angle = nn.Parameter(torch.tensor(0.3))

    def turned(self, y, angle):
        a, b = y.chunk(2, 1)
        return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), 1)

    def forward(self, y):
        return self.turned(y, self.angle)

    def inverse(self, y):
        return self.turned(y, -self.angle)


class Squeeze(nn.Module):
    def forward(self, y):
        return nn.functional.pixel_unshuffle(y, 2)

    def inverse(self, y):
        return nn.functional.pixel_shuffle(y, 2)


def test_modules_with_an_inverse_of_their_own_are_entries():
    net = db.ReversibleSequential([conv(1), Rotation(), Squeeze(), db.AdditiveCoupling(conv(4))]).double()
    x = torch.randn(2, 2, 4, 4).double()
    assert net(x).shape == (2, 8, 2, 2)
    assert_as_backprop(net, x, tolerance=1e-9)
    torch.testing.assert_close(net.inverse(net(x)), x)


class Masked(nn.Linear):
    def forward(self, y, mask, scale=1.0):
        return super().forward(y) * mask * scale


def test_what_follows_the_state_reaches_all_modules_and_has_gradients():
    net = db.ReversibleSequential([Masked(2, 2), Masked(2, 2)]).double()
    x, begin = torch.randn(3, 4).double(), torch.rand(3, 2).double().requires_grad_()

    def gradient(net):
        begin.grad = None
        net(x, begin.exp(), 0.5).square().sum().backward()  # no leaf
        return begin.grad

    torch.testing.assert_close(gradient(net), gradient(plain(net)))
    torch.testing.assert_close(net.inverse(net(x, begin, 2.0), begin, 2.0), x)


def test_twice_in_one_graph_and_without_gradients():
    net, x = MAKERS["additive"]().double(), torch.randn(3, 4, 5, 5).double()

    def twice(net):
        net.zero_grad()
        y = net(net(x).tanh())
        y.square().sum().backward()
        return [weight.grad for weight in net.parameters()]

    for one, two in zip(twice(net), twice(plain(net)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        assert not net(x).requires_grad
    assert not net.requires_grad_(False)(x).requires_grad
    assert net(x.requires_grad_()).requires_grad
    with torch.inference_mode():
        net(x)


class Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, y):
        return checkpoint(self.inner, y, use_reentrant=False)


def test_checkpoints_of_pytorch_inside_and_around():
    inside = db.ReversibleSequential([Checkpointed(mlp(2)), Checkpointed(nn.Linear(2, 2))])
    x = torch.randn(3, 4).double()
    assert_as_backprop(inside.double(), x, tolerance=1e-12)
    assert_as_backprop(Checkpointed(inside), x, tolerance=1e-12)
    with torch.autograd.graph.save_on_cpu():
        assert_as_backprop(inside, x, tolerance=1e-12)


class Hidden(nn.Linear):
    """Depends on its calls: a buffer that it reads and writes."""

    def __init__(self, width):
        super().__init__(width, width)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, y):
        self.calls = self.calls + 1
        return super().forward(y) / self.calls


def test_buffers_that_modules_read_are_those_of_then():
    f = Hidden(2)
    net = db.ReversibleSequential([(f, nn.Tanh()), (f, Hidden(2))]).double()
    assert_as_backprop(net, torch.randn(3, 4).double(), tolerance=1e-12)
    before = f.calls.clone()
    net.inverse(torch.randn(3, 4).double())
    assert torch.equal(f.calls, before)


def test_copies_files_and_other_types():
    net, x = MAKERS["nested"]().double(), torch.randn(3, 4, 5, 5).double()
    expected = run(net, x)
    other = copy.deepcopy(net)
    other.load_state_dict(net.state_dict())
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    for each in (other, read):
        for one, two in zip(run(each, x)[1], expected[1], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)
    assert net.float()(x.float()).dtype == torch.float32
    reference = weakref.ref(net)
    del net
    assert reference() is None


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own look at the state between two graphs
@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
def test_compiled_around(gradient):
    net, x = db.ReversibleSequential([mlp(2), mlp(2)], gradient=gradient), torch.randn(3, 4)
    compiled = torch.compile(net, backend="eager", fullgraph=gradient == "backprop")
    expected = run(plain(net), x)
    torch.testing.assert_close(run(compiled, x)[0], expected[0])
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: db.ReversibleSequential([]), "at least one module"),
        (lambda: db.ReversibleSequential([nn.Tanh(), 3]), "got int as entry 1"),
        (lambda: db.ReversibleSequential([(nn.Tanh(),) * 3]), r"got \(Tanh, Tanh, Tanh\) as entry 0"),
        (lambda: db.ReversibleSequential([nn.Tanh()], "addtive"), "did you mean 'additive'"),
        (lambda: db.ReversibleSequential([nn.Tanh()], "affine(bound=0)"), "bound must be a positive number"),
        (lambda: db.ReversibleSequential([nn.Tanh()], gradient="adjoint"), "no equation"),
        (lambda: db.ReversibleSequential([db.MomentumNet([nn.Tanh()])]), "entry 0 has momentum"),
        (lambda: db.MomentumNet([(nn.Tanh(), nn.Tanh())]), "one module for each entry"),
        (lambda: db.MomentumNet([nn.Tanh()], gamma=1.0), "gamma must be a number"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_made(make, message):
    with pytest.raises(db.ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (db.ReversibleSequential([nn.Tanh()]), (2, 5), r"two equal halves along dim=1, .* \(2, 5\) has 5 there"),
        (db.ReversibleSequential([nn.Tanh()], dim=2), (2, 4), "no such dimension"),
        (db.ReversibleSequential([nn.Tanh(), nn.Linear(2, 1)]), (2, 4), r"entry 1 \(f=Linear, g=Linear\).*\(2, 1\)"),
        (db.AffineCoupling(nn.Linear(2, 2)), (2, 4), "entry 0.* twice the channels"),
        (
            db.MomentumNet([nn.Tanh(), nn.Linear(4, 2)]),
            (2, 4),
            r"entry 1 \(f=Linear\): f, Linear must keep the shape .* \(2, 4\) to \(2, 2\)",
        ),
        (db.ReversibleSequential([nn.Tanh(), nn.GRU(2, 2)]), (2, 4), "GRU must return a tensor, got tuple"),
        (db.ReversibleSequential([nn.Tanh(), nn.Linear(3, 3)]), (2, 4), "mat1 and mat2"),
    ],
)
def test_modules_and_states_that_do_not_fit_are_named(net, shape, message):
    with pytest.raises((db.ConfigurationError, RuntimeError), match=message):
        net(torch.ones(shape))


@pytest.mark.parametrize("state", [torch.ones(2, 4, dtype=torch.int64), (torch.ones(2, 2),) * 2])
def test_a_state_is_one_tensor_of_numbers(state):
    with pytest.raises(db.ConfigurationError, match="the state must be a floating-point tensor"):
        db.ReversibleSequential([nn.Tanh()])(state)


def test_a_wider_module_is_named():
    with pytest.raises(
        db.ConfigurationError,
        match=r"entry 0 .*f, Wide took a state of torch\.float32 to torch\.float64, which is wider",
    ):
        db.ReversibleSequential([Wide()])(torch.ones(2, 4))


class Wide(nn.Module):
    def forward(self, y):
        return y.double()


def test_second_derivatives_are_refused_and_kept_by_backprop():
    net, x = db.ReversibleSequential([mlp(2)]).double(), torch.randn(3, 4).double().requires_grad_()
    with pytest.raises(db.ConfigurationError, match="second derivatives"):
        torch.autograd.grad(net(x).square().sum(), x, create_graph=True)[0].sum().backward()
    net.gradient = "backprop"
    assert torch.autograd.gradgradcheck(net, (x,))
