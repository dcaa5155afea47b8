"""Python literals in texts, whose length and depth are bounded before they are read."""

import ast
from typing import Any

MOST_CHARACTERS = 20_000
MOST_DEEP = 32


def tree_of(text: str) -> ast.expr:
    """The syntax tree of an expression, or a ValueError for one that is none, or too long or too deep.

    Python's parser ends with a MemoryError in what is nested too deeply.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters, and at most {MOST_CHARACTERS:,} are read")
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth > MOST_DEEP:
            raise ValueError(f"nested more than {MOST_DEEP} levels deep")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"no literal: {error}") from None


def literal(text_or_tree: str | ast.expr) -> Any:
    """The value of a literal, or a ValueError.

    >>> literal("{'a': [1, 2.5]}")
    {'a': [1, 2.5]}
    """
    tree = tree_of(text_or_tree) if isinstance(text_or_tree, str) else text_or_tree
    try:
        return ast.literal_eval(tree)
    except (TypeError, MemoryError, RecursionError) as error:  # {[]: 1}, ------...1
        raise ValueError(f"no literal: {error}") from None
