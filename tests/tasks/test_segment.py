"""Segmentation: figures against scikit-learn, ignored pixels, weights of classes, training, resume, pictures."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.tasks import MaskConfig, ModelConfig, Segment
from dynamicblocks.training import TrainConfig, Training
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.evaluation import answered, evaluate, score_of
from dynamicblocks.training.hardware import make_fabric
from dynamicblocks.training.task import Place
from tests.mask_files import write_mask, write_pairs
from tests.training.small_task import stopped

PLAIN = HardwareConfig(accelerator="cpu", precision="32-true", compile=False, channels_last=False)
SMALL = ModelConfig("imexnet", widths=(4,), units=1, integrator="imex")


class Fixed(nn.Module):
    """A network that gives the logits it was made of, a batch after the other."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.ParameterList(logits)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.logits[self.calls - 1]


def task_of(root, **options):
    task = Segment(data=MaskConfig(name=f"folder:{root}", batch_size=2), model=SMALL, **options)
    task.load()
    return task


def figures(task, masks, logits, sizes):
    """The figures of masks, which come in batches of such sizes."""
    cut = list(zip(masks.split(sizes), logits.split(sizes), strict=True))
    net = Fixed(*(logits for _, logits in cut))
    batches = [(torch.zeros(len(masks), 3, *masks.shape[1:]), masks) for masks, _ in cut]
    return score_of(task, net, batches, make_fabric(PLAIN)).figures


@pytest.mark.parametrize("weights", ["none", "frequency", (0.5, 2.0, 0.0, 1.0)])
def test_figures_are_those_of_all_pixels_together(weights, tmp_path):
    write_pairs(tmp_path, classes=4)
    task = task_of(tmp_path, class_weights=weights)
    draw = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (7, 5, 6), generator=draw)
    masks[:3][masks[:3] == 2] = 1  # a class that is not in every batch
    masks[torch.rand(masks.shape, generator=draw) < 0.2] = 255
    logits = torch.randn(7, 4, 5, 6, generator=draw) + 2 * F.one_hot(masks.clamp(max=3), 4).movedim(-1, 1)
    found = figures(task, masks, logits, [3, 3, 1])
    kept = masks != 255
    truth, predicted = masks[kept].numpy(), logits.argmax(1)[kept].numpy()
    ious = jaccard_score(truth, predicted, average=None)
    assert [found[f"iou_{name}"] for name in task.classes] == pytest.approx(ious.tolist(), abs=1e-12)
    assert found["mean_iou"] == pytest.approx(jaccard_score(truth, predicted, average="macro"), abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    loss = F.cross_entropy(logits, masks, task.weights.float(), ignore_index=255)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found == pytest.approx(figures(task, masks, logits, [7]), rel=1e-6)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean(tmp_path):
    write_pairs(tmp_path, classes=4)
    task = task_of(tmp_path)
    masks = torch.tensor([[[0, 0, 1, 255]]])
    logits = F.one_hot(torch.tensor([[[0, 1, 1, 3]]]), 4).movedim(-1, 1).float()
    found = figures(task, masks, logits, [1])
    assert {name for name in found if name.startswith("iou_")} == {"iou_0", "iou_1"}
    assert found["mean_iou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    # In the prediction alone it counts, as zero.
    found = figures(task, masks, F.one_hot(torch.tensor([[[0, 3, 1, 3]]]), 4).movedim(-1, 1).float(), [1])
    assert found["iou_3"] == 0
    assert found["mean_iou"] == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_ignored_pixels_count_nowhere(tmp_path):
    """Whatever the network says there, nothing changes: neither figures nor gradients."""
    written = write_pairs(tmp_path, classes=3)
    task = task_of(tmp_path, class_weights="frequency")
    counts = np.bincount(written["train"][1].ravel(), minlength=256)[:3]
    of_train = torch.tensor(task.pairs.counts, dtype=torch.float64)
    assert counts.sum() > of_train.sum()  # some are held out
    assert task.weights.tolist() == pytest.approx((1 - of_train / of_train.sum()).tolist())
    masks = torch.tensor([[[0, 1, 2, 255]]])
    losses = []
    for there in (0.0, 100.0):
        logits = torch.zeros(1, 3, 1, 4)
        logits[..., 3] = torch.tensor([there, 0, -there])[None, :, None]
        net = Fixed(logits)
        loss, sums = task.loss(net, (torch.zeros(1, 3, 1, 4), masks))
        loss.backward()
        losses.append((loss.item(), sums.tolist()))
        assert not net.logits[0].grad[..., 3].any()
        assert net.logits[0].grad[..., :3].any()
    assert losses[0] == losses[1]


def test_a_batch_of_ignored_pixels_trains_nothing_and_stays_finite(tmp_path):
    write_pairs(tmp_path)
    task = task_of(tmp_path)
    net = Fixed(torch.randn(1, 3, 2, 2))
    loss, sums = task.loss(net, (torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255)))
    loss.backward()
    assert loss.item() == 0
    assert not net.logits[0].grad.any()
    assert sums.tolist() == [1] + [0] * (len(task.sums) - 1)
    assert math.isnan(task.measured(dict(zip(task.sums, sums.tolist(), strict=True)))["mean_iou"])


def test_weights_that_cannot_be(tmp_path):
    write_pairs(tmp_path)
    for weights, message in (
        ("square", "unknown weighting"),
        ((1.0, -1.0), "none negative"),
        ((0.0, 0.0), "not all zero"),
        ((math.nan, 1.0), "finite"),
    ):
        with pytest.raises(db.ConfigurationError, match=message):
            Segment(class_weights=weights)
    with pytest.raises(db.ConfigurationError, match=r"each of the 3 classes \(0, 1, 2\), got 2"):
        task_of(tmp_path, class_weights=(1.0, 2.0))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(db.ConfigurationError, match=r"no weight to any pixel .* a, b, c"):
        task_of(tmp_path, class_weights=(0.0, 0.0, 0.0, 1.0))
    assert "weights of classes: a 0.1, b 1, c 1, d 1" in task_of(tmp_path, class_weights=(0.1, 1.0, 1.0, 1.0)).load()


def test_images_are_normalised_by_the_training_statistics(tmp_path):
    write_pairs(tmp_path)
    task = task_of(tmp_path)
    (images, masks), *rest = task.batches("train", Place(dtype=torch.float64)).evaluation()
    images = torch.cat([images, *(each for each, _ in rest)])
    assert images.dtype == torch.float64
    assert masks.dtype == torch.int64
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3)
    last, *_ = task.batches("train", Place(channels_last=True)).evaluation()
    assert last[0].is_contiguous(memory_format=torch.channels_last)


