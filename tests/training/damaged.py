"""A small run, and ways to damage its files."""

import random
import shutil

import torch

from dynamicblocks.errors import DynamicBlocksError
from dynamicblocks.tasks import DataConfig, ModelConfig, load_config, load_run
from dynamicblocks.training import HardwareConfig, OptimizerConfig, RunFolder
from tests.training.small_task import quiet
from tests.trainings import classification

FILES = ("model.safetensors", "checkpoint.safetensors", "run.json", "config.yaml", "metrics.jsonl", "result.json")


def small(folder, name="run", **changes):
    """Task and configuration of a training of some steps on digits."""
    hardware = HardwareConfig("cpu", precision="32-true", compile=False, channels_last=False)
    return classification(
        data=DataConfig(train_images=64, batch_size=32),
        model=ModelConfig(name="dynamicnet", widths=(4,), units=1, layer="preact_single"),
        **{
            "epochs": 2,
            "optimizer": OptimizerConfig(lr=0.05, ema=0.9),
            "hardware": hardware,
            "output": str(folder),
            "run": name,
            **changes,
        },
    )


def trained(folder, name="run", **changes):
    """The folder of such a run."""
    return quiet(*small(folder, name, **changes)).run().folder


def stood(run):
    """Where a run stands: what its network answers, and what its training goes on from."""
    loaded = load_run(run)
    images = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    with torch.no_grad():
        answers = loaded.net(images)
    files = RunFolder.open(run)
    training = quiet(*load_config(files.configuration()), resume=run)
    try:
        state = training.engine.optimizer.state_dict()["state"]
        position = {name: value for name, value in vars(training.state).items() if name != "grown"}
        return [answers, dict(training.net.state_dict()), state, position, training.sums]
    finally:
        training.lock.release()


def outcome(run):
    """Where a damaged run stands, or the error that refuses it."""
    try:
        return stood(run)
    except DynamicBlocksError as error:
        return error


def copied(run, target):
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(run, target)


def mutate(run, others, draw):
    """Damage a file of a run by chance; what was done, in words."""
    name = draw.choice(FILES)
    path = run / name
    data = path.read_bytes()
    kinds = ["bit", "bytes", "cut", "long", "other", "zeros", "gone"]
    kind = draw.choice([*kinds, "edit", "edit"] if not name.endswith("safetensors") else kinds)
    place = draw.randrange(len(data))
    if kind == "bit":
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
    elif kind == "bytes":
        path.write_bytes(data[:place] + draw.randbytes(4) + data[place + 4 :])
    elif kind == "cut":
        path.write_bytes(data[:place])
    elif kind == "long":
        path.write_bytes(data + draw.randbytes(16))
    elif kind == "other":
        shutil.copy(draw.choice(others) / name, path)
    elif kind == "zeros":
        path.write_bytes(data[:place] + bytes(len(data[place : place + 64])) + data[place + 64 :])
    elif kind == "gone":
        path.unlink()
    else:
        place = _edit(path, draw)
    return f"{name}, {kind}, {place}"


STRANGE = ("null", "[]", "{}", "-1", "1e400", "NaN", "1" * 5000, "[" * 5000, '"text"', "true", "0", "1e9", "Infinity")


def _edit(path, draw):
    """Another value in the place of one of a file's."""
    text = path.read_text()
    pieces = text.split(": ")
    place = draw.randrange(1, len(pieces))
    value = draw.choice(STRANGE)
    end = min((at for mark in (",", "\n", "}") if (at := pieces[place].find(mark)) >= 0), default=len(pieces[place]))
    pieces[place] = value + pieces[place][end:]
    path.write_text(": ".join(pieces))
    return f"value {place} becomes {value[:20]}"


def generator(seed):
    return random.Random(seed)
