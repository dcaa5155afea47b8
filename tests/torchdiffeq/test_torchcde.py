"""torchcde on this package's solvers, as docs/scope.md shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "scope.md"

BESIDE = """
from scipy.integrate import solve_ivp

assert torchcde.solver.torchdiffeq.odeint.__module__.startswith("dynamicblocks")
assert field.linear.weight.grad.abs().sum() > 0

def right(t, z):
    with torch.no_grad():
        matrix = field(t, torch.tensor(z, dtype=torch.float32).view(4, 3))
        return (matrix @ path.derivative(torch.tensor(t))[..., None]).flatten().double().numpy()

there = solve_ivp(right, (0, 1), [0.0] * 12, rtol=1e-6, atol=1e-8, max_step=0.02).y[:, -1]
assert torch.allclose(last.detach().flatten().double(), torch.from_numpy(there), atol=1e-4), (last, there)
"""


@pytest.mark.slow  # of its imports, in a process of its own
def test_torchcde_is_solved_here():
    pytest.importorskip("torchcde")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program + BESIDE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([4, 3])\n"
