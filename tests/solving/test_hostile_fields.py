"""Fields that do what no field should are answered with the right value or with an error of a documented type."""

import pytest
import torch
from scipy.integrate import solve_ivp

from tests.solving.hostile_fields import AS_SCIPY, FACES, FEW, FIELDS, TIMES, Y0, Hostile, table


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
