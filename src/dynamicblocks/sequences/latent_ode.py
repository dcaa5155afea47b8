"""Latent ODEs: a series is what a decoder sees of the solution of an equation, whose begin an encoder infers."""

import math

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.functional.solver import Solver
from dynamicblocks.sequences.elbo import kl_of_normal
from dynamicblocks.sequences.encoders import EncoderName, make_encoder
from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.sequences.perceptron import perceptron
from dynamicblocks.sequences.union_of_times import Times, states_at
from dynamicblocks.sequences.with_integral import TIGHT, WithIntegral
from dynamicblocks.times import check_count


class LatentField(nn.Module):
    """dz/dt = f(z), a network without time.

    Args:
        latent: width of the state.
        hidden, layers: of the network.
    """

    def __init__(self, latent: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.net = perceptron(latent, hidden, latent, layers, nn.ELU)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The slope."""
        slope: Tensor = self.net(z)
        return slope


class LatentODE(SeriesModel):
    """A variational auto-encoder of time series (Chen et al. 2018, Rubanova et al. 2019).

    An encoder reads what was seen of a series, from its end, and tells mean and variance of the state z at its begin;
    dz/dt = f(z) is solved from there, and a decoder reads the values off z at every time.

    Args:
        features: how many values there are at a time.
        latent: width of z.
        hidden, layers: of f.
        encoder: ``ode_rnn``, or ``rnn`` or ``gru``, which are told the gaps between observations.
        recurrent: width of the encoder's state.
        units: width of the hidden layers of the encoder's equation and of the decoder.
        solver: of the equation of z.
        encoder_method, encoder_steps: of the equation of ``ode_rnn``, in each gap between observations.
        noise: the deviation of an observation from its mean, or None: one for each feature is learnt.
        classes: how many labels there are; zero: none are told.
        poisson: the times of observation are events of a Poisson process, whose rate is read off z: the
            rate and its integral are part of the forecast, the integral one more state of the same solve, whose
            tolerances are then at most 1e-5 and 1e-6. Which times count, see ``negative_elbo``.
        times: ``union``: all series of a batch share the steps of one solve to the union of their times; ``own``: each
            takes its own (explicit adaptive methods, ``backprop``).
        origin: the time of z's begin; None: the first time of each series.

    Raises:
        ConfigurationError: a size, a name or a combination that cannot be.
    """

    def __init__(
        self,
        features: int,
        latent: int = 6,
        hidden: int = 50,
        layers: int = 1,
        encoder: EncoderName = "ode_rnn",
        recurrent: int = 25,
        units: int = 50,
        solver: Solver | None = None,
        encoder_method: str = "euler",
        encoder_steps: int = 1,
        noise: float | None = None,
        classes: int = 0,
        poisson: bool = False,
        times: Times = "union",
        origin: float | None = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"features": features, "latent": latent, "hidden": hidden, "layers": layers, "recurrent": recurrent}
        for name, size in {**sizes, "units": units}.items():
            check_count(size, name)
        check_count(classes, "classes", least=0)
        self.features, self.latent, self.classes = features, latent, classes
        chosen = Solver() if solver is None else solver
        self.solver = chosen.no_looser(TIGHT) if poisson else chosen
        _check_noise(noise)
        _check_times(times, self.solver)
        if origin is not None and not math.isfinite(origin):
            raise ConfigurationError(
                f"origin must be a finite time, or None for the first of each series; got {origin}"
            )
        self.times, self.origin = times, origin
        self.encoder = make_encoder(
            encoder, features, recurrent, {"hidden": units, "method": encoder_method, "steps": encoder_steps}
        )
        self.posterior = nn.Linear(recurrent, 2 * latent)
        self.field = LatentField(latent, hidden, layers)
        self.decoder = perceptron(latent, units, features, 1, nn.ELU)
        self.head = perceptron(latent, units, classes, 1, nn.ELU) if classes else None
        self.log_rate = perceptron(latent, units, 1, 1, nn.ELU) if poisson else None
        self.log_std: Tensor
        if noise is None:
            self.log_std = nn.Parameter(torch.full((features,), math.log(0.3)))
        else:
            self.register_buffer("log_std", torch.full((features,), math.log(noise)), persistent=False)

    def infer(self, times: Tensor, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z at its begin, (n, latent) each, from what was seen."""
        _check_shapes(times, values, seen, self.features)
        values = values.where(seen, 0.0)
        told: Tensor = self.posterior(self.encoder(times, values, seen, self.begins(times)))
        mean, log_variance = told.chunk(2, -1)
        return mean, log_variance

    def begins(self, times: Tensor) -> Tensor:
        """The time at which z begins in each series, (n,)."""
        return times[:, 0] if self.origin is None else torch.full_like(times[:, 0], self.origin)

    def forward(self, times: Tensor, values: Tensor, seen: Tensor, samples: int = 1) -> Forecast:
        """What it says at ``times``; see :class:`~dynamicblocks.sequences.SeriesModel`."""
        check_count(samples, "samples")
        mean, log_variance = self.infer(times, values, seen)
        kl = kl_of_normal(mean, log_variance).repeat(samples)
        mean, deviation = mean.repeat(samples, 1), (0.5 * log_variance).exp().repeat(samples, 1)
        drawn = self.training or samples > 1
        z0 = mean + deviation * torch.randn_like(mean) if drawn else mean
        return self.told(z0, times.repeat(samples, 1), kl)

    def told(self, z0: Tensor, times: Tensor, kl: Tensor) -> Forecast:
        """The forecast from the begins of z, (n, latent)."""
        elapsed = times - self.begins(times)[:, None]
        logits = None if self.head is None else self.head(z0)
        if self.log_rate is None:
            z = states_at(self.solver, self.field, z0, elapsed, self.times)
            return Forecast(self.decoder(z), self.log_std.exp(), kl, logits=logits)
        field, begin = WithIntegral(self.field, self.log_rate), (z0, z0.new_zeros(len(z0)))
        z, integral = states_at(self.solver, field, begin, elapsed, self.times)
        log_rate = self.log_rate(z).squeeze(-1)
        return Forecast(self.decoder(z), self.log_std.exp(), kl, log_rate, integral, logits)

    def sample(self, number: int, times: Tensor) -> Tensor:
        """New series, (number, length, features), at times (length,): the means of values, without their noise."""
        check_count(number, "number")
        if times.ndim != 1 or not len(times) or not bool(torch.isfinite(times).all()):
            raise ConfigurationError(f"times must be finite numbers of shape (length,), got {tuple(times.shape)}")
        z0 = torch.randn(number, self.latent, dtype=self.log_std.dtype, device=self.log_std.device)
        shared = times.to(self.log_std.device).expand(number, -1)
        return self.told(z0, shared, z0.new_zeros(number)).values


def _check_noise(noise: float | None) -> None:
    if noise is not None and not (math.isfinite(noise) and noise > 0):
        raise ConfigurationError(f"noise must be a positive number, or None to learn it; got {noise}")


def _check_times(times: str, solver: Solver) -> None:
    if times not in ("union", "own"):
        raise unknown_name("value of times", times, ("union", "own"))
    if times == "own" and (not solver.adaptive or solver.gradient != "backprop"):
        raise ConfigurationError(
            f"times='own' takes an explicit adaptive method and gradient='backprop', got {solver.method!r} and "
            f"{solver.gradient!r}; take times='union'"
        )


def _check_shapes(times: Tensor, values: Tensor, seen: Tensor, features: int) -> None:
    wanted = (*times.shape, features)
    if times.ndim != 2 or not times.shape[1] or values.shape != wanted or seen.shape != wanted:
        raise ConfigurationError(
            f"expected times (n, length), values and seen (n, length, {features}), got {tuple(times.shape)}, "
            f"{tuple(values.shape)} and {tuple(seen.shape)}"
        )
    if seen.dtype != torch.bool:
        raise ConfigurationError(f"seen must be of type bool, got {seen.dtype}")
