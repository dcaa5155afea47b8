"""Image files of every kind beside the numbers that were written, worked out by hand."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

import dynamicblocks as db
from dynamicblocks.data.images.decoding import header_of, read_image

LZW = ("tif", {"compression": "tiff_lzw"})
DRAW = np.random.default_rng(0)
PICTURE = DRAW.integers(0, 256, (3, 5, 3), dtype=np.uint8)
DEEP = DRAW.integers(0, 65536, (3, 5), dtype=np.uint16)
# How the upright picture lies in a file of each orientation. The first row of the file is, of the picture: 1 the top,
# 2 the top from the right, 3 the bottom from the right, 4 the bottom, 5 the left, 6 the right side, 7 that from below,
# 8 the left from below.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values, colour, *more, behind=()):
    """A PNG file of big-endian values (height, width, channels), byte by byte: colour 0 grey, 2 RGB, 4 LA, 6 RGBA."""
    height, width = values.shape[:2]
    bits = 8 * values.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + b"".join(behind) + chunk(b"IEND", b"")


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def planes(values):
    """Channels first, as they are read."""
    return np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("ending", "options"), [("png", {}), ("webp", {"lossless": True}), ("tif", {}), LZW])
def test_every_orientation_in_every_format_without_loss(ending, options, orientation, tmp_path):
    path = tmp_path / f"a.{ending}"
    stored = np.ascontiguousarray(STORED[orientation](PICTURE))
    Image.fromarray(stored).save(path, exif=exif(orientation), **options)
    assert np.array_equal(read_image(path, 3), planes(PICTURE))
    header = header_of(path)
    assert (header.width, header.height, header.orientation) == (5, 3, orientation)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_of_a_photo(orientation, progressive, tmp_path):
    """Blocks of 8 x 8 of one colour each survive what a JPEG loses."""
    picture = np.kron(np.array([[20, 90, 160], [230, 50, 120]], np.uint8), np.ones((8, 8), np.uint8))
    stored = np.ascontiguousarray(STORED[orientation](picture))
    path = tmp_path / "a.jpg"
    Image.fromarray(stored).save(path, quality=100, exif=exif(orientation), progressive=progressive)
    read = read_image(path, 1)
    assert read.shape == (1, 16, 24)
    assert np.abs(read[0].astype(int) - picture).max() <= 2
    assert (header_of(path).width, header_of(path).height) == (24, 16)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_an_orientation_before_and_behind_the_pixels_of_a_png(place, tmp_path):
    told = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    stored = STORED[6](PICTURE)
    path = tmp_path / "a.png"
    path.write_bytes(png(stored, 2, told) if place == "before" else png(stored, 2, behind=[told]))
    assert np.array_equal(read_image(path, 3), planes(PICTURE))
    assert (header_of(path).width, header_of(path).height) == (5, 3)


@pytest.mark.parametrize(
    "told", [b"", b"MM", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x09\0\0"]
)
def test_an_orientation_that_is_none_turns_nothing(told, tmp_path):
    """A damaged one, and the number 9."""
    path = tmp_path / "a.png"
    path.write_bytes(png(PICTURE, 2, chunk(b"eXIf", told)))
    assert np.array_equal(read_image(path, 3), planes(PICTURE))
    assert header_of(path).orientation == 1


def test_16_bits_count_by_their_upper_8(tmp_path):
    colour = DRAW.integers(0, 65536, (3, 5, 3), dtype=np.uint16)
    files = {
        "grey.png": (png(DEEP[..., None], 0), DEEP),
        "rgb.png": (png(colour, 2), colour),
        "grey.pgm": (b"P5 5 3 65535\n" + DEEP.astype(">u2").tobytes(), DEEP),
    }
    for name, (content, values) in files.items():
        (tmp_path / name).write_bytes(content)
        channels = 1 if values.ndim == 2 else 3
        assert np.array_equal(read_image(tmp_path / name, channels), planes(values >> 8)), name
    for name, options in (("a.tif", {}), ("b.tif", {"compression": "tiff_lzw"})):
        Image.fromarray(DEEP).save(tmp_path / name, **options)
        assert np.array_equal(read_image(tmp_path / name, 1), planes(DEEP >> 8))
        assert np.array_equal(read_image(tmp_path / name, 3), np.stack([DEEP >> 8] * 3))
        assert header_of(tmp_path / name).grey


def tiff(values, *, order="<", bits=None, kind=1, samples=1):
    """A TIFF file of one strip, byte by byte."""
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape[:2]
    bits = bits or 8 * values.dtype.itemsize
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 2 if samples == 3 else 1), (273, None)]
    tags += [(277, samples), (278, height), (279, len(content)), (339, kind)]
    behind = 8 + 2 + 12 * len(tags) + 4
    body, extra = b"", b""
    for tag, value in tags:
        count, short = 1, struct.pack(f"{order}HH", value or 0, 0) if (value or 0) < 65536 else b""
        if tag == 258 and samples == 3:
            extra = struct.pack(f"{order}HHH", bits, bits, bits)
            body += struct.pack(f"{order}HHII", tag, 3, 3, behind)
            continue
        if tag == 273:
            body += struct.pack(f"{order}HHII", tag, 4, 1, behind + (6 if samples == 3 else 0))
            continue
        body += struct.pack(f"{order}HHI", tag, 3, count) + short
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(tags))
    return head + body + struct.pack(f"{order}I", 0) + extra + content


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [1, 3])
def test_16_bits_of_both_byte_orders(order, samples, tmp_path):
    values = DRAW.integers(0, 65536, (3, 5, 3), dtype=np.uint16) if samples == 3 else DEEP
    (tmp_path / "a.tif").write_bytes(tiff(values, order=order, samples=samples))
    assert np.array_equal(read_image(tmp_path / "a.tif", samples), planes(values >> 8))


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, 3), (np.int32, 2), (np.uint32, 1), (np.int16, 2)])
def test_values_without_a_known_range_are_refused(dtype, kind, tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.ones((3, 5), dtype), kind=kind))
    with pytest.raises(
        db.StorageError, match=r"a\.tif holds (floats|integers .*), of which no range is known: convert"
    ):
        read_image(tmp_path / "a.tif", 1)


def on_white(values, alpha):
    """What is seen of values with so much of them before a white ground."""
    alpha = alpha[..., None] / 255
    return np.floor(values * alpha + 255 * (1 - alpha) + 0.5 + 1e-9).astype(np.uint8)


def test_transparency_is_seen_on_white(tmp_path):
    alpha = DRAW.integers(0, 256, (3, 5), dtype=np.uint8)
    alpha[0, :2] = 0, 255
    seen = on_white(PICTURE, alpha)
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png", 3), planes(seen))
    assert seen[0, 0].tolist() == [255, 255, 255]
    grey = PICTURE[..., :1]
    (tmp_path / "la.png").write_bytes(png(np.dstack([grey, alpha]), 4))
    assert np.array_equal(read_image(tmp_path / "la.png", 1), planes(on_white(grey, alpha)))
    assert header_of(tmp_path / "la.png").grey


def test_a_colour_that_is_declared_transparent_is_white(tmp_path):
    for name, values, colour, key in (
        ("grey.png", PICTURE[..., :1], 0, PICTURE[0, 0, :1]),
        ("rgb.png", PICTURE, 2, PICTURE[0, 0]),
        ("deep.png", DEEP[..., None], 0, DEEP[:1, 0]),
    ):
        declared = chunk(b"tRNS", key.astype(">u2").tobytes())
        (tmp_path / name).write_bytes(png(values, colour, declared))
        hidden = (values == key).all(axis=-1)
        seen = (values >> 8 if values.dtype == np.uint16 else values).astype(np.uint8)
        seen[hidden] = 255
        assert hidden[0, 0], name
        assert np.array_equal(read_image(tmp_path / name, values.shape[-1]), planes(seen)), name


@pytest.mark.parametrize("ending", ["png", "gif", "tif", "bmp"])
def test_palettes_are_looked_up(ending, tmp_path):
    colours = DRAW.integers(0, 256, (4, 3), dtype=np.uint8)
    indices = np.arange(15, dtype=np.uint8).reshape(3, 5) % 4
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / f"a.{ending}")
    assert np.array_equal(read_image(tmp_path / f"a.{ending}", 3), planes(colours[indices]))
    if ending in ("png", "gif"):
        picture.save(tmp_path / f"b.{ending}", transparency=2)
        colours[2] = 255
        assert np.array_equal(read_image(tmp_path / f"b.{ending}", 3), planes(colours[indices]))


def test_a_palette_with_degrees_of_transparency(tmp_path):
    colours = DRAW.integers(0, 256, (4, 3), dtype=np.uint8)
    alpha = np.array([0, 100, 200, 255], np.uint8)
    indices = np.arange(15, dtype=np.uint8).reshape(3, 5) % 4
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "a.png", transparency=alpha.tobytes())
    assert np.array_equal(read_image(tmp_path / "a.png", 3), planes(on_white(colours, alpha)[indices]))


def test_one_bit_is_black_and_white(tmp_path):
    bits = DRAW.integers(0, 2, (3, 5)).astype(bool)
    for ending in ("png", "tif", "bmp"):
        Image.fromarray(bits).save(tmp_path / f"a.{ending}")
        assert np.array_equal(read_image(tmp_path / f"a.{ending}", 3), np.stack([255 * bits] * 3))


def test_grey_of_colours_is_their_luma(tmp_path):
    """ITU-R BT.601, to the nearest level."""
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    luma = PICTURE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(tmp_path / "a.png", 1)[0] - luma).max() <= 0.51


def test_inks_are_taken_from_white(tmp_path):
    inks = np.array([200, 30, 120, 60], np.uint8)
    Image.fromarray(np.tile(inks, (16, 16, 1)), mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    wanted = (255 - inks[:3].astype(float)) * (255 - inks[3]) / 255
    assert np.abs(read_image(tmp_path / "a.jpg", 3) - wanted[:, None, None]).max() <= 3


@pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp"])
def test_of_several_frames_the_first_counts(ending, tmp_path):
    first, second = (Image.new("RGB", (5, 3), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if ending == "webp" else {}
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second], **options)
    assert np.array_equal(read_image(tmp_path / f"a.{ending}", 3)[:, 1, 1], [255, 0, 0])
    assert header_of(tmp_path / f"a.{ending}").several


@pytest.mark.parametrize("extent", [(1, 1000), (1000, 1), (1, 1)])
def test_slivers_become_squares_of_their_middle(extent, tmp_path):
    width, height = extent
    values = (np.arange(width * height) % 251).astype(np.uint8).reshape(height, width)
    Image.fromarray(values).save(tmp_path / "a.png")
    middle = values.ravel()[(values.size - 1) // 2 : values.size // 2 + 1]
    square = read_image(tmp_path / "a.png", 3, 8)
    assert square.shape == (3, 8, 8)
    assert set(np.unique(square)) <= set(range(int(middle.min()), int(middle.max()) + 1))


def test_the_ending_does_not_matter_and_what_is_no_picture_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(PICTURE).save(path, format="PNG")
    assert np.array_equal(read_image(path, 3), planes(PICTURE))
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 3\nshowpage\n")
    with pytest.raises(db.StorageError, match="damaged, or none of JPEG, PNG"):
        read_image(path, 3)
    path.write_bytes(b"")
    with pytest.raises(db.StorageError, match=r"a\.jpg cannot be read as an image \(it is empty\)"):
        read_image(path, 3)
    path.unlink()
    with pytest.raises(db.StorageError, match=r"a\.jpg is no file"):
        read_image(path, 3)


def test_headers_that_claim_too_much_are_refused_before_anything_is_made(tmp_path):
    """A picture of 40,000 x 40,000 pixels in a few bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40000, 40000, 1, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(db.StorageError, match="cannot be read as an image"):
        read_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize(
    ("ending", "options"),
    [*((each, {}) for each in ("png", "jpg", "webp", "bmp", "tif", "gif", "ppm")), ("jpg", {"progressive": True}), LZW],
)
def test_damage_is_a_typed_error_or_none(ending, options, tmp_path):
    """Files cut anywhere, and with bytes changed anywhere."""
    path = tmp_path / f"a.{ending}"
    Image.fromarray(DRAW.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path, **options)
    whole = path.read_bytes()
    draw = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            damaged[place] = draw.integers(0, 256)
        path.write_bytes(damaged)
        for read in (lambda: read_image(path, 3, 8), lambda: header_of(path)):
            with suppress(db.StorageError):
                read()
    for end in (1, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises(db.StorageError, match=rf"a\.{ending} cannot be read as an image"):
            read_image(path, 3)
