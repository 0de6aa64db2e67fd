"""Predictions for files of any size: read in chunks, and continued where a killed command stopped.

Until all is done, a folder beside the table holds the probabilities so far. Rows of a chunk are sorted by length and
cut into batches, always the same; a part is what some of these batches gave, as many as take a few seconds. So a
killed command loses no more than that, and the table does not depend on when it was killed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import Dataset
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback, ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch.utils.data import DataLoader

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.deploy import tables
from mrpc_lightning.deploy.parts import Part, find_parts, locked, read_part, write_part
from mrpc_lightning.deploy.tables import ENDINGS
from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.nn.speedups import packed
from mrpc_lightning.pairs.checks import describe, unusable
from mrpc_lightning.pairs.files import Table, find_files, read_chunks
from mrpc_lightning.pairs.tables import PREDICTION, PROBLEM, Predicted, check_names, new_columns
from mrpc_lightning.report.calibration import Calibration
from mrpc_lightning.run.recorder import say
from mrpc_lightning.run.run import replacing
from mrpc_lightning.run.scoring import Array, score
from mrpc_lightning.text import count

CHUNK = 8192  # rows that are read, tokenized and sorted together
SECONDS = 4.0  # of scoring between two writes


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
    elif file:
        find_files(Path(file), f"data.predict_file {file}")  # one that is missing is named before anything is loaded
    if output is not None:
        path = Path(output)
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"--output {path}: unknown kind of file; use {', '.join(ENDINGS)}")
        if config.glue:
            raise InputError("--glue: writes MRPC.tsv into the run's folder; leave --output out")
        if path.is_dir():
            raise InputError(f"--output {path}: is a folder; give a file")
        if path.exists() and not is_replaceable(path):
            raise InputError(f"--output {path}: is there, and holds no predictions; give another name, or delete it")
    limit = config.trainer.limit_predict_batches
    if limit is not None and (isinstance(limit, int) or limit != 1.0):  # 1 is a batch, 1.0 all of them
        raise InputError("trainer.limit_predict_batches: predict scores every pair; give it a shorter file")


def is_replaceable(path: Path) -> bool:
    """Say whether a file is empty, or a table of predictions: anything else may be somebody's pairs."""
    with contextlib.suppress(InputError):
        return not path.stat().st_size or PREDICTION in next(read_chunks(path, "output", 1)).columns
    return False


def run(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    path: Path,
    made_by: Mapping[str, Any],
    glue: bool = False,
    calibration: Calibration | None = None,
    strict: bool = False,
) -> None:
    """Score all pairs and write the table. All rows are looked through before the first is scored.

    The name of the folder of what is done has a hash of everything that the predictions depend on, and the folder is
    locked, so that two commands share no file.

    Args:
        trainer: The Trainer, of any number of processes. Every process must call this function.
        model: The model.
        data: The data.
        path: The table: CSV, TSV, JSON lines or Parquet, by its ending.
        made_by: Everything that the predictions depend on but weights and pairs.
        glue: Write GLUE's table, of index and prediction as numbers.
        calibration: How probabilities become predictions, where not by the likelier class.
        strict: Refuse rows that cannot be scored, instead of leaving their predictions empty.

    Raises:
        InputError: If the table is not in order, changes meanwhile, or another command does the same.
        Stopped: If a signal asks for it; the message says what the same command will do.
    """
    names, sizes, digests = model.hparams["label_names"], list[int](), list[str]()
    done, bad_rows, schema, kind = 0, 0, None, "glue" if glue else path.suffix.lower()
    try:
        for table in chunks(data):
            bad = unusable(table, data.reader.columns[:2])
            if bad and (strict or glue):
                raise InputError(describe(table, bad))
            check_names(table, [] if glue else new_columns(names, bool(bad)))
            bad_rows += len(bad)
            sizes.append(len(table) - len(bad))
            digests.append(digest(table.columns))
            schema = tables.schema_of(table, schema) if kind == ".parquet" else None
        about = [made_by, data.hparams["eval_batch_size"], weights(model), digests]
        folder = path.with_name(f"{path.name}.{digest(about)[:12]}.parts")
        data.trainer = trainer
        assert model.model is not None
        once = packed(model.model, trainer.strategy.root_device)  # in one process, else for each part
        with locked(folder) if trainer.is_global_zero else contextlib.nullcontext(), once:
            parts = find_parts(folder, sizes)
            if trainer.world_size > 1 and any(sizes):  # they can agree once a call of the Trainer has joined them
                first = next(pairs for table in read(data, digests) if len(pairs := usable(data, table)))
                score(trainer, model, load(data, first.select([0])))
                parts = trainer.strategy.broadcast(parts)
            if done := sum(parts.values()):
                say(trainer, f"{done:,} of {sum(sizes):,} pairs are done, in {folder}; now the others")
            bar, step = show_progress(trainer, sum(sizes), done), trainer.world_size
            for number, table in enumerate(read(data, digests)):
                own = [part for part in parts if part.chunk == number]
                if sum(parts[part] for part in own) == sizes[number]:
                    continue
                loader, begin = load(data, usable(data, table)), own[-1].end if own else 0
                sampler: Any = loader.sampler  # of rows
                batches = sampler.batches
                while begin < len(batches):
                    part, began = Part(number, begin, min(begin + step, len(batches))), time.monotonic()
                    sampler.batches = batches[part.begin : part.end]
                    rows, found = score(trainer, model, loader)
                    if trainer.is_global_zero:
                        write_part(folder / part.name, rows, found)
                    trainer.strategy.barrier()
                    begin, done = part.end, done + len(rows)
                    pace = (part.end - part.begin) / max(time.monotonic() - began, 1e-3)
                    rounds = min(round(pace * SECONDS), 4 * step) // trainer.world_size
                    step = trainer.strategy.broadcast(max(1, rounds) * trainer.world_size)
            bar.close()
            if trainer.is_global_zero:
                predictions = predicted(folder, data, digests, names, calibration)
                with replacing(folder / "table") as temporary:
                    tables.write(temporary, kind, predictions, names, bad_rows > 0, schema)
                os.replace(folder / "table", path)
                shutil.rmtree(folder, ignore_errors=True)
    except Stopped as stopped:
        so_far = f"{done:,} of {sum(sizes):,} pairs are done, and the same command continues there"
        how = f"stopped; {so_far}" if done else "stopped before the first pair was done; the same command starts again"
        raise Stopped(stopped.signum, how) from stopped
    trainer.strategy.barrier()
    left_out = f"; {count(bad_rows, 'row')} could not be: see the column {PROBLEM}" * (bad_rows > 0)
    say(trainer, f"\n{count(sum(sizes), 'pair')} predicted: {path}{left_out}")


