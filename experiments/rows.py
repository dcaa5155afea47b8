"""(helper) What ``on_gpu.py`` measures: for each row its state, what it waits for, and the command that measures it."""

import importlib.util
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from common import HERE, RESULTS, begun, read

from dynamicblocks.training.run_folder import RunFolder

BENCHMARKS = HERE.parent / "benchmarks"


@dataclass(frozen=True)
class Setting:
    """Where rows are measured, and how.

    Args:
        state: folder of runs, results and logs.
        accelerator: auto, cpu, cuda.
        data_dir: local copies of CIFAR; None to download it.
        missing: files that a data set still needs there.
        together: trainings at once.
        steps: training steps of a trial; None where it is none.
    """

    state: Path
    accelerator: str = "auto"
    data_dir: Path | None = None
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    together: int = 1
    steps: int | None = None

    @property
    def data_flags(self) -> list[str]:
        return [] if self.data_dir is None else ["--data_dir", str(self.data_dir)]

    @property
    def note(self) -> str:
        """What else ran on the machine."""
        on = "CPU" if self.accelerator == "cpu" else "GPU"
        return f"up to {self.together} trainings at once on the {on}" if self.together > 1 else ""


class Row(ABC):
    """Something to be measured."""

    name: str
    minutes: float
    """About how long it takes by itself on an H100; nothing relies on it but what cannot be cut off."""
    resumes: bool = False
    """Whether it can be cut off and go on; else it begins only if its minutes are left."""
    alone: bool = False
    """Whether times are its result, so that nothing may run beside."""
    data: str | None = None
    """The data set that it reads."""

    @property
    @abstractmethod
    def published(self) -> Path:
        """The file of its result in the repository; in the state folder it has the same name."""

    @abstractmethod
    def command(self, setting: Setting) -> list[str]:
        """The script that measures it, and its arguments."""

    def result(self, setting: Setting) -> Path:
        """The file of its result in the state folder."""
        return setting.state / "results" / self.published.name

    def measured(self, path: Path) -> bool:
        """Whether a file of results has it."""
        return path.exists()

    def done(self, setting: Setting) -> bool:
        """Whether it is measured: in the state folder or, where this is no trial, in the repository."""
        return self.measured(self.result(setting)) or (setting.steps is None and self.measured(self.published))

    def waits(self, setting: Setting) -> str:
        """What it cannot begin without; empty where there is no such thing."""
        return f"waits for {self.data}" if self.data in setting.missing else ""

    def progress(self, setting: Setting) -> tuple[str, float]:
        """Its state in words, and about how many minutes are left."""
        return ("measured", 0.0) if self.done(setting) else ("not measured", self.minutes)


