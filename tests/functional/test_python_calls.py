"""The overhead of a solver in Python, as a number of calls: at most 0.8 of those of an earlier commit."""

import importlib.util
from pathlib import Path

import pytest

# Method, calls at commit c83273f (Python 3.11.7, PyTorch 2.13.0), and 0.8 of them. Newer versions of Python call less,
# for their comprehensions are no functions.
BOUNDS = [
    ("euler", 227, 181),
    ("rk4", 443, 354),
    ("dopri5", 984, 787),
]


def python_calls():
    """benchmarks/python_calls.py, which is no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "python_calls.py"
    spec = importlib.util.spec_from_file_location("python_calls", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("method", "before", "most"), BOUNDS)
def test_a_short_solve_calls_a_fifth_less_python_than_before(method, before, most):
    calls = python_calls().count_calls(method)
    assert calls <= most, f"{calls} calls are {calls / before:.2f} of {before}"
