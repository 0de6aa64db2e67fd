"""Answers for files of any size: streamed, in their order, and taken up again where a killed command left off."""

import contextlib
import csv
import glob
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet
import torch
from datasets import Dataset
from filelock import FileLock, Timeout
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from pyarrow.lib import ArrowException

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.pairs.files import read_chunks
from mrpc_lightning.pairs.tokens import tokenize
from mrpc_lightning.run.recorder import gather, say
from mrpc_lightning.text import count

CHUNK = 8192  # pairs that are read, scored and written together; what a killed command does again
PART, LOCK = "{:06}.parquet", ".lock"  # in the folder of what is done
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def check(config: Any) -> None:
    """See to it that flags make sense together.

    Args:
        config: The configuration of `predict`.

    Raises:
        InputError: If they do not.
    """
    if config.pair is not None:
        others = {"output": config.output, "glue": config.glue, "data.predict_file": config.data.predict_file}
        for name in (name for name, value in others.items() if value):
            raise InputError(f"--{name}: --pair answers one pair, and prints the answer; leave one out")
    if config.output is not None:
        path = Path(config.output)
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"--output {path}: unknown kind of file; use {', '.join(ENDINGS)}")
        if config.glue:
            raise InputError("--glue: writes MRPC.tsv into the run's folder; leave --output out")
        if config.data.predict_file and path.absolute() == Path(config.data.predict_file).absolute():
            raise InputError(f"--output {path}: is what --data.predict_file reads; give another")
    limit = config.trainer.limit_predict_batches
    if limit is not None and (isinstance(limit, int) or limit != 1.0):  # 1 is a batch, 1.0 all of them
        raise InputError("--trainer.limit_predict_batches: predict answers every pair; give it a shorter file")


