"""The training loop."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from dynamicblocks.errors import SolverError, StorageError
from dynamicblocks.network import DynamicNet
from dynamicblocks.surgery import freeze_unused_controls
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.evaluation import Score, evaluate
from dynamicblocks.training.hardware import make_fabric, over_processes, random_state, set_random_state
from dynamicblocks.training.loading import make_batches
from dynamicblocks.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from dynamicblocks.training.outcome import Outcome, conclude
from dynamicblocks.training.position import Position
from dynamicblocks.training.progress import TrainingBar, training_bar
from dynamicblocks.training.run_folder import RunFolder


class Training:
    """One training, from a configuration or from a checkpoint of it.

    Args:
        config: what to do.
        resume: the folder of a run to continue, made by the same configuration.
        console: where the first process writes; the others are silent.
    """

    def __init__(self, config: TrainConfig, *, resume: Path | None = None, console: Console | None = None) -> None:
        self.config = config
        self.fabric = make_fabric(config.hardware)
        self.fabric.launch()
        self.console = Console(quiet=True) if self.fabric.global_rank else console or Console()
        self.data = config.data.load()
        self.batches = make_batches(self.data, self.data.train, config, self.fabric)
        self.validation = make_batches(self.data, self.data.validation, config, self.fabric)
        torch.manual_seed(config.seed)
        self.net: DynamicNet = config.model.build(self.data)
        frozen = freeze_unused_controls(self.net)
        if frozen:
            self.console.print(f"The grid never reads these controls, so they are frozen: {', '.join(frozen)}")
        # The bare network is kept for evaluation and storage: names without the prefixes of wrappers.
        self.net.to(memory_format=torch.channels_last if config.hardware.channels_last else torch.preserve_format)  # type: ignore[call-overload]
        self.net.to(self.fabric.device)
        wrapped: nn.Module = torch.compile(self.net) if config.hardware.compile else self.net  # type: ignore[assignment]
        self.model, self.optimizer = self.fabric.setup(wrapped, make_optimizer(self.net, config.optimizer))
        self.position = Position()
        self.sums = torch.zeros(3, device=self.fabric.device)
        self.folder = self._continue(resume) if resume is not None else self._begin()

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.batches.steps

    def _begin(self) -> RunFolder:
        name = self.config.run or f"{datetime.now():%Y%m%d-%H%M%S}-{self.config.data.name}-{self.config.model.name}"
        path = Path(self.config.output) / self.fabric.broadcast(name)
        record = {
            **environment(),
            "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            "weights": self.net.weights,
            "data": self.data.note,
            "device": str(self.fabric.device),
            "processes": self.fabric.world_size,
        }
        # Every process checks before one of them writes, so that all of them stop.
        RunFolder.check_free(path)
        self.fabric.barrier()
        if self.fabric.global_rank == 0:
            RunFolder.create(path, self.config.as_dict(), record)
        self.fabric.barrier()
        return RunFolder(path)

    def _continue(self, path: Path) -> RunFolder:
        folder = RunFolder.open(path)
        state = folder.read_checkpoint()
        try:
            self.net.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.position = Position(**state["position"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StorageError(f"the checkpoint in {path} does not fit its configuration: {error}") from error
        if self.fabric.global_rank == 0:
            self.sums.copy_(state["sums"])
        set_random_state(state["random"])
        if self.fabric.global_rank == 0:
            folder.forget_epochs(self.position.epoch)
        return folder

    def _save(self, sums: Tensor) -> None:
        if self.fabric.global_rank == 0:
            state = {
                "weights": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "position": vars(self.position),
                "sums": sums,
                "random": random_state(),
            }
            self.folder.write_checkpoint(state)

    def run(self) -> Outcome:
        """Train to the end, then read the test images once."""
        done = self.position.epoch * self.batches.steps + self.position.step
        with training_bar(self.console, self.total_steps, done) as bar:
            while self.position.epoch < self.config.epochs:
                self._epoch(bar)
            bar.finish(self.total_steps)
        self.fabric.barrier()
        self.net.load_state_dict(self.folder.read_weights())
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
        self.net.train()
        rate = 0.0
        for step, (images, labels) in enumerate(self.batches.training(epoch, first), start=first):
            done = epoch * self.batches.steps + step
            rate = learning_rate(self.config.optimizer, done, self.total_steps)
            set_learning_rate(self.optimizer, rate)
            self._step(images, labels)
            elapsed = time.perf_counter() - begin
            seen = (step + 1 - first) * self.config.data.batch_size
            bar.step(done + 1, epoch, self.sums, seen / elapsed)
            self.position.step = step + 1
            every = self.config.checkpoint_steps
            if every and (step + 1) % every == 0 and step + 1 < self.batches.steps:
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
            "images_per_second": (self.batches.steps - first) * self.config.data.batch_size / elapsed,
            "seconds": self.position.seconds,
        }
        self._finish_epoch(score, entry)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        options = self.config.optimizer
        if self.config.hardware.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=options.label_smoothing)
        with torch.no_grad():
            right = (logits.argmax(dim=1) == labels).sum()
            self.sums += torch.stack([loss * len(labels), right, torch.full_like(loss, len(labels))])
        if options.smoothness:
            smoothness = torch.stack([block.controls.smoothness() for block in self.net.blocks]).sum()
            loss = loss + options.smoothness * smoothness
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if options.clip:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=options.clip)
        self.optimizer.step()

    def _finite_sums(self) -> Tensor:
        """Loss, right answers and images of the epoch so far, over all processes."""
        sums = over_processes(self.fabric, self.sums)
        if not bool(torch.isfinite(sums[0])):
            raise SolverError(
                f"the loss is not finite in epoch {self.position.epoch + 1}, step {self.position.step}; the last good "
                f"state is in {self.folder.path}. Try a lower --optimizer.lr, --optimizer.clip 1.0, or more steps: an "
                "explicit integrator is unstable where the layer function is too steep for its step"
            )
        return sums

    def _finish_epoch(self, score: Score, entry: Mapping[str, Any]) -> None:
        """Keep the weights if they are the best, then move on and write the checkpoint."""
        if self.position.improved_by(score):
            self.position.best_epoch, self.position.best_loss = self.position.epoch, score.loss
            if self.fabric.global_rank == 0:
                self.folder.write_weights(self.net.state_dict(), self.config.as_dict())
        if self.fabric.global_rank == 0:
            self.folder.append("metrics.jsonl", entry)
        self.position.epoch += 1
        self.position.step = 0
        self.sums.zero_()
        self._save(self.sums)
