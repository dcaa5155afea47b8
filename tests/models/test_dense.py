"""Networks that answer for each pixel, made of every named network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.models import DenseNet, dense, list_models, model_options
from dynamicblocks.structure import structure, with_structure
from dynamicblocks.twisting import twist

# As small as a model allows, so that all of them are tried.
SMALL = {"widths": (4, 8, 8), "width": 4, "units": 1, "steps": 1}
DEPTHS = {"hamiltonian_resnet": 14, "leapfrog_resnet": 8, "midpoint_resnet": 8, "wide_resnet": 10}


def options_of(name):
    known = model_options(name)
    options = {key: value for key, value in SMALL.items() if key in known}
    if name.startswith("twist"):
        options |= {"units": (1, 1, 1, 1), "width": 16}
    if name.startswith(("resnet", "lm_")):
        options["depth"] = 8
    return options | ({"depth": DEPTHS[name]} if name in DEPTHS else {})


def made(name, **options):
    torch.manual_seed(0)
    return db.create_model(name, **{**options_of(name), "num_classes": 3, **options})


def settled(net, *shape):
    """In evaluation, with statistics that are not those of the beginning."""
    with torch.no_grad():
        net.train()(torch.randn(shape))
    return net.eval()


@pytest.mark.parametrize("name", list_models())
def test_every_model_answers_for_each_pixel(name):
    """Its mean over the pixels of the last state is what the plain network says of the image, with the same weights."""
    plain = settled(made(name), 4, 3, 16, 16)
    net = dense(plain, 3)
    assert isinstance(net, DenseNet)
    images = torch.randn(2, 3, 17, 16)
    whole = net(images)
    assert whole.shape == (2, 3, 17, 16)
    state = plain.body(plain.opening(images))
    coarse = net.head(state)
    torch.testing.assert_close(coarse.mean((2, 3)), plain(images))
    if coarse.shape == whole.shape:
        assert torch.equal(whole, coarse)
    else:
        torch.testing.assert_close(whole, F.interpolate(coarse, (17, 16), mode="bilinear"), rtol=0, atol=0)
    assert set(net.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("name", [name for name in list_models() if "dims" in model_options(name)])
@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(name, dims):
    net = dense(made(name, dims=dims), 2).train()
    shape = (8, 9, 8)[:dims] if dims == 3 else (17,)
    out = net(torch.randn(2, 3, *shape))
    assert out.shape == (2, 2, *shape)
    (out * torch.randn_like(out)).sum().backward()
    without = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert without == []


def test_without_pooling_nothing_is_interpolated():
    net = made("dynamicnet", widths=(4, 6), pool="none")
    other = dense(net, 3).eval()
    images = torch.randn(2, 3, 7, 5)
    net.eval()
    outputs = other(images)
    torch.testing.assert_close(outputs.mean((2, 3)), net(images))
    pixel = net.head.branch(net.body(net.opening(images)))[:, :, 2, 3]
    torch.testing.assert_close(outputs[:, :, 2, 3], net.head.linear(pixel))


def test_interpolation_keeps_what_is_linear_between_the_middles_of_pixels():
    """Pixels are areas: the middle of a coarse one lies between the middles of those that it was made of."""

    class Means(nn.Module):
        def forward(self, images):
            return F.avg_pool1d(images, 2)

    net = DenseNet(nn.Identity(), [Means()], nn.Identity())
    line = torch.arange(12.0).view(1, 1, 12)
    torch.testing.assert_close(net(line)[..., 1:-1], line[..., 1:-1])


def test_gradients_are_those_of_finite_differences():
    net = made("dynamicnet", widths=(2, 3), norm="none", activation="tanh")
    other = dense(net, 2).double()
    images = torch.randn(1, 3, 5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: other(x).sum((2, 3)), images.requires_grad_())
    kernel = other.head.linear.weight

    def by_kernel(weight):
        return torch.func.functional_call(other, {"head.linear.weight": weight}, (images.detach(),))

    assert torch.autograd.gradcheck(by_kernel, kernel.detach().clone().requires_grad_())


def test_the_plain_network_stays_as_it_is():
    plain = made("dynamicnet_small").eval()
    images = torch.randn(1, 3, 8, 8)
    before = plain(images)
    other = dense(plain, 3)
    assert not other.training
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert torch.equal(plain(images), before)
    again = dense(other, 5)
    assert again(images).shape == (1, 5, 8, 8)
    assert again.double()(images.double()).dtype == torch.float64


def test_surgery_and_files_know_it():
    net = settled(dense(made("dynamicnet_small"), 2), 4, 3, 8, 8)
    images = torch.randn(2, 3, 9, 8)
    for other in (
        db.refine(net, steps=False),
        db.with_integrator(net, "midpoint"),
        db.rediscretise(net, controls=4),
        twist(net),
    ):
        assert isinstance(other, DenseNet)
        torch.testing.assert_close(other(images), net(images), rtol=1e-4, atol=1e-5)
    grown = db.with_integrator(db.refine(net), "rk4")
    read = with_structure(dense(made("dynamicnet_small"), 2), structure(grown)).eval()
    read.load_state_dict(grown.state_dict())
    assert torch.equal(read(images), grown(images))


def test_imexnet_has_a_dense_form_of_its_own():
    net = db.create_model("imexnet", widths=(4, 8), num_classes=3, dense=True, pool="average")
    assert isinstance(net, DenseNet)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_what_cannot_be_dense_says_why():
    class Own(db.DynamicNet):
        def forward(self, images):
            return super().forward(images).exp()

    plain = made("dynamicnet_small")
    with pytest.raises(db.ConfigurationError, match="what Own does with its head is not known"):
        dense(Own(plain.opening, list(plain.body), plain.head), 2)
    with pytest.raises(db.ConfigurationError, match="what Linear does"):
        dense(nn.Linear(2, 2), 2)
    with pytest.raises(db.ConfigurationError, match="a network with a Identity in the place of a Head"):
        dense(db.DynamicNet(plain.opening, list(plain.body), nn.Identity()), 2)
    with pytest.raises(db.ConfigurationError, match="outputs must be a whole number of at least 1, got 0"):
        dense(plain, 0)
