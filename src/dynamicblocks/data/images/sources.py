"""Where the files of a data set lie: a local folder, the cache, or the network."""

from dataclasses import dataclass
from pathlib import Path

from dynamicblocks.data.download import Remote, cache_folder, disk_errors, fetch, unpack
from dynamicblocks.errors import StorageError
from dynamicblocks.visible import visible

# The official folders whose files have the same names.
SAME_FILES = {"mnist", "fashion-mnist"}


@dataclass(frozen=True)
class Source:
    """The official distribution of a data set.

    Args:
        folder: its name for the folder of its files.
        files: the files that are read.
        remotes: what to download: an archive of all files, or each file by itself.
    """

    folder: str
    files: tuple[str, ...]
    remotes: tuple[Remote, ...]

    def locate(self, data_dir: str | None) -> tuple[dict[str, Path], str]:
        """The path of each file, and a note on where they come from.

        With ``data_dir``, files are looked for in it and in its official folder, also in an archive there, and no
        network is touched. Without, in the cache, to which what is missing is downloaded.

        Raises:
            StorageError: a file is missing, or cannot be downloaded.
        """
        if data_dir is not None:
            try:
                return self._local(Path(data_dir)), f"local copy in {visible(data_dir)}"
            except OSError as error:
                raise StorageError(f"{visible(data_dir)} cannot be read: {error.strerror}") from error
        folder = cache_folder() / self.folder
        with disk_errors(folder):
            complete = all((folder / file).exists() for file in self.files)
        for remote in () if complete else self.remotes:
            archive = fetch(remote, folder)
            if _is_archive(archive):
                unpack(archive, self.files, folder)
        return {file: folder / file for file in self.files}, "official distribution"

    def _local(self, data_dir: Path) -> dict[str, Path]:
        for folder in (data_dir / self.folder, data_dir):
            if folder.name in SAME_FILES - {self.folder}:
                continue  # files of the same names, of another data set
            found = {file: _present(folder / file) for file in self.files}
            if all(found.values()):
                return {file: path for file, path in found.items() if path is not None}
            for remote in self.remotes:
                if _is_archive(folder / remote.file) and (folder / remote.file).is_file():
                    # Beside the archive there may be no room or right to write.
                    target = cache_folder() / f"{self.folder}-local"
                    unpack(folder / remote.file, self.files, target)
                    return {file: target / file for file in self.files}
        archives = [remote.file for remote in self.remotes if _is_archive(Path(remote.file))]
        raise StorageError(
            f"neither {data_dir / self.folder} nor {data_dir} holds {', '.join([*self.files, *archives])}; give the "
            "folder of the official files, or leave out --data.data_dir to download them"
        )


def _present(path: Path) -> Path | None:
    """The file, or its unzipped form; None where there is neither."""
    for candidate in (path, path.with_suffix("")) if path.suffix == ".gz" else (path,):
        if candidate.is_file():
            return candidate
    return None


def _is_archive(path: Path) -> bool:
    return path.name.endswith(".tar.gz")


def _idx(folder: str, base: str, checksums: tuple[str, str, str, str]) -> Source:
    files = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    remotes = tuple(Remote(f"{base}/{file}", md5) for file, md5 in zip(files, checksums, strict=True))
    return Source(folder, files, remotes)


MNIST = _idx(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
FASHION_MNIST = _idx(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
CIFAR10 = Source(
    "cifar-10-batches-bin",
    (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
    (Remote("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
)
CIFAR100 = Source(
    "cifar-100-binary",
    ("train.bin", "test.bin", "fine_label_names.txt"),
    (Remote("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
)
STL10 = Source(
    "stl10_binary",
    ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt"),
    (Remote("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),),
)
