"""Data sets in their official byte layout, made by hand, and a server that serves them."""

import gzip
import hashlib
import io
import struct
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def idx(values):
    """An idx file of unsigned bytes: two zeros, the type 8, the rank, big-endian sizes, the values row by row."""
    head = bytes((0, 0, 8, values.ndim)) + b"".join(struct.pack(">I", size) for size in values.shape)
    return head + values.astype(np.uint8).tobytes()


def images_and_labels(count, shape, classes, seed):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % classes


def write_mnist(folder, zipped=True):
    """What was written: for each part, images (count, 28, 28) and labels."""
    folder.mkdir(parents=True)
    written = {}
    for seed, (part, count) in enumerate((("train", 60), ("t10k", 20))):
        images, labels = images_and_labels(count, (28, 28), 10, seed)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte"
            content = idx(values)
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
        written[part] = (images, labels)
    return written


def write_cifar10(folder, per_file=40):
    folder.mkdir(parents=True)
    written = {}
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        images, labels = images_and_labels(per_file, (3, 32, 32), 10, seed)
        rows = [bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(rows))
        written[name] = (images, labels)
    (folder / "batches.meta.txt").write_text("".join(f"class{number}\n" for number in range(10)) + "\n")
    return written


def write_cifar100(folder):
    folder.mkdir(parents=True)
    written = {}
    for seed, (name, count) in enumerate((("train", 400), ("test", 100))):
        images, labels = images_and_labels(count, (3, 32, 32), 100, seed)
        rows = [bytes([label // 5, label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(rows))
        written[name] = (images, labels)
    (folder / "fine_label_names.txt").write_text("".join(f"class{number}\n" for number in range(100)))
    return written


def write_stl10(folder):
    """Pixels lie column by column in the file, and labels count from one."""
    folder.mkdir(parents=True)
    written = {}
    for seed, (part, count) in enumerate((("train", 40), ("test", 20))):
        images, labels = images_and_labels(count, (3, 96, 96), 10, seed)
        content = b"".join(bytes(plane[:, column]) for image in images for plane in image for column in range(96))
        (folder / f"{part}_X.bin").write_bytes(content)
        (folder / f"{part}_y.bin").write_bytes(bytes((labels + 1).tolist()))
        written[part] = (images, labels)
    (folder / "class_names.txt").write_text("".join(f"class{number}\n" for number in range(10)))
    return written


def archive(folder):
    """A .tar.gz of a folder, as its authors pack it, and the MD5 of it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    content = packed.getvalue()
    return content, hashlib.md5(content).hexdigest()


class Server:
    """Files by name over HTTP; records the Range header of each request, and can cut a transfer."""

    def __init__(self, files, ranges=True):
        self.files = files
        self.ranges = ranges
        self.requests = []
        self.cut_after = None
        self.url = ""

    def answer(self, handler):
        name, asked = handler.path.rpartition("/")[2], handler.headers.get("Range")
        self.requests.append((name, asked))
        if name not in self.files:
            handler.send_error(404)
            return
        content, first = self.files[name], 0
        if asked and self.ranges:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                handler.send_error(416)
                return
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(content) - first))
        handler.end_headers()
        end, self.cut_after = self.cut_after, None
        handler.wfile.write(content[first:end])


@contextmanager
def serving(files, ranges=True):
    server = Server(files, ranges)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
