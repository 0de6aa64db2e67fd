"""Files of pairs as tables: CSV, TSV, JSON lines and Parquet, with the line of whatever is wrong in them."""

import csv
import glob
import json
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow.parquet
from datasets import ClassLabel, Features
from fsspec.utils import infer_compression

from mrpc_lightning.errors import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
Rows = Iterator[tuple[int, list[Any]]]  # the file's line and the values of each row; first the columns' names


@dataclass
class Table:
    """Rows as columns of equal length.

    Attributes:
        source: The key and the file or name that the rows came from, for messages.
        columns: Values by column name.
        lines: The file's line of each row, counted from 1, or its place of another `unit`; without it, rows are named
            by number.
        unit: What `lines` are: "line"; "row" where a file has no lines; "index" of a DataFrame.
        class_names: For each column of classes whose source names them, the names of 0, 1, ...
        first_row: The number of the first of these rows among all of the source's, counted from 0.
        schema: The columns' types, where the source has them.
        delimiter: What separates the fields of a CSV file.
        parts: The tables that this one was joined from.
        files: The files of the cache that the columns are read from, as they are asked for; empty if memory holds them.
    """

    source: str
    columns: dict[str, list[Any]]
    lines: Sequence[int] = ()
    unit: str = "line"
    class_names: dict[str, list[str]] = field(default_factory=dict)
    first_row: int = 0
    schema: pyarrow.Schema | None = None
    delimiter: str = ","
    parts: Sequence["Table"] = ()
    files: Sequence[Path] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        """Say where a row stands, for messages; rows are counted from 0."""
        for part in self.parts:
            if row < len(part):
                return part.where(row)
            row -= len(part)
        place = f"{self.unit} {self.lines[row]}" if self.lines else f"row {self.first_row + row + 1}"
        return f"{self.source}, {place}"

    def part(self, start: int, stop: int) -> "Table":
        """Return the rows from `start` to before `stop` as a table."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        lines = self.lines[start:stop]
        return replace(self, columns=columns, lines=lines, first_row=self.first_row + start, parts=(), files=())

    def pieces(self, size: int) -> Iterator["Table"]:
        """Yield the rows, so many at a time; of a table without rows one empty table."""
        for start in range(0, max(len(self), 1), size):
            yield self.part(start, start + size)

    def select(self, rows: Sequence[int]) -> "Table":
        """Return some rows as a table."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.source, columns, [self.lines[row] for row in rows] if self.lines else (), self.unit)


def read_file(path: Path, key: str, delimiter: str | None = None) -> Table:
    """Read a CSV, TSV, JSON lines or Parquet file, or those that match a pattern, such as `pairs-*.csv`, in turn.

    The ending says what a file is, before that of its compression, such as .gz. A CSV file's fields are separated by
    commas, or by what separates its header's. A TSV file has no quoting: a quote mark is text.

    Args:
        path: The file, or the pattern.
        key: The key of the data that names it, for messages.
        delimiter: What separates the fields, whatever the ending; without quoting.

    Raises:
        InputError: If the file is missing, empty, of another kind, malformed, or not UTF-8; or the files differ in
            their columns.
    """
    tables = [*read_chunks(path, key, sys.maxsize, delimiter)]
    if len(tables) == 1:
        return tables[0]
    columns = {name: [value for table in tables for value in table.columns[name]] for name in tables[0].columns}
    return Table(f"data.{key} {path}", columns, class_names=tables[0].class_names, parts=tables)


def find_files(path: Path, source: str) -> list[Path]:
    """Return a file, or those that match a pattern, in the order of their names.

    Raises:
        InputError: If there is none. The `source` is for the message.
    """
    if path.is_file():
        return [path]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if not found:
        raise InputError(f"{source}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    return found


def read_chunks(path: Path, key: str, size: int, delimiter: str | None = None) -> Iterator[Table]:
    """Read files as `read_file` does, so many rows at a time; of a file without rows one empty table.

    Raises:
        InputError: As `read_file`, once it comes to what is wrong.
    """
    first, done = None, 0
    for file in find_files(path, f"data.{key} {path}"):
        for table in _read(file, f"data.{key} {file}", size, delimiter):
            first = first or table
            if [*table.columns] != [*first.columns] or table.class_names != first.class_names:
                theirs = f"{', '.join(table.columns)}; {first.source} has {', '.join(first.columns)}"
                raise InputError(f"{table.source}: its columns are {theirs}; give them the same, in one order")
            yield replace(table, first_row=done)
            done += len(table)


def _read(path: Path, source: str, size: int, delimiter: str | None) -> Iterator[Table]:
    ending = Path(path.stem if infer_compression(path.name) else path.name).suffix.lower()
    try:
        if delimiter or ending == ".tsv":
            yield from _tables(_separated(path, source, delimiter or "\t", csv.QUOTE_NONE), source, size)
        elif ending == ".csv":
            mark = _delimiter(path)
            for table in _tables(_separated(path, source, mark, csv.QUOTE_MINIMAL), source, size):
                yield replace(table, delimiter=mark)
        elif ending in (".jsonl", ".json"):
            yield from _tables(_json_lines(path, source), source, size)
        elif ending == ".parquet":
            yield from _parquet(path, source, size)
        else:
            hint = "; .zst needs: python -m pip install zstandard" * (ending == ".zst")
            raise InputError(f"{source}: unknown kind of file; use .csv, .tsv, .jsonl or .parquet{hint}")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}, line {_undecodable_line(path)}: not UTF-8; save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # the last three of compressed files
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source}: cannot be read ({reason})") from error
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
        yield Table(source, table, [line for line, _ in chunk])
        done += len(chunk)
        if not chunk:
            return


def _open(path: Path, **text: Any) -> IO[Any]:
    """Open a file, compressed or not, as text if an encoding is given."""
    file: IO[Any] = fsspec.filesystem("file").open(path, "rt" if text else "rb", compression="infer", **text)
    return file


def _delimiter(path: Path) -> str:
    """Return what separates the fields of a CSV file's header."""
    with _open(path, encoding="utf-8-sig", newline="") as file:
        header = next((line for line in file if line.strip()), "")
    return next((mark for mark in SEPARATORS if mark in header), ",")


def _separated(path: Path, source: str, delimiter: str, quoting: int) -> Rows:
    csv.field_size_limit(2**31 - 1)  # a field of any length; else 131,072 characters
    with _open(path, encoding="utf-8-sig", newline="") as file:
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
    with _open(path, encoding="utf-8-sig") as file:
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
        done, about = 0, {"unit": "row", "class_names": classes, "schema": file.schema_arrow}
        for batch in [file.read()] if file.metadata.num_rows <= size else file.iter_batches(size):
            yield Table(source, batch.to_pydict(), range(done + 1, done + 1 + batch.num_rows), **about)
            done += batch.num_rows


def _undecodable_line(path: Path) -> int:
    with _open(path) as file:
        return next((n for n, line in enumerate(file, 1) if line.decode(errors="ignore").encode() != line), 1)
