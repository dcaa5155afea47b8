"""Images with masks in folders, made by hand."""

import numpy as np
from PIL import Image

# As many colours as there are indices: Pillow writes no more bits a pixel than its palette needs.
PALETTE = [(7 * place + 50) % 256 for place in range(3 * 256)]


def write_pairs(root, parts=("train", "val"), count=6, size=(12, 10), classes=3, mode="P"):
    """RGB images of so many pixels (width, height) and masks of random classes; what was written, by part."""
    written = {}
    for number, part in enumerate(parts):
        draw = np.random.default_rng(number)
        width, height = size
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
        images = draw.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        masks = draw.integers(0, classes, (count, height, width), dtype=np.uint8)
        masks[:, 0, :classes] = np.arange(classes)
        masks[:, -1, 0] = 255
        for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
            Image.fromarray(image).save(root / part / "images" / f"{place:02d}.png")
            write_mask(root / part / "masks" / f"{place:02d}.png", mask, mode)
        written[part] = images, masks
    return written


def write_mask(path, mask, mode="P"):
    picture = Image.fromarray(mask.astype(np.uint16) if mode == "I;16" else mask)
    if mode == "P":
        picture.putpalette(PALETTE)
    assert picture.mode == mode
    picture.save(path)
