"""An extension is short, and asks for nothing that is not public."""

import ast
import importlib
import io
import tokenize
from pathlib import Path

import pytest

import dynamicblocks as db
from tests.extensions.cases import names

HERE = Path(__file__).parent
SHORT = ["adams_bashforth", "gated", "leapfrog", "learned_multistep", "semi_implicit", "ssprk43", "verlet"]
LONG = ["quadratic", "truncated"]
# Where users import from.
ROOMS = {
    "dynamicblocks",
    "dynamicblocks.integrators",
    "dynamicblocks.layers",
    "dynamicblocks.gradients",
    "dynamicblocks.controls",
}


def source(name):
    return (HERE / f"{name}.py").read_text()


def lines(text):
    """The lines that hold code or a comment: no docstrings, no blank ones."""
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - docstrings)


def test_lines_are_counted():
    assert (
        lines('"""Docs.\n\nMore."""\n\nimport ast\n\n\ndef f():\n    """Docs."""\n    # why\n    return """a\nb"""\n')
        == 5
    )


def test_every_extension_is_counted():
    """The other files are tests and what tests share."""
    named = {path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_")}
    assert named == {*SHORT, *LONG, "cases", "conftest", "worker"}


@pytest.mark.parametrize(("name", "most"), [*((name, 25) for name in SHORT), *((name, 60) for name in LONG)])
def test_an_extension_is_short(name, most):
    assert lines(source(name)) <= most


@pytest.mark.parametrize("name", [*SHORT, *LONG])
def test_an_extension_imports_public_names_alone(name):
    for node in ast.walk(ast.parse(source(name))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            if module.startswith("dynamicblocks"):
                assert module in ROOMS
                public = importlib.import_module(module).__all__
                assert {alias.name for alias in node.names} <= set(public)


def test_names_are_gone_afterwards():
    """Other tests run over all registered names."""
    with names():
        assert db.as_integrator("own_leapfrog").order == 2
    with pytest.raises(db.ConfigurationError, match="unknown integrator 'own_leapfrog'"):
        db.as_integrator("own_leapfrog")
