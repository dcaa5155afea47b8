"""The training loop."""

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn

from dynamicblocks.counting import counting
from dynamicblocks.errors import ConfigurationError, SolverError, StorageError
from dynamicblocks.interruption import Interrupted, check, deferred, listening
from dynamicblocks.training.checkpoint import checkpoint_of, filled, go_on, named_sums, stored_network
from dynamicblocks.training.choices import Choices, settled
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.environment import differences, environment
from dynamicblocks.training.evaluation import Score, Seen, evaluate, score_from
from dynamicblocks.training.first_process import by_the_first
from dynamicblocks.training.free_cores import Watch, advice
from dynamicblocks.training.hardware import (
    make_fabric,
    make_place,
    make_sums,
    over_processes,
    random_state,
    set_random_state,
)
from dynamicblocks.training.lock import Lock, check_unheld
from dynamicblocks.training.loggers import Loggers, begun_loggers, check_loggers
from dynamicblocks.training.network_changes import NetworkChange, changes_before
from dynamicblocks.training.optimizer import set_learning_rate
from dynamicblocks.training.outcome import Outcome, TableSize, check_table, conclude
from dynamicblocks.training.progress import Report, evaluation_steps, reading
from dynamicblocks.training.rehearsal import check_plan, idle_choices, rehearse
from dynamicblocks.training.reports import change_entry, change_line, epoch_entry
from dynamicblocks.training.run_checks import check_position, deciding, tensors_in
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import begin_run, expected, form_of, recorded
from dynamicblocks.training.stopping import asked_after, asked_to_end, check_alone
from dynamicblocks.training.storage import unsound
from dynamicblocks.training.task import Task, batches_of
from dynamicblocks.training.timetable import Timetable
from dynamicblocks.training.together import launch, telling_losses
from dynamicblocks.training.training_state import TrainingState

HALF_PRECISIONS = ("bf16-mixed", "16-mixed", "bf16-true", "16-true")


class NotFiniteError(SolverError):
    """A loss that is NaN or infinite."""


