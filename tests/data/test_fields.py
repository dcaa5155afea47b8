"""Fields from files: what is read, how it is split and normalised, and what is said of files that will not do."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from dynamicblocks.data.fields import channels_of, files, load_fields, read_pairs
from dynamicblocks.errors import ConfigurationError, StorageError


def arrays(samples=20, space=(8,), channels=(2, 3), dtype=np.float32, seed=0):
    draw = np.random.default_rng(seed)
    return {
        key: draw.normal(3, 2, (samples, count, *space)).astype(dtype)
        for key, count in zip(("inputs", "targets"), channels, strict=True)
    }


def written(path, **changes):
    np.savez(path, **{**arrays(), **changes})
    return path


@pytest.mark.parametrize("space", [(8,), (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8"])
def test_a_file_holds_what_was_written(tmp_path, space, dtype):
    given = arrays(space=space, dtype=dtype)
    np.savez_compressed(tmp_path / "fields.npz", **given, grid=np.arange(3))
    pairs = read_pairs(tmp_path / "fields.npz")
    assert pairs.space == space
    assert pairs.inputs.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    for key in given:
        np.testing.assert_array_equal(getattr(pairs, key).numpy(), given[key])


def test_columns_first_is_read_too(tmp_path):
    given = arrays(space=(4, 5))
    path = written(tmp_path / "fields.npz", **{key: np.asfortranarray(each) for key, each in given.items()})
    np.testing.assert_array_equal(read_pairs(path).targets.numpy(), given["targets"])


def with_one(value):
    changed = arrays()["targets"]
    changed[7, 1, 2] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": np.zeros((20, 8), np.float32)}, r"inputs: expected the shape \(samples, .*got \(20, 8\)"),
        ({"targets": np.zeros((20, 1, 2, 2, 2, 2), np.float32)}, r"targets: expected the shape .*got \(20, 1, 2, 2"),
        ({"targets": np.zeros((20, 0, 8), np.float32)}, r"targets: .*none of them empty, got \(20, 0, 8\)"),
        ({"inputs": np.zeros((20, 2, 8), np.int64)}, "inputs: expected float32 or float64, got int64"),
        ({"inputs": np.zeros((20, 2, 8), np.float16)}, "expected float32 or float64, got float16"),
        ({"inputs": np.zeros((20, 2, 8), np.complex64)}, "expected float32 or float64, got complex64"),
        ({"inputs": np.full((20, 2, 8), None)}, "inputs: expected a whole array of numbers, got .*Python objects"),
        ({"targets": with_one(np.nan)}, "targets: expected finite numbers, got NaN or infinity in sample 7"),
        ({"targets": with_one(np.inf)}, "targets: expected finite numbers, got NaN or infinity in sample 7"),
        ({"targets": arrays(samples=19)["targets"]}, r"samples and the space of inputs \(20, 2, 8\), got \(19, 3, 8\)"),
        ({"targets": arrays(space=(9,))["targets"]}, r"of inputs \(20, 2, 8\), got \(20, 3, 9\)"),
        ({"targets": arrays(space=(8, 1))["targets"]}, r"of inputs \(20, 2, 8\), got \(20, 3, 8, 1\)"),
    ],
)
def test_what_is_wrong_with_an_array_is_said(tmp_path, changes, message):
    path = written(tmp_path / "fields.npz", **changes)
    with pytest.raises(StorageError, match=message) as caught:
        load_fields(f"fields:{path}")
    assert str(path) in str(caught.value)


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    path = tmp_path / "fields.npz"
    with pytest.raises(StorageError, match=rf"{path}: expected a .npz file, got none that can be opened: No such file"):
        load_fields(f"fields:{path}")
    np.savez(path, inputs=arrays()["inputs"], outputs=arrays()["targets"])
    with pytest.raises(StorageError, match="expected the keys inputs, targets, got inputs, outputs"):
        read_pairs(path)
    np.savez(path)
    with pytest.raises(StorageError, match="expected the keys inputs, targets, got none"):
        read_pairs(path)
    np.save(tmp_path / "one.npy", arrays()["inputs"])
    with pytest.raises(StorageError, match=r"expected a .npz file with the keys inputs, targets, got a single array"):
        read_pairs(tmp_path / "one.npy")
    for content in (b"", b"no numbers", written(path).read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"expected a whole .npz file, got something else"):
            read_pairs(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_array_is_noticed(tmp_path, save):
    path = tmp_path / "fields.npz"
    save(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("targets.npy").header_offset
    content = bytearray(path.read_bytes())
    content[begin + 200 : begin + 220] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{path}, targets: expected a whole array of numbers"):
        read_pairs(path)


def npy(shape, dtype="<f4", order=False, more=b""):
    """The header of an array, and what follows."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": order, "shape": shape})
    return file.getvalue() + more


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**6, 10**3, 10**3), more=bytes(400)), "says 1000000 x 1000 x 1000 numbers, .*, but 400 follow"),
        (npy((2, 1, 8), more=bytes(63)), "says 2 x 1 x 8 numbers, 64 bytes, but 63 follow"),
        (npy((2, 1, 8), more=bytes(65)), "says 2 x 1 x 8 numbers, 64 bytes, but 65 follow"),
        (npy((-2, -1, 8), more=bytes(64)), "cannot be read"),
        (npy((2, 1, 8), "|O", more=bytes(128)), "Python objects"),
        (npy((2, 1, 8), [("a", "<f4")], more=bytes(64)), "expected float32 or float64"),
        (b"\x93NUMPY\x03\x00" + bytes(100), r"version 3\.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read"),
        (b"no array", "cannot be read"),
    ],
)
def test_what_a_header_claims_is_checked_before_room_is_made(tmp_path, content, message):
    path = tmp_path / "fields.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", content)
        archive.writestr("targets.npy", npy((2, 1, 8), more=bytes(64)))
    with pytest.raises(StorageError, match=f"{path}, inputs: .*{message}") as caught:
        read_pairs(path)
    assert "\n" not in str(caught.value)


