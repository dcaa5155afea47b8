"""The symmetric layer in the order of pre-activation, the unit of reversible networks."""

from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec, make_activation, slopes_of
from dynamicblocks.layers.norms import NormSpec, left_out, make_norm
from dynamicblocks.layers.one_kernel import OneKernel, check_sign, widened
from dynamicblocks.layers.spectrum import Spectrum


class PreactSymmetric(OneKernel):
    """F(y) = K^T a(N2(K a(N1 y))), one kernel and two normalisations: the unit of the code to arXiv:1709.03698.

    Chang et al. 2018 write K^T a(K y + b); their networks normalise and activate before each of K and K^T, without
    biases. With an activation on both sides of K the Jacobian is not symmetric.

    Shapes:
        (batch, width, H, W) -> the same; (batch, width, L) or (batch, width, D, H, W) with ``dims`` 1 or 3.

    Args:
        width: number of channels of the state.
        hidden: number of channels of K y; the width if None.
        norm, activation: names or factories.
        boundary: zeros, replicate, reflect or circular.
        bias: whether to learn a bias after K and one after K^T.
        kernel_size: odd.
        groups: parts of the channels, of state and K y, that do not read each other.
        lead: whether there are N1 and the activation behind it; the first unit of a network has none, where the
            opening ends with both.
        sign: 1, or -1 for -K^T a(N2(K a(N1 y))).
        dims: 1 for signals, 2 for images, 3 for volumes.

    Raises:
        ConfigurationError: an option that cannot be.

    >>> import torch
    >>> [name for name, _ in PreactSymmetric(4, lead=False).named_parameters()]
    ['weight', 'norm2.weight', 'norm2.bias']
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int | None = None,
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        kernel_size: int = 3,
        groups: int = 1,
        lead: bool = True,
        sign: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__(
            width,
            hidden,
            boundary=boundary,
            bias=bias,
            kernel_size=kernel_size,
            groups=groups,
            zero_mean=False,
            dims=dims,
        )
        self.sign = check_sign(sign)
        self.lead = lead
        self.norm1 = make_norm(norm, width, dims=dims) if lead else nn.Identity()
        self.activation1 = make_activation(activation) if lead else nn.Identity()
        self.norm2 = make_norm(norm, self.hidden, dims=dims)
        self.activation2 = make_activation(activation)
        self.reset_parameters()

    def forward(self, y: Tensor) -> Tensor:
        kernel = self.kernel
        inside = self.activation2(self.norm2(self.there(self.activation1(self.norm1(y)), kernel)))
        return self.back(inside, kernel if self.sign > 0 else -kernel)

    def spectrum(self, size: tuple[int, ...]) -> Spectrum:
        """Real eigenvalues of the sign of the layer up to s1 s2 |K|^2, with s1 and s2 the greatest slopes."""
        norm = self._norm_of(size, widened(self.kernel))
        outer, inner = slopes_of(self.activation1, self.width), slopes_of(self.activation2, self.hidden)
        bound = outer.greatest * inner.greatest * norm**2
        return Spectrum(
            (-bound, 0.0) if self.sign < 0 else (0.0, bound),
            gradient=inner.least >= 0 and outer.least == outer.greatest,
            about=f"{'-' if self.sign < 0 else ''}K^T D2 K D1 with |K| = {norm:.6g} and slopes D1 up to "
            f"{outer.greatest:.4g}, D2 up to {inner.greatest:.4g}",
            notes=tuple(dict.fromkeys(filter(None, (outer.note, inner.note, left_out(self.norm1, self.norm2))))),
        )
