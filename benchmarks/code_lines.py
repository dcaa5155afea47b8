"""Count lines of code: without blank lines, comments and docstrings.

Example: python benchmarks/code_lines.py src/dynamicblocks/solving src/dynamicblocks/gradients
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.ENCODING,
}  # fmt: skip


def docstrings(tree: ast.Module) -> set[int]:
    """The lines of the docstrings of a module, its classes and functions."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            lines.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def code_lines(path: Path) -> int:
    """Lines of a file that hold code."""
    source = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings(ast.parse(source)))


def main() -> None:
    total = 0
    for folder in map(Path, sys.argv[1:]):
        count = sum(map(code_lines, folder.rglob("*.py")))
        total += count
        print(f"{count:6} {folder}")
    print(f"{total:6} in all")


if __name__ == "__main__":
    main()
