"""Predictions for files of any size: read in chunks, written in their order, continued where a killed command stopped.

Sentences are written exactly as they were read, also those that begin with = + - or @: tables are for programs. A
spreadsheet takes such a cell for a formula; import the columns as text there.
"""

import contextlib
import csv
import glob
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

import numpy
import pyarrow
import pyarrow.parquet
import torch
from datasets import Dataset
from filelock import FileLock, Timeout
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback, ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from pyarrow.lib import ArrowException

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.pairs.files import read_chunks
from mrpc_lightning.report.calibration import Calibration
from mrpc_lightning.run.recorder import say
from mrpc_lightning.run.run import replacing
from mrpc_lightning.run.scoring import Array, score
from mrpc_lightning.text import count

CHUNK = 8192  # pairs that are read, scored and written together; what a killed command does again
PART, LOCK = "{:06}.parquet", ".lock"  # in the folder of what is done
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def check(config: Any) -> None:
    """Check that the values of the configuration of `predict` make sense together.

    Raises:
        InputError: If they do not.
    """
    file, output = config.data.predict_file, config.output
    if config.pair is not None or file == "-":
        printing = "predict -" if config.pair is None else "--pair"
        others = {"--output": output, "--glue": config.glue, "data.predict_file": config.pair is not None and file}
        for name in filter(others.get, others):
            raise InputError(f"{name}: {printing} prints what it predicts, and writes no file; leave one out")
    if output is not None:
        path = Path(output)
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"--output {path}: unknown kind of file; use {', '.join(ENDINGS)}")
        if config.glue:
            raise InputError("--glue: writes MRPC.tsv into the run's folder; leave --output out")
        if path.is_dir():
            raise InputError(f"--output {path}: is a folder; give a file")
        if file and path.absolute() == Path(file).absolute():
            raise InputError(f"--output {path}: is what data.predict_file reads; give another")
    limit = config.trainer.limit_predict_batches
    if limit is not None and (isinstance(limit, int) or limit != 1.0):  # 1 is a batch, 1.0 all of them
        raise InputError("trainer.limit_predict_batches: predict scores every pair; give it a shorter file")


def run(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    path: Path,
    made_by: Mapping[str, Any],
    glue: bool = False,
    calibration: Calibration | None = None,
) -> None:
    """Score all pairs and write the table. All of them are checked before the first is scored.

    Until all is done, a folder beside the table holds what is. Its name has a hash of everything that the predictions
    depend on, and it is locked, so that two commands share no file.

    Args:
        trainer: The Trainer, of any number of processes. Every process must call this function.
        model: The model.
        data: The data.
        path: The table: CSV, TSV, JSON lines or Parquet, by its ending.
        made_by: Everything that the predictions depend on but weights and pairs.
        glue: Write GLUE's table, of index and prediction as numbers.
        calibration: How probabilities become predictions, where not by the likelier class.

    Raises:
        InputError: If a row is not in order, the pairs change meanwhile, or another command does the same.
        Stopped: If a signal asks for it; the message says what the same command will do.
    """
    sizes: list[int] = []
    digests: list[str] = []
    done, label_names = 0, model.hparams["label_names"]
    try:
        for pairs in chunks(data):
            sizes.append(len(pairs))
            digests.append(digest(pairs))
        folder = path.with_name(f"{path.name}.{digest([made_by, weights(model), digests])[:12]}.parts")
        data.trainer = trainer
        with locked(folder) if trainer.is_global_zero else contextlib.nullcontext():
            done = count_done(folder, sizes)
            if trainer.world_size > 1:  # the processes can agree once a call of the Trainer has brought them together
                score_pairs(trainer, model, data, next(chunks(data)).select([0]))
                done = trainer.strategy.broadcast(done)
            if done:
                say(trainer, f"{sum(sizes[:done]):,} of {sum(sizes):,} pairs are done, in {folder}; now the others")
            bar = show_progress(trainer, sum(sizes), sum(sizes[:done]))
            for number, (pairs, expected) in enumerate(zip_longest(chunks(data), digests)):
                if pairs is None or digest(pairs) != expected:
                    raise InputError(f"{data.source('predict')}: changed while it was read; try again")
                if number < done:
                    continue
                found = score_pairs(trainer, model, data, pairs)
                if trainer.is_global_zero:
                    labels = found.argmax(axis=1)
                    if calibration is not None:
                        labels, found = calibration.apply(found)
                    write_part(folder / PART.format(number), pairs, labels, found, label_names)
                trainer.strategy.barrier()
                done = number + 1
            bar.close()
            if trainer.is_global_zero:
                write_table(folder, sizes, path, label_names, glue)
    except Stopped as stopped:
        first = f"the first {sizes[0]:,} pairs were done" if sizes else "the pairs were read"
        so_far = f"{sum(sizes[:done]):,} of {sum(sizes):,} pairs are done, and the same command continues there"
        how = f"stopped; {so_far}" if done else f"stopped before {first}; the same command starts again"
        raise Stopped(stopped.signum, how) from stopped
    trainer.strategy.barrier()
    say(trainer, f"\n{count(sum(sizes), 'pair')} predicted: {path}")


