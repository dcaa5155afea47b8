"""Kernels as differential operators: against derivatives of polynomials, plane waves and twists made by hand."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import Operators, TwistOperators, draw_fields, draw_operators, network_operators, operators
from dynamicblocks.cli import operators as command
from dynamicblocks.cli.main import main
from dynamicblocks.layers import PARAMETRISATIONS, TwistConv1d, TwistConv2d

DX = torch.tensor([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
DY = DX.T
Y, X = torch.meshgrid(torch.arange(-4.0, 5.0).double(), torch.arange(-3.0, 6.0).double(), indexing="ij")


def stencil(name):
    coefficients = torch.zeros(9, dtype=torch.float64)
    coefficients[Operators.names.index(name)] = 1
    return Operators(coefficients).kernel()


def applied(kernel, image):
    return F.conv2d(image[None, None], kernel[None, None].to(image))[0, 0]


@pytest.mark.parametrize(
    ("name", "image", "derivative"),
    [
        ("1", X * Y + 3, X * Y + 3),
        ("dx", X, torch.ones_like(X)),
        ("dx", X**2 + Y, 2 * X),
        ("dy", X + 2 * Y**2, 4 * Y),
        ("dxx", X**2, torch.full_like(X, 2)),
        ("dxx", X**3 * Y, 6 * X * Y),
        ("dxy", X * Y, torch.ones_like(X)),
        ("dxy", X**2 * Y**2, 4 * X * Y),
        ("dyy", Y**2 + X * Y, torch.full_like(X, 2)),
        ("dxxy", X**2 * Y, torch.full_like(X, 2)),
        ("dxyy", X * Y**2, torch.full_like(X, 2)),
        ("dxxyy", X**2 * Y**2, torch.full_like(X, 4)),
        ("dxxyy", X**3 * Y**3, 36 * X * Y),
    ],
)
def test_stencils_differentiate_polynomials_exactly(name, image, derivative):
    assert torch.equal(applied(stencil(name), image), derivative[1:-1, 1:-1])


@pytest.mark.parametrize("name", Operators.names)
def test_each_stencil_is_itself_and_no_other(name):
    found = operators(stencil(name))
    assert [other for other in found.names if found[other] != 0] == [name]
    assert found[name] == 1
    order = 0 if name == "1" else len(name) - 1
    assert found.order_shares[order] == 1


def test_to_operators_and_back():
    kernels = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    found = operators(kernels)
    assert found.coefficients.shape == (5, 4, 9)
    torch.testing.assert_close(found.kernel(), kernels, rtol=0, atol=1e-14)
    # Of small whole numbers nothing is rounded.
    whole = torch.randint(-8, 9, (5, 4, 3, 3)).float()
    assert torch.equal(operators(whole).kernel(), whole)


def test_derivatives_pass_through_operators():
    kernel = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: operators(k).kernel(), kernel)
    assert str(operators(kernel)).startswith("operator")
    assert sum(operators(kernel).order_shares) == pytest.approx(1)


def test_the_symbol_is_the_response_to_plane_waves():
    kernels = torch.randn(2, 3, 3, dtype=torch.float64)
    xi, eta = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64), torch.tensor([0.0, 1.1, 0.4], dtype=torch.float64)
    found = operators(kernels).symbol(xi, eta)
    assert found.shape == (2, 3)
    for index in range(3):
        phase = xi[index] * X + eta[index] * Y
        wave = torch.exp(1j * phase)
        for kernel, values in zip(kernels, found, strict=True):
            response = applied(kernel, wave.real) + 1j * applied(kernel, wave.imag)
            torch.testing.assert_close(response / wave[1:-1, 1:-1], values[index].expand(7, 7))


def test_symbols_of_derivatives():
    grid = torch.linspace(-3, 3, 7, dtype=torch.float64)
    symbol = operators(DX).symbol(grid, grid[:, None])
    assert symbol.shape == (7, 7)
    torch.testing.assert_close(symbol, (1j * grid.sin()).expand(7, 7))
    second = operators(stencil("dyy")).symbol(0.0, grid)
    torch.testing.assert_close(second.real, 2 * grid.cos() - 2)


def twist_of(wx, wy, plain=None):
    layer = TwistConv2d(1, 1, 3, padding=1, bias=False, parametrisation="full", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.zeros(3, 3) if plain is None else plain)
        layer.twist.copy_(torch.stack([wx, wy])[:, None])
    return layer


def test_a_rotation():
    found = operators(twist_of(DY, -DX))
    assert (found.curl, found.divergence, *found.shears) == (2, 0, 0, 0)
    assert found.field_shares == {"rotation": 1, "scaling": 0, "shear": 0}
    field = found.field(4, 4)[0, 0]
    assert field[:, 0, 3].tolist() == [0.75, 0.75]  # top right: up is -Y


def test_a_scaling_and_the_shears():
    assert operators(twist_of(DX, DY)).field_shares == {"rotation": 0, "scaling": 1, "shear": 0}
    stretched = operators(twist_of(DX, -DY))
    assert (stretched.curl, stretched.divergence, *stretched.shears) == (0, 0, 2, 0)
    sheared = operators(twist_of(0 * DX, DX))
    assert (sheared.curl, sheared.divergence, *sheared.shears) == (-1, 0, 0, 1)
    assert sheared.field_shares == {"rotation": 0.5, "scaling": 0, "shear": 0.5}


def test_a_turned_image_by_the_angle_of_the_curl():
    """A small spot right of the centre goes up where the curl is positive."""
    side, angle = 33, 0.05
    place = torch.arange(side, dtype=torch.float64) - side // 2
    spot = torch.exp(-((place - 8) ** 2 + place[:, None] ** 2) / 18)
    turn = twist_of(DY * angle * side / 2, -DX * angle * side / 2, stencil("1"))
    assert operators(turn).curl.item() / side == pytest.approx(angle)
    moved = turn(spot[None, None])[0, 0].detach()
    height = (moved * place[:, None]).sum() / moved.sum()
    assert height.item() == pytest.approx(-8 * angle, rel=0.02)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("degree", [1, 2])
def test_the_field_is_the_local_response_to_slopes(parametrisation, degree):
    layer = TwistConv2d(2, 3, 3, parametrisation=parametrisation, degree=degree, bias=False).double()
    nn.init.normal_(layer.twist)
    found = operators(layer)
    assert list(found.terms) == ["X", "Y", "X^2", "XY", "Y^2"][: 2 if degree == 1 else 5]
    field = found.field(7, 7)
    assert field.shape == (3, 2, 2, 7, 7)
    # On an image that is a slope around each pixel, the constant part taken away, the response is the component.
    constant = layer(torch.ones(1, 1, 9, 9).double() * torch.eye(2).double()[:, :, None, None])
    for component, slope in enumerate((X, Y)):
        images = slope.expand(2, 9, 9) * torch.eye(2).double()[:, :, None, None]
        response = layer(images) - constant * slope[1:-1, 1:-1]
        torch.testing.assert_close(response.transpose(0, 1).detach(), field[:, :, component])
    torch.testing.assert_close(found.pair(2, 1).field(7, 7), field[2, 1])
    if parametrisation == "vector":
        assert found.field_shares["shear"] == pytest.approx(0, abs=1e-12)


def test_what_is_printed():
    twisted = operators(TwistConv2d(2, 4, 3))
    assert isinstance(twisted, TwistOperators)
    head, *rows = str(twisted).splitlines()
    assert head.split() == ["operator", "order", "plain", "X", "Y"]
    assert len(rows) == 10
    assert rows[-1].endswith("rotation 0%, scaling 0%, shear 0%")
    assert "rms of 8 kernels" in str(operators(nn.Conv2d(2, 4, 3)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(4, 4, 5, 5), r"expected kernels of 3x3 pixels.*\(4, 4, 5, 5\) came"),
        (torch.zeros(9), r"expected kernels of 3x3 pixels.*\(9,\) came"),
        (nn.Conv2d(2, 2, 1), r"\(2, 2, 1, 1\) came"),
        (TwistConv2d(2, 2, 5), r"\(2, 2, 5, 5\) came"),
        (torch.zeros(3, 3, dtype=torch.int64), "floating-point numbers, but torch.int64 came"),
        (nn.Linear(3, 3), "a Linear came"),
        (nn.Conv3d(2, 2, 3), "a Conv2d, of two dimensions, but a Conv3d came"),
        (TwistConv1d(2, 2, 3), "a Conv2d, of two dimensions, but a TwistConv1d came"),
    ],
)
def test_what_is_no_3x3_kernel(given, message):
    with pytest.raises(db.ConfigurationError, match=message):
        operators(given)


def test_errors_of_names_and_networks(tmp_path):
    with pytest.raises(db.ConfigurationError, match="unknown operator 'dzz'"):
        operators(DX)["dzz"]
    with pytest.raises(db.ConfigurationError, match="Sequential has only of 1x1, 5x5"):
        network_operators(nn.Sequential(nn.Conv2d(1, 2, 5), nn.Conv2d(2, 2, 1)))
    with pytest.raises(db.ConfigurationError, match="no Conv2d at all"):
        draw_operators(nn.Linear(2, 2), tmp_path / "none.png")
    net = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(db.ConfigurationError, match="Sequential has plain ones only"):
        draw_fields(net, tmp_path / "none.png")
    with pytest.raises(db.ConfigurationError, match="at least 1, got 0"):
        draw_fields(db.twist(net), tmp_path / "none.png", pairs=0)
    with pytest.raises(db.ConfigurationError, match="of 2 x 1 channels"):
        draw_operators(net, tmp_path / "none.png", kernels=[("0", 2, 0)])
    with pytest.raises(db.ConfigurationError, match="among 0"):
        draw_operators(net, tmp_path / "none.png", kernels=[("1", 0, 0)])
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("module", [TwistConv2d(2, 2, 3), db.twist(nn.Sequential(nn.Conv2d(1, 2, 3)), degree=2)])
def test_pictures(module, tmp_path):
    # A twist of zero, too, has a field.
    draw_fields(module, tmp_path / "fields.png", pairs=4)
    name = next(iter(network_operators(module)))
    draw_operators(module, tmp_path / "operators.png")
    draw_operators(module, tmp_path / "chosen.png", kernels=[(name, 0, 0), (name, 1, 0), (name, 0, 0)])
    draw_operators(module, tmp_path / "shares.png", kernels=[])
    for picture in tmp_path.iterdir():
        with Image.open(picture) as found:
            assert found.format == "PNG"
            assert len(found.convert("L").getcolors()) > 10


def test_analyses_come_when_they_are_asked_for():
    program = """
