"""The experiment of a turned photograph, which constant coefficients cannot solve."""

import runpy
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "planted_rotation.py"


@pytest.fixture(scope="module")
def experiment():
    return runpy.run_path(str(EXPERIMENT))


def test_a_twist_turns_a_photograph_and_a_plain_convolution_does_not(experiment):
    plain, twist = (
        experiment["measured"](name, experiment["turned"](2), seed=0, patches=16) for name in ("plain 5x5", "twist")
    )
    assert twist["weights"] < plain["weights"]
    assert twist["mse"] < plain["mse"] / 10
    assert plain["rms"] > 0.9
    # The field of the twist tells the angle, and that nothing was scaled.
    assert twist["degrees"] == pytest.approx(2, rel=0.15)
    assert twist["factor"] == pytest.approx(1, abs=0.01)
    for found in (plain, twist):
        assert found["training_mse"] == pytest.approx(found["training_mse_of_least_squares"], rel=1e-4)


def test_the_field_tells_the_factor_of_a_scaling(experiment):
    found = experiment["measured"]("twist", experiment["scaled"](1.03), seed=0, patches=16)
    assert found["factor"] == pytest.approx(1.03, abs=0.005)
    assert found["degrees"] == pytest.approx(0, abs=0.2)