def digest(content: Any) -> str:
    """Return a hash of pairs, or of plain values."""
    plain = content.to_dict() if isinstance(content, Dataset) else content
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def weights(model: ParaphraseClassifier) -> int:
    """Return a checksum of a model's weights."""
    assert model.model is not None
    checksum = 0
    for tensor in model.model.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this command, and remove those that other commands have left for the same table.

    Raises:
        InputError: If another command has it, or it is a link, which may lead elsewhere.
    """
    if folder.is_symlink():
        raise InputError(f"{folder}: is a link; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name[: -len("123456789012.parts")]
    for other in folder.parent.glob(f"{glob.escape(name)}{'?' * 12}.parts"):
        with contextlib.suppress(Timeout):
            if other != folder and not other.is_symlink():
                with FileLock(other / LOCK, timeout=0):
                    shutil.rmtree(other, ignore_errors=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another command is writing this table") from error


def count_done(folder: Path, sizes: Sequence[int]) -> int:
    """Return how many parts are done, from the first one on, without a gap."""
    for number, size in enumerate(sizes):
        try:
            if pyarrow.parquet.read_metadata(folder / PART.format(number)).num_rows != size:
                return number
        except (OSError, ArrowException):  # not there, or cut short
            return number
    return len(sizes)


def chunks(data: MRPCDataModule) -> Iterator[Dataset]:
    """Yield the pairs to predict, checked, `CHUNK` at a time."""
    path = data.hparams["predict_file"]
    if path is None:
        pairs = data.read("predict")
        for start in range(0, len(pairs), CHUNK):
            yield pairs.select(range(start, min(start + CHUNK, len(pairs))))
        return
    for table in read_chunks(Path(path), "predict_file", CHUNK):
        yield data.check(table, labelled=False)


def score_pairs(trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, pairs: Dataset) -> Array:
    """Return the probabilities of both classes, of shape (pairs, 2): the mean over both orders, where there are two."""
    missing = max(trainer.world_size - len(pairs), 0)  # each process needs a pair
    filled = pairs.select([*range(len(pairs)), *[0] * missing]) if missing else pairs
    data.add("predict", filled)
    _, found = score(trainer, model, data.predict_dataloader())
    return (found.mean(axis=1) if found.ndim == 3 else found)[: len(pairs)]


def write_part(path: Path, pairs: Dataset, labels: Any, found: Array, label_names: list[str]) -> None:
    """Write the predictions for some pairs, whole or not at all."""
    table = pyarrow.table(
        {
            **{name: pairs[name][:] for name in ("idx", "sentence1", "sentence2")},
            "prediction": [label_names[int(label)] for label in labels],
            **{f"probability_{label_names[label]}": found[:, label].astype(numpy.float32) for label in (0, 1)},
        }
    )
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def write_table(folder: Path, sizes: Sequence[int], path: Path, label_names: list[str], glue: bool) -> None:
    """Make the table of its parts, and remove these.

    Raises:
        InputError: If one is missing.
    """
    if count_done(folder, sizes) != len(sizes):
        raise InputError(f"{folder}: a part is missing or damaged; give the same command again")
    parts = [folder / PART.format(number) for number in range(len(sizes))]
    whole = folder / "table"
    with replacing(whole) as temporary:
        if path.suffix.lower() == ".parquet":
            with pyarrow.parquet.ParquetWriter(temporary, pyarrow.parquet.read_schema(parts[0])) as writer:
                for part in parts:
                    writer.write_table(pyarrow.parquet.read_table(part))
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                for number, part in enumerate(parts):
                    columns = pyarrow.parquet.read_table(part).to_pydict()
                    write_rows(file, "glue" if glue else path.suffix.lower(), columns, number == 0, label_names)
    os.replace(whole, path)
    shutil.rmtree(folder, ignore_errors=True)


def write_rows(file: TextIO, kind: str, columns: dict[str, list[Any]], first: bool, label_names: list[str]) -> None:
    """Write a part's rows as ".csv", ".tsv", ".jsonl" or "glue"; those of the first part after a header."""
    if kind == "glue":  # https://gluebenchmark.com/faq
        columns = {"index": columns["idx"], "prediction": [label_names.index(name) for name in columns["prediction"]]}
    digits: Any = (lambda value: round(value, 6)) if kind == ".jsonl" else "{:.6f}".format
    for name in list(columns)[4:]:  # the probabilities
        columns[name] = [digits(value) for value in columns[name]]
    rows: list[Sequence[Any]] = [list(columns)] * (first and kind != ".jsonl")
    rows += zip(*columns.values(), strict=True)
    if kind == ".csv":
        csv.writer(file).writerows(rows)
    elif kind == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        file.writelines(f"{line}\n" for line in lines)
    else:  # no quoting: what would break a row becomes a space
        file.writelines("\t".join(" ".join(str(value).split()) for value in row) + "\n" for row in rows)


def show_progress(trainer: Trainer, total: int, done: int) -> Tqdm:
    """Put a progress bar of all pairs in place of the Trainer's, if it has one: that would show one chunk."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    others = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    shown = len(others) < len(callbacks) and trainer.is_global_zero
    bar = Tqdm(total=total, initial=done, unit=" pairs", disable=not shown, leave=False)
    callbacks[:] = [*others, LambdaCallback(on_predict_batch_end=lambda *a: bar.update(len(a[2]) * trainer.world_size))]
    return bar
