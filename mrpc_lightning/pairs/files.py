"""Files of pairs as tables: CSV, TSV, JSON lines and Parquet, with the line of whatever is wrong in them."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import ClassLabel, Features

from mrpc_lightning.errors import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
Rows = Iterator[tuple[int, list[Any]]]  # the file's line and the values of each row; first the columns' names


@dataclass
class Table:
    """Rows as columns of equal length.

    Attributes:
        source: The key and the file or name that the rows came from, for messages.
        columns: Values by column name.
        lines: The file's line of each row, counted from 1; without it, rows are named by number.
        class_names: For each column of classes whose source names them, the names of 0, 1, ...
        first_row: The number of the first of these rows in the source, counted from 0.
    """

    source: str
    columns: dict[str, list[Any]]
    lines: Sequence[int] = ()
    class_names: dict[str, list[str]] = field(default_factory=dict)
    first_row: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        """Say where a row stands, for messages; rows are counted from 0."""
        return f"{self.source}, " + (f"line {self.lines[row]}" if self.lines else f"row {self.first_row + row + 1}")

    def select(self, rows: Sequence[int]) -> "Table":
        """Return some rows as a table."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.source, columns, [self.lines[row] for row in rows] if self.lines else ())


def read_file(path: Path, key: str, delimiter: str | None = None) -> Table:
    """Read a CSV, TSV, JSON lines or Parquet file, by its ending, or as separated by `delimiter`.

    A TSV file has no quoting: a quote mark is text. The `key` of the data that names the file is for messages.

    Raises:
        InputError: If the file is missing, empty, of another kind, malformed, or not UTF-8.
    """
    return next(read_chunks(path, key, sys.maxsize, delimiter))


def read_chunks(path: Path, key: str, size: int, delimiter: str | None = None) -> Iterator[Table]:
    """Read a file as `read_file` does, so many rows at a time; of a file without rows one empty table.

    Raises:
        InputError: As `read_file`, once it comes to what is wrong.
    """
    source = f"data.{key} {path}"
    if not path.is_file():
        raise InputError(f"{source}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    delimiter = delimiter or {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    try:
        if delimiter:
            yield from _tables(_separated(path, source, delimiter), source, size)
        elif path.suffix.lower() in (".jsonl", ".json"):
            yield from _tables(_json_lines(path, source), source, size)
        elif path.suffix.lower() == ".parquet":
            yield from _parquet(path, source, size)
        else:
            raise InputError(f"{source}: unknown kind of file; use .csv, .tsv, .jsonl or .parquet")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}, line {_undecodable_line(path)}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: not a Parquet file ({str(error).splitlines()[0]})") from error


def _tables(rows: Rows, source: str, size: int) -> Iterator[Table]:
    _, names = next(rows, (0, None))
    if not names:
        raise InputError(f"{source}: the file is empty")
    done = 0
    while (chunk := list(islice(rows, size))) or not done:
        columns = zip(*(values for _, values in chunk), strict=True) if chunk else [()] * len(names)
        table = dict(zip(names, map(list, columns), strict=True))
        yield Table(source, table, [line for line, _ in chunk], first_row=done)
        done += len(chunk)
        if not chunk:
            return


def _separated(path: Path, source: str, delimiter: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # a field of any length; else 131,072 characters
    with path.open(encoding="utf-8-sig", newline="") as file:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]  # typeshed
        header: list[str] = []
        try:
            for row in reader:
                if not header:
                    header = row
                    _check_header(header, source, delimiter)
                elif row and len(row) != len(header):
                    counts = f"{len(row)} fields, but the header names {len(header)} ({', '.join(header)})"
                    raise InputError(f"{source}, line {reader.line_num}: {counts}")
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise InputError(f"{source}, line {reader.line_num}: {error}; is a quote mark left open?") from error


def _check_header(header: list[str], source: str, delimiter: str) -> None:
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{source}, line 1: two columns are called {twice[0]!r}; rename one")
    others = [name for mark, name in SEPARATORS.items() if mark in header[0]]
    if len(header) == 1 and others:
        raise InputError(
            f"{source}, line 1: its fields are separated by {others[0]}; save it with {SEPARATORS[delimiter]}"
        )


def _json_lines(path: Path, source: str) -> Rows:
    keys: list[str] = []
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
            if not keys:
                keys = list(row)
                yield 0, keys
            if odd := sorted({*row} ^ {*keys}):
                raise InputError(f"{source}, line {number}: its keys differ from the first row's ({', '.join(odd)})")
            yield number, [row[key] for key in keys]


def _parquet(path: Path, source: str, size: int) -> Iterator[Table]:
    with pyarrow.parquet.ParquetFile(path) as file:
        classes: dict[str, list[str]] = {}
        if b"huggingface" in (file.schema_arrow.metadata or {}):  # `datasets` wrote it
            features = Features.from_arrow_schema(file.schema_arrow)
            classes = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
        if file.metadata.num_rows <= size:
            yield Table(source, file.read().to_pydict(), class_names=classes)
            return
        done = 0
        for batch in file.iter_batches(size):
            yield Table(source, batch.to_pydict(), class_names=classes, first_row=done)
            done += batch.num_rows


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        return next((n for n, line in enumerate(file, 1) if line.decode(errors="ignore").encode() != line), 1)
