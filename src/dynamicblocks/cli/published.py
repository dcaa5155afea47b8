"""The flags and model names of ContinuousNet's published commands, written as flags of the one configuration.

Arguments are rewritten before the parser sees them, so nothing behind the command line knows two spellings. Flags of
the configuration that take several values are written as one list here too.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynamicblocks.errors import ConfigurationError

Rewrite = Callable[[list[str]], dict[str, str]]


class Flag(NamedTuple):
    """What a published flag becomes.

    Args:
        field: of the configuration.
        several: whether it takes several values.
        lower: whether the value's case does not matter.
    """

    field: str
    several: bool = False
    lower: bool = False


# Flags of every training that take several values, one after the other or as a list.
LISTS = (
    "optimizer.betas",
    "optimizer.box_scale",
    "optimizer.decay_epochs",
    "rediscretise.controls",
    "rediscretise.epochs",
    "rediscretise.steps",
    "refine.epochs",
)

FLAGS = {
    "dataset": Flag("data.name", lower=True),
    "name": Flag("data.name", lower=True),
    "data_dir": Flag("data.data_dir"),
    "batch_size": Flag("data.batch_size"),
    # Of the version that knew one task.
    "optimizer.label_smoothing": Flag("label_smoothing"),
    "data.workers": Flag("hardware.workers"),
    "test_batch_size": Flag("data.test_batch_size"),
    "lr": Flag("optimizer.lr"),
    "lr_decay": Flag("optimizer.decay"),
    "lr_decay_epoch": Flag("optimizer.decay_epochs", several=True),
    "weight_decay": Flag("optimizer.weight_decay"),
    "device": Flag("hardware.accelerator", lower=True),
    "scheme": Flag("model.integrator", lower=True),
    "alpha": Flag("model.width"),
    "widen_factor": Flag("model.widen"),
    "initial_time_d": Flag("model.units"),
    "n_time_steps_per": Flag("model.steps_per_unit"),
    "time_epsilon": Flag("model.time_epsilon"),
    "depth_res": Flag("model.depth"),
    "depth_wide": Flag("model.depth"),
    "refine": Flag("refine.epochs", several=True),
    "refine_variance": Flag("refine.variance"),
    **{field: Flag(field, several=True) for field in LISTS},
}
# Flags that stand alone, or before true or false.
SWITCHES = {
    "batch_norm": ("model.norm", "batch", "none"),
    "no_batch_norm": ("model.norm", "none", "batch"),
    "fast": ("hardware.fast", "true", "false"),
    "use_skipinit": ("model.skipinit", "true", "false"),
}
COMMON = ("fast",)  # of every task
MODEL_FLAGS = ("model", "arch")

_TRAINING = {
    "data.name": "cifar10",
    "data.batch_size": "128",
    # The originals train on all images and choose by test accuracy; a fiftieth is the price of not doing so.
    "data.validation": "0.02",
    "optimizer.lr": "0.1",
    "optimizer.weight_decay": "5e-4",
    "optimizer.decay_all": "true",
    "optimizer.nesterov": "false",
    "optimizer.warmup": "0",
    "optimizer.schedule": "steps",
    "optimizer.decay": "0.1",
    "seed": "1",
}
_CONTINUOUS = {
    **_TRAINING,
    "data.test_batch_size": "512",
    "optimizer.decay_epochs": "[30,60,90]",
    "epochs": "160",
    "model.units": "3",
}
_PLAIN = {**_TRAINING, "data.test_batch_size": "256", "optimizer.decay_epochs": "[80,120,160]", "epochs": "180"}

# The defaults of the programs that these names come from, where they differ from what the programs print.
PRESETS = {
    "continuousnet": {**_CONTINUOUS, "model.name": "continuousnet"},
    "continuousnetactfirst": {**_CONTINUOUS, "model.name": "continuousnet", "model.activation_first": "true"},
    "widecontinuousnet": {**_CONTINUOUS, "model.name": "wide_continuousnet"},
    "resnet": {
        **_PLAIN,
        "model.name": "resnet",
        "model.depth": "20",
        "model.unit": "post",
        "model.shortcut": "convolution_norm",
        "model.initial": "he",
    },
    "wideresnet": {**_PLAIN, "model.name": "wide_resnet", "model.depth": "34"},
}


def rewritten(arguments: Sequence[str], *, published: bool = True) -> list[str]:
    """The arguments of ``train`` with every published flag replaced, and the preset of a published model before them.

    They are flags for the classification of images: of another task (``published`` is False) lists alone are gathered,
    for its own options may have such names.

    Flags may be spelled with ``-`` or ``_``. Whatever is not in the table stays as it is. A preset comes first, so
    every other flag, and a configuration file, overrides it.

    >>> rewritten(["--lr-decay-epoch", "30", "60", "--use_skipinit"])
    ['--optimizer.decay_epochs=[30,60]', '--model.skipinit=true']
    """
    preset, found = split(arguments, published=published)
    return [*preset, *found]


def split(arguments: Sequence[str], *, published: bool = True) -> tuple[list[str], list[str]]:
    """The preset of a published model, and the arguments with every published flag replaced."""
    flags = FLAGS if published else {field: FLAGS[field] for field in LISTS}
    switches = SWITCHES if published else {flag: SWITCHES[flag] for flag in COMMON}
    preset: list[str] = []
    found: list[str] = []
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            found.append(token)
            continue
        flag, equals, value = token[2:].partition("=")
        name = flag.replace("-", "_")
        values = [value] if equals else []
        if published and name in MODEL_FLAGS:
            model = (values or _values(rest, flag, several=False))[0]
            chosen, fields = _model(model)
            preset = [f"--{field}={text}" for field, text in chosen.items()]
            found += fields
        elif name in flags:
            known = flags[name]
            texts = values or _values(rest, flag, several=known.several)
            text = texts[0].lower() if known.lower else texts[0]
            found.append(f"--{known.field}={_listed(texts) if known.several else text}")
        elif name in switches:
            field, on, off = switches[name]
            if not values and rest and rest[0].lower() in ("true", "false"):
                values = [rest.pop(0)]
            found.append(f"--{field}={off if values and values[0].lower() == 'false' else on}")
        else:
            found.append(f"--{name}{equals}{value}")
    return preset, found


def _model(name: str) -> tuple[dict[str, str], list[str]]:
    """The preset of a published model name, or the model of that name as it is."""
    if name.lstrip().startswith("{"):
        return {}, [f"--model={name}"]
    key = name.lower().replace("_", "").replace("-", "")
    return (PRESETS[key], []) if key in PRESETS else ({}, [f"--model.name={name}"])


def _values(rest: list[str], flag: str, *, several: bool) -> list[str]:
    """The values that follow a flag, taken off ``rest``."""
    values: list[str] = []
    while rest and not rest[0].startswith("--") and (several or not values):
        values.append(rest.pop(0))
    if not values:
        raise ConfigurationError(f"--{flag} expects a value; see `dynamicblocks train --help`")
    return values


def _listed(texts: Sequence[str]) -> str:
    joined = ",".join(texts)
    return joined if joined.startswith("[") else f"[{joined}]"
