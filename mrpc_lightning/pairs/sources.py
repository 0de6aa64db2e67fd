"""Where pairs come from: the Hub, the embedded demo, MRPC's own files. `check` makes pairs of what a reader returns."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.exceptions import DatasetsError
from lightning.pytorch.utilities import rank_zero_warn

from mrpc_lightning import demo, hub
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.files import Table, read_file

COLUMNS = ("sentence1", "sentence2", "label")
ROLES = (*COLUMNS, "soft_label")
HIDDEN = -1  # GLUE's label for a pair whose label is kept secret
TRAINING_PAIRS = 3668  # of MRPC
MICROSOFT = "msr_paraphrase_train.txt"
GLUE = (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "msr_paraphrase_test.txt"), ("test", "test.tsv"))
SCORE = re.compile(r"-?\d*\.\d+")
SURROGATE = re.compile("[\ud800-\udfff]")


class OtherLabels(InputError):
    """Labels are two names, but not those of the two classes.

    Args:
        what: What is wrong.
        advice: What to do, where the names of the classes can be chosen.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


def read_all(values: Mapping[str, Any]) -> dict[str, Table]:
    """Read every split that is where the training pairs are, by the values of `MRPCDataModule`."""
    if values["train_file"]:
        return {"train": read_file(Path(values["train_file"]), "train_file")}
    if values["data_dir"]:
        return read_folder(Path(values["data_dir"]))
    return read_hub(values["dataset_name"], values["dataset_config"])


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
        tables[str(split)] = Table(f"{source} ({split})", dataset.to_dict(), class_names=names)
    return tables


def digest(pairs: Dataset) -> str:
    """Return what tells pairs from others: a hash of their sentences, labels and soft labels, in their order."""
    columns = [pairs[name][:] for name in ROLES if name in pairs.column_names]
    rows = "\n".join(map(repr, zip(*columns, strict=True)))
    return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()


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


def check(table: Table, columns: Sequence[str], label_names: list[str], labelled: bool) -> Dataset:
    """Check a table and turn it into a data set of pairs.

    Args:
        table: Rows as a reader returned them.
        columns: Names of the columns of the first sentence, the second sentence, the label and, where there are such,
            the soft label.
        label_names: Names of the negative and of the positive class.
        labelled: Whether each pair needs a label.

    Returns:
        `sentence1`, `sentence2`, `idx` (the table's own, or the row number from 0) and, if `labelled`, `label` (0, 1)
        and `soft_label`, the probability of the positive class.

    Raises:
        InputError: If there is no row, a column is missing, a sentence is no text or empty, an `idx` is no whole
            number, a label is no class, or a soft label no probability.
    """
    for name, role in zip(columns if labelled else columns[:2], ROLES, strict=False):
        if name not in table.columns:
            raise InputError(
                f"{table.source}: no column {name!r}; it has {', '.join(table.columns) or 'none'}. "
                f"Say which one it is with data.{role}_column"
            )
    if len(table) == 0:
        raise InputError(f"{table.source}: no pairs in it, only a header")
    for name in columns[:2]:
        for row, sentence in enumerate(table.columns[name]):
            if not isinstance(sentence, str) or not sentence.strip():
                raise InputError(f"{table.where(row)}: {name} is empty or no text ({sentence!r})")
            if SURROGATE.search(sentence):  # half of a character that takes two, as JSON can have it
                raise InputError(f"{table.where(row)}: holds half a character, and is no text")
    numbers = table.columns.get("idx", range(table.first_row, table.first_row + len(table)))
    for row, number in enumerate(numbers):
        if not re.fullmatch(r"-?\d{1,18}", str(number)):
            raise InputError(f"{table.where(row)}: idx {number!r} is no whole number; give the column another name")
    features = {"sentence1": Value("string"), "sentence2": Value("string"), "idx": Value("int64")}
    values = {name: table.columns[column] for name, column in zip(COLUMNS[:2], columns, strict=False)}
    values["idx"] = [int(number) for number in numbers]
    if labelled:
        features["label"] = ClassLabel(names=label_names)
        values["label"] = _labels(table, columns[2], label_names)
    if labelled and columns[3:]:
        features["soft_label"] = Value("float64")
        values["soft_label"] = _soft_labels(table, columns[3])
    return Dataset.from_dict(values, Features(features))


def _soft_labels(table: Table, column: str) -> list[float]:
    found = []
    for row, value in enumerate(table.columns[column]):
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            found.append(nan)
        if not 0 <= found[-1] <= 1:
            raise InputError(f"{table.where(row)}: {column} {value!r} is no probability, a number from 0 to 1")
    return found


def _labels(table: Table, column: str, label_names: list[str]) -> list[int]:
    raw, own_names = table.columns[column], table.class_names.get(column)
    if own_names not in (None, label_names):
        raise _other_labels(f"{table.source}: other label names", own_names, label_names)
    names = [_spelling(name) for name in label_names]
    if own_names:
        names = ["0", "1"]  # the source's own numbers
    elif not {"0", "1"} & {*names}:  # else a number is a class's name
        names += ["0", "1"]
    classes = {name: place % 2 for place, name in enumerate(names)}
    spellings = [_spelling(value) for value in raw]
    for row, spelling in enumerate(spellings):
        if spelling not in classes:
            raise _no_class(table, row, raw, label_names)
    return [classes[spelling] for spelling in spellings]


def _no_class(table: Table, row: int, raw: Sequence[Any], label_names: list[str]) -> InputError:
    if _spelling(raw[row]) == str(HIDDEN):
        return InputError(
            f"{table.where(row)}: the label is -1, which means hidden: this split cannot be scored. "
            "Score another split with data.test_split, or write predictions with `predict`"
        )
    if raw[row] is None or not str(raw[row]).strip():
        return InputError(f"{table.where(row)}: the label is missing")
    if SCORE.fullmatch(str(raw[row]).strip()):
        row = next(row for row, value in enumerate(raw) if SCORE.fullmatch(str(value).strip()))
        return InputError(
            f"{table.where(row)}: label {raw[row]!r} is a score, not a class: cut it at a threshold first"
        )
    what = f"{table.where(row)}: label {raw[row]!r} is neither 0, 1 nor one of {label_names}"
    return _other_labels(what, sorted({str(value) for value in raw}), label_names)


def _spelling(value: Any) -> str:
    # 1, "1", "1.0" and True are one label.
    text = {"False": "0", "True": "1"}.get(str(value).strip(), str(value).strip())
    try:
        return str(int(float(text))) if float(text).is_integer() else text
    except ValueError:
        return text


def _other_labels(what: str, found: list[str], label_names: list[str]) -> InputError:
    if len(found) != 2:
        listed = f"the column has {', '.join(found[:9])}"
        return InputError(f"{what}; {listed}; there can be two classes only: {' or '.join(label_names)}")
    first, second = (json.dumps(names, ensure_ascii=False) for names in (found, found[::-1]))
    return OtherLabels(
        f"{what}; its labels are {found[0]!r} and {found[1]!r}, not {label_names[0]!r} and {label_names[1]!r}",
        f"name the positive class last: model.label_names '{first}' or '{second}'",
    )
