"""The training loop."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from dynamicblocks.data.batches import generator
from dynamicblocks.discretisation import discretisation, with_discretisation
from dynamicblocks.errors import SolverError, StorageError
from dynamicblocks.network import DynamicNet
from dynamicblocks.surgery import freeze_unused_controls, refine
from dynamicblocks.training.config import TrainConfig, load_config
from dynamicblocks.training.environment import environment
from dynamicblocks.training.evaluation import Score, evaluate
from dynamicblocks.training.growth import carry_momentum, scatter_controls
from dynamicblocks.training.hardware import make_fabric, over_processes, random_state, set_random_state
from dynamicblocks.training.loading import make_batches
from dynamicblocks.training.measured import Measurement, choose
from dynamicblocks.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from dynamicblocks.training.outcome import Outcome, conclude
from dynamicblocks.training.position import Position
from dynamicblocks.training.progress import TrainingBar, training_bar
from dynamicblocks.training.run_folder import RunFolder

HALF_PRECISIONS = ("bf16-mixed", "16-mixed", "bf16-true", "16-true")


class NotFiniteError(SolverError):
    """A loss that is NaN or infinite."""


class Training:
    """One training, from a configuration or from a checkpoint of it.

    Args:
        config: what to do.
        resume: the folder of a run to continue, made by the same configuration.
        console: where the first process writes; the others are silent.
    """

    def __init__(self, config: TrainConfig, *, resume: Path | None = None, console: Console | None = None) -> None:
        if resume is not None:
            # What was measured at the run's start holds to its end.
            recorded = load_config(RunFolder.open(resume).configuration())
            config = replace(config, hardware=recorded.hardware)
        self.data = config.data.load()
        torch.manual_seed(config.seed)
        self.net: DynamicNet = config.model.build(self.data)
        self.config, measured = self._measured(config)
        self.fabric = make_fabric(self.config.hardware)
        self.fabric.launch()
        self.console = Console(quiet=True) if self.fabric.global_rank else console or Console()
        self.batches = make_batches(self.data, self.data.train, self.config, self.fabric, evaluation=False)
        self.validation = make_batches(self.data, self.data.validation, self.config, self.fabric)
        self.position = Position()
        self.sums = torch.zeros(3, device=self.fabric.device)
        if resume is not None:
            self.folder = RunFolder.open(resume)
            self._restore()
        else:
            self._set_up()
            self.folder = self._begin(measured)
            self._save(self.sums)

    def _measured(self, config: TrainConfig) -> tuple[TrainConfig, list[Measurement]]:
        """The configuration with the choices that a measurement on the first batch made."""
        if "auto" not in (config.hardware.precision, config.hardware.channels_last, config.hardware.compile):
            return config, []
        precision = "32-true" if config.hardware.precision == "auto" else config.hardware.precision
        trial = make_fabric(replace(config.hardware, precision=precision))
        batches = make_batches(self.data, self.data.train, config, trial, evaluation=False)
        images, labels = next(batches.training(0))
        steps = min(config.epochs * batches.steps, config.max_steps or config.epochs * batches.steps)
        state = random_state()
        hardware, measured = choose(config.hardware, self.net.to(trial.device), images, labels, steps)
        set_random_state(state)
        return replace(config, hardware=hardware), measured

    def _set_up(self) -> None:
        """Everything that hangs on the network's shape: frozen controls, optimiser, compilation, wrappers."""
        frozen = freeze_unused_controls(self.net)
        if frozen:
            self.console.print(f"The grid never reads these controls, so they are frozen: {', '.join(frozen)}")
        # The bare network is kept for evaluation and storage: names without the prefixes of wrappers.
        last = self.config.hardware.channels_last is True
        self.net.to(memory_format=torch.channels_last if last else torch.preserve_format)  # type: ignore[call-overload]
        self.net.to(self.fabric.device)
        compiled = self.config.hardware.compile is True
        wrapped: nn.Module = torch.compile(self.net, dynamic=False) if compiled else self.net  # type: ignore[assignment]
        self.sgd = make_optimizer(self.net, self.config.optimizer)
        self.model, self.optimizer = self.fabric.setup(wrapped, self.sgd)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        planned = self.config.epochs * self.batches.steps
        return min(planned, self.config.max_steps or planned)

    @property
    def steps_done(self) -> int:
        """Steps that lie behind."""
        return self.position.epoch * self.batches.steps + self.position.step

    def _begin(self, measured: list[Measurement]) -> RunFolder:
        source = self.config.data.name.partition(":")[0]
        name = self.config.run or f"{datetime.now():%Y%m%d-%H%M%S}-{source}-{self.config.model.name}"
        path = Path(self.config.output) / self.fabric.broadcast(name)
        record = {
            **environment(),
            "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            "weights": self.net.weights,
            "data": self.data.note,
            "device": str(self.fabric.device),
            "processes": self.fabric.world_size,
            "measured_steps": [asdict(each) for each in measured],
        }
        # Every process checks before one of them writes, so that all of them stop.
        RunFolder.check_free(path)
        self.fabric.barrier()
        if self.fabric.global_rank == 0:
            RunFolder.create(path, self.config.as_dict(), record)
        self.fabric.barrier()
        return RunFolder(path)

    def _restore(self, precision: str | None = None) -> None:
        """Everything as it was at the newest checkpoint, perhaps with another precision from there on."""
        state = self.folder.read_checkpoint()
        try:
            self._use_precision(precision or state["precision"])
            self.net = with_discretisation(self.net, state["discretisation"])
            self.net.load_state_dict(state["weights"])
            self._set_up()
            self.optimizer.load_state_dict(state["optimizer"])
            self.position = Position(**state["position"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"the checkpoint in {self.folder.path} does not fit its configuration: {error}"
            ) from error
        self.sums.zero_()
        if self.fabric.global_rank == 0:
            self.sums.copy_(state["sums"])
        set_random_state(state["random"])
        if self.fabric.global_rank == 0:
            self.folder.forget_epochs(self.position.epoch)

    def _use_precision(self, precision: str) -> None:
        if precision != self.config.hardware.precision:
            self.config = replace(self.config, hardware=replace(self.config.hardware, precision=precision))
            self.fabric = make_fabric(self.config.hardware)

    def _save(self, sums: Tensor) -> None:
        if self.fabric.global_rank == 0:
            state = {
                "weights": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "position": vars(self.position),
                "sums": sums,
                "random": random_state(),
                "discretisation": discretisation(self.net),
                "precision": self.config.hardware.precision,
            }
            self.folder.write_checkpoint(state)

    def run(self) -> Outcome:
        """Train to the end, then read the test images once."""
        with training_bar(self.console, self.total_steps, self.steps_done) as bar:
            while self.steps_done < self.total_steps:
                try:
                    self._epoch(bar)
                except NotFiniteError:
                    if self.config.hardware.precision not in HALF_PRECISIONS or self.fabric.world_size > 1:
                        raise
                    self._fall_back(bar)
            bar.finish(self.total_steps)
        self.fabric.barrier()
        weights, best = self.folder.read_weights()
        self.net = with_discretisation(self.net, best)
        self.net.load_state_dict(weights)
        test = make_batches(self.data, self.data.test, self.config, self.fabric)
        outcome = conclude(self.net, self.validation, test, self.fabric, self.folder, self.position)
        if self.fabric.global_rank == 0:
            self.folder.write_result(outcome.as_result(self.config.seed))
        return outcome

    def _epoch(self, bar: TrainingBar) -> None:
        """The rest of the present epoch, its validation and its checkpoint."""
        epoch, first = self.position.epoch, self.position.step
        begin = time.perf_counter()
        before = self.position.seconds
        if first == 0 and epoch in self.config.refine.epochs:
            self._refine()
        self.net.train()
        rate = 0.0
        side = self.config.data.side(epoch / self.config.epochs)
        last = min(self.batches.steps, self.total_steps - epoch * self.batches.steps)
        for step, (images, labels) in enumerate(self.batches.training(epoch, first, side), start=first):
            if step == last:
                break
            done = epoch * self.batches.steps + step
            rate = learning_rate(self.config.optimizer, done, self.total_steps, epoch)
            set_learning_rate(self.optimizer, rate)
            self._step(images, labels)
            elapsed = time.perf_counter() - begin
            seen = (step + 1 - first) * self.config.data.batch_size
            bar.step(done + 1, epoch, self.sums, seen / elapsed)
            self.position.step = step + 1
            every = self.config.checkpoint_steps
            if every and (step + 1) % every == 0 and step + 1 < last:
                self.position.seconds = before + elapsed
                self._save(self._finite_sums())
        elapsed = time.perf_counter() - begin
        loss, correct, images_seen = self._finite_sums().tolist()
        self.position.seconds = before + elapsed
        score = evaluate(self.net, self.validation, self.fabric)
        entry = {
            "epoch": epoch,
            "learning_rate": rate,
            "loss": loss / images_seen,
            "accuracy": correct / images_seen,
            "validation_loss": score.loss,
            "validation_accuracy": score.accuracy,
            "images_per_second": (last - first) * self.config.data.batch_size / elapsed,
            "seconds": self.position.seconds,
        }
        if self.position.refined:
            entry["refined"] = self.position.refined
        self._finish_epoch(score, entry)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        options = self.config.optimizer
        logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=options.label_smoothing)
        with torch.no_grad():
            right = (logits.argmax(dim=1) == labels).sum()
            self.sums += torch.stack([loss * len(labels), right, torch.full_like(loss, len(labels))])
        if options.smoothness:
            smoothness = torch.stack([block.controls.smoothness() for block in self.net.blocks]).sum()
            loss = loss + options.smoothness * smoothness
        if self.fabric.device.type == "cpu" and not math.isfinite(loss.item()):
            # Reading a loss costs nothing on a CPU; elsewhere it would wait for the device, so the sums are read later.
            self._not_finite()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if options.clip:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=options.clip)
        self.optimizer.step()

    def _finite_sums(self) -> Tensor:
        """Loss, right answers and images of the epoch so far, over all processes."""
        sums = over_processes(self.fabric, self.sums)
        if not bool(torch.isfinite(sums[0])):
            self._not_finite()
        return sums

    def _not_finite(self) -> NoReturn:
        raise NotFiniteError(
            f"the loss is not finite in epoch {self.position.epoch + 1}, step {self.position.step + 1}; the last good "
            f"state is in {self.folder.path}. Try a lower --optimizer.lr, --optimizer.clip 1.0, or more steps: an "
            "explicit integrator is unstable where the layer function is too steep for its step"
        )

    def _fall_back(self, bar: TrainingBar) -> None:
        """Go back to the newest checkpoint, and on from there in float32."""
        failed = self.config.hardware.precision
        self._restore("32-true")
        self._save(self.sums)
        bar.finish(self.steps_done)
        self.console.print(
            f"[bold red]The loss was not finite under {failed}.[/] Training goes on in float32 (32-true) from the last "
            f"checkpoint, epoch {self.position.epoch + 1}, step {self.position.step + 1}; it will be slower.",
            highlight=False,
        )
        event = {"event": "precision", "from": failed, "to": "32-true", "epoch": self.position.epoch}
        self.folder.append("events.jsonl", {**event, "step": self.position.step})

    def _refine(self) -> None:
        """Multiply controls and steps, carry the momentum over, and measure the network before and after."""
        settings = self.config.refine
        before = evaluate(self.net, self.validation, self.fabric)
        old, momenta = self.net, self.sgd.state
        self.net = refine(old, settings.factor)
        if settings.variance:
            scatter_controls(self.net, settings.variance, generator(self.config.seed, self.position.epoch))
        self._set_up()
        carry_momentum(old, momenta, self.net, self.sgd.state, settings.factor)
        after = evaluate(self.net, self.validation, self.fabric)
        # The best weights of a smaller network are not what was asked for.
        self.position.best_epoch, self.position.best_loss = -1, math.inf
        self.position.refined = {
            "weights": self.net.weights,
            "evaluations": self.net.evaluations,
            "validation_loss": [before.loss, after.loss],
            "validation_accuracy": [before.accuracy, after.accuracy],
        }
        self.console.print(
            f"Refined before epoch {self.position.epoch + 1} to {self.net.weights:,} weights and "
            f"{self.net.evaluations} evaluations; validation loss {before.loss:.4f} -> {after.loss:.4f}, accuracy "
            f"{before.accuracy:.2%} -> {after.accuracy:.2%}",
            highlight=False,
        )

    def _finish_epoch(self, score: Score, entry: Mapping[str, Any]) -> None:
        """Keep the weights if they are the best, then move on and write the checkpoint."""
        if self.position.improved_by(score):
            self.position.best_epoch, self.position.best_loss = self.position.epoch, score.loss
            if self.fabric.global_rank == 0:
                self.folder.write_weights(self.net.state_dict(), self.config.as_dict(), discretisation(self.net))
        if self.fabric.global_rank == 0:
            self.folder.append("metrics.jsonl", entry)
        self.position.epoch += 1
        self.position.step = 0
        self.position.refined = {}
        self.sums.zero_()
        self._save(self.sums)