def plan(root, name):
    """A small training: its task and its configuration."""
    task = Segment(data=MaskConfig(name=f"folder:{root}", batch_size=4), model=SMALL, class_weights="frequency")
    options = {"epochs": 2, "checkpoint_steps": 1, "hardware": PLAIN, "output": str(root)}
    return task, TrainConfig(**options, run=name)


def test_a_training_writes_figures_and_pictures(tmp_path):
    write_pairs(tmp_path, ("train", "val", "test"), count=8)
    (tmp_path / "classes.txt").write_text("sky\nsea land\nair\n")
    task, config = plan(tmp_path, "run")
    outcome = Training(task, config).run()
    result = json.loads((outcome.folder / "result.json").read_text())
    names = ["loss", "mean_iou", "pixel_accuracy", "iou_sky", "iou_sea land", "iou_air"]
    for entry in map(json.loads, (outcome.folder / "metrics.jsonl").read_text().splitlines()):
        assert all(math.isfinite(entry[f"{split}{name}"]) for split in ("", "validation_") for name in names)
        assert entry["images_per_second"] > 0
    assert result["test_images"] == 8
    assert result["test_mean_iou"] == pytest.approx(np.mean([result[f"test_{name}"] for name in names[3:]]))
    assert result["pictures"] == ["segmentation.png"]
    with Image.open(outcome.folder / "segmentation.png") as picture:
        assert min(picture.size) > 300
    # Its own answers are all right.
    test, fabric = task.batches("test", Place()), make_fabric(PLAIN)
    answers = [answered(task, outcome.net, batch, fabric) for batch in test.evaluation()]
    same = score_of(task, outcome.net, answers, fabric)
    assert same["mean_iou"] == same["pixel_accuracy"] == 1
    assert evaluate(task, outcome.net, test, fabric).figures == outcome.test.figures


def test_a_resumed_training_is_the_same_training(tmp_path, monkeypatch):
    write_pairs(tmp_path, count=10)
    whole = Training(*plan(tmp_path, "whole")).run()
    stopped(*plan(tmp_path, "parted"), 3, monkeypatch)
    parted = Training(*plan(tmp_path, "parted"), resume=tmp_path / "parted").run()
    for one, other in zip(whole.net.state_dict().values(), parted.net.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert whole.test.figures == parted.test.figures


def test_pictures_show_few_images_many_classes_and_ignored_pixels(tmp_path):
    write_pairs(tmp_path, ("train", "val"), count=3, classes=9)
    for path in tmp_path.glob("val/masks/*"):
        write_mask(path, np.full((10, 12), 255, np.uint8))
    write_mask(path, np.arange(120, dtype=np.uint8).reshape(10, 12) % 9)
    task = task_of(tmp_path)
    net = task.build()
    (path,) = task.conclude(net, Place(), tmp_path)
    with Image.open(path) as picture:
        assert min(picture.size) > 300
    assert net.training


def test_processes_together_have_the_figures_of_one(tmp_path):
    """Sums are added over processes, whose shares are of different sizes."""
    write_pairs(tmp_path, count=7)
    task = task_of(tmp_path, class_weights="frequency")
    net = task.build().double().eval()

    def sums(place):
        with torch.no_grad():
            return sum(task.score(net, batch) for batch in task.batches("test", place).evaluation())

    whole = sums(Place(dtype=torch.float64))
    shares = [sums(Place(dtype=torch.float64, rank=rank, world=2)) for rank in range(2)]
    assert whole.dtype == torch.float64
    assert torch.equal(whole[3:], (shares[0] + shares[1])[3:])
    assert torch.allclose(whole, shares[0] + shares[1], rtol=1e-12)
