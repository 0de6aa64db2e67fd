"""Where pairs come from: the Hub, the embedded demo, MRPC's own files. `pairs` checks what a reader returns."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    disable_progress_bars,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from lightning.pytorch.utilities import rank_zero_warn
from pyarrow.lib import ArrowException

from mrpc_lightning import demo, hub
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.files import Table, read_file

HIDDEN = -1  # GLUE's label for a pair whose label is kept secret
MRPC_SIZES = {"train": 3668, "validation": 408, "test": 1725}  # pairs in GLUE's splits
MRPC_COLUMNS = ("#1 String", "#2 String", "Quality")
COLUMNS = ("sentence1", "sentence2", "label")


def read_hub(dataset_name: str, dataset_config: str | None) -> dict[str, Table]:
    """Load every split of a data set on the Hub, or of the embedded demo.

    Raises:
        InputError: If there is no such data set, or the Hub cannot be reached.
    """
    if dataset_name == demo.NAME:
        return {split: read_file(demo.FOLDER / f"{split}.csv", "dataset_name") for split in ("train", "validation")}
    hub.use_cache_if_unreachable()
    disable_progress_bars()  # of unpacking: it takes a moment
    try:
        splits = load_dataset(dataset_name, dataset_config)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(f"--data.dataset_name {dataset_name}: {hub.explain(error, dataset_name)}") from error
    return from_datasets(splits, f"--data.dataset_name {dataset_name}")


def from_datasets(splits: DatasetDict, source: str) -> dict[str, Table]:
    """Turn each split of a data set into a table."""
    tables = {}
    for split, dataset in splits.items():
        names = {name: f.names for name, f in dataset.features.items() if isinstance(f, ClassLabel)}
        tables[str(split)] = Table(f"{source} ({split})", dataset.to_dict(), class_names=names)
    return tables


def digest(pairs: Dataset) -> str:
    """Return what tells pairs from others: a hash of their sentences and labels, in their order."""
    columns = [pairs[name][:] for name in ("sentence1", "sentence2", "label")]
    rows = "\n".join(map(repr, zip(*columns, strict=True)))
    return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()


def hold_out(pairs: Dataset, share: float, seed: int, source: str) -> dict[str, Dataset]:
    """Split pairs into "train" and "validation", each class in proportion, the same for the same seed.

    Raises:
        InputError: If there are too few pairs of a class.
    """
    try:
        splits = pairs.train_test_split(share, stratify_by_column="label", seed=seed)
    except ValueError as error:
        raise InputError(
            f"{source}: {len(pairs)} pairs are too few to hold out a share of {share:g} of each class; "
            "give --data.validation_file"
        ) from error
    return {"train": splits["train"], "validation": splits["test"]}


def read_folder(folder: Path) -> dict[str, Table]:
    """Read MRPC's own files, in Microsoft's or GLUE's layout, or a folder that `save_to_disk` wrote.

    GLUE's validation pairs are those of Microsoft's training file whose ids stand in GLUE's `dev_ids.tsv` (or
    `dev.tsv`); that gives exactly 3,668, 408 and 1,725 pairs. GLUE's `train.tsv` often lacks a pair.

    Raises:
        InputError: If the folder is missing, or holds none of these.
    """
    flag = f"--data.data_dir {folder}"
    if not folder.is_dir():
        raise InputError(f"{flag}: no such folder")
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        try:
            saved = load_from_disk(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{flag}: {hub.explain(error, str(folder))}") from error
        return from_datasets(saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved), flag)
    tables = {}
    if (folder / "msr_paraphrase_train.txt").is_file():
        tables = _split_by_ids(folder)
    else:
        for split, name in (("train", "train.tsv"), ("validation", "dev.tsv")):
            if (folder / name).is_file():
                tables[split] = _read_mrpc(folder / name)
    for name in ("msr_paraphrase_test.txt", "test.tsv"):
        if (folder / name).is_file():
            tables["test"] = _read_mrpc(folder / name)
            break
    if not tables:
        raise InputError(
            f"{flag}: holds neither Microsoft's msr_paraphrase_train.txt, nor GLUE's train.tsv and dev.tsv, "
            "nor a data set saved with save_to_disk"
        )
    missing = MRPC_SIZES["train"] - len(tables["train"]) if "train" in tables else 0
    if missing > 0:
        rank_zero_warn(
            f"{tables['train'].source} has {len(tables['train']):,} pairs; MRPC's training split has "
            f"{MRPC_SIZES['train']:,}, so {missing:,} {'is' if missing == 1 else 'are'} missing. To get all, put "
            "Microsoft's msr_paraphrase_train.txt into the folder beside GLUE's dev_ids.tsv or dev.tsv."
        )
    return tables


def _read_mrpc(path: Path) -> Table:
    """Read one of MRPC's files: tab-separated, with quote marks that are text and a byte-order mark."""
    table = read_file(path, "data_dir", delimiter="\t")
    missing = [name for name in MRPC_COLUMNS[:2] if name not in table.columns]
    if missing:
        raise InputError(f"{table.source}: no column {missing[0]!r}; it has {', '.join(table.columns)}")
    columns = {"sentence1": table.columns["#1 String"], "sentence2": table.columns["#2 String"]}
    columns["label"] = table.columns.get("Quality", [HIDDEN] * len(table))
    columns |= {name: table.columns[name] for name in ("#1 ID", "#2 ID") if name in table.columns}
    return Table(table.source, columns, table.lines)


