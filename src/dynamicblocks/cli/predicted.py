"""Predictions of files: made, shown, and written."""

import csv
import io
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamicblocks.cli.console import Bars, say
from dynamicblocks.cli.table import table
from dynamicblocks.data.images.files import IMAGE_ENDINGS
from dynamicblocks.errors import ConfigurationError, UsageError
from dynamicblocks.tasks import Classify, Density, FieldPrediction, Prediction, Regress, Run, Segment, SeriesPrediction
from dynamicblocks.tasks.colours import palette_of
from dynamicblocks.tasks.density_given import POINT_ENDINGS
from dynamicblocks.tasks.given import FIELD_ENDINGS, files_in
from dynamicblocks.tasks.given_series import SERIES_ENDINGS
from dynamicblocks.training import Task
from dynamicblocks.training.disk import PART, writing
from dynamicblocks.training.predicting import check_rows
from dynamicblocks.training.storage import write_text

TABLES = (".csv", ".json")
# Tasks that read tables.
TABLES_OF = ("dynamics", "series", "events")

Answer = Prediction | FieldPrediction | SeriesPrediction | Tensor


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Args:
        path: where it lies.
        inside: where among the files given, seen from the folder that stood for it.
    """

    path: Path
    inside: PurePath


def named_device(name: str) -> str:
    """The device meant: ``auto`` is a GPU where there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def inputs_of(run: Run, given: Sequence[str]) -> list[Input]:
    """The files to predict.

    Raises:
        ConfigurationError: the task reads no files.
        StorageError: a folder holds no such file.
    """
    task = run.task
    if type(task).predict is Task.predict:
        raise ConfigurationError(
            f"the task {task.name} does not say how files are read; give it a method predict(net, x, place, *, "
            "batch_size, resize) that takes a list of paths, or call load_run(...).predict with arrays"
        )
    kinds: dict[str, Sequence[str]] = {"regress": FIELD_ENDINGS, "density": POINT_ENDINGS}
    kinds |= dict.fromkeys(TABLES_OF, SERIES_ENDINGS)
    endings = kinds.get(task.name, IMAGE_ENDINGS)
    inputs: list[Input] = []
    for each in map(Path, given):
        if each.is_dir():
            inputs += [Input(path, path.relative_to(each)) for path in files_in(each, endings)]
        else:
            inputs.append(Input(each, PurePath(each.name)))
    return inputs


def check_place(run: Run, place: Path | None) -> None:
    """Raise where the output is not of the kind that the answers of a run need, as far as that is known beforehand."""
    if isinstance(run.task, Classify):
        _check_file(place)
    elif isinstance(run.task, Segment | Regress):
        _check_folder(place)
        if place is None and isinstance(run.task, Regress):
            raise UsageError("fields are written into files: add --output FOLDER")


def _check_file(place: Path | None) -> None:
    if place is not None and (place.suffix.lower() not in TABLES or place.is_dir()):
        raise UsageError(f"--output of classes must be a file, {' or '.join(TABLES)}, got {place}")


def _check_folder(place: Path | None) -> None:
    if place is not None and (place.suffix.lower() in TABLES or place.is_file()):
        raise UsageError(f"--output must be a folder here, into which a file is written for each, got {place}")


