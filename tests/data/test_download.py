"""Downloads from a local server: checked, resumed, and never half-written."""

import gzip
import hashlib
import importlib
import io
import socket
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import torch

import dynamicblocks as db
from dynamicblocks.data.download import Remote, fetch, unpack
from dynamicblocks.data.images import sources
from dynamicblocks.data.images.catalogue import Where, read_raw
from tests.data_files import archive, serving, write_cifar10, write_mnist

CONTENT = bytes(range(256)) * 4000


def remote(server, name="file.bin", content=CONTENT):
    return Remote(f"{server.url}/some/folder/{name}", hashlib.md5(content).hexdigest())


def visible(folder):
    """The files of a folder, without the lock of its downloads."""
    return sorted(entry.name for entry in folder.iterdir() if entry.name != ".lock")


def test_a_download_is_whole_and_made_once(tmp_path):
    with serving({"file.bin": CONTENT}) as server:
        for _ in range(2):
            path = fetch(remote(server), tmp_path / "cache")
        assert server.requests == [("file.bin", None)]
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == ["file.bin"]


def test_of_several_processes_one_downloads(tmp_path):
    with serving({"file.bin": CONTENT}) as server, ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(remote(server), tmp_path), range(4)))
        assert server.requests == [("file.bin", None)]
    assert {path.read_bytes() for path in paths} == {CONTENT}


def test_a_file_is_asked_for_as_it_is_stored(tmp_path, monkeypatch):
    """A server may else compress it on the way: its checksum and length would be others."""
    asked = []
    get = requests.get

    def spy(url, **options):
        asked.append(options["headers"])
        return get(url, **options)

    monkeypatch.setattr("requests.get", spy)
    with serving({"file.bin": CONTENT}) as server:
        fetch(remote(server), tmp_path)
    assert asked == [{"Accept-Encoding": "identity"}]


def test_a_cut_transfer_goes_on_where_it_ended(tmp_path):
    with serving({"file.bin": CONTENT}) as server:
        server.cut_after = 300_000
        with pytest.raises(db.StorageError, match="cannot download"):
            fetch(remote(server), tmp_path)
        assert not (tmp_path / "file.bin").exists()
        done = (tmp_path / "file.bin.part").stat().st_size
        assert 0 < done <= 300_000
        assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
        assert server.requests[1] == ("file.bin", f"bytes={done}-")
    assert not (tmp_path / "file.bin.part").exists()


def test_a_server_without_ranges_sends_it_anew(tmp_path):
    with serving({"file.bin": CONTENT}, ranges=False) as server:
        (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
        assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_is_checked_and_used(tmp_path):
    with serving({"file.bin": CONTENT}) as server:
        (tmp_path / "file.bin.part").write_bytes(CONTENT)
        assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path):
    with serving({"file.bin": CONTENT[:-1] + b"!"}) as server:
        with pytest.raises(db.StorageError) as error:
            fetch(remote(server), tmp_path)
        for part in ("file.bin", server.url, hashlib.md5(CONTENT).hexdigest(), "--data.data_dir"):
            assert part in str(error.value)
    assert visible(tmp_path) == []


def test_a_file_that_is_not_there(tmp_path):
    with serving({}) as server, pytest.raises(db.StorageError, match="404"):
        fetch(remote(server), tmp_path)
    assert visible(tmp_path) == []


