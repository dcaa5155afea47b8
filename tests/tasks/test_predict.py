"""A run in Python: read without its data, and its predictions are those of the evaluation."""

import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits

import dynamicblocks as db
from dynamicblocks.data.images import catalogue
from dynamicblocks.data.images.decoding import read_image
from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, SolverError, StorageError
from dynamicblocks.tasks import Classify, DataConfig, ModelConfig, Regress
from dynamicblocks.tasks.given import fitted, pixels_of
from dynamicblocks.training import (
    HardwareConfig,
    Place,
    TwistConfig,
    evaluate,
)
from dynamicblocks.training.hardware import DOUBLE, make_fabric
from dynamicblocks.training.runs import facts_of
from tests.tasks.conftest import FEW, TINY, trained
from tests.training.small_task import Small


def score(run, precision="32-true"):
    """What ``evaluate`` finds on the test samples."""
    fabric = make_fabric(HardwareConfig(accelerator="cpu", precision=precision))
    place = Place(dtype=torch.float64 if precision == DOUBLE else torch.float32)
    return evaluate(run.task, run.net, run.task.batches("test", place), fabric)


def same_as_evaluated(run, found, precision="32-true"):
    """Whether labels and probabilities of the test images have the accuracy and the loss of the evaluation."""
    expected, labels = score(run, precision), run.task.images.test.labels
    assert (found.labels == labels).double().mean().item() == pytest.approx(expected["accuracy"], abs=1e-12)
    loss = torch.nn.functional.nll_loss(found.probabilities.double().log(), labels).item()
    assert loss == pytest.approx(expected["loss"], rel=1e-6)


# A run without its data


def test_a_run_is_read_without_data_and_network(digits, monkeypatch):
    monkeypatch.setattr(catalogue, "read_raw", None)
    monkeypatch.setattr("dynamicblocks.tasks.images.load_dataset", None)
    run = db.load_run(str(digits.folder.path))
    assert not any(module.training for module in run.net.modules())
    assert run.classes == tuple("0123456789")
    assert run.config.epochs == 1
    assert run.predict(torch.zeros(1, 8, 8)).labels.shape == (1,)
    with pytest.raises(TypeError, match="NoneType"):
        run.task.load()


def test_the_facts_are_those_of_the_data(digits):
    images = digits.task.images
    assert digits.normalisation == (images.mean, images.std)
    facts = digits.folder.record()["facts"]
    with safe_open(digits.folder.path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["dynamicblocks"])["content"]["facts"] == facts
    assert (facts["size"], facts["channels"], facts["white"]) == ([8, 8], 1, 16)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["0", 1]}, "classes"),
        ({"classes": "0123456789"}, "classes"),
        ({"mean": [float("inf")]}, "mean"),
        ({"mean": [10**400]}, "mean"),
        ({"mean": [True]}, "mean"),
        ({"mean": [1.0, 2.0]}, "channels"),
        ({"mean": [0.0] * 5000}, "mean"),
        ({"std": [0.0]}, "std"),
        ({"std": [-1.0]}, "std"),
        ({"std": [1.0, 1.0]}, "std"),
        ({"size": [8]}, "size"),
        ({"size": [8, 0]}, "size"),
        ({"size": [8, 2**40]}, "size"),
        ({"size": None}, "size"),
        ({"white": 256}, "white"),
        ({"white": True}, "white"),
        ({"fitted": 1}, "fitted"),
        ({"channels": 2}, "channels"),
        ([], "mapping"),
        (3, "mapping"),
    ],
    ids=str,
)
def test_damaged_facts_are_refused(digits, changed, said):
    facts = digits.folder.record()["facts"]
    task = Classify()
    with pytest.raises(ConfigurationError, match=said):
        task.recall({**facts, **changed} if isinstance(changed, dict) else changed)
    for name in facts:
        with pytest.raises(ConfigurationError, match=f"^{name} .* got nothing"):
            task.recall({key: value for key, value in facts.items() if key != name})


