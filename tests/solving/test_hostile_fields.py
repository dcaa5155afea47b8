"""Fields that do what no field should are answered with the right value or with an error of a documented type."""

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.errors import ConfigurationError
from tests.optional import optional
from tests.solving.hostile_fields import AS_SCIPY, FACES, FEW, FIELDS, TIMES, Y0, Hostile, table

(solve_ivp,) = optional("scipy.integrate", "solve_ivp")


def told(wrong):
    return "\n".join(f"{face}: {what}" for (_, face), what in wrong.items())


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that(field):
    wrong = table(FEW, (field,))
    assert not wrong, told(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_in_every_face_and_method_a_field_that(field):
    wrong = table(fields=(field,))
    assert not wrong, told(wrong)


@pytest.mark.parametrize("seed", range(3))
def test_scipy_gets_the_same_alone_of_a_field_that_draws_anew(seed):
    field, face = AS_SCIPY
    func = Hostile(FIELDS[field].change).requires_grad_(False)

    def slope(t, y):
        return func(torch.tensor(t), torch.tensor(y)).numpy()

    torch.manual_seed(seed)
    alone = solve_ivp(slope, (0, 1), Y0.numpy(), "LSODA", TIMES.numpy(), rtol=1e-4, atol=1e-6).y.T
    torch.manual_seed(seed)
    assert FACES[face](func, Y0).numpy() == pytest.approx(alone, rel=1e-9)


LATER = {
    "one column": lambda slope: slope[..., :1],
    "complex": lambda slope: slope * 1j,
    "elsewhere": lambda slope: slope.to("meta"),
    "nothing": lambda slope: None,
    "a number": lambda slope: 1.0,
}


def calls_after(count, other):
    """A field that returns something else after so many calls."""
    calls = iter(range(10_000))
    return lambda t, y: -y if next(calls) < count else other(-y)


OTHER_FACES = {
    "a tuple": lambda func: db.odeint(lambda t, y: (func(t, y[0]), -y[1]), (Y0, Y0), TIMES),
    "one entry in front": lambda func: db.odeint(lambda t, y: unbatched(func(t, y)), Y0, TIMES),
    "changes the state": lambda func: db.odeint(lambda t, y: func(t, y.add_(0)), Y0, TIMES),
    "an event": lambda func: db.odeint_event(func, Y0, TIMES[0], event_fn=lambda t, y: t - 0.9),
    "dense": lambda func: db.odeint_dense(func, Y0, TIMES[0], TIMES[-1]),
}


def unbatched(slope):
    return slope[None] if isinstance(slope, torch.Tensor) else slope


@pytest.mark.parametrize("face", OTHER_FACES)
@pytest.mark.parametrize("other", LATER)
def test_slopes_that_change_later(face, other):
    with pytest.raises(ConfigurationError, match="func"):
        OTHER_FACES[face](calls_after(4, LATER[other]))


@pytest.mark.parametrize("other", ["nothing", "a number"])
@pytest.mark.parametrize("batched", [False, True])
def test_a_compiled_solve_says_what_is_no_slope(batched, other):
    y0 = Y0[None] if batched else Y0
    # The compiler gives up, and the loop as it is says what is wrong.
    with pytest.warns(UserWarning, match="was not compiled"), pytest.raises(ConfigurationError, match="func"):
        db.solve(calls_after(0, LATER[other]), y0, TIMES, batched=batched, compile=True)