def test_files_made_to_fill_a_memory_are_refused_unread(tmp_path, monkeypatch):
    """16 million bytes in 16,000; and a single array that claims a million million numbers."""
    monkeypatch.setattr(files, "ALWAYS_READ", 2**20)
    path = tmp_path / "fields.npz"
    content = npy((4, 1, 10**6), more=bytes(16 * 10**6))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("inputs.npy", content)
        archive.writestr("targets.npy", content)
    tracemalloc.start()
    with pytest.raises(StorageError, match=r"inputs: .* bytes that unpack to 16,000,128, more than 100 times as many"):
        read_pairs(path)
    path.write_bytes(npy((10**6, 10**3, 10**3)))
    with pytest.raises(StorageError, match="got a single array"):
        read_pairs(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_both_byte_orders_and_versions_of_headers_are_read(tmp_path):
    """Also numbers in Fortran's order, and what compresses well but is small."""
    path, given = tmp_path / "fields.npz", arrays()["inputs"]
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asfortranarray(given.astype(">f8")), version=(2, 0))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs", file.getvalue())
        archive.writestr("targets.npy", npy((20, 1, 8), more=bytes(640)))
    pairs = read_pairs(path)
    np.testing.assert_array_equal(pairs.inputs.numpy(), given)
    assert not pairs.targets.any()


def test_one_file_is_split_by_seed(tmp_path):
    path = written(tmp_path / "fields.npz")
    given = arrays()
    data = load_fields(f"fields:{path}", validation=0.2, test=0.1)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [14, 4, 2]
    seen = np.concatenate([split.inputs.numpy() for split in (data.train, data.validation, data.test)])
    assert {row.tobytes() for row in seen} == {row.tobytes() for row in given["inputs"]}
    for split in (data.train, data.validation, data.test):
        for row, target in zip(split.inputs.numpy(), split.targets.numpy(), strict=True):
            number = next(i for i in range(20) if (given["inputs"][i] == row).all())
            np.testing.assert_array_equal(target, given["targets"][number])
    again, other = (load_fields(f"fields:{path}", 0.2, 0.1, split_seed=seed) for seed in (0, 1))
    assert torch.equal(again.test.inputs, data.test.inputs)
    assert not torch.equal(other.test.inputs, data.test.inputs)
    assert "14 training samples on 8 points, 2 to 3 channels; test: 2 samples, split seed 0" in data.note


def test_fewer_training_samples_leave_the_other_splits_as_they_are(tmp_path):
    path = written(tmp_path / "fields.npz")
    whole = load_fields(f"fields:{path}")
    some = load_fields(f"FIELDS:{path}", train_samples=5)
    assert len(some.train) == 5
    assert torch.equal(some.test.inputs, whole.test.inputs)
    assert torch.equal(some.validation.inputs, whole.validation.inputs)
    assert "trained on 5 of 16 samples, list " in some.note
    assert torch.equal(some.inputs.mean, channels_of(some.train.inputs).mean)
    with pytest.raises(ConfigurationError, match="train_samples must be at most the 16 training samples, got 17"):
        load_fields(f"fields:{path}", train_samples=17)


