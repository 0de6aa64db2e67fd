"""Where pairs come from: the Hub, the embedded demo, MRPC's own files, objects in memory."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from lightning.pytorch.utilities import rank_zero_warn

from mrpc_lightning import demo, hub
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.files import Table, read_file

COLUMNS = ("sentence1", "sentence2", "label")
ROLES = (*COLUMNS, "soft_label")
HIDDEN = -1  # GLUE's label for a pair whose label is kept secret
PIECE = 2**17  # pairs that are worked on at a time, where there are many: 150 MB of memory, and a second or two
LARGE = 2**20  # pairs from which on they stay on the disk; fewer take 2 GB of memory at most
TRAINING_PAIRS = 3668  # of MRPC
MICROSOFT = "msr_paraphrase_train.txt"
GLUE = (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "msr_paraphrase_test.txt"), ("test", "test.tsv"))


def read_hub(dataset_name: str, dataset_config: str | None) -> dict[str, Table]:
    """Load every split of a data set on the Hub, or of the embedded demo.

    Raises:
        InputError: If there is no such data set, or the Hub cannot be reached.
    """
    if dataset_name == demo.NAME:
        return {split: read_file(demo.FOLDER / f"{split}.csv", "dataset_name") for split in ("train", "validation")}
    key = f"data.dataset_name {dataset_name}"
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", dataset_name):  # `datasets` takes other names for readers of files
        raise InputError(f"{key}: give its owner as well, as in nyu-mll/glue; a folder goes into data.data_dir")
    hub.use_cache_if_unreachable()
    datasets.disable_progress_bars()  # of unpacking: it takes a moment
    try:
        splits = datasets.load_dataset(dataset_name, dataset_config)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(f"{key}: {hub.explain(error, dataset_name)}") from error
    return from_datasets(splits, key)


def from_datasets(splits: DatasetDict, source: str) -> dict[str, Table]:
    """Turn each split of a data set into a table."""
    tables = {}
    for split, dataset in splits.items():
        names = {name: f.names for name, f in dataset.features.items() if isinstance(f, ClassLabel)}
        is_large = split == "train" and len(dataset) > LARGE
        columns = {name: dataset[name] if is_large else dataset[name][:] for name in dataset.column_names}
        files = [Path(one["filename"]) for one in dataset.cache_files] if is_large else []
        tables[str(split)] = Table(f"{source} ({split})", columns, class_names=names, files=files)
    return tables


def from_memory(rows: Any, source: str, names: Sequence[str]) -> Table:
    """Turn rows that are in memory into a table.

    Args:
        rows: A pandas DataFrame or a `datasets.Dataset`; a list of dictionaries; or a list of tuples, of two sentences
            or of two sentences and a label.
        source: What they are called in messages.
        names: Names of the columns of tuples.

    Raises:
        InputError: If they are something else.
    """
    if isinstance(rows, Dataset):
        return replace(from_datasets(DatasetDict(rows=rows), source)["rows"], source=source)
    if hasattr(rows, "columns") and hasattr(rows, "to_dict"):
        return Table(source, {str(name): rows[name].tolist() for name in rows.columns}, rows.index.tolist(), "index")
    wanted = "give a DataFrame, a Dataset, or a list of tuples (sentence1, sentence2, label) or of dictionaries"
    if not isinstance(rows, list | tuple) or not rows:
        raise InputError(f"{source}: a {type(rows).__name__}{' of nothing' * (rows in ([], ()))}; {wanted}")
    first = rows[0]
    for number, row in enumerate(rows, 1):
        if (
            not isinstance(row, dict | list | tuple)
            or len(row) != len(first)
            or (isinstance(row, dict) and {*row} != {*first})
        ):
            raise InputError(f"{source}, row {number}: is not like the first row, or no pair; {wanted}")
    if isinstance(first, dict):
        return Table(source, {str(name): [row[name] for row in rows] for name in first})
    if not 2 <= len(first) <= 3:
        raise InputError(f"{source}, row 1: {len(first)} values; {wanted}")
    return Table(source, dict(zip(names, map(list, zip(*rows, strict=True)), strict=False)))


def pieces(pairs: Dataset, size: int | None = None) -> Iterator[Dataset]:
    """Yield the pairs, so many at a time, or `PIECE`."""
    size = size or PIECE
    for start in range(0, max(len(pairs), 1), size):
        yield pairs.select(range(start, min(start + size, len(pairs))))


def digest(pairs: Dataset) -> str:
    """Return what tells pairs from others: a hash of their sentences, labels and soft labels, in their order."""
    found = hashlib.sha256()
    for number, piece in enumerate(pieces(pairs)):
        columns = [piece[name][:] for name in ROLES if name in piece.column_names]
        rows = "\n" * (number > 0) + "\n".join(map(repr, zip(*columns, strict=True)))
        found.update(rows.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def pair_key(first: str, second: str) -> frozenset[str]:
    """Return what two pairs have in common that differ in order, case or spaces alone."""
    return frozenset(" ".join(sentence.casefold().split()) for sentence in (first, second))


def read_folder(folder: Path) -> dict[str, Table]:
    """Read MRPC's own files, in Microsoft's or GLUE's layout, or a folder that `save_to_disk` wrote.

    GLUE's validation pairs are those of Microsoft's training file whose ids stand in GLUE's `dev_ids.tsv` (or
    `dev.tsv`); that gives exactly 3,668, 408 and 1,725 pairs. GLUE's `train.tsv` often lacks a pair.

    Raises:
        InputError: If the folder is missing, or holds none of these.
    """
    key = f"data.data_dir {folder}"
    if not folder.is_dir():
        raise InputError(f"{key}: no such folder")
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        try:
            saved = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{key}: {hub.explain(error, str(folder))}") from error
        return from_datasets(saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved), key)
    tables = _split_by_ids(folder) if (folder / MICROSOFT).is_file() else {}
    for split, name in GLUE:
        if split not in tables and (folder / name).is_file():
            tables[split] = _read_mrpc(folder / name)
    if not tables:
        raise InputError(
            f"{key}: holds neither Microsoft's {MICROSOFT}, nor GLUE's train.tsv and dev.tsv, nor a data set saved "
            "with save_to_disk"
        )
    missing = TRAINING_PAIRS - len(tables["train"]) if "train" in tables else 0
    if missing > 0:
        rank_zero_warn(
            f"{tables['train'].source} has {len(tables['train']):,} pairs; MRPC's training split has "
            f"{TRAINING_PAIRS:,}, so {missing:,} {'is' if missing == 1 else 'are'} missing. To get all, put "
            f"Microsoft's {MICROSOFT} into the folder beside GLUE's dev_ids.tsv or dev.tsv."
        )
    return tables


def _read_mrpc(path: Path, *needed: str) -> Table:
    # Tab-separated, with quote marks that are text and a byte-order mark.
    table = read_file(path, "data_dir", delimiter="\t")
    for name in ("#1 String", "#2 String", *needed):
        if name not in table.columns:
            raise InputError(f"{table.source}: no column {name!r}; it has {', '.join(table.columns)}")
    names = {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}
    columns = {names.get(name, name): values for name, values in table.columns.items() if name != "index"}
    return Table(table.source, {"label": [HIDDEN] * len(table), **columns}, table.lines)


def _ids(table: Table) -> list[tuple[str, str]]:
    return [*zip(table.columns["#1 ID"], table.columns["#2 ID"], strict=True)]


def _split_by_ids(folder: Path) -> dict[str, Table]:
    everything = _read_mrpc(folder / MICROSOFT, "#1 ID", "#2 ID")
    if (folder / "dev_ids.tsv").is_file():
        lines = (folder / "dev_ids.tsv").read_text(encoding="utf-8-sig", errors="replace").splitlines()
        held_out = {tuple(line.split("\t")[:2]) for line in lines}
    elif (folder / "dev.tsv").is_file():
        held_out = set(_ids(_read_mrpc(folder / "dev.tsv", "#1 ID", "#2 ID")))
    else:
        raise InputError(
            f"data.data_dir {folder}: {MICROSOFT} needs GLUE's dev_ids.tsv or dev.tsv beside it, which says which of "
            "its pairs are for validation"
        )
    rows: dict[str, list[int]] = {"train": [], "validation": []}
    for row, ids in enumerate(_ids(everything)):
        rows["validation" if ids in held_out else "train"].append(row)
    if not rows["validation"]:
        raise InputError(f"{everything.source}: none of its ids stands in GLUE's list of validation pairs beside it")
    return {split: everything.select(chosen) for split, chosen in rows.items()}
