"""Files from the network: checked, resumed where a transfer was cut, and never half-written.

What only a transfer takes is imported by it: most trainings find their data on the disk.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dynamicblocks.errors import StorageError
from dynamicblocks.extras import needed_for

TIMEOUT_SECONDS = 30
CHUNK = 1 << 16
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

    A transfer that was cut goes on where it ended. The final name is given to a checked file only.

    Raises:
        StorageError: no network, an error of the server, or a wrong checksum.
    """
    with needed_for("a download"):
        import pooch
        import requests
        from filelock import FileLock
    path, part = folder / remote.file, folder / f"{remote.file}.part"
    if path.exists() and pooch.file_hash(str(path), alg="md5") == remote.checksum:
        return path
    folder.mkdir(parents=True, exist_ok=True)

    def transfer(url: str, output: str, _: object) -> None:
        _continue_transfer(url, part)
        # Pooch checks the file under a name of its own before it gives it the final one.
        part.replace(output)

    pooch.get_logger().setLevel("ERROR")
    try:
        # Each process of a training asks for the data: one downloads, the others find it there when their turn comes.
        with FileLock(folder / ".lock"):
            pooch.retrieve(
                remote.source, known_hash=f"md5:{remote.checksum}", fname=remote.file, path=folder, downloader=transfer
            )
    except requests.RequestException as error:
        raise StorageError(f"cannot download {remote.source}: {error}; {LOCAL_COPY}") from error
    except ValueError as error:
        raise StorageError(
            f"{remote.file} from {remote.source} has not the checksum md5:{remote.checksum} that its authors publish "
            f"({error}). It was discarded; try again, or another DYNAMICBLOCKS_MIRROR; {LOCAL_COPY}"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    return path


def _continue_transfer(url: str, part: Path) -> None:
    """Bring ``part`` to the whole length of the file at ``url``."""
    import requests
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

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
        length = int(answer.headers.get("Content-Length", 0))
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with part.open("ab" if done else "wb") as file, Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(f"downloading {part.stem}", total=done + length or None, completed=done)
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
        if length and part.stat().st_size < done + length:
            raise requests.ConnectionError(
                f"the connection ended after {part.stat().st_size:,} of {done + length:,} bytes; the next try goes on "
                "from there"
            )


def unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    """The files named ``members`` (without their folder) out of a .tar.gz archive, if it is whole; else none of them.

    Raises:
        StorageError: the archive is damaged, or lacks one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(members)
    try:
        # A folder of its own for each process, on the same disk, so that renaming is all that is left to do.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as beside:
            with gzip.open(archive) as content:
                with tarfile.open(fileobj=content, mode="r:") as tar:
                    for member in tar:
                        name = Path(member.name).name
                        source = tar.extractfile(member) if name in wanted and member.isfile() else None
                        if source is not None:
                            with source, (Path(beside) / name).open("wb") as file:
                                shutil.copyfileobj(source, file)
                            wanted.discard(name)
                # The checksum lies at the very end of the archive, behind what tar reads.
                while content.read(CHUNK):
                    pass
            if wanted:
                raise StorageError(f"{archive} lacks {', '.join(sorted(wanted))}; delete it and get it again")
            for name in members:
                (Path(beside) / name).replace(folder / name)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise StorageError(f"{archive} cannot be unpacked ({error}); delete it and get it again") from error
