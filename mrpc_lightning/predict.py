"""Answers for pairs of any number: streamed, in their order, and taken up again where a killed command left off."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet
import torch
from datasets import Dataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mrpc_lightning.callbacks import gather
from mrpc_lightning.console import say
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.files import read_chunks
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.tokenization import tokenize

CHUNK = 8192  # pairs that are read, scored and written together; what a killed command does again
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def check_output(path: Path) -> None:
    """See to it that the table has an ending that says its kind.

    Raises:
        InputError: If it has not.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--output {path}: unknown kind of file; use {', '.join(ENDINGS)}")


def run(
    trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, path: Path, made_by: Mapping[str, Any]
) -> None:
    """Score all pairs and write the table. All of them are checked before the first is scored.

    Beside the table, a folder holds what is done until all is.

    Args:
        trainer: The Trainer, of any number of processes.
        model: The model.
        data: The data.
        path: The table: CSV, TSV, JSON lines, Parquet, or GLUE's MRPC.tsv, by its name.
        made_by: All that the answers depend on but the pairs: what was begun with anything else is done anew.
    """
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode())
    sizes = []
    for pairs in chunks(data):
        sizes.append(len(pairs))
        for name in pairs.column_names:
            key.update(json.dumps(pairs[name][:]).encode())
    folder = path.with_name(f"{path.name}.parts")
    # The other processes begin while this one waits for them: they find what it finds.
    done = prepare(folder, key.hexdigest()) if trainer.is_global_zero else len(list(folder.glob("*.parquet")))
    if done:
        say(trainer, f"{sum(sizes[:done]):,} of {sum(sizes):,} pairs are done, in {folder}: goes on with the next")
    data.trainer = trainer
    bar = Bar(trainer, sum(sizes), sum(sizes[:done]))
    for number, pairs in enumerate(chunks(data)):
        if number < done:
            continue
        found = score(trainer, model, data, pairs)
        if trainer.is_global_zero:
            write_part(folder / f"{number:06}.parquet", pairs, found, model.hparams["label_names"])
        trainer.strategy.barrier()
    bar.close()
    if trainer.is_global_zero:
        join(folder, path, model.hparams["label_names"])
    trainer.strategy.barrier()
    say(trainer, f"\n{sum(sizes):,} pairs predicted: {path}")


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


def prepare(folder: Path, key: str) -> int:
    """Return how many parts are done, and forget those that were made otherwise."""
    if (folder / "key").is_file() and (folder / "key").read_text() == key:
        return len(list(folder.glob("*.parquet")))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "key").write_text(key)
    return 0


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
    found = gather(trainer, loader.sampler, torch.cat(parts))
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


def join(folder: Path, path: Path, label_names: list[str]) -> None:
    """Make the table of its parts, and take these away."""
    temporary = path.with_name(f"{path.name}.tmp")
    parts = sorted(folder.glob("*.parquet"))
    if path.suffix.lower() == ".parquet":
        with pyarrow.parquet.ParquetWriter(temporary, pyarrow.parquet.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part))
    else:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            for number, part in enumerate(parts):
                write_rows(file, path, pyarrow.parquet.read_table(part), number == 0, label_names)
    temporary.replace(path)
    shutil.rmtree(folder)


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


def answer_lines(model: ParaphraseClassifier, lines: Iterable[str]) -> Iterator[str]:
    """Answer pairs as they come, a line each: `sentence1<TAB>sentence2`, or a JSON object with both.

    Yields:
        `label<TAB>probability of the positive class`, or the JSON object with `prediction` and probabilities.

    Raises:
        InputError: If a line is no pair.
    """
    positive = model.hparams["label_names"][1]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row: dict[str, Any] = {}
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
                pair = [row["sentence1"], row["sentence2"]]
            except (ValueError, KeyError) as error:
                raise InputError(
                    f"standard input, line {number}: no JSON object with sentence1 and sentence2"
                ) from error
        else:
            pair = line.rstrip("\r\n").split("\t")
        if len(pair) != 2 or not all(isinstance(sentence, str) and sentence.strip() for sentence in pair):
            raise InputError(f"standard input, line {number}: not two sentences with a tab between them")
        [answer] = model.predict([(pair[0], pair[1])])
        if row:
            shares = {f"probability_{name}": round(share, 6) for name, share in answer.probabilities.items()}
            yield json.dumps({**row, "prediction": answer.label, **shares}, ensure_ascii=False)
        else:
            yield f"{answer.label}\t{answer.probabilities[positive]:.6f}"
