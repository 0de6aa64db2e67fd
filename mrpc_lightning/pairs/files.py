"""Files of pairs as tables: CSV, TSV, JSON lines and Parquet, with the line of whatever is wrong in them."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet

from mrpc_lightning.errors import InputError


@dataclass
class Table:
    """Rows as columns of equal length.

    Attributes:
        source: The flag and the file or name that the rows came from, for messages.
        columns: Values by column name.
        lines: The file's line of each row, counted from 1; without it, rows are named by number.
        class_names: For each column of classes whose source names them, the names of 0, 1, ...
        first_row: The number of the first of these rows in the source, counted from 0.
    """

    source: str
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)
    first_row: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        """Say where a row stands, for messages; rows are counted from 0."""
        return f"{self.source}, " + (f"line {self.lines[row]}" if self.lines else f"row {self.first_row + row + 1}")


def read_file(path: Path, key: str, delimiter: str | None = None) -> Table:
    """Read a CSV, TSV, JSON lines or Parquet file, by its ending. A TSV file has no quoting: a quote mark is text.

    Args:
        path: The file.
        key: The data key that names it, for messages.
        delimiter: Read the file as separated by this, whatever its ending.

    Raises:
        InputError: If the file is missing, empty, of another kind, malformed, or not UTF-8.
    """
    return next(read_chunks(path, key, sys.maxsize, delimiter))


def read_chunks(path: Path, key: str, size: int, delimiter: str | None = None) -> Iterator[Table]:
    """Read a file as `read_file` does, so many rows at a time; of a file without rows one empty table.

    Raises:
        InputError: As `read_file`, once it comes to what is wrong.
    """
    source = f"--data.{key} {path}"
    if not path.is_file():
        raise InputError(f"{source}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    delimiter = delimiter or {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    try:
        if delimiter:
            yield from _separated(path, source, delimiter, size)
        elif path.suffix.lower() in (".jsonl", ".json"):
            yield from _json_lines(path, source, size)
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


def _separated(path: Path, source: str, delimiter: str, size: int) -> Iterator[Table]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]  # typeshed
        rows: list[list[str]] = []
        lines: list[int] = []
        done = 0
        try:
            header = next(reader, [])
            if not header:
                raise InputError(f"{source}: the file is empty")
            if twice := [name for name in header if header.count(name) > 1]:
                raise InputError(f"{source}, line 1: two columns are called {twice[0]!r}; rename one")
            for row in reader:
                if row and len(row) != len(header):
                    raise InputError(
                        f"{source}, line {reader.line_num}: {len(row)} fields, but the header names {len(header)} "
                        f"({', '.join(header)})" + ("; are its fields separated by commas?" if len(header) == 1 else "")
                    )
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
                if len(rows) == size:
                    yield Table(
                        source,
                        dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)),
                        lines,
                        first_row=done,
                    )
                    done, rows, lines = done + size, [], []
        except csv.Error as error:
            raise InputError(f"{source}, line {reader.line_num}: {error}; is a quote mark left open?") from error
        if rows:
            columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
            yield Table(source, columns, lines, first_row=done)
        elif not done:
            yield Table(source, {name: [] for name in header})


def _json_lines(path: Path, source: str, size: int) -> Iterator[Table]:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    keys: set[str] = set()
    done = 0
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
            keys = keys or set(row)
            if set(row) != keys:
                odd = sorted(set(row) ^ keys)
                raise InputError(f"{source}, line {number}: its keys differ from the first row's ({', '.join(odd)})")
            rows.append(row)
            lines.append(number)
            if len(rows) == size:
                yield Table(source, {name: [row[name] for row in rows] for name in rows[0]}, lines, first_row=done)
                done, rows, lines = done + size, [], []
    if not rows and not done:
        raise InputError(f"{source}: the file is empty")
    if rows:
        yield Table(source, {name: [row[name] for row in rows] for name in rows[0]}, lines, first_row=done)


def _parquet(path: Path, source: str, size: int) -> Iterator[Table]:
    with pyarrow.parquet.ParquetFile(path) as file:
        if file.metadata.num_rows <= size:
            yield Table(source, file.read().to_pydict())
            return
        done = 0
        for batch in file.iter_batches(size):
            yield Table(source, batch.to_pydict(), first_row=done)
            done += batch.num_rows


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1
