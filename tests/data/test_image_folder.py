"""Images of any size in folders, one for each class."""

import numpy as np
import pytest
import torch
from PIL import Image

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.data import load_dataset
from dynamicblocks.data.images.datasets import moments
from dynamicblocks.data.images.folder import FolderSplit

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def write_images(root, parts, count=10, size=(40, 24)):
    """Plain images with the class's colour; the one number ``n`` is darker by ``n``."""
    for part in parts:
        for name, colour in COLOURS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade = tuple(max(0, value - number) for value in colour)
                Image.new("RGB", size, shade).save(folder / f"{number:02}.png")
    return root


def load(root, **options):
    return load_dataset(f"imagefolder:{root}", **{"size": 16, **options})


@pytest.mark.parametrize("test", ["val", "test"])
def test_validation_is_cut_from_train_where_there_are_two_parts(test, tmp_path):
    data = load(write_images(tmp_path, ("train", test)), validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 20)
    assert data.classes == ("blue", "red")
    assert data.validation.labels.tolist() == [0, 0, 1, 1]
    assert data.augmentation.flip


def test_with_three_parts_nothing_is_cut(tmp_path):
    data = load(write_images(tmp_path, ("train", "val", "test")))
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 20, 20)
    assert "validation images of its own" in data.note


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on some machines
def test_images_come_in_the_order_asked(workers, tmp_path):
    data = load(write_images(tmp_path, ("train", "val")))
    (first, second) = data.test.with_workers(workers).stream([torch.tensor([3, 12]), torch.tensor([0])])
    assert (first.dtype, first.shape, second.shape) == (torch.uint8, (2, 3, 16, 16), (1, 3, 16, 16))
    assert first[0, :, 5, 5].tolist() == [0, 0, 252]
    assert first[1, :, 5, 5].tolist() == [253, 0, 0]


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (20, 20), (8, 30)])
def test_the_middle_square_is_kept(size, tmp_path):
    """The middle third of the longer side is white; so is then the whole square."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    longer, side = max(size), min(size)
    begin = (longer - side) // 2
    middle = slice(begin, begin + side)
    pixels[(middle, slice(None)) if height > width else (slice(None), middle)] = 255
    for part in ("train", "val"):
        for name in COLOURS:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(5):
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    (image,) = load(tmp_path, validation=0.2).test.stream([torch.tensor([0])])
    assert image.float().mean() > 245


def test_grey_and_palette_images_become_colour(tmp_path):
    write_images(tmp_path, ("train", "val"))
    Image.new("L", (30, 30), 100).save(tmp_path / "val" / "blue" / "00.png")
    (image,) = load(tmp_path).test.stream([torch.tensor([0])])
    assert image.unique().tolist() == [100]


def test_a_network_is_trained_on_a_folder(tmp_path):
    write_images(tmp_path / "images", ("train", "val"), count=40)
    flags = ["--data.name", f"imagefolder:{tmp_path / 'images'}", "--data.size", "12", "--hardware.workers", "1"]
    flags += ["--model.widths", "[4]", "--epochs", "3", "--data.batch_size", "8", "--output", str(tmp_path)]
    assert main(["train", *flags, "--run", "run"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--steps", "4"]) == 0


def test_wrong_folders(tmp_path):
    def read_all():
        data = load(tmp_path)
        list(data.test.stream([torch.arange(len(data.test))]))

    def failure():
        with pytest.raises(db.StorageError) as error:
            read_all()
        return str(error.value)

    assert "must hold the folders train and val or test, found none" in failure()
    write_images(tmp_path, ("train",))
    assert "found train" in failure()
    write_images(tmp_path, ("val",))
    (tmp_path / "val" / "green").mkdir()
    assert "they differ in green" in failure()
    (tmp_path / "train" / "green").mkdir()
    assert "green holds no image" in failure()
    (tmp_path / "train" / "green").rmdir()
    (tmp_path / "val" / "green").rmdir()
    (tmp_path / "val" / "red" / "03.png").write_bytes(b"no image")
    assert "03.png cannot be read as an image" in failure()


def test_an_unreadable_image_is_named_by_workers_too(tmp_path):
    write_images(tmp_path, ("train", "val"))
    whole = (tmp_path / "val" / "red" / "03.png").read_bytes()
    (tmp_path / "val" / "red" / "03.png").write_bytes(whole[: len(whole) // 2])
    data = load(tmp_path)
    with pytest.raises(db.StorageError, match=r"03\.png") as error:
        list(data.test.with_workers(1).stream([torch.tensor([13])]))
    assert "\n" not in str(error.value)


def test_an_image_too_large_to_be_one_is_named(tmp_path, monkeypatch):
    write_images(tmp_path, ("train", "val"))
    data = load(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(db.StorageError, match=r"03\.png cannot be read"):
        list(data.test.stream([torch.tensor([13])]))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_images_draws_nothing_from_the_global_generator(workers, tmp_path):
    """Else a run resumed inside an epoch would go on with other draws than the run that was not killed."""
    data = load(write_images(tmp_path, ("train", "val")))
    before = torch.get_rng_state()
    list(data.test.with_workers(workers).stream([torch.tensor([0])]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [3, 1000, 1001, 1999])
def test_mean_and_deviation_are_of_at_most_a_thousand_images(count):
    sampled = []

    class Counted(FolderSplit):
        def stream(self, batches):
            for batch in batches:
                sampled.extend(batch.tolist())
                yield torch.zeros(len(batch), 3, 2, 2, dtype=torch.uint8)

    moments(Counted((), torch.zeros(count), 2))
    assert min(count, 500) <= len(sampled) <= 1000
    assert len(set(np.diff(sampled).tolist())) == 1