def test_facts_of_fields_are_checked():
    facts = {"mean": [0.0], "std": [1.0], "target_mean": [0.0], "target_std": [2.0], "space": [4, 5]}
    task = Regress(model=ModelConfig("imexnet", widths=(4,)))
    task.recall(facts)
    assert next(task.build().parameters()).shape[1] == 1
    for wrong in ({"space": [1, 2, 3, 4]}, {"space": []}, {"target_std": [0.0]}, {"mean": []}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            task.recall({**facts, **wrong})


def test_a_run_that_names_other_classes_than_its_weights_have(digits, monkeypatch):
    real = type(digits.folder).read_weights

    def changed(folder, *rest):
        weights, described = real(folder, *rest)
        return weights, {**described, "facts": {**described["facts"], "classes": ["one", "two"]}}

    monkeypatch.setattr(type(digits.folder), "read_weights", changed)
    with pytest.raises(StorageError, match="do not fit"):
        db.load_run(digits.folder.path)


def without_facts(monkeypatch, run):
    real = type(run.folder).read_weights

    def read(folder, *rest):
        weights, described = real(folder, *rest)
        return weights, {key: each for key, each in described.items() if key != "facts"}

    monkeypatch.setattr(type(run.folder), "read_weights", read)


def test_a_run_of_before_reads_its_data_and_says_why_it_needs_them(digits, monkeypatch):
    without_facts(monkeypatch, digits)
    run = db.load_run(digits.folder.path)
    assert "images" in vars(run.task)
    assert run.classes == digits.classes

    def gone(*_, **__):
        raise StorageError("the data are gone")

    monkeypatch.setattr("dynamicblocks.tasks.images.load_dataset", gone)
    with pytest.raises(StorageError, match=r"holds no facts of its data.* so the data are needed: the data are gone"):
        db.load_run(digits.folder.path)


def test_other_data_than_those_of_the_training_are_refused(digits, monkeypatch):
    task = Classify(data=FEW)
    task.recall({**digits.folder.record()["facts"], "classes": ["a", "b"]})
    with pytest.raises(StorageError, match=r"trained on the classes a, b, but digits now holds 0, 1"):
        task.load()


def test_nothing_but_its_folder_is_opened_and_nobody_is_called(digits):
    opened, watched = [], [True]

    def hears(event, given):
        if watched and (event == "open" or event.startswith("socket.")) and not isinstance(given[0], int):
            opened.append((event, str(given[0])))

    sys.addaudithook(hears)
    db.load_run(digits.folder.path).predict(np.zeros((8, 8)))
    watched.clear()
    others = {path for _, path in opened if Path(path).parent != digits.folder.path and Path(path).suffix != ".pyc"}
    assert {event for event, _ in opened} == {"open"}
    assert not {path for path in others if Path(path).suffix != ".py"}


def test_reading_it_leaves_random_numbers_and_the_default_device_as_they_are(digits):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    threads = [threading.Thread(target=db.load_run, args=(digits.folder.path,)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.device("meta"):
        run = db.load_run(digits.folder.path)
    assert {weight.device.type for weight in run.net.state_dict().values()} == {"cpu"}
    assert torch.equal(run.predict(np.ones((8, 8))).labels, digits.predict(np.ones((8, 8))).labels)


@pytest.mark.parametrize(
    ("path", "own", "said"),
    [(None, None, "path must be"), (b"runs", None, "path must be"), ("runs", "x", "own must be")],
)
def test_what_is_no_path_and_no_task(path, own, said):
    with pytest.raises(ArgumentTypeError, match=said):
        db.load_run(path, own=own)


@pytest.mark.parametrize("device", ["nothing", "meta", None])
def test_a_device_that_is_not_there(digits, device):
    with pytest.raises(ConfigurationError, match="device must be"):
        db.load_run(digits.folder.path, device=device)


# Classes


def test_predictions_are_those_of_the_evaluation(digits):
    images = digits.task.images.test.images
    found = digits.predict(images)
    same_as_evaluated(digits, found)
    assert (found.labels.dtype, found.probabilities.shape, len(found)) == (torch.int64, (360, 10), 360)
    assert found.labels.device == found.probabilities.device == torch.device("cpu")
    assert found.classes == digits.classes
    assert found.names == tuple(digits.classes[label] for label in found.labels)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(360))
    assert not found.probabilities.is_inference()
    # By hand, from what the run says of itself.
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in digits.normalisation)
    with torch.no_grad():
        answers = digits.net((images.float() - mean) / std)
    torch.testing.assert_close(found.probabilities, answers.softmax(1))


def test_one_picture_is_the_same_however_it_is_given(digits, tmp_path):
    levels = load_digits().images[:3]
    bytes_ = np.round(levels * 255 / 16).astype(np.uint8)
    for place, image in enumerate(bytes_):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    files = [tmp_path / f"{place}.png" for place in range(3)]
    by_bytes = digits.predict(bytes_[:, None]).probabilities
    exact = [
        digits.predict(bytes_[:, None] / np.float32(255)),
        digits.predict(torch.from_numpy(bytes_[:, None] / 255)),
        digits.predict(files),
        digits.predict([str(path) for path in files], batch_size=32),
        digits.predict(tmp_path),
        digits.predict(np.asfortranarray(bytes_[:, None])),
        digits.predict(bytes_[::-1][::-1, None]),
        digits.predict(bytes_[::-1].copy()[::-1, ::-1][:, ::-1][:, None]),
    ]
    for found in exact:
        assert torch.equal(found.probabilities, by_bytes)
    # The data set's own levels, as its arrays hold them and as shares of the highest.
    by_levels = digits.predict(levels[:, None].astype(np.uint8)).probabilities
    assert torch.equal(digits.predict((levels / 16)[:, None]).probabilities, by_levels)
    assert torch.equal(digits.predict((levels / 16)[:, None].astype(">f8")).probabilities, by_levels)
    torch.testing.assert_close(by_levels, by_bytes, atol=0.02, rtol=0)
    alone = [digits.predict(each) for each in (bytes_[1], bytes_[1][None], bytes_[1:2, None], files[1])]
    for found in alone:
        torch.testing.assert_close(found.probabilities, by_bytes[1:2])


def test_an_image_means_the_same_beside_others():
    faint, bright = torch.full((1, 1, 2, 2), 16, dtype=torch.uint8), torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    both = pixels_of(torch.cat([faint, bright]), 16)
    assert torch.equal(both, torch.full((2, 1, 2, 2), 16.0))
    assert pixels_of(faint, 255) is faint


def test_the_order_and_the_batches_do_not_matter(digits):
    images = digits.task.images.test.images[:50]
    whole = digits.predict(images, batch_size=50)
    for size in (1, 7, 1000):
        part = digits.predict(images, batch_size=size)
        assert torch.equal(part.labels, whole.labels)
        torch.testing.assert_close(part.probabilities, whole.probabilities)
    backwards = digits.predict(images.flip(0), batch_size=7)
    assert torch.equal(backwards.labels.flip(0), whole.labels)


NAN = float("nan")


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((0, 1, 8, 8)), "nothing to predict"),
        ([], "empty list"),
        (np.zeros(8), r"\(C, H, W\) or \(B, C, H, W\) with C = 1, or \(H, W\), got \(8,\)"),
        (np.zeros((1, 1, 1, 8, 8)), "must have the shape"),
        (np.zeros((2, 3, 8, 8)), r"with C = 1.* got \(2, 3, 8, 8\)"),
        (np.zeros((5, 8, 8)), r"several grey images are x\[:, None\]"),
        (np.zeros((8, 8, 1)), "channels come first"),
        (np.zeros((9, 8)), r"8 x 9 pixels.* of 8 x 8.* resize=True"),
        (np.full((8, 8), NAN), "got NaN"),
        (np.full((8, 8), np.inf), r"\[0, 1\], got inf"),
        (np.full((8, 8), 1.01), r"\[0, 1\], got 1.01"),
        (np.full((8, 8), -0.5), "not|as they are"),
        (np.full((8, 8), 1.0000001), r"got 1.0000001 to 1.0000001; clip what was rounded"),
        (np.full((8, 8), 255.0), "divide by 255"),
        (np.full((8, 8), 16.0), "divide by 16"),
        (np.full((8, 8), -1, np.float16), r"\[0, 1\]"),
        (torch.full((8, 8), 2.0, dtype=torch.bfloat16), r"\[0, 1\]"),
    ],
    ids=range(17),
)
def test_what_is_no_image_is_refused(digits, x, said):
    with pytest.raises(ConfigurationError, match=said):
        digits.predict(x)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((8, 8), int),
        np.zeros((8, 8), bool),
        np.zeros((8, 8), complex),
        np.zeros((8, 8), object),
        [np.zeros((8, 8))],
        ["a.png", 1],
        None,
        3,
        torch.zeros(8, 8).to_sparse(),
        torch.zeros(8, 8, device="meta"),
        torch.zeros(8, 8).to(torch.float8_e4m3fn),
    ],
    ids=range(11),
)
def test_another_type_is_refused(digits, x):
    with pytest.raises(ArgumentTypeError, match="uint8"):
        digits.predict(x)