def predict_files(run: Run, inputs: Sequence[Input], options: Namespace, place: Path | None, bars: Bars) -> None:
    """Predict the files; write the answers where that was asked for, else show them.

    Raises:
        ConfigurationError: two files would be written at one place, or the task gives something else than answers.
        StorageError: a file cannot be read or written.
    """
    answers = _answers(run, inputs, options, bars)
    first = next(answers)
    whole = _together(first, answers)
    if isinstance(first[1], Prediction) and first[1].labels.ndim == 1:
        _check_file(place)
        found = [(each, answer) for each, answer in whole if isinstance(answer, Prediction)]
        if place is None:
            say(bars.console, _table_of_classes(run, found))
        else:
            write_text(place, (_csv if place.suffix.lower() == ".csv" else _json)(run, found))
            say(bars.console, f"{len(found):,} predictions written to {place}")
        return
    tabular = isinstance(first[1], SeriesPrediction) or isinstance(run.task, Density)
    if tabular and place is not None and place.suffix.lower() == ".csv":
        if len(inputs) > 1:
            raise ConfigurationError(f"--output {place} is one table and there are {len(inputs)} files: give a folder")
        write_text(place, _table_csv(first[1]))
        unit = "series" if isinstance(first[1], SeriesPrediction) else "densities"
        say(bars.console, f"{len(first[1]):,} {unit} written to {place}")
        return
    _check_folder(place)
    if place is None:
        rows = [(str(each.path), *summary(answer)) for each, answer in whole]
        say(bars.console, table(str(run.folder.path), ("file", "size", "what is in it"), rows, prose=True))
        return
    ending = ".csv" if tabular else ".png" if isinstance(first[1], Prediction) else ".npz"
    targets = _targets(inputs, ending)
    with new_folder(place) as folder:
        for each, answer in whole:
            target = folder / targets[each]
            with writing(place):
                target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, answer)
    say(bars.console, f"{len(inputs):,} files written to {place}")


def _answers(run: Run, inputs: Sequence[Input], options: Namespace, bars: Bars) -> Iterator[tuple[Input, Answer]]:
    """The answer to each file: of images of one size batches, else one after the other; meanwhile a bar is shown."""
    how: dict[str, Any] = {"batch_size": options.batch_size, "resize": options.resize}
    how |= {name: given for name in ("times", "samples") if (given := getattr(options, name, None)) is not None}
    if isinstance(run.task, Classify):
        data = run.task.data
        rows = check_rows(options.batch_size, data.test_batch_size or data.batch_size)
        for begin in _seen(range(0, len(inputs), rows), bars):
            part = inputs[begin : begin + rows]
            found = run.predict([each.path for each in part], **how)
            for each, label, chances in zip(part, found.labels.split(1), found.probabilities.split(1), strict=True):
                yield each, replace(found, labels=label, probabilities=chances)
        return
    for each in _seen(inputs, bars):
        answer = run.predict([each.path], **how)
        if not isinstance(answer, Answer):
            raise ConfigurationError(
                f"predict of the task {run.task.name} must give a Prediction, a FieldPrediction, a SeriesPrediction or "
                f"a tensor, got "
                f"something of type {type(answer).__name__}"
            )
        yield each, answer


T = TypeVar("T")


def _seen(parts: Sequence[T], bars: Bars) -> Iterator[T]:
    """Parts, with a bar that says how many are done."""
    with bars.bar("predicting", len(parts), said=len(parts) > 1) as bar:
        for part in parts:
            yield part
            bar.step()


def _together(first: tuple[Input, Answer], others: Iterator[tuple[Input, Answer]]) -> Iterator[tuple[Input, Answer]]:
    yield first
    yield from others


# Classes


Classified = Sequence[tuple[Input, Prediction]]


def _table_of_classes(run: Run, found: Classified) -> str:
    rows = []
    for each, answer in found:
        label, chances = int(answer.labels[0]), answer.probabilities[0]
        order = [place for place in chances.sort(descending=True, stable=True).indices.tolist() if place != label]
        beside = [f"{answer.classes[place]} {chances[place].item():.1%}" for place in order[:1]]
        rows.append((str(each.path), answer.classes[label], f"{chances[label].item():.1%}", *beside))
    return table(str(run.folder.path), ("file", "class", "probability", "next best")[: len(rows[0])], rows)