import sys
import dynamicblocks as db
assert "matplotlib" not in sys.modules
import torch
found = db.analysis.operators(torch.eye(3))
assert float(found["1"]) == 3
assert db.gradient_check is db.analysis.gradient_check
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def trained(folder, name, *model):
    common = ["--max_steps", "3", "--epochs", "1", "--optimizer.warmup", "0", "--output", str(folder), "--run", name]
    assert main(["train", *model, *common]) == 0
    return folder / name


def test_the_command(tmp_path, capsys):
    run = trained(tmp_path, "twisted", "--model.name", "twist_resnet18", "--model.width", "4")
    assert main(["operators", str(run), "--pairs", "2"]) == 0
    out = capsys.readouterr().out
    assert "rotation" in out
    assert "opening.conv1" in out
    assert out.rstrip().endswith(f"Written to {run / 'operators.png'} and {run / 'fields.png'}")
    assert (run / "operators.png").stat().st_size > 0
    assert (run / "fields.png").stat().st_size > 0


def test_the_command_on_plain_networks(tmp_path, capsys):
    plain = trained(tmp_path, "plain", "--model.name", "resnet", "--model.depth", "8", "--model.widths", "[4,4,4]")
    assert main(["operators", str(plain)]) == 0
    out = capsys.readouterr().out
    assert "rotation" not in out
    assert out.rstrip().endswith(f"Written to {plain / 'operators.png'}")
    assert not (plain / "fields.png").exists()


