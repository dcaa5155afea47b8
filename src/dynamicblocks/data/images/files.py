"""Which files of a folder are images: decided here, for every reader of image files."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dynamicblocks.errors import StorageError
from dynamicblocks.visible import legible

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
# Formats without loss, whose numbers arrive as they were written: of others the classes would be others.
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
# What systems and programs put beside images, besides names that begin with a dot; in small letters.
HIDDEN = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "icon\r"}
# Names in a note or a message, at most.
NAMED = 3


def listed(names: Iterable[str], most: int = NAMED) -> str:
    """The first few of several names."""
    names = list(names)
    return ", ".join(map(legible, names[:most])) + (", ..." if len(names) > most else "")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is nobody's data."""
    return name.startswith(".") or name.lower() in HIDDEN


@dataclass
class LeftOut:
    """What lies in the folders of a data set and is no data, by the reason, as paths seen from the data's root."""

    root: Path
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, why: str, path: Path) -> None:
        """Note one file or folder."""
        self.found.setdefault(why, []).append(os.path.relpath(path, self.root))

    def __str__(self) -> str:
        return "; ".join(f"{len(names):,} {why} ({listed(sorted(names))})" for why, names in sorted(self.found.items()))


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name.

    Raises:
        StorageError: it is no folder, or may not be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise StorageError(f"the folder {legible(folder)} cannot be read: {error.strerror}") from error


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out."""
    return [entry.name for entry in entries(folder) if not is_hidden(entry.name) and _is_folder(entry)]


def find_files(folder: Path, left_out: LeftOut, endings: Sequence[str] = IMAGE_ENDINGS) -> tuple[Path, ...]:
    """The files with these endings in a folder and the folders in it, in the order of their paths from there.

    Links are followed. A folder that several of them lead to is read once, at its own place where that is inside.

    Raises:
        StorageError: a folder cannot be read.
    """
    found: list[Path] = []
    folders, links = [folder], list[Path]()
    seen: set[tuple[int, int]] = set()
    while folders or links:
        # The folders that lie here first, so that it does not depend on the names of links what is read through them.
        place = folders.pop() if folders else links.pop(links.index(min(links)))
        inside = entries(place)
        identity = place.stat()
        if (identity.st_dev, identity.st_ino) in seen:
            left_out.add("links to folders that are read already", place)
            continue
        seen.add((identity.st_dev, identity.st_ino))
        for entry in inside:
            path = place / entry.name
            if is_hidden(entry.name):
                left_out.add("hidden", path)
            elif _is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
            elif path.suffix.lower() not in endings:
                left_out.add("with other endings", path)
            elif not _is_file(entry):
                left_out.add("broken links, or no files", path)
            else:
                found.append(path)
    return tuple(sorted(found, key=lambda path: path.relative_to(folder).parts))


def fingerprint(names: Iterable[str]) -> str:
    """A few digits that tell lists of files apart: two runs with the same were made on files of the same names."""
    return hashlib.sha256(b"\0".join(map(os.fsencode, names))).hexdigest()[:16]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