def test_without_network(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(db.StorageError, match=r"cannot download .*--data\.data_dir"):
        fetch(Remote(f"http://127.0.0.1:{port}/file.bin", "0" * 32), tmp_path)


def test_an_interrupted_transfer_goes_on_where_it_ended(tmp_path, monkeypatch):
    """Ctrl-C after a few pieces, then the same command again."""
    read = requests.Response.iter_content

    def interrupted(answer, size):
        for number, piece in enumerate(read(answer, size)):
            if number == 3:
                raise KeyboardInterrupt
            yield piece

    with serving({"file.bin": CONTENT}) as server:
        monkeypatch.setattr(requests.Response, "iter_content", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(remote(server), tmp_path)
        monkeypatch.setattr(requests.Response, "iter_content", read)
        done = (tmp_path / "file.bin.part").stat().st_size
        assert 0 < done < len(CONTENT)
        assert visible(tmp_path) == ["file.bin.part"]
        assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
        assert server.requests[1] == ("file.bin", f"bytes={done}-")
    assert visible(tmp_path) == ["file.bin"]


def cache_error(server, folder):
    with pytest.raises(
        db.StorageError, match=r"cannot write to .*; DYNAMICBLOCKS_DATA .*--data\.data_dir DIR"
    ) as error:
        fetch(remote(server), folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    """Where there can be none, in a file, on a full disk; then nothing is left, and no network is asked in vain."""
    (tmp_path / "file").write_text("")
    with serving({"file.bin": CONTENT}) as server:
        assert "/proc/none" in cache_error(server, Path("/proc/none"))
        assert "directory" in cache_error(server, tmp_path / "file" / "cache")
        assert server.requests == []
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file.bin.part").symlink_to("/dev/full")
        assert "No space left on device" in cache_error(server, tmp_path / "full")
        assert visible(tmp_path / "full") == []
        assert fetch(remote(server), tmp_path / "full").read_bytes() == CONTENT


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A server in the place of all others, and a cache of its own."""
    monkeypatch.setenv("DYNAMICBLOCKS_DATA", str(tmp_path / "cache"))
    with serving({}) as server:
        monkeypatch.setenv("DYNAMICBLOCKS_MIRROR", server.url)
        yield server


def test_an_archive_is_downloaded_once_and_unpacked(mirror, monkeypatch, tmp_path):
    written = write_cifar10(tmp_path / "made" / "cifar-10-batches-bin")
    content, md5 = archive(tmp_path / "made" / "cifar-10-batches-bin")
    mirror.files["cifar-10-binary.tar.gz"] = content
    source = sources.CIFAR10
    checked = sources.Source(source.folder, source.files, (Remote(source.remotes[0].url, md5),))
    monkeypatch.setattr(importlib.import_module("dynamicblocks.data.images.catalogue"), "CIFAR10", checked)
    for _ in range(2):
        raw = read_raw("cifar10", Where())
    assert [name for name, _ in mirror.requests] == ["cifar-10-binary.tar.gz"]
    images, labels = written["test_batch"]
    assert torch.equal(raw.test.images, torch.from_numpy(images))
    assert raw.test.labels.tolist() == list(labels)


def test_the_official_checksum_is_demanded(mirror, tmp_path):
    write_mnist(tmp_path / "mnist")
    mirror.files.update({path.name: path.read_bytes() for path in (tmp_path / "mnist").iterdir()})
    with pytest.raises(db.StorageError, match=r"train-images-idx3-ubyte\.gz .* md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"):
        read_raw("mnist", Where())
    assert visible(tmp_path / "cache" / "mnist") == []


def test_damaged_archives(tmp_path):
    whole, _ = archive(make_folder(tmp_path / "made"))
    path = tmp_path / "made.tar.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(db.StorageError, match="cannot be unpacked"):
        unpack(path, ["a.bin", "b.bin"], tmp_path / "out")
    path.write_bytes(whole)
    with pytest.raises(db.StorageError, match=r"lacks c\.bin"):
        unpack(path, ["a.bin", "c.bin"], tmp_path / "out")
    assert visible(tmp_path / "out") == []


def test_an_archive_with_a_changed_byte_is_not_unpacked(tmp_path):
    """Random bytes are stored as they are: only the checksum at the end of the archive tells."""
    whole, _ = archive(make_folder(tmp_path / "made"))
    path = tmp_path / "made.tar.gz"
    for place in range(1000, len(whole) - 1000, 1000):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(db.StorageError, match=r"made\.tar\.gz"):
            unpack(path, ["a.bin", "b.bin"], tmp_path / "out")
    assert visible(tmp_path / "out") == []


def test_an_archive_is_unpacked_by_several_processes_at_once(tmp_path):
    folder = make_folder(tmp_path / "made")
    path = tmp_path / "made.tar.gz"
    path.write_bytes(archive(folder)[0])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: unpack(path, ["a.bin", "b.bin"], tmp_path / "out"), range(40)))
    assert visible(tmp_path / "out") == ["a.bin", "b.bin"]
    assert (tmp_path / "out" / "a.bin").read_bytes() == (folder / "a.bin").read_bytes()


def make_folder(folder):
    folder.mkdir()
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes())
    return folder


def members(path, *infos):
    """An archive of members with contents, as (name, content or type and target)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in infos:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def refused(path, folder, message):
    with pytest.raises(db.StorageError, match=message) as error:
        unpack(path, ["a.bin"], folder)
    assert "\n" not in str(error.value)
    assert visible(folder) == []


def test_links_are_no_members(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    for kind, target in ((tarfile.SYMTYPE, "secret"), (tarfile.LNKTYPE, "secret"), (tarfile.FIFOTYPE, "")):
        path = members(tmp_path / "a.tar.gz", ("secret", b"other"), ("made/a.bin", (kind, target)))
        refused(path, tmp_path / "out", r"lacks a\.bin")
    absolute = members(tmp_path / "a.tar.gz", (str(tmp_path / "else" / "a.bin"), b"content"))
    unpack(absolute, ["a.bin"], tmp_path / "out")
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"content"
    assert not (tmp_path / "else").exists()


def test_archives_that_claim_too_much_are_refused(tmp_path):
    """A member of a million million bytes, and a header that is to be read to memory as a whole."""
    for name, kind in (("a.bin", tarfile.REGTYPE), ("other.bin", tarfile.REGTYPE), ("long", tarfile.GNUTYPE_LONGNAME)):
        info = tarfile.TarInfo(name)
        info.size, info.type = 10**12, kind
        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10000)))
        refused(path, tmp_path / "out", r"would take 1,000,000,\d+,\d+ bytes")


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = members(tmp_path / "a.tar.gz", ("a.bin", b"content"))
    (tmp_path / "out" / ".unpacking-x").mkdir(parents=True)
    (tmp_path / "out" / ".unpacking-x" / "a.bin").write_bytes(b"cont")
    unpack(path, ["a.bin"], tmp_path / "out")
    assert visible(tmp_path / "out") == ["a.bin"]
    (tmp_path / "file").write_text("")
    with pytest.raises(db.StorageError, match="cannot write to"):
        unpack(path, ["a.bin"], tmp_path / "file" / "out")


def test_members_are_unpacked_by_their_name_alone(tmp_path):
    """A member that points out of the folder lands in it."""
    path = tmp_path / "evil.tar.gz"
    (tmp_path / "a.bin").write_bytes(b"content")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "a.bin", arcname="../../a.bin")
    unpack(path, ["a.bin"], tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out" / "a.bin").read_bytes() == b"content"
    assert not (tmp_path / "deep" / "a.bin").exists()
