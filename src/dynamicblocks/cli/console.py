"""Where commands write."""

from rich.console import Console

# A pipe or a file has no width of its own; 80 columns would break the cells of wide tables.
WIDTH_OF_FILES = 120


def make_console() -> Console:
    """Standard output, wide enough for tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDTH_OF_FILES))