@dataclass(frozen=True)
class Trained(Row):
    """A configuration that ``run.py`` trains; where epochs are long, with checkpoints in between."""

    name: str
    minutes: float
    checkpoint_steps: int | None = None
    resumes = True

    @property
    def published(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def configuration(self) -> dict:
        return yaml.safe_load((HERE / "configs" / f"{self.name}.yaml").read_text())

    @property
    def data(self) -> str:
        return self.configuration["data"]["name"]

    def progress(self, setting: Setting) -> tuple[str, float]:
        folder = begun(setting.state, self.name)
        if self.done(setting) or folder is None:
            return super().progress(setting)
        epochs, planned = RunFolder(folder).metrics(), self.configuration["epochs"]
        seconds = [0.0, *(epoch["seconds"] for epoch in epochs)]
        each = (seconds[-1] - seconds[-2]) / 60 if epochs else self.minutes / planned
        return f"begun: {len(epochs)} of {planned} epochs", (planned - len(epochs)) * each

    def command(self, setting: Setting) -> list[str]:
        # As the rows that were measured on a GPU before; on a CPU compiling takes minutes.
        precision, compiled = ("32-true", "false") if setting.accelerator == "cpu" else ("bf16-mixed", "true")
        flags = ["--precision", precision, "--compile", compiled, "--channels_last", "true"]
        for flag, steps in (("--checkpoint_steps", self.checkpoint_steps), ("--steps", setting.steps)):
            flags += [] if steps is None else [flag, f"{steps}"]
        flags += ["--accelerator", setting.accelerator, "--note", setting.note, *setting.data_flags, "--resume"]
        places = ["--output", str(setting.state), "--results", str(setting.state / "results")]
        return [str(HERE / "run.py"), self.name, *flags, *places]


@dataclass(frozen=True)
class Twists(Row):
    """Some networks of ``cifar10_twist.py``."""

    name: str
    minutes: float
    networks: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    published = RESULTS / "cifar10_twist.json"
    resumes = True
    data = "cifar10"

    def measured(self, path: Path) -> bool:
        known = {(run["network"], run["seed"]) for run in read(path, "runs")["runs"]}
        return all((network, seed) in known for network in self.networks for seed in self.seeds)

    def command(self, setting: Setting) -> list[str]:
        result = self.result(setting)
        if setting.steps is None and not result.exists():
            shutil.copyfile(self.published, result)  # the other networks, to which these are added
        flags = [] if setting.steps is None else ["--steps", f"{setting.steps}"]
        flags += ["--accelerator", setting.accelerator, *setting.data_flags]
        places = ["--output", str(setting.state), "--result", str(result)]
        seeds = [f"{seed}" for seed in self.seeds]
        return [str(HERE / "cifar10_twist.py"), "--networks", *self.networks, "--seeds", *seeds, *flags, *places]


@dataclass(frozen=True)
class Compressed(Row):
    """The first of some runs that has come to its end, compressed."""

    name: str
    minutes: float
    runs: tuple[str, ...]
    data = "cifar10"

    @property
    def published(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def trained(self, setting: Setting) -> list[Path]:
        folders = [setting.state / name for name in self.runs]
        return [folder for folder in folders if (folder / "result.json").exists()]

    def waits(self, setting: Setting) -> str:
        found = self.trained(setting)
        return super().waits(setting) if found else f"waits for a whole run {' or '.join(self.runs)} in {setting.state}"

    def command(self, setting: Setting) -> list[str]:
        flags = ["--accelerator", setting.accelerator, "--note", setting.note, *setting.data_flags]
        run = str(self.trained(setting)[0])
        return [str(HERE / "compression.py"), run, *flags, "--result", str(self.result(setting))]


@dataclass(frozen=True)
class Benchmark(Row):
    """A script of the benchmarks; a trial gives it ``trial``, which makes it short."""

    name: str
    minutes: float
    flags: tuple[str, ...] = ()
    script: str | None = None
    trial: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    alone = True

    @property
    def published(self) -> Path:
        return BENCHMARKS / "results" / f"{self.name}_cuda.json"

    def waits(self, setting: Setting) -> str:
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"needs {', '.join(absent)} installed" if absent else ""

    def command(self, setting: Setting) -> list[str]:
        flags = [*self.flags, "--device", "cpu" if setting.accelerator == "cpu" else "cuda"]
        if setting.steps is not None:
            flags += ["--repeats", "1", *self.trial]
        script = BENCHMARKS / f"{self.script or self.name}.py"
        return [str(script), *flags, "--output", str(self.result(setting))]


RK4 = ("cifar10_rk4_8", "cifar10_rk4_1to8", "cifar10_dynamicblocks_rk4")
SLOW_TWISTS = ("ResNet-18, width 16, slow twist", "ContinuousNet, width 16, slow twist")
PEER = ("torchdiffeq",)
# In this order. Minutes of those that were measured are of one among seven trainings at once, or less.
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Trained("cifar10_resnet20", 8),
        Trained("cifar10_euler_2", 9),
        Trained("cifar10_rk4_2", 18),
        Trained("cifar10_rk4_1to2", 17),
        Trained("cifar10_midpoint_1to2", 12),
        Trained("cifar10_dynamicblocks_rk4", 40, checkpoint_steps=100),
        Trained("twist_resnet34_50ep", 25),
        Twists("cifar10_twist_slow", 3, SLOW_TWISTS),
        Trained("cifar10_resnet56", 18),
        Trained("cifar10_euler_8", 21),
        Trained("cifar10_rk4_1to8", 57, checkpoint_steps=100),
        Trained("cifar10_rk4_8", 96, checkpoint_steps=100),
        Compressed("cifar10_compression", 6, RK4),
        Trained("cifar100_wide_euler_8", 26),
        Trained("cifar100_wide_resnet58", 26),
        Benchmark("training_throughput", 3, needs=PEER),
        Benchmark("gradient_memory", 2, trial=("--only", "alf, reversible")),
        Benchmark("gradient_depth", 3, trial=("--depths", "8", "--timed", "1", "--modes", "reversible")),
        Benchmark("checkpoint_memory", 3, trial=("--cases", "euler-small", "--segments", "1")),
        Benchmark("reversible_cost", 3, trial=("--batch", "1", "--steps", "2", "--integrators", "alf")),
        Benchmark("reversible_training", 4, ("--networks",), "reversible_cost"),
        Benchmark("solver_vdp", 4, needs=PEER),
        Benchmark("solver_cnf", 4, needs=PEER),
    )
}