def _csv(run: Run, found: Classified) -> str:
    """A line for each file: the class, and the probabilities of all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "probability", *(f"probability of {name}" for name in run.classes)])
    for each, name, chances, label in _rows(found):
        writer.writerow([named(each.path), name, chances[label], *chances])
    return text.getvalue()


def _json(run: Run, found: Classified) -> str:
    listed = [
        {"file": named(each.path), "label": label, "class": name, "probabilities": chances}
        for each, name, chances, label in _rows(found)
    ]
    return json.dumps({"run": named(run.folder.path), "classes": run.classes, "predictions": listed}, indent=1) + "\n"


def _rows(found: Classified) -> Iterator[tuple[Input, str, list[float], int]]:
    for each, answer in found:
        label = int(answer.labels[0])
        # As many digits as tell float32 apart.
        digits = 9 if answer.probabilities.dtype == torch.float32 else 17
        chances = [float(f"{chance:.{digits}g}") for chance in answer.probabilities[0].tolist()]
        yield each, answer.classes[label], chances, label


# Masks, fields and others


def summary(answer: Answer) -> tuple[str, str]:
    """The size of an answer, and what is in it."""
    if isinstance(answer, Prediction):
        mask = answer.labels[0]
        counts = torch.bincount(mask.flatten(), minlength=len(answer.classes))
        shares = sorted(zip((counts / mask.numel()).tolist(), answer.classes, strict=True), key=lambda each: -each[0])
        return _size(mask.shape[::-1]), ", ".join(f"{name} {share:.1%}" for share, name in shares if share)
    if isinstance(answer, SeriesPrediction):
        ranges = zip(
            answer.features, answer.values.amin((0, 1)).tolist(), answer.values.amax((0, 1)).tolist(), strict=True
        )
        return f"{len(answer)} series", ", ".join(f"{name} {least:.4g} to {most:.4g}" for name, least, most in ranges)
    values = answer.values if isinstance(answer, FieldPrediction) else answer
    return _size(values.shape), f"{values.min().item():.4g} to {values.max().item():.4g}"


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _table_csv(answer: Answer) -> str:
    """A row for each time of each series, or for each point whose density is told."""
    if isinstance(answer, SeriesPrediction):
        rows = answer.table()
    else:
        assert isinstance(answer, Tensor)
        rows = iter([("log_density",), *((f"{value:.9g}",) for value in answer.tolist())])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _targets(inputs: Sequence[Input], ending: str) -> dict[Input, PurePath]:
    """Where in a folder the answer to each file goes.

    Raises:
        ConfigurationError: two would be at one place.
    """
    taken: dict[PurePath, Input] = {}
    for each in inputs:
        target = each.inside.with_suffix(ending)
        if target in taken:
            raise ConfigurationError(
                f"the answers to {taken[target].path} and {each.path} would both be {target}; predict them into two "
                "folders"
            )
        taken[target] = each
    return {each: target for target, each in taken.items()}


def _write(path: Path, answer: Answer) -> None:
    with writing(path):
        if isinstance(answer, Prediction):
            # Indices with a palette: read as numbers by programs, seen as colours by people.
            image = Image.fromarray(answer.labels[0].to(torch.uint8).numpy())
            image.putpalette(palette_of(len(answer.classes)))
            image.save(path)
            return
        if path.suffix == ".csv":
            write_text(path, _table_csv(answer))
            return
        values = answer if isinstance(answer, Tensor) else answer.values
        np.savez(path, predictions=values.numpy())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that is filled beside, and stands at its place when it is whole; files that lie there are replaced.

    Raises:
        StorageError: it cannot be written.
    """
    target = path.resolve()
    there = target.is_dir()
    beside = (target if there else target.parent) / f".{'' if there else target.name}.{os.getpid()}{PART}"
    try:
        with writing(path):
            beside.mkdir()
        yield beside
        with writing(path):
            if not there:
                beside.rename(target)
                return
            for each in sorted(each for each in beside.rglob("*") if each.is_file()):
                place = target / each.relative_to(beside)
                place.parent.mkdir(parents=True, exist_ok=True)
                each.replace(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def named(path: Path) -> str:
    """A path in characters that every file of text takes."""
    return str(path).encode("utf-8", "backslashreplace").decode()
