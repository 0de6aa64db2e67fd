"""Where pairs come from: the Hub, MRPC's own files, a user's files. Each reader returns tables, checked by `pairs`."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset, load_from_disk
from lightning.pytorch.utilities import rank_zero_warn

from mrpc_lightning import demo, hub
from mrpc_lightning.errors import InputError

HIDDEN = -1  # GLUE's label for a pair whose label is kept secret
MRPC_SIZES = {"train": 3668, "validation": 408, "test": 1725}  # pairs in GLUE's splits
MRPC_COLUMNS = ("#1 String", "#2 String", "Quality")
COLUMNS = ("sentence1", "sentence2", "label")


@dataclass
class Table:
    """Rows as columns of equal length.

    Attributes:
        source: The flag and the file or name that the rows came from, for messages.
        columns: Values by column name.
        lines: The file's line of each row, counted from 1; without it, rows are named by number.
        class_names: For each column of classes whose source names them, the names of 0, 1, ...
    """

    source: str
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        return f"{self.source}, " + (f"line {self.lines[row]}" if self.lines else f"row {row + 1}")


def read_hub(dataset_name: str, dataset_config: str | None) -> dict[str, Table]:
    """Load every split of a data set on the Hub, or of the embedded demo.

    Raises:
        InputError: If there is no such data set, or the Hub cannot be reached.
    """
    if dataset_name == demo.NAME:
        return {split: read_file(demo.FOLDER / f"{split}.csv", "dataset_name") for split in ("train", "validation")}
    hub.use_cache_if_unreachable()
    try:
        splits = load_dataset(dataset_name, dataset_config)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--data.dataset_name {dataset_name}: {hub.explain(error)}") from error
    return from_datasets(splits, f"--data.dataset_name {dataset_name}")


def from_datasets(splits: DatasetDict, source: str) -> dict[str, Table]:
    tables = {}
    for split, dataset in splits.items():
        names = {name: f.names for name, f in dataset.features.items() if isinstance(f, ClassLabel)}
        tables[str(split)] = Table(f"{source} ({split})", dataset.to_dict(), class_names=names)
    return tables


def read_folder(folder: Path) -> dict[str, Table]:
    """Read MRPC's own files, in Microsoft's or GLUE's layout, or a folder that `DatasetDict.save_to_disk` wrote.

    GLUE's validation pairs are those of Microsoft's training file whose ids stand in GLUE's `dev_ids.tsv` (or
    `dev.tsv`); that gives exactly 3,668, 408 and 1,725 pairs. GLUE's `train.tsv` often lacks a pair.

    Raises:
        InputError: If the folder is missing, or holds none of these.
    """
    flag = f"--data.data_dir {folder}"
    if not folder.is_dir():
        raise InputError(f"{flag}: no such folder")
    if (folder / "dataset_dict.json").is_file():
        splits = load_from_disk(str(folder))
        assert isinstance(splits, DatasetDict)
        return from_datasets(splits, flag)
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
            "nor a DatasetDict saved with save_to_disk"
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
    ids = {name: table.columns[name] for name in ("#1 ID", "#2 ID") if name in table.columns}
    return Table(table.source, {**columns, **ids}, table.lines)


def _split_by_ids(folder: Path) -> dict[str, Table]:
    everything = _read_mrpc(folder / "msr_paraphrase_train.txt")
    if (folder / "dev_ids.tsv").is_file():
        lines = (folder / "dev_ids.tsv").read_text(encoding="utf-8-sig").splitlines()
        held_out = {tuple(line.split("\t")[:2]) for line in lines}
    elif (folder / "dev.tsv").is_file():
        held_out = set(_ids(_read_mrpc(folder / "dev.tsv")))
    else:
        raise InputError(
            f"--data.data_dir {folder}: msr_paraphrase_train.txt needs GLUE's dev_ids.tsv or dev.tsv beside it, "
            "which says which of its pairs are for validation"
        )
    is_validation = [pair in held_out for pair in _ids(everything)]
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


def read_file(path: Path, key: str, delimiter: str | None = None) -> Table:
    """Read a CSV, TSV, JSON lines or Parquet file, by its ending. A TSV file has no quoting: a quote mark is text.

    Args:
        path: The file.
        key: The data key that names it, for messages.
        delimiter: Read the file as separated by this, whatever its ending.

    Raises:
        InputError: If the file is missing, empty, of another kind, malformed, or not UTF-8.
    """
    source = f"--data.{key} {path}"
    if not path.is_file():
        raise InputError(f"{source}: no such file")
    delimiter = delimiter or {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    try:
        if delimiter:
            return _read_separated(path, source, delimiter)
        if path.suffix.lower() in (".jsonl", ".json"):
            return _read_json_lines(path, source)
        if path.suffix.lower() == ".parquet":
            return Table(source, pyarrow.parquet.read_table(path).to_pydict())
    except UnicodeDecodeError as error:
        raise InputError(f"{source}, line {_undecodable_line(path)}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: not a Parquet file ({str(error).splitlines()[0]})") from error
    raise InputError(f"{source}: unknown kind of file; use .csv, .tsv, .jsonl or .parquet")


def _read_separated(path: Path, source: str, delimiter: str) -> Table:
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] = []
        rows: list[list[str]] = []
        lines: list[int] = []
        try:
            header = next(reader, [])
            for row in reader:
                if row and len(row) != len(header):
                    raise InputError(
                        f"{source}, line {reader.line_num}: {len(row)} fields, but the header names {len(header)} "
                        f"({', '.join(header)})"
                    )
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise InputError(f"{source}, line {reader.line_num}: {error}; is a quote mark left open?") from error
    if not header:
        raise InputError(f"{source}: the file is empty")
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)) if rows else {n: [] for n in header}
    return Table(source, columns, lines)


def _read_json_lines(path: Path, source: str) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{source}, line {number}: not JSON ({error.msg}); one object a line") from error
            if not isinstance(row, dict):
                raise InputError(f"{source}, line {number}: not a JSON object; one object a line")
            if rows and row.keys() != rows[0].keys():
                odd = sorted(row.keys() ^ rows[0].keys())
                raise InputError(f"{source}, line {number}: its keys differ from the first row's ({', '.join(odd)})")
            rows.append(row)
            lines.append(number)
    if not rows:
        raise InputError(f"{source}: the file is empty")
    return Table(source, {name: [row[name] for row in rows] for name in rows[0]}, lines)


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


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
        "idx": table.columns.get("idx", list(range(len(table)))),
    }
    if not all(isinstance(idx, int) for idx in values["idx"]):
        values["idx"] = list(range(len(table)))
    if labelled:
        features["label"] = ClassLabel(names=label_names)
        values["label"] = _labels(table, columns[2], label_names)
    return Dataset.from_dict(values, Features(features))


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
            names = f"; {_naming(found, label_names)}" if len(found) == 2 else ""
            raise InputError(f"{table.where(row)}: label {value!r} is neither 0, 1 nor one of {label_names}{names}")
        labels.append(label)
    return labels


def _naming(found: list[str], label_names: list[str]) -> str:
    if len(found) != 2:
        return f"it has {len(found)} classes ({', '.join(found)}); a pair is one of two: {' or '.join(label_names)}"
    return (
        f"its labels are {found[0]!r} and {found[1]!r}, not {label_names[0]!r} and {label_names[1]!r}; name the "
        f"positive class last: --model.label_names [{found[0]},{found[1]}] or [{found[1]},{found[0]}]"
    )
