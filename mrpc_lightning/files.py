"""Files of pairs as tables: CSV, TSV, JSON lines and Parquet, with the line of whatever is wrong in them."""

import csv
import json
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
    """

    source: str
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        """Say where a row stands, for messages; rows are counted from 0."""
        return f"{self.source}, " + (f"line {self.lines[row]}" if self.lines else f"row {row + 1}")


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
        raise InputError(f"{source}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]  # typeshed
        header: list[str] = []
        rows: list[list[str]] = []
        lines: list[int] = []
        try:
            header = next(reader, [])
            for row in reader:
                if row and len(row) != len(header):
                    raise InputError(
                        f"{source}, line {reader.line_num}: {len(row)} fields, but the header names {len(header)} "
                        f"({', '.join(header)})" + ("; are its fields separated by commas?" if len(header) == 1 else "")
                    )
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise InputError(f"{source}, line {reader.line_num}: {error}; is a quote mark left open?") from error
    if not header:
        raise InputError(f"{source}: the file is empty")
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{source}, line 1: two columns are called {twice[0]!r}; rename one")
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
