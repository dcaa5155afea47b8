"""Fields that do what no field should are answered with the right value or with an error of a documented type."""

import pytest

from tests.solving.hostile_fields import FEW, FIELDS, table


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