class Training:
    """One training, from a configuration or from a checkpoint of it.

    Args:
        task: what to train on what.
        config: how.
        resume: the folder of a run to continue, made by the same task and configuration.
        console: where the first process writes; the others are silent.
        table: how much to show of the same weights under other integrators at the end.
        loggers: what figures are logged with, beside the run's own files: tensorboard, csv, wandb. A run that is
            resumed goes on with those of before.
    """

    @telling_losses()
    def __init__(
        self,
        task: Task[Any],
        config: TrainConfig,
        *,
        resume: Path | None = None,
        console: Console | None = None,
        table: TableSize = "few",
        loggers: Sequence[str] = (),
    ) -> None:
        watch = Watch()
        self.task = task
        check_table(table)
        check_loggers(loggers)
        self.table: TableSize = table
        config = replace(config, optimizer=config.optimizer.settled())
        self.lock = Lock()
        if resume is not None:
            check_unheld(resume)
            # What was chosen at the run's start holds to its end; workers change nothing.
            chosen = RunFolder.open(resume).hardware()
            config = replace(config, hardware=replace(chosen, workers=config.hardware.workers))
        else:
            check_plan(task, config)
        with reading(task, console):
            self.note = task.load()
        check()
        torch.manual_seed(config.seed)
        net = build(task, config)
        self.config, choices = (config, Choices({})) if resume is not None else settled(task, config, net)
        self.fabric = make_fabric(self.config.hardware)
        launch(self.fabric)
        self.console = Console(quiet=True) if self.fabric.global_rank else console or Console()
        self.report = Report(self.console, task)
        place = make_place(self.config, self.fabric)
        self.batches = batches_of(task, "train", place)
        self.validation = batches_of(task, "validation", place)
        self.timetable = Timetable(self.config, self.batches.steps)
        self.state = TrainingState()
        self.steps_stored = 0
        self.begun = 0.0  # when the present epoch was, in seconds of training
        self.sums = make_sums(len(task.sums), self.fabric.device)
        try:
            if resume is not None:
                self._go_on(net, resume)
            else:
                for idle in idle_choices(net, config):
                    self.report.note(f"Note: {idle}")
                self._begin(net, choices)
            self._log(loggers)
            crowded = advice(watch, self.fabric.device, self.fabric.world_size)
            if crowded:
                self.report.note(f"Note: {crowded}")
        except BaseException:
            self.lock.release()
            raise

    def _go_on(self, net: nn.Module, run: Path) -> None:
        """Go on where a run stands."""
        self.folder = RunFolder.open(run)
        self._hold()
        self._restore(net)
        for other in differences(self.folder.record(), environment()):
            self.report.note(f"Note: {other}")

    def _begin(self, net: nn.Module, choices: Choices) -> None:
        """Make the folder of a run, when all is known to work that is needed for its first checkpoint."""
        rehearse(net, self.task, self.config, self.batches, self.fabric)
        if choices.chosen:
            self.report.note(f"{choices}")
        self._set_up(net)
        fill = partial(self._write_checkpoint, sums=self.sums)
        self.folder = begin_run(self.task, self.config, net, self.note, self.fabric, choices, fill, self.lock)

    def _log(self, names: Sequence[str]) -> None:
        """Log figures with these loggers, and with those of before."""
        if self.fabric.global_rank == 0:
            begun = str(self.folder.record().get("started", ""))
            names = [*names, *begun_loggers(self.folder.path)]
            self.report.loggers = Loggers(names, self.folder.path, begun, recorded(self.task, self.config))

    def _set_up(self, net: nn.Module) -> None:
        """Go on with this network."""
        self.engine = Engine(net, self.task, self.config, self.fabric)
        if self.engine.frozen:
            frozen = ", ".join(self.engine.frozen)
            self.report.note(f"The grid never reads these controls, so they are frozen: {frozen}")

    @property
    def net(self) -> nn.Module:
        """The network as it is now."""
        return self.engine.net

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.timetable.total

    @property
    def steps_done(self) -> int:
        """Steps that lie behind."""
        return self.timetable.before(self.state.epoch) + self.state.step

    def _hold(self) -> None:
        """Keep other trainings out of the folder, and clear away what a killed one had begun to write there."""
        by_the_first(self.fabric, lambda: self.lock.acquire(self.folder.path))
        if self.fabric.global_rank == 0:
            self.folder.remove_parts()
        if self.lock.note:
            self.report.note(f"Note: {self.lock.note}")

    def _restore(self, net: nn.Module, precision: str | None = None) -> None:
        """Everything as it was at the newest checkpoint, perhaps with another precision from there on."""
        stored = self.folder.read_checkpoint(expected(self.task, self.config), self.report.note)
        try:
            check_position(stored["position"], self.config.epochs)
            self._use_precision(precision or stored["precision"])
            self._set_up(stored_network(stored, net, widened=precision is not None))
            self.state = go_on(stored, self.engine)
            sums = named_sums(stored["sums"], self.task.sums)
            set_random_state(stored["random"])
        except KeyError as error:
            raise self.folder.lacking(error) from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise StorageError(
                f"the checkpoint in {self.folder.path} does not fit its configuration: {said:.300}"
            ) from error
        self.steps_stored = self.steps_done
        self.sums.zero_()
        if self.fabric.global_rank == 0:
            self.sums.copy_(sums)
        by_the_first(self.fabric, self._forget_epochs)
        epochs = self.folder.metrics()
        self.begun = float(epochs[-1].get("seconds", 0.0)) if epochs else 0.0

    def _forget_epochs(self) -> None:
        """What was written of epochs that come again; what was lost of others is said, for the weights are there."""
        missing = self.folder.forget_epochs(self.state.epoch)
        if missing:
            numbers = ", ".join(str(epoch + 1) for epoch in missing)
            self.report.note(f"Note: metrics.jsonl is damaged: it lacks epoch {numbers}")

    def _use_precision(self, precision: str) -> None:
        if precision != self.config.hardware.precision:
            self.config = replace(self.config, hardware=replace(self.config.hardware, precision=precision))
            self.fabric = make_fabric(self.config.hardware)

    def _save(self, sums: Tensor) -> None:
        """Store the state; ``sums`` are those of the epoch so far, over all processes."""
        self._check_numbers()
        by_the_first(self.fabric, lambda: self._write_checkpoint(self.folder, sums))
        self.steps_stored = self.steps_done

    def _write_checkpoint(self, folder: RunFolder, sums: Tensor) -> None:
        named = dict(zip(self.task.sums, sums.tolist(), strict=True))
        state = checkpoint_of(self.engine, self.state, named, self.config.hardware.precision)
        folder.write_checkpoint({**state, "config": deciding(recorded(self.task, self.config))})

    def run(self) -> Outcome:
        """Train to the end, then read the test samples once.

        Raises:
            Interrupted: a signal asked to end; the run goes on from there when it is resumed.
            NotFiniteError: the loss was not finite.
            StorageError: a file could not be written, or another process trains in the folder.
        """
        with listening():
            try:
                with telling_losses(self._how_to_go_on):
                    self._hold()
                    self._train()
                    check()
                    return self._concluded()
            except Interrupted as interrupted:
                done = f"{self.steps_stored} of {self.total_steps} steps are done and stored"
                message = "" if self.fabric.global_rank else f"interrupted; {done}; {self._how_to_go_on()}"
                raise Interrupted(interrupted.signal, message) from None
            finally:
                self.lock.release()

    def _train(self) -> None:
        """Train to the end; signals are obeyed after a step."""
        at_once = f"interrupted at once; {self._how_to_go_on()}"
        training = self.report.training(self.total_steps, self.steps_done, self.config.epochs)
        with deferred(lambda: at_once), training:
            # The last step may be done where the validation behind it is not.
            while self.state.step or self.steps_done < self.total_steps:
                try:
                    self._epoch()
                except NotFiniteError:
                    if self.config.hardware.precision not in HALF_PRECISIONS or self.fabric.world_size > 1:
                        raise
                    self._fall_back()

    def _concluded(self) -> Outcome:
        """The weights that were kept, on the test samples."""
        self.fabric.barrier()
        weights, form = self.folder.read_weights(expected(self.task, self.config), self.report.note)
        net = filled(self.net, form, weights)
        outcome = conclude(self.task, net, self.config, self.fabric, self.folder, self.state, self.report, self.table)
        by_the_first(self.fabric, lambda: self.folder.write_result(outcome.as_result(self.config.seed)))
        return outcome

    def _how_to_go_on(self) -> str:
        command = f"dynamicblocks train --resume {shlex.quote(str(self.folder.path))}"
        if type(self.task).asked_as is not None:
            command += f" --task {shlex.quote(str(type(self.task).asked_as))}"
        # What is asked of the end of a run stands in the result, and not in its configuration.
        return f"go on with: {command}{'' if self.table == 'few' else f' --table {self.table}'}"

    def _epoch(self) -> None:
        """The rest of the present epoch, its validation and its checkpoint."""
        epoch, first = self.state.epoch, self.state.step
        begin = time.perf_counter()
        before = self.state.seconds
        if first == 0:
            self.begun = before
            for change in changes_before(self.config, epoch):
                self._change_network(change)
        self.net.train()
        last = self.timetable.of(epoch)
        for step, batch in self._batches(epoch, first, last):
            set_learning_rate(self.engine.bare_optimizer, self.timetable.rate(epoch, step))
            self._step(batch)
            elapsed = time.perf_counter() - begin
            seen = (step + 1 - first) * self.batches.batch_size
            self.report.step(self.steps_done + 1, epoch, self.sums, seen / elapsed)
            self.state.step = step + 1
            asked = asked_after(self.fabric, self.timetable, epoch, step)
            if asked or (step + 1 < last and self.timetable.checkpoint_due(epoch, step)):
                self.state.seconds = before + elapsed
                self._save(self._finite_sums())
            if asked:
                raise Interrupted(asked)
        if self.state.step < last:
            raise ConfigurationError(
                f"the batches of epoch {epoch + 1} ended after {self.state.step} steps of {last}: steps and training() "
                "of batches are to say the same"
            )
        sums = self._finite_sums()  # waits for what the device has still to do
        self.state.seconds = before + time.perf_counter() - begin
        length = self.state.seconds - self.begun
        trained = score_from(self.task, sums, length)
        drawn = random_state()
        try:
            score = self._validated(seen=lambda _: check_alone(self.fabric))
        except Interrupted:
            set_random_state(drawn)  # the whole validation comes again
            self._save(sums)
            raise
        rate = self.timetable.rate(epoch, last - 1)
        per_second = last * self.batches.batch_size / length
        cost = self.engine.cost(self.state.forward, self.state.backward, last)
        self.state.evaluations += round(last * cost.forward) * self.batches.batch_size
        entry = epoch_entry(self.task, epoch, rate, trained, score, per_second, self.state.seconds, cost)
        self._finish_epoch(score, {**entry, **self.state.grown})
        self.report.epoch(epoch, self.steps_done, trained, score, rate, per_second, cost)
        asked = asked_to_end(self.fabric)
        if asked:
            raise Interrupted(asked)

    def _batches(self, epoch: int, first: int, last: int) -> Iterator[tuple[int, Any]]:
        """The batches of an epoch that are left, with their numbers; none are read where the epoch is through."""
        if first < last:
            batches = self.batches.training(epoch, first, epoch / self.config.epochs)
            yield from islice(enumerate(batches, start=first), last - first)

    def _step(self, batch: Any) -> None:
        place, size = self.timetable.group(self.state.epoch, self.state.step)
        with counting() as count, self.engine.exchange(place + 1 == size):
            loss, sums = self.engine.loss(batch)
            self.sums += sums
            if self.fabric.device.type == "cpu" and not math.isfinite(loss.item()):
                # Reading a loss costs nothing on a CPU; elsewhere it would wait for the device, so the sums are read
                # later.
                self._not_finite(f"the loss is not finite in {self._place}")
            self.report.loss(self.steps_done, loss)
            self.engine.step(loss, place, size)
        self.state.forward += count.forward
        self.state.backward += count.backward

    def _validated(self, seen: Seen | None = None) -> Score:
        """The score on the validation samples of the network that would be kept now; ``seen`` hears of each batch."""
        self.engine.agree()
        with self.report.working("validation", evaluation_steps(self.validation), said=False) as bar:

            def heard(number: int) -> None:
                bar.advance()
                if seen is not None:
                    seen(number)

            score = evaluate(self.task, self.engine.evaluated, self.validation, self.fabric, heard)
        if not math.isfinite(score.loss):
            place = "after" if self.state.step else "before"
            self._not_finite(f"the validation loss is not finite {place} epoch {self.state.epoch + 1}")
        return score

    def _finite_sums(self) -> Tensor:
        """The sums of the epoch so far, over all processes."""
        sums = over_processes(self.fabric, self.sums)
        if not bool(torch.isfinite(sums).all()):
            self._not_finite(f"the loss is not finite in {self._place}")
        return sums

    def _check_numbers(self) -> None:
        """Raise where weights, or what the optimiser keeps of them, are no numbers that could be trained further."""
        kept = {"net": self.engine.evaluated.state_dict(), "optimizer": self.engine.optimizer.state_dict()}
        found = unsound(tensors_in({"weights": self.net.state_dict(), **kept}))
        if found:
            self._not_finite(f"in {self._place} the training has come to {found}")

    @property
    def _place(self) -> str:
        return f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"

    def _not_finite(self, what: str) -> NoReturn:
        good = f"the last good state is in {self.folder.path}"
        if not self.steps_stored:
            good = "no epoch was finished, so there is no state to go on from"
        raise NotFiniteError(
            f"{what}; {good}. Try a lower --optimizer.lr, --optimizer.clip 1.0, or more steps: an explicit integrator "
            "is unstable where the layer function is too steep for its step"
        )

    def _fall_back(self) -> None:
        """Go back to the newest checkpoint, and on from there in float32."""
        failed = self.config.hardware.precision
        self._restore(self.net, "32-true")
        self._save(self.sums)
        self.report.back_to(self.steps_done)
        self.report.note(
            f"The loss was not finite under {failed}. Training goes on in float32 (32-true) from the last checkpoint, "
            f"epoch {self.state.epoch + 1}, step {self.state.step + 1}; it will be slower.",
            style="bold red",
        )
        event = {"event": "precision", "from": failed, "to": "32-true", "epoch": self.state.epoch}
        self.folder.append("events.jsonl", {**event, "step": self.state.step})

    def _change_network(self, change: NetworkChange) -> None:
        """Change the network, carry its momentum over, and measure it before and after."""
        before = self._validated(seen=lambda _: check_alone(self.fabric))
        old = self.engine
        self._set_up(change.apply(old.net))
        change.carry(old.net, old.bare_optimizer.state, self.net, self.engine.bare_optimizer.state)
        if old.average is not None:
            self.engine.take_average(change.apply(old.average.net), old.average.updates)
        after = self._validated()
        # The best weights of a smaller network are not what was asked for.
        self.state.kept_epoch, self.state.best_loss = -1, math.inf
        self.state.grown[change.name] = change_entry(self.net, before, after)
        line = change_line(self.task, self.net, before, after)
        self.report.note(f"{change.name.capitalize()} before epoch {self.state.epoch + 1} {line}")

    def _finish_epoch(self, score: Score, entry: Mapping[str, Any]) -> None:
        """Keep the weights if they are to be kept, then move on and write the checkpoint."""
        self._check_numbers()
        better = self.config.keep == "last" or self.state.improved_by(score)
        if better:
            self.state.kept_epoch, self.state.best_loss = self.state.epoch, score.loss

        def write() -> None:
            if better:
                kept = self.engine.evaluated
                self.folder.write_weights(kept.state_dict(), recorded(self.task, self.config), form_of(self.task, kept))
            self.folder.append("metrics.jsonl", entry)

        by_the_first(self.fabric, write)
        self.state.epoch += 1
        self.state.step = self.state.forward = self.state.backward = 0
        self.state.grown = {}
        self.sums.zero_()
        self._save(self.sums)


def build(task: Task[Any], config: TrainConfig) -> nn.Module:
    """The network as the training begins with it, freshly initialised; the task's data are read for it."""
    net = task.build()
    if not isinstance(net, nn.Module):
        raise ConfigurationError(f"build of the task {task.name} must give a torch.nn.Module, got {type(net).__name__}")
    return config.twist.twist(net) if config.twist.turned_on(epoch=0) else net
