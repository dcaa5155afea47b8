"""Text that somebody wrote, such as the name of a folder, as it can be printed on a terminal."""

import unicodedata

# Control characters, halves of characters (bytes of a file name that are no text), other ends of lines.
UNSEEN = ("Cc", "Cs", "Zl", "Zp")
# These turn the direction of the text around them, so that a name looks like another one.
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    r"""The text as it is, but for characters that would act on a terminal: those are escaped. Lines stay lines.

    >>> print(visible("runs/[bold]\x1b[31mred"))
    runs/[bold]\x1b[31mred
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def on_one_line(text: str) -> str:
    r"""The same on a single line.

    >>> on_one_line("a\n  b")
    'a b'
    """
    return visible(" ".join(line.strip() for line in text.split("\n") if line.strip()))


def legible(name: object) -> str:
    r"""A path or name on a single line, an end of line in it visible as well.

    >>> print(legible("a\nb"))
    a\nb
    """
    return visible(str(name)).replace("\n", "\\n")


def in_a_picture(text: str) -> str:
    """The same for matplotlib, which reads what stands between dollars as a formula."""
    return visible(text).replace("$", r"\$")


def columns(text: str) -> int:
    """How many columns of a terminal it takes: two for each wide character, none for an accent on its own.

    >>> columns("rk4"), columns("図")
    (3, 2)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _shown(character: str) -> str:
    if character == "\n" or (unicodedata.category(character) not in UNSEEN and character not in TURNING):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