def run(
    trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, path: Path, made_by: Mapping[str, Any]
) -> None:
    """Score all pairs and write the table. All of them are checked before the first is scored.

    Beside the table, a folder holds what is done until all is. Its name has a hash of all that the answers depend on.

    Args:
        trainer: The Trainer, of any number of processes.
        model: The model.
        data: The data.
        path: The table: CSV, TSV, JSON lines, Parquet, or GLUE's MRPC.tsv, by its name.
        made_by: All that the answers depend on but weights and pairs.

    Raises:
        InputError: If a row is out of order, the pairs change meanwhile, or another command does the same.
    """
    sizes, digests = zip(*((len(pairs), digest(pairs)) for pairs in chunks(data)), strict=True)
    key = digest([made_by, weights(model), digests])
    folder = path.with_name(f"{path.name}.{key[:12]}.parts")
    data.trainer = trainer
    with only_here(folder) if trainer.is_global_zero else contextlib.nullcontext():
        done = count_done(folder, sizes)
        if (
            trainer.world_size > 1
        ):  # the processes can agree only once one call of the Trainer has brought them together
            score(trainer, model, data, next(chunks(data)).select([0]))
            done = trainer.strategy.broadcast(done)
        if done:
            say(trainer, f"{sum(sizes[:done]):,} of {sum(sizes):,} pairs are done, in {folder}: goes on with the next")
        bar = Bar(trainer, sum(sizes), sum(sizes[:done]))
        for number, pairs in enumerate(chunks(data)):
            if number >= len(digests) or digest(pairs) != digests[number]:
                raise InputError(f"{data.source('predict')}: changed while it was read; try again")
            if number < done:
                continue
            found = score(trainer, model, data, pairs)
            if trainer.is_global_zero:
                write_part(folder / PART.format(number), pairs, found, model.hparams["label_names"])
            trainer.strategy.barrier()
        bar.close()
        if trainer.is_global_zero:
            join(folder, sizes, path, model.hparams["label_names"])
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
def only_here(folder: Path) -> Iterator[None]:
    """Keep a folder for this command alone, and forget those that other commands for the same table have left.

    Raises:
        InputError: If another command has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name[: -len("123456789012.parts")]
    for other in folder.parent.glob(f"{glob.escape(name)}{'?' * 12}.parts"):
        with contextlib.suppress(Timeout):
            if other != folder:
                with FileLock(other / LOCK, timeout=0):
                    shutil.rmtree(other, ignore_errors=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another command is at work on it") from error


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
    """Yield the pairs to predict, checked, so many at a time."""
    path = data.hparams["predict_file"]
    if path is None:
        pairs = data.read("predict")
        for start in range(0, len(pairs), CHUNK):
            yield pairs.select(range(start, min(start + CHUNK, len(pairs))))
        return
    numbered = set()
    for table in read_chunks(Path(path), "predict_file", CHUNK):
        numbered.add(all(str(idx).isdecimal() for idx in table.columns.get("idx", [""])))
        if len(numbered) > 1:
            raise InputError(f"{table.source}: idx is a number in some rows and none in others")
        yield data.check(table, labelled=False)


def score(trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, pairs: Dataset) -> list[list[float]]:
    """Return the probabilities of both classes, of all processes, pair by pair."""
    missing = max(trainer.world_size - len(pairs), 0)  # each process needs one
    filled = pairs.select([*range(len(pairs)), *[0] * missing]) if missing else pairs
    data.pairs["predict"] = filled
    data.swapped.pop("predict", None)
    data.tokens["predict"], _ = tokenize(
        data.load_tokenizer(), data.tokenizer_files, filled, data.hparams["max_length"], keep=False
    )
    loader = data.predict_dataloader()
    outputs = trainer.predict(model, loader, return_predictions=True)
    assert outputs is not None
    parts: Any = outputs
    shares = torch.cat(parts)
    found = gather(trainer, loader.sampler, shares.mean(dim=1) if shares.dim() == 3 else shares)
    return [found[row] for row in range(len(pairs))] if trainer.is_global_zero else []


def write_part(path: Path, pairs: Dataset, found: list[list[float]], label_names: list[str]) -> None:
    """Write what is known of some pairs, whole or not at all."""
    probabilities = list(zip(*found, strict=True))
    table = pyarrow.table(
        {
            "idx": pairs["idx"][:],
            "sentence1": pairs["sentence1"][:],
            "sentence2": pairs["sentence2"][:],
            "prediction": [label_names[int(second > first)] for first, second in found],
            **{
                f"probability_{name}": pyarrow.array(values, pyarrow.float32())
                for name, values in zip(label_names, probabilities, strict=True)
            },
        }
    )
    temporary = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(table, temporary)
    temporary.replace(path)


def join(folder: Path, sizes: Sequence[int], path: Path, label_names: list[str]) -> None:
    """Make the table of its parts, and take these away.

    Raises:
        InputError: If one is missing.
    """
    if count_done(folder, sizes) != len(sizes):
        raise InputError(f"{folder}: a part is missing or damaged; give the same command again")
    temporary = path.with_name(f"{path.name}.tmp")
    parts = [folder / PART.format(number) for number in range(len(sizes))]
    if path.suffix.lower() == ".parquet":
        with pyarrow.parquet.ParquetWriter(temporary, pyarrow.parquet.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part))
    else:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            for number, part in enumerate(parts):
                write_rows(file, path, pyarrow.parquet.read_table(part), number == 0, label_names)
    temporary.replace(path)
    shutil.rmtree(folder, ignore_errors=True)


def write_rows(file: TextIO, path: Path, table: pyarrow.Table, first: bool, label_names: list[str]) -> None:
    """Write a part's rows in the table's kind."""
    columns = table.to_pydict()
    for name in columns:
        if name.startswith("probability_") and path.suffix.lower() != ".jsonl":
            columns[name] = [f"{value:.6f}" for value in columns[name]]
    rows = zip(*columns.values(), strict=True)
    if path.name == "MRPC.tsv":  # GLUE's: https://gluebenchmark.com/faq
        lines = zip(columns["idx"], map(label_names.index, columns["prediction"]), strict=True)
        file.write("index\tprediction\n" * first + "".join(f"{idx}\t{label}\n" for idx, label in lines))
    elif path.suffix.lower() == ".csv":
        writer = csv.writer(file)
        writer.writerows([[*columns], *rows] if first else rows)
    elif path.suffix.lower() == ".tsv":  # no quoting: what would break a row becomes a space
        file.write(("\t".join(columns) + "\n") * first)
        file.writelines("\t".join(" ".join(str(value).split()) for value in row) + "\n" for row in rows)
    else:
        for row in rows:
            values = [round(value, 6) if isinstance(value, float) else value for value in row]
            file.write(json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False) + "\n")


class Bar(Callback):
    """A progress bar of pairs, in place of the Trainer's, which knows one chunk alone.

    Args:
        trainer: The Trainer; has it no bar, there is none.
        total: Pairs.
        done: Pairs that are done.
    """

    def __init__(self, trainer: Trainer, total: int, done: int) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
        shown = any(isinstance(callback, ProgressBar) for callback in callbacks)
        callbacks[:] = [*(callback for callback in callbacks if not isinstance(callback, ProgressBar)), self]
        self._bar = Tqdm(
            total=total, initial=done, unit=" pairs", disable=not (shown and trainer.is_global_zero), leave=False
        )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Go on."""
        self._bar.update(len(outputs) * trainer.world_size)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