def test_the_command_on_networks_without_such_kernels(monkeypatch, capsys):
    monkeypatch.setattr(command, "read", lambda *_: SimpleNamespace(folder=None, net=nn.Conv2d(1, 1, 5)))
    run = Path(__file__).parents[1] / "fixtures" / "run_of_format_3"
    assert main(["operators", str(run)]) == 2
    assert "expected a network with 3x3 convolutions, but Conv2d has only of 5x5" in capsys.readouterr().err


def test_many_kernels_are_shown_in_one_line():
    found = operators(torch.randn(16, 8, 3, 3))
    assert repr(found) == "Operators(coefficients: float32 (16, 8, 9))"


def test_layers_of_one_kernel_are_read_as_they_are_applied():
    torch.manual_seed(0)
    projected = db.layers.Symmetric(2, zero_mean=True)
    kernel = projected.weight.detach() - projected.weight.detach().mean((2, 3), keepdim=True)
    torch.testing.assert_close(db.analysis.operators(projected).kernel(), kernel)
    layer = db.layers.Antisymmetric(2)
    found = db.analysis.operators(layer)
    # The response to an impulse, away from the boundary: of even orders what is antisymmetric in the channels.
    impulse = torch.zeros(1, 2, 5, 5)
    impulse[0, 1, 2, 2] = 1.0
    with torch.no_grad():
        response = layer._operator(impulse, layer.weight)[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(found.kernel()[0, 1], response.flip(0, 1))
    for name, order in (("1", 0), ("dx", 1), ("dy", 1), ("dxx", 2), ("dxy", 2)):
        sign = -1.0 if order % 2 == 0 else 1.0
        torch.testing.assert_close(found[name], sign * found[name].T)


def test_they_are_found_in_networks():
    net = db.create_model("dynamicnet", layer="hamiltonian", widths=(4,), units=1)
    names = list(db.analysis.network_operators(net))
    assert names == ["opening.conv1", "body.0.controls.layers.0.f1", "body.0.controls.layers.0.f2"]
    assert list(db.analysis.network_operators(db.layers.Double(2))) == ["conv1", "conv2"]
    with pytest.raises(db.ConfigurationError, match="has only of 5x5"):
        db.analysis.network_operators(db.layers.Symmetric(2, kernel_size=5))
    with pytest.raises(db.ConfigurationError, match="operators expects a tensor"):
        db.analysis.operators(db.layers.Symmetric(2, dims=1))
