"""Images and masks in folders: what is read, how it is split, and what is wrong with a folder."""

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import dynamicblocks as db
from dynamicblocks.data.segmentation import FolderPairs, MemoryPairs, PairAugmentation, PairBatches, dataset, load_pairs
from dynamicblocks.data.segmentation.masks import read_mask
from tests.mask_files import write_mask, write_pairs


def load(root, **options):
    return load_pairs(f"folder:{root}", **options)


def stacked(split):
    """All pairs of a split."""
    return torch.cat(list(split.stream([torch.arange(len(split))])))


def failure(root, **options):
    with pytest.raises(db.StorageError) as error:
        load(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_masks_hold_the_index_in_every_mode(mode, tmp_path):
    written = write_pairs(tmp_path, ("train", "val", "test"), mode=mode)
    data = load(tmp_path)
    for part, split in (("train", data.train), ("val", data.validation), ("test", data.test)):
        images, masks = written[part]
        pairs = stacked(split)
        assert np.array_equal(pairs[:, :3].numpy(), images.transpose(0, 3, 1, 2))
        assert np.array_equal(pairs[:, 3].numpy(), masks)
    assert data.classes == ("0", "1", "2")
    masks = written["train"][1]
    assert data.counts == tuple(int((masks == index).sum()) for index in range(3))
    assert data.mean == pytest.approx(written["train"][0].mean((0, 1, 2)))
    assert data.std == pytest.approx(written["train"][0].astype(float).std((0, 1, 2)))


def grey_png(path, mask, bits):
    """A grey PNG of so many bits a pixel, written byte by byte: Pillow writes no such files."""

    def chunk(name, content):
        body = name + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    height, width = mask.shape
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = []
    for row in mask:
        number = 0
        for value in row.tolist():
            number = (number << bits) | value
        rows.append(b"\0" + number.to_bytes(width * bits // 8, "big"))
    header = chunk(b"IHDR", size + bytes([bits, 0, 0, 0, 0]))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_masks_of_few_bits_hold_the_index_too(bits, tmp_path):
    mask = np.arange(24).reshape(3, 8) % min(2**bits, 11)
    grey_png(tmp_path / "mask.png", mask, bits)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_grey_images_have_one_channel(tmp_path):
    write_pairs(tmp_path)
    for path in tmp_path.glob("*/images/*.png"):
        Image.open(path).convert("L").save(path)
    assert load(tmp_path).channels == 1
    Image.open(path).convert("RGB").save(path)
    assert load(tmp_path).channels == 3


def test_the_validation_split_is_cut_from_training_images_where_there_is_one_other_part(tmp_path):
    written = write_pairs(tmp_path, ("train", "test"), count=10)
    data = load(tmp_path, validation=0.3)
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 3, 10)
    found = torch.cat([stacked(data.train), stacked(data.validation)])[:, 3].numpy()
    assert sorted(map(bytes, found)) == sorted(map(bytes, written["train"][1]))
    again, other = load(tmp_path, validation=0.3), load(tmp_path, validation=0.3, split_seed=1)
    assert torch.equal(stacked(again.validation), stacked(data.validation))
    assert not torch.equal(stacked(other.validation), stacked(data.validation))
    few = load(tmp_path, validation=0.3, train_images=4)
    assert len(few.train) == 4
    assert sum(few.counts) == int((stacked(few.train)[:, 3] != 255).sum())
    with pytest.raises(db.ConfigurationError, match="at most the 7 training images, got 8"):
        load(tmp_path, validation=0.3, train_images=8)


def test_images_of_any_size_become_squares(tmp_path):
    """Left half of class 0 and dark, right half of class 1 and bright; the middle square of a wide image is taken."""
    write_pairs(tmp_path)
    mask = np.repeat([[0, 1]], 30, axis=1).repeat(20, axis=0).astype(np.uint8)
    Image.fromarray(np.repeat(200 * mask[..., None], 3, axis=-1)).save(tmp_path / "val" / "images" / "00.png")
    write_mask(tmp_path / "val" / "masks" / "00.png", mask)
    assert "data.size" in failure(tmp_path)
    pair = stacked(load(tmp_path, size=10).test)[0]
    assert pair.shape == (4, 10, 10)
    expected = torch.tensor([0, 1]).repeat_interleave(5).expand(10, 10)
    assert torch.equal(pair[3], expected.to(torch.uint8))
    assert torch.equal(pair[0] > 100, expected.bool())


def test_classes_have_names_where_a_file_says_so(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nsea land\nair\nship\n\n")
    data = load(tmp_path)
    assert data.classes == ("sky", "sea land", "air", "ship")
    assert data.counts[3] == 0
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    assert "masks/00.png holds class 2, but" in failure(tmp_path)
    assert "classes.txt names 2 classes, 0 to 1" in failure(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\n\nsea\n")
    assert "classes.txt must hold a line for each class" in failure(tmp_path)


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    assert "must hold the folders train and val or test, found none" in failure(tmp_path)
    write_pairs(tmp_path, ("train",))
    assert "found train" in failure(tmp_path)
    (tmp_path / "val").mkdir()
    assert "val/images is no folder" in failure(tmp_path)
    (tmp_path / "val" / "images").mkdir()
    assert "val/images holds no file" in failure(tmp_path)


def save(picture, path):
    picture.save(path)


BROKEN = {
    "no mask": (lambda val: (val / "masks/03.png").unlink(), r"images/03\.png has no mask .*masks/03\.\*"),
    "no image": (lambda val: (val / "images/03.png").unlink(), r"masks/03\.png has no image .*images/03\.\*"),
    "two images": (lambda val: save(Image.new("RGB", (12, 10)), val / "images/03.jpg"), r"03\.jpg and .*03\.png have"),
    "another size": (
        lambda val: save(Image.new("L", (10, 12)), val / "masks/03.png"),
        r"masks/03\.png has 10 x 12 pixels, .*images/03\.png has 12 x 10",
    ),
    "colours": (lambda val: save(Image.new("RGB", (12, 10)), val / "masks/03.png"), r"masks/03\.png .*got mode RGB"),
    "a class beyond": (
        lambda val: save(Image.new("L", (12, 10), 7), val / "masks/03.png"),
        r"masks/03\.png holds class 7, but the training masks hold 3 classes",
    ),
    "an index beyond 255": (
        lambda val: save(Image.fromarray(np.full((10, 12), 300, np.uint16)), val / "masks/03.png"),
        r"masks/03\.png must hold class indices .*got 300",
    ),
    "a lossy mask": (lambda val: (val / "masks/03.png").rename(val / "masks/03.jpg"), r"masks/03\.jpg is not a mask"),
    "no mask at all": (lambda val: (val / "masks/03.png").write_bytes(b"no"), r"masks/03\.png cannot be read"),
    "truncated mask": (lambda val: cut(val / "masks/03.png"), r"masks/03\.png cannot be read"),
    "truncated image": (lambda val: cut(val / "images/03.png"), r"images/03\.png cannot be read"),
    "floats": (
        lambda val: Image.fromarray(np.zeros((10, 12), np.float32)).save(val / "images/03.png", format="TIFF"),
        r"images/03\.png holds floats, of which no range is known",
    ),
    "several masks in one file": (
        lambda val: Image.new("L", (12, 10)).save(
            val / "masks/03.png", format="TIFF", save_all=True, append_images=[Image.new("L", (12, 10), 1)]
        ),
        r"masks/03\.png holds several images",
    ),
    "a mask of the image as it is stored": (
        lambda val: turn_by_exif(val / "images/03.png"),
        r"masks/03\.png has 12 x 10 pixels, .*03\.png has 10 x 12 once they are upright: .* orientations are 1 and 6",
    ),
    "nothing but ignored": (
        lambda val: [save(Image.new("L", (12, 10), 255), path) for path in (val / "masks").iterdir()],
        r"val/masks holds ignored pixels \(255\) alone",
    ),
}


def turn_by_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_names_the_file(name, tmp_path):
    change, message = BROKEN[name]
    write_pairs(tmp_path)
    change(tmp_path / "val")
    with pytest.raises(db.StorageError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_images_are_turned_upright_and_masks_by_their_own_orientation(tmp_path):
    """A sideways photo with an upright mask, and a pair that lies sideways, are both the pair that was."""
    written = write_pairs(tmp_path, ("train", "val", "test"))
    images, masks = written["test"]
    for number, kinds in ((0, ("images",)), (1, ("images", "masks"))):
        for kind in kinds:
            path = tmp_path / "test" / kind / f"{number:02}.png"
            stored = np.rot90(images[number] if kind == "images" else masks[number])
            Image.fromarray(np.ascontiguousarray(stored)).save(path)
            turn_by_exif(path)
    data = load(tmp_path)
    pairs = stacked(data.test).numpy()
    assert np.array_equal(pairs[:, :3], images.transpose(0, 3, 1, 2))
    assert np.array_equal(pairs[:, 3], masks)
    assert "2 images turned upright by their EXIF orientation" in data.note


def test_pairs_lie_in_subfolders_too_and_what_is_no_data_is_left_out(tmp_path):
    written = write_pairs(tmp_path, ("train", "val", "test"))
    for kind in ("images", "masks"):
        folder = tmp_path / "test" / kind
        (folder / "later").mkdir()
        (folder / "05.png").rename(folder / "later" / "01.png")
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / "__MACOSX").mkdir()
    (tmp_path / "test" / "images" / "notes.txt").write_text("no")
    Image.open(tmp_path / "test" / "images" / "00.png").save(tmp_path / "test" / "images" / "00.ppm")
    (tmp_path / "test" / "images" / "00.png").unlink()
    data = load(tmp_path)
    images, masks = written["test"]
    pairs = stacked(data.test).numpy()
    assert np.array_equal(pairs[:, :3], images.transpose(0, 3, 1, 2))
    assert np.array_equal(pairs[:, 3], masks)
    assert "left out: 4 hidden (test/images/.DS_Store, test/images/__MACOSX, test/masks/.DS_Store, ...)" in data.note
    assert "1 with other endings (test/images/notes.txt)" in data.note


def test_images_of_16_bits_count_by_their_upper_8(tmp_path):
    write_pairs(tmp_path)
    deep = np.arange(120).reshape(10, 12).astype(np.uint16) * 500
    Image.fromarray(deep).save(tmp_path / "val" / "images" / "03.png")
    pair = stacked(load(tmp_path).test)[3]
    assert np.array_equal(pair[:3].numpy(), np.stack([deep >> 8] * 3))


def test_one_class_is_too_few(tmp_path):
    """A mask of 0 and 255 is no mask of two classes: 255 is ignored."""
    write_pairs(tmp_path, classes=1)
    assert "at least two classes, got 1" in failure(tmp_path)


@pytest.mark.parametrize("name", ["folder", "folder:", "folders:x", "qtip", "imagefolder:x"])
def test_other_names_are_errors(name):
    with pytest.raises(db.ConfigurationError, match="folder:PATH"):
        load_pairs(name)


def batches_of(root, workers):
    data = load(root)
    split = data.train.with_workers(workers)
    changes = PairAugmentation(shift=2, flip=True)
    return PairBatches(split, 2, data.mean, data.std, seed=5, augmentation=changes)


def test_what_is_read_does_not_depend_on_who_reads_it(tmp_path, monkeypatch):
    write_pairs(tmp_path)
    kept = batches_of(tmp_path, 0)
    assert isinstance(kept.split, MemoryPairs)
    monkeypatch.setattr(dataset, "KEPT_BYTES", 0)
    streams = [batches_of(tmp_path, workers) for workers in (0, 2)]
    assert isinstance(streams[0].split, FolderPairs)
    before = torch.get_rng_state()
    for other in streams:
        for mine, theirs in (
            (kept.training(1), other.training(1)),
            (kept.training(1, first_step=1), other.training(1, first_step=1)),
            (kept.evaluation(), other.evaluation()),
        ):
            for (images, masks), (others, other_masks) in zip(mine, theirs, strict=True):
                assert torch.equal(images, others)
                assert torch.equal(masks, other_masks)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_broke_later_is_named_by_workers_too(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "KEPT_BYTES", 0)
    write_pairs(tmp_path)
    data = load(tmp_path)
    cut(tmp_path / "val" / "images" / "03.png")
    with pytest.raises(db.StorageError, match=r"03\.png") as error:
        list(data.test.with_workers(workers).stream([torch.tensor([3])]))
    assert "\n" not in str(error.value)


def test_images_and_masks_are_changed_alike():
    """The mask is the image, so it stays so, but for what moved in."""
    pictures = torch.randint(0, 200, (64, 1, 9, 9), dtype=torch.uint8)
    pairs = torch.cat([pictures, pictures], dim=1)
    changes = PairAugmentation(shift=3, flip=True, quarter_turns=True)
    changed = changes.apply(pairs, torch.Generator().manual_seed(0))
    images, masks = changed.unbind(1)
    moved_in = masks == 255
    assert torch.equal(images[~moved_in], masks[~moved_in])
    assert not images[moved_in].any()
    assert moved_in.any()
    turned = PairAugmentation(quarter_turns=True).apply(pairs, torch.Generator().manual_seed(0))
    which = [
        next(quarter for quarter in range(4) if torch.equal(torch.rot90(pair, quarter, (1, 2)), other))
        for pair, other in zip(pairs, turned, strict=True)
    ]
    assert min(np.bincount(which, minlength=4)) > 4


def test_quarter_turns_are_for_squares():
    with pytest.raises(db.ConfigurationError, match="square images, got 12 x 10"):
        PairAugmentation(quarter_turns=True).apply(torch.zeros(1, 2, 10, 12, dtype=torch.uint8), torch.Generator())


def test_processes_share_batches_and_evaluation(tmp_path):
    write_pairs(tmp_path, count=7)
    data = load(tmp_path)
    options = {"mean": data.mean, "std": data.std, "augmentation": PairAugmentation(flip=True)}
    whole = PairBatches(data.train, 4, **options)
    parts = [PairBatches(data.train, 4, **options, rank=rank, world=2) for rank in range(2)]
    (images, _), *_ = whole.training(0)
    shares = [next(part.training(0))[0] for part in parts]
    assert torch.equal(images[0::2], shares[0])
    assert torch.equal(images[1::2], shares[1])
    assert sum(len(masks) for part in parts for _, masks in part.evaluation()) == len(data.train)
    with pytest.raises(db.ConfigurationError, match="multiple of 3 processes"):
        PairBatches(data.train, 4, **options, world=3)