def digest(content: Any) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def weights(model: ParaphraseClassifier) -> int:
    """Return a checksum of a model's weights."""
    assert model.model is not None
    checksum = 0
    for tensor in model.model.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum


def chunks(data: MRPCDataModule) -> Iterator[Table]:
    """Yield the rows to predict, `CHUNK` at a time."""
    return data.reader.chunks(CHUNK)


def read(data: MRPCDataModule, digests: Sequence[str]) -> Iterator[Table]:
    """Yield the rows to predict again.

    Raises:
        InputError: If they are others than those whose digests these are.
    """
    for table, expected in zip_longest(chunks(data), digests):
        if table is None or digest(table.columns) != expected:
            raise InputError(f"{data.source('predict')}: changed while it was read; try again")
        yield table


def usable(data: MRPCDataModule, table: Table) -> Dataset:
    """Return the pairs of the rows that can be scored."""
    return data.reader.check(table, labelled=False, skip=True)[0]


def load(data: MRPCDataModule, pairs: Dataset) -> DataLoader[Any]:
    """Return the loader of some pairs."""
    data.add("predict", pairs)
    return data.predict_dataloader()


def predicted(
    folder: Path,
    data: MRPCDataModule,
    digests: Sequence[str],
    label_names: Sequence[str],
    calibration: Calibration | None,
) -> Iterator[Predicted]:
    """Yield the rows with their predictions, or why some of them have none.

    Raises:
        InputError: If a part is missing or damaged.
    """
    for number, table in enumerate(read(data, digests)):
        bad = unusable(table, data.reader.columns[:2])
        found: Array = numpy.full((len(table) - len(bad), 2), numpy.nan)
        parts = sorted(folder.glob(f"{number:06}.*.npz"))
        with contextlib.suppress(OSError):
            for path in parts:
                rows, values = read_part(path)
                found[rows] = values
        if numpy.isnan(found).any():
            for path in parts:  # which another version may have cut into other batches
                path.unlink(missing_ok=True)
            raise InputError(f"{folder}: a part is missing or damaged; give the same command again")
        labels: Any = found.argmax(axis=1)
        if calibration is not None:
            labels, found = calibration.apply(found)
        names = [label_names[int(label)] for label in labels]
        yield Predicted(table, [(name, *shares) for name, shares in zip(names, found.tolist(), strict=True)], bad)


def show_progress(trainer: Trainer, total: int, done: int) -> Tqdm:
    """Put a progress bar of all pairs in place of the Trainer's, if it has one: that would show one part."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    others = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    shown = len(others) < len(callbacks) and trainer.is_global_zero
    bar = Tqdm(total=total, initial=done, unit=" pairs", disable=not shown, leave=False)
    callbacks[:] = [*others, LambdaCallback(on_predict_batch_end=lambda *a: bar.update(len(a[2]) * trainer.world_size))]
    return bar
