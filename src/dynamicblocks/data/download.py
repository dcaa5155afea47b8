"""Files from the network: checked, resumed where a transfer was cut, and never half-written.

What only a transfer takes is imported by it: most trainings find their data on the disk.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

from filelock import FileLock

from dynamicblocks.bars import bars_in_use
from dynamicblocks.errors import StorageError
from dynamicblocks.extras import needed_for
from dynamicblocks.visible import on_one_line

TIMEOUT_SECONDS = 30
CHUNK = 1 << 16
# A file of STL-10's has 221 million bytes; its archive, with images that nobody labelled, 3,200 million.
MOST_MEMBER_BYTES, MOST_ARCHIVE_BYTES, MOST_AT_ONCE = 2**28, 2**32, 2**24
# What to do instead, at the end of every error.
LOCAL_COPY = "with --data.data_dir DIR a local copy is read, without network"


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Args:
        url: of the file.
        checksum: MD5, as its authors publish it.
    """

    url: str
    checksum: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def source(self) -> str:
        """The address to read: the environment variable DYNAMICBLOCKS_MIRROR names another server, paths stay."""
        mirror = os.environ.get("DYNAMICBLOCKS_MIRROR")
        return mirror.rstrip("/") + urlsplit(self.url).path if mirror else self.url


def cache_folder() -> Path:
    """Where downloads are kept: the environment variable DYNAMICBLOCKS_DATA, or the system's place for caches."""
    chosen = os.environ.get("DYNAMICBLOCKS_DATA")
    if chosen:
        return Path(chosen)
    with needed_for("the place for caches"):
        import pooch
    return Path(pooch.os_cache("dynamicblocks"))


def fetch(remote: Remote, folder: Path) -> Path:
    """The file in ``folder``, downloaded unless it is there already with the right checksum.

    A transfer that was cut or interrupted goes on where it ended. The final name is given to a checked file only.

    Raises:
        StorageError: no network, an error of the server, a wrong checksum, or a folder that cannot be written.
    """
    with needed_for("a download"):
        import requests
    path, part = folder / remote.file, folder / f"{remote.file}.part"
    with disk_errors(folder):
        if _has_checksum(path, remote):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        # Each process of a training asks for the data: one downloads, the others find it there when their turn comes.
        with FileLock(folder / ".lock"):
            if _has_checksum(path, remote):
                return path
            try:
                _continue_transfer(remote.source, part)
            except requests.RequestException as error:
                raise StorageError(f"cannot download {remote.source}: {error}; {LOCAL_COPY}") from error
            except OSError:
                # What filled the disk is not to stay there.
                part.unlink(missing_ok=True)
                raise
            if not _has_checksum(part, remote):
                part.unlink()
                raise StorageError(
                    f"{remote.file} from {remote.source} has not the checksum md5:{remote.checksum} that its authors "
                    f"publish. It was discarded; try again, or another DYNAMICBLOCKS_MIRROR; {LOCAL_COPY}"
                )
            part.replace(path)
    return path


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses, in a line that says what else can be done."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write to {on_one_line(str(folder))}: {error.strerror or error}; DYNAMICBLOCKS_DATA names another "
            f"folder for downloads, {LOCAL_COPY}"
        ) from error


def _has_checksum(path: Path, remote: Remote) -> bool:
    with needed_for("the checksum of a file"):
        import pooch
    return path.exists() and pooch.file_hash(str(path), alg="md5") == remote.checksum


def _continue_transfer(url: str, part: Path) -> None:
    """Bring ``part`` to the whole length of the file at ``url``."""
    import requests

    done = part.stat().st_size if part.exists() else 0
    # The checksum is that of the file as it is stored, and so are the positions in it.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            # The part is whole already, or of another file: its checksum will tell.
            return
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            done = 0
        said = answer.headers.get("Content-Length", "")
        length = int(said) if said.isdecimal() else 0
        size = f" ({(done + length) / 1e6:,.1f} MB)" if length else ""
        shown = bars_in_use().bar(f"downloading {part.stem}{size}", done + length or None, done=done)
        with part.open("ab" if done else "wb") as file, shown as bar:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.advance(len(chunk))
        if length and part.stat().st_size < done + length:
            raise requests.ConnectionError(
                f"the connection ended after {part.stat().st_size:,} of {done + length:,} bytes; the next try goes on "
                "from there"
            )


def unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    """The files named ``members`` (without their folder) out of a .tar.gz archive, if it is whole; else none of them.

    Where they are all there, and newer than the archive, nothing is done.

    Raises:
        StorageError: the archive is damaged, lacks one of them, or the folder cannot be written.
    """
    with disk_errors(folder):
        if _unpacked_since(archive, [folder / name for name in members]):
            return
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for left in folder.glob(".unpacking-*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if _unpacked_since(archive, [folder / name for name in members]):
                return
            # On the same disk, so that renaming is all that is left to do.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as beside:
                _unpack_to(Path(beside), archive, set(members))
                for name in members:
                    (Path(beside) / name).replace(folder / name)


def _unpack_to(folder: Path, archive: Path, wanted: set[str]) -> None:
    try:
        packed = archive.open("rb")
    except OSError as error:
        raise StorageError(f"{on_one_line(str(archive))} cannot be read: {error.strerror}") from error
    try:
        with packed, gzip.open(packed) as content:
            with tarfile.open(fileobj=cast(IO[bytes], _Bounded(content)), mode="r:") as tar:
                for member in tar:
                    name = Path(member.name).name
                    # Links and members with holes are not what was packed there.
                    if name in wanted and member.isfile() and not member.issparse():
                        _check_size(name, member.size, MOST_MEMBER_BYTES)
                        source = tar.extractfile(member)
                        if source is not None:
                            with source, (folder / name).open("wb") as file:
                                shutil.copyfileobj(source, file)
                            wanted.discard(name)
                    _check_size(name, content.tell() + member.size, MOST_ARCHIVE_BYTES)
            # The checksum lies at the very end of the archive, behind what tar reads.
            while content.read(CHUNK):
                _check_size("what follows", content.tell(), MOST_ARCHIVE_BYTES)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise StorageError(
            f"{on_one_line(str(archive))} cannot be unpacked ({error}); delete it and get it again"
        ) from error
    if wanted:
        raise StorageError(f"{on_one_line(str(archive))} lacks {', '.join(sorted(wanted))}; delete it and get it again")


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise tarfile.TarError(f"{on_one_line(what)} would take {size:,} bytes, official ones at most {most:,}")


class _Bounded:
    """A file of which no more is read at once than fits: what a header of an archive claims is else read to memory."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        _check_size("a header", size, MOST_AT_ONCE)
        return self.file.read(size)


def _unpacked_since(archive: Path, files: Sequence[Path]) -> bool:
    """Whether all files are there, and the archive has not changed since."""
    # What is unpacked bears the time of its unpacking.
    return all(file.exists() and file.stat().st_mtime >= archive.stat().st_mtime for file in files)