def test_files_that_are_none(digits, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    for x in (tmp_path / "nowhere.png", [tmp_path / "nowhere.png"], tmp_path / "empty", "/dev/null"):
        with pytest.raises(StorageError):
            digits.predict(x)
    with pytest.raises(StorageError, match=r"text\.png"):
        digits.predict(tmp_path / "text.png")


def test_another_size_is_made_to_fit_when_that_is_asked_for(digits, tmp_path):
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (1, 20, 31), dtype=np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(image[0]).save(path)
    with pytest.raises(ConfigurationError, match=r"wide\.png has 31 x 20 pixels"):
        digits.predict(path)
    by_file, by_array = digits.predict(path, resize=True), digits.predict(image, resize=True)
    assert torch.equal(by_file.probabilities, by_array.probabilities)
    by_floats = digits.predict(image / 255, resize=True)
    torch.testing.assert_close(by_floats.probabilities, by_array.probabilities, atol=0.01, rtol=0)
    right = load_digits().images[:1] / 16
    assert torch.equal(digits.predict(right, resize=True).probabilities, digits.predict(right).probabilities)


def test_channels_are_fitted_as_those_of_files(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 21, 14), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(image.transpose(1, 2, 0)).save(path)
    np.testing.assert_array_equal(fitted(image, (8, 8)), read_image(path, 3, 8))
    assert fitted(image.astype(np.float32), (6, 10)).shape == (3, 6, 10)


def test_the_network_is_left_as_it_is(digits):
    run = db.load_run(digits.folder.path)
    images = digits.task.images.test.images[:9]
    expected = run.predict(images).probabilities
    run.net.train()
    run.net.opening.eval()
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    modes = [module.training for module in run.net.modules()]
    assert torch.equal(run.predict(images).probabilities, expected)
    assert [module.training for module in run.net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.net.state_dict().items())
    run.net.double().eval()
    assert run.predict(images).probabilities.dtype == torch.float64


def test_threads_may_predict_at_once(digits):
    images = digits.task.images.test.images[:64]
    expected = digits.predict(images).probabilities
    found = {}

    def work(place):
        for _ in range(5):
            found[place] = digits.predict(images).probabilities

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(torch.equal(found[place], expected) for place in range(4))


def test_answers_that_are_not_finite_are_an_error(digits):
    run = db.load_run(digits.folder.path)
    with torch.no_grad():
        next(run.net.head.parameters()).fill_(NAN)
    with pytest.raises(SolverError, match="not finite"):
        run.predict(np.zeros((8, 8)))


def write_folder(root):
    """Images of two classes and of several sizes, some grey, in nested folders."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for name, base in (("dark", 0), ("light", 128)):
            (root / part / name).mkdir(parents=True)
            for place in range(count):
                shape = (12 + place, 10 + 2 * place, 3)[: 2 + place % 2]
                image = Image.fromarray(draw.integers(base, base + 128, shape, dtype=np.uint8))
                image.save(root / part / name / f"{place}.png")
    return root


def test_a_twisted_run_of_a_folder_trained_in_half(tmp_path):
    root = write_folder(tmp_path / "photos")
    data = DataConfig(f"imagefolder:{root}", size=12, batch_size=4, validation=0.25)
    task = Classify(data=data, model=TINY)
    path = trained(tmp_path, task, "twisted", TwistConfig("vector"), precision="bf16-mixed", channels_last=True)
    run = db.load_run(path)
    assert db.twists(run.net).twisted
    assert run.classes == ("dark", "light")
    files = [file for name in run.classes for file in sorted((root / "val" / name).iterdir())]
    found = run.predict(files)
    same_as_evaluated(run, found)
    assert torch.equal(run.predict(root / "val").labels, found.labels)
    pixels = np.stack([read_image(file, 3, 12) for file in files])
    assert torch.equal(run.predict(pixels).probabilities, found.probabilities)
    assert torch.equal(run.predict(pixels / np.float32(255)).probabilities, found.probabilities)
    with pytest.raises(ConfigurationError, match="C = 3"):
        run.predict(np.zeros((12, 12)))
    with pytest.raises(ConfigurationError, match="10 x 12 pixels"):
        run.predict(np.zeros((3, 12, 10)))
    # Without its images, as it is elsewhere.
    shutil.rmtree(root / "train")
    assert torch.equal(db.load_run(path).predict(files).probabilities, found.probabilities)


def test_a_run_in_double_precision(tmp_path):
    run = db.load_run(trained(tmp_path, Classify(data=FEW, model=TINY), "double", precision=DOUBLE))
    found = run.predict(run.task.images.test.images)
    assert found.probabilities.dtype == torch.float64
    same_as_evaluated(run, found, DOUBLE)


# Masks


def test_masks(masks):
    root = Path(masks.task.data.name.partition(":")[2])
    files = sorted((root / "val" / "images").iterdir())
    found = masks.predict(files)
    assert (found.labels.shape, found.probabilities.shape) == ((4, 10, 12), (4, 3, 10, 12))
    assert torch.equal(found.labels, found.probabilities.argmax(1))
    assert (found.classes, found.names) == (("0", "1", "2"), ())
    truth = torch.cat([mask for _, mask in masks.task.batches("test", Place()).evaluation()])
    counted = truth != 255
    accuracy = (found.labels == truth)[counted].double().mean().item()
    assert accuracy == pytest.approx(score(masks)["pixel_accuracy"], abs=1e-12)
    pixels = np.stack([read_image(file, 3) for file in files])
    assert torch.equal(masks.predict(pixels).probabilities, found.probabilities)


def test_masks_of_another_size(masks, tmp_path):
    assert masks.predict(np.zeros((3, 7, 20))).labels.shape == (1, 7, 20)
    assert masks.predict(np.zeros((3, 7, 20)), resize=True).labels.shape == (1, 10, 12)
    for name, size in (("a", (7, 9)), ("b", (9, 9))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    with pytest.raises(ConfigurationError, match=r"a\.png has 7 x 9 pixels and .*b\.png 9 x 9"):
        masks.predict(tmp_path)
    assert masks.predict(tmp_path, resize=True).labels.shape == (2, 10, 12)


# Fields


def test_fields_are_in_the_units_of_the_targets(fields, tmp_path):
    pairs = fields.task.fields.test
    found = fields.predict(pairs.inputs)
    errors = (found.values - pairs.targets).flatten(1).norm(dim=1) / pairs.targets.flatten(1).norm(dim=1)
    assert errors.mean().item() == pytest.approx(score(fields)["relative_error"], rel=1e-5)
    path = tmp_path / "inputs.npz"
    np.savez(path, inputs=pairs.inputs.numpy())
    assert torch.equal(fields.predict(path).values, found.values)
    assert len(fields.predict([path, path], batch_size=3)) == 2 * len(found)
    torch.testing.assert_close(fields.predict(pairs.inputs[1]).values, found.values[1:2])
    assert found.values.dtype == torch.float64
    assert fields.classes == ()
    assert fields.normalisation.mean == tuple(fields.task.fields.inputs.mean.tolist())


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((0, 2, 8)), r"\(B, 2, 8\)"),
        (np.zeros((1, 3, 8)), r"\(B, 2, 8\).* got \(1, 3, 8\)"),
        (np.zeros((1, 2, 9)), r"\(B, 2, 8\)"),
        (np.full((1, 2, 8), NAN), "finite"),
        (np.zeros((2, 8), np.uint8), "float32 or float64"),
        ([np.zeros((2, 8))], "npz"),
    ],
    ids=range(6),
)
def test_other_fields_are_refused(fields, x, said):
    with pytest.raises(ConfigurationError, match=said):
        fields.predict(x)


def test_fields_are_not_resized(fields, tmp_path):
    with pytest.raises(ConfigurationError, match="interpolate"):
        fields.predict(np.zeros((1, 2, 9)), resize=True)
    np.savez(tmp_path / "other.npz", targets=np.zeros((1, 2, 8)))
    with pytest.raises(StorageError, match="expected the keys inputs"):
        fields.predict(tmp_path / "other.npz")


# Tasks of one's own


def test_a_task_of_ones_own_answers_to_rows():
    task = Small()
    net = task.build().eval()
    rows = torch.rand(5, 1, 4, 4)
    with torch.no_grad():
        expected = net(rows)
    torch.testing.assert_close(task.predict(net, rows, batch_size=2), expected)
    torch.testing.assert_close(task.predict(net, rows.double().numpy()), expected)
    with pytest.raises(ConfigurationError, match="resize"):
        task.predict(net, rows, resize=True)
    with pytest.raises(ConfigurationError, match="a row for each sample"):
        task.predict(net, rows[:0])
    with pytest.raises(ArgumentTypeError, match="str"):
        task.predict(net, "file")
    with pytest.raises(ConfigurationError, match=r"got \(5, 3\)"):
        task.predict(net, torch.zeros(5, 3))
    with pytest.raises(ConfigurationError, match=r"the network takes no batch of \(5, 3\): RuntimeError"):
        task.predict(torch.nn.Linear(4, 2), torch.zeros(5, 3))


def facts_as(value):
    """A small task with these facts, which has no data to read."""

    class WithFacts(Small):
        def facts(self):
            return value

        def load(self):
            raise StorageError("there are no data")

    return WithFacts()


def test_a_task_of_ones_own_may_need_nothing_of_its_data():
    assert facts_of(Small()) == {}
    assert facts_of(facts_as({})) == {"facts": {}}
    facts_as({}).recall({})
    with pytest.raises(StorageError, match="no data"):
        facts_as({"mean": 1}).recall({"mean": 1})


@pytest.mark.parametrize("facts", [{"mean": torch.ones(2)}, {"mean": NAN}, [1, 2], {"path": Path()}], ids=range(4))
def test_facts_that_no_file_holds_are_refused(facts):
    with pytest.raises(ConfigurationError, match=r"facts of the task \w+ must be a dictionary"):
        facts_of(facts_as(facts))
