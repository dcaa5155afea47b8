"""Training knows no task: no data, no network by name, and no loss."""

import ast
from pathlib import Path

import pytest

import dynamicblocks.training

FILES = sorted(Path(dynamicblocks.training.__file__).parent.rglob("*.py"))
ABOVE = ("tasks", "data", "models", "analysis", "cli")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_imports_neither_tasks_nor_data_nor_models_and_no_loss(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            imported |= {node.module or "", *(f"{node.module}.{each.name}" for each in node.names)}
    for room in ABOVE:
        assert not [name for name in imported if f"{name}.".startswith(f"dynamicblocks.{room}.")]
    assert not [name for name in imported if name.startswith("torch.nn.functional")]


def test_there_is_no_loss_in_it():
    assert len(FILES) > 20
    words = ("cross_entropy", "mse_loss", "l1_loss", "nll", "nn.functional", "logits", "labels")
    assert [(path.name, word) for path in FILES for word in words if word in path.read_text()] == []