def _split_by_ids(folder: Path) -> dict[str, Table]:
    everything = _read_mrpc(folder / "msr_paraphrase_train.txt")
    if (folder / "dev_ids.tsv").is_file():
        lines = (folder / "dev_ids.tsv").read_text(encoding="utf-8-sig", errors="replace").splitlines()
        held_out = {tuple(line.split("\t")[:2]) for line in lines}
    elif (folder / "dev.tsv").is_file():
        held_out = set(_ids(_read_mrpc(folder / "dev.tsv")))
    else:
        raise InputError(
            f"--data.data_dir {folder}: msr_paraphrase_train.txt needs GLUE's dev_ids.tsv or dev.tsv beside it, "
            "which says which of its pairs are for validation"
        )
    is_validation = [pair in held_out for pair in _ids(everything)]
    if not any(is_validation):
        raise InputError(f"{everything.source}: none of its ids stands in GLUE's list of validation pairs beside it")
    return {
        "train": _select(everything, [not chosen for chosen in is_validation]),
        "validation": _select(everything, is_validation),
    }


def _ids(table: Table) -> Iterator[tuple[str, str]]:
    for name in ("#1 ID", "#2 ID"):
        if name not in table.columns:
            raise InputError(f"{table.source}: no column {name!r}, which tells training from validation pairs")
    return zip(table.columns["#1 ID"], table.columns["#2 ID"], strict=True)


def _select(table: Table, chosen: Sequence[bool]) -> Table:
    columns = {name: [v for v, c in zip(values, chosen, strict=True) if c] for name, values in table.columns.items()}
    lines = [line for line, c in zip(table.lines or [], chosen, strict=True) if c]
    return Table(table.source, columns, lines)


def pairs(table: Table, columns: tuple[str, str, str], label_names: list[str], labelled: bool) -> Dataset:
    """Check a table and turn it into a data set of pairs.

    Args:
        table: Rows as a reader returned them.
        columns: Names of the columns of the first sentence, the second sentence and the label.
        label_names: Names of the negative and of the positive class.
        labelled: Whether each pair needs a label; without it, labels are left out.

    Returns:
        `sentence1`, `sentence2`, `idx` (the table's own, or the row number from 0) and, if `labelled`, `label` (0, 1).

    Raises:
        InputError: If there is no row, a column is missing, a sentence is no text or empty, or a label is no class.
    """
    needed = columns if labelled else columns[:2]
    for name, role in zip(needed, COLUMNS, strict=False):
        if name not in table.columns:
            raise InputError(
                f"{table.source}: no column {name!r}; it has {', '.join(table.columns) or 'none'}. "
                f"Say which one it is with --data.{role}_column"
            )
    if len(table) == 0:
        raise InputError(f"{table.source}: no pairs in it, only a header")
    for name in columns[:2]:
        for row, sentence in enumerate(table.columns[name]):
            if not isinstance(sentence, str) or not sentence.strip():
                raise InputError(f"{table.where(row)}: {name} is empty or no text ({sentence!r})")
    features = {"sentence1": Value("string"), "sentence2": Value("string"), "idx": Value("int64")}
    values: dict[str, list[Any]] = {
        "sentence1": table.columns[columns[0]],
        "sentence2": table.columns[columns[1]],
        "idx": list(range(table.first_row, table.first_row + len(table))),
    }
    own_idx = [str(idx) for idx in table.columns.get("idx", [])]
    if own_idx and all(idx.isdecimal() for idx in own_idx):
        values["idx"] = [int(idx) for idx in own_idx]
    if labelled:
        features["label"] = ClassLabel(names=label_names)
        values["label"] = _labels(table, columns[2], label_names)
    try:
        return Dataset.from_dict(values, Features(features))
    except UnicodeEncodeError as error:  # half of a character that takes two, as JSON can have it
        row = next(row for row, pair in enumerate(zip(*list(values.values())[:2], strict=True)) if broken(pair))
        raise InputError(f"{table.where(row)}: holds half a character, and is no text") from error
    except (OverflowError, ArrowException) as error:
        raise InputError(f"{table.source}: {' '.join(str(error).split())}") from error


def broken(sentences: Sequence[str]) -> bool:
    """Say whether sentences cannot be written as UTF-8."""
    try:
        "".join(sentences).encode()
    except UnicodeEncodeError:
        return True
    return False


def _labels(table: Table, column: str, label_names: list[str]) -> list[int]:
    raw = table.columns[column]
    own_names = table.class_names.get(column, label_names)
    if own_names != label_names:
        raise InputError(f"{table.source}: {_naming(own_names, label_names)}")
    classes = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, label_names[0]: 0, label_names[1]: 1}
    labels = []
    for row, value in enumerate(raw):
        label = classes.get(str(value).strip())
        if label is None and str(value).strip() == str(HIDDEN):
            raise InputError(
                f"{table.where(row)}: the label is -1, which means hidden: this split cannot be scored. "
                "Score another split with --data.test_split, or write predictions with `predict`"
            )
        if label is None:
            found = sorted({str(value) for value in raw})
            advice = _naming(found, label_names) if len(found) == 2 else f"the column has {', '.join(found[:9])}"
            if value is None or not str(value).strip():
                raise InputError(f"{table.where(row)}: the label is missing")
            raise InputError(f"{table.where(row)}: label {value!r} is neither 0, 1 nor one of {label_names}; {advice}")
        labels.append(label)
    return labels


def _naming(found: list[str], label_names: list[str]) -> str:
    if len(found) != 2:
        return f"it has {len(found)} classes ({', '.join(found)}); a pair is one of two: {' or '.join(label_names)}"
    return (
        f"its labels are {found[0]!r} and {found[1]!r}, not {label_names[0]!r} and {label_names[1]!r}; name the "
        f"positive class last: --model.label_names '{json.dumps(found)}' or '{json.dumps(found[::-1])}'"
    )