@pytest.mark.parametrize("name", ["val.npz", "validation.npz"])
def test_a_folder_has_a_file_for_each_split(tmp_path, name):
    for seed, (file, samples) in enumerate({"train.npz": 12, name: 5, "test.npz": 7}.items()):
        np.savez(tmp_path / file, **arrays(samples, seed=seed))
    data = load_fields(f"fields:{tmp_path}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 5, 7]
    np.testing.assert_array_equal(data.test.inputs.numpy(), arrays(7, seed=2)["inputs"])
    assert f"test: 7 samples of test.npz; validation: 5 samples of {name}" in data.note


def test_splits_that_a_folder_lacks_are_cut_from_its_training_samples(tmp_path):
    written(tmp_path / "train.npz")
    np.savez(tmp_path / "test.npz", **arrays(4, seed=1))
    data = load_fields(f"fields:{tmp_path}", validation=0.25)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [15, 5, 4]
    assert "test: 4 samples of test.npz; validation: 5 samples, split seed 0" in data.note
    (tmp_path / "test.npz").unlink()
    data = load_fields(f"fields:{tmp_path}", validation=0.25, test=0.5)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [5, 5, 10]


def test_folders_that_will_not_do(tmp_path):
    with pytest.raises(StorageError, match=r"expected a folder with train.npz, got one that holds nothing"):
        load_fields(f"fields:{tmp_path}")
    written(tmp_path / "train.npz")
    np.savez(tmp_path / "test.npz", **arrays(space=(9,)))
    with pytest.raises(StorageError, match=r"test.npz, inputs: expected .* \(2, 8\) as in train.npz, got \(2, 9\)"):
        load_fields(f"fields:{tmp_path}")
    np.savez(tmp_path / "test.npz", **arrays(channels=(2, 1)))
    with pytest.raises(StorageError, match=r"test.npz, targets: expected .* \(3, 8\) as in train.npz, got \(1, 8\)"):
        load_fields(f"fields:{tmp_path}")
    for name in ("val.npz", "validation.npz"):
        written(tmp_path / name)
    with pytest.raises(StorageError, match=r"expected one of val.npz and validation.npz, got both"):
        load_fields(f"fields:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heat.npz", {}, "data.name must be fields:PATH, .* got 'heat.npz'; did you mean fields:heat.npz"),
        ("", {}, "data.name must be fields:PATH, .* got ''"),
        ("fields:", {}, "data.name must be fields:PATH"),
        ("digits:heat.npz", {}, "data.name must be fields:PATH"),
        (None, {"validation": 0.0}, r"data.validation, a share of the samples, must be in \(0, 1\), got 0.0"),
        (None, {"test": 1.0}, r"data.test, a share of the samples, must be in \(0, 1\), got 1.0"),
        (None, {"test": 0.5, "validation": 0.5}, "leave none to train on beside data.validation 0.5 and data.test 0.5"),
        (None, {"train_samples": 0}, "data.train_samples must be a whole number of at least 1"),
    ],
)
def test_options_that_will_not_do(tmp_path, name, options, message):
    path = written(tmp_path / "fields.npz")
    with pytest.raises(ConfigurationError, match=message):
        load_fields(f"fields:{path}" if name is None else name, **options)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25, 1e-160, 1e160])
def test_statistics_are_those_of_numpy(scale):
    values = np.random.default_rng(0).normal(3, 2, (150, 3, 4, 5)) * scale
    found = channels_of(torch.from_numpy(values))
    np.testing.assert_allclose(found.mean.numpy(), values.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.std.numpy(), (values / scale).std((0, 2, 3)) * scale, rtol=1e-12)
    normalised = found.normalised(torch.from_numpy(values), torch.float64)
    np.testing.assert_allclose(normalised.mean((0, 2, 3)), 0, atol=1e-13)
    np.testing.assert_allclose(normalised.numpy().std((0, 2, 3)), 1, rtol=1e-12)
    torch.testing.assert_close(found.in_units(normalised), torch.from_numpy(values), rtol=1e-13, atol=1e-14 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e10, 1e-30])
def test_constant_channels_stay_finite(dtype, value):
    values = torch.full((101, 2, 7), value, dtype=dtype)
    values[:, 1] = torch.rand(101, 7, dtype=dtype)
    found = channels_of(values)
    assert found.std[0] == 1
    normalised = found.normalised(values, torch.float32)
    assert normalised.isfinite().all()
    assert normalised[:, 0].abs().max() <= abs(value) * torch.finfo(dtype).eps


def test_numbers_far_from_zero_keep_what_they_have():
    values = (300 + 0.01 * torch.randn(50, 1, 64, dtype=torch.float64)).float()
    normalised = channels_of(values).normalised(values, torch.float32)
    expected = (values.numpy().astype(float) - values.numpy().astype(float).mean()) / values.numpy().astype(float).std()
    np.testing.assert_allclose(normalised.numpy(), expected, rtol=1e-5, atol=1e-6)
