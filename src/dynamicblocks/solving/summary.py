"""Results in a few words, whatever the size of their tensors."""

from typing import Any

from torch import Tensor


def described(nested: Any) -> str:
    """The shapes and types of a nested state, in its nesting.

    >>> import torch
    >>> described({"x": torch.zeros(3, 2), "rest": (torch.zeros(3),)})
    "{'x': float32 (3, 2), 'rest': (float32 (3,),)}"
    """
    if isinstance(nested, Tensor):
        kind = str(nested.dtype).removeprefix("torch.")
        place = "" if nested.device.type == "cpu" else f" on {nested.device}"
        return f"{kind} {tuple(nested.shape)}{place}"
    if isinstance(nested, dict):
        return "{" + ", ".join(f"{key!r}: {described(value)}" for key, value in nested.items()) + "}"
    if isinstance(nested, (tuple, list)):
        parts = ", ".join(map(described, nested))
        if isinstance(nested, list):
            return f"[{parts}]"
        if hasattr(nested, "_fields"):
            named = ", ".join(f"{name}={described(each)}" for name, each in zip(nested._fields, nested, strict=True))
            return f"{type(nested).__name__}({named})"
        return f"({parts},)" if len(nested) == 1 else f"({parts})"
    return f"{nested!r:.40}"


def shortened(text: str, most: int = 400) -> str:
    """A text, without its end if it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(number: float | Tensor | None) -> str:
    """A number, or the range and the sum of the whole numbers of many samples."""
    if number is None:
        return "not known"
    if isinstance(number, float):
        return f"{number:.3g}"
    if not isinstance(number, Tensor) or number.numel() == 1:
        return f"{int(number)}"
    least, most = int(number.min()), int(number.max())
    return f"{least if least == most else f'{least}..{most}'} a sample ({int(number.sum())} in all)"
