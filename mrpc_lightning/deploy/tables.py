"""Files of predictions: all columns of the table that was read, in order, and what was predicted beside them.

Sentences are written exactly as they were read, also those that begin with = + - or @: tables are for programs. A
spreadsheet takes such a cell for a formula; import the columns as text there.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pyarrow.lib import ArrowException

from mrpc_lightning.pairs.files import Table
from mrpc_lightning.pairs.tables import Predicted, added, new_columns

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def schema_of(table: Table, known: pyarrow.Schema | None) -> pyarrow.Schema:
    """Return the types that a Parquet file of a table needs; of its earlier rows they are known.

    A column of several types becomes text.
    """
    fields = []
    for name, values in table.columns.items():
        kind = table.schema.field(name).type if table.schema else None
        try:
            kind = kind or pyarrow.array(values).type
            if known is not None:
                both = [pyarrow.schema([(name, one)]) for one in (known.field(name).type, kind)]
                kind = pyarrow.unify_schemas(both, promote_options="permissive").field(0).type
        except ArrowException:
            kind = pyarrow.string()
        fields.append((name, kind))
    return pyarrow.schema(fields)


def write(
    path: Path, kind: str, parts: Iterator[Predicted], label_names: list[str], has_bad: bool, schema: Any = None
) -> None:
    """Write a table.

    Args:
        path: The file.
        kind: One of `ENDINGS`; or "glue", of index and prediction as numbers (https://gluebenchmark.com/faq).
        parts: The rows, some at a time.
        label_names: Names of the negative and of the positive class.
        has_bad: Whether there are rows that could not be scored: then a column says why.
        schema: Of a Parquet file, what `schema_of` returned for the rows.
    """
    if kind == ".parquet":
        write_parquet(path, parts, label_names, has_bad, schema)
        return
    mark = ","
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            columns = joined(part, label_names, has_bad)
            if kind == "glue":
                index = range(part.table.first_row, part.table.first_row + len(part.table))
                chosen = [label_names.index(name) for name in columns["prediction"]]
                columns = {"index": part.table.columns.get("idx", [*index]), "prediction": chosen}
            digits: Any = (lambda value: round(value, 6)) if kind == ".jsonl" else "{:.6f}".format
            for name in new_columns(label_names, False)[1:]:
                if name in columns:
                    columns[name] = [None if value is None else digits(value) for value in columns[name]]
            rows: list[Any] = [*zip(*columns.values(), strict=True)]
            if kind == ".jsonl":
                objects = (dict(zip(columns, row, strict=True)) for row in rows)
                file.writelines(f"{json.dumps(one, default=str, ensure_ascii=False)}\n" for one in objects)
                continue
            rows = [[*columns]] * (number == 0) + [[text(value) for value in row] for row in rows]
            if kind == ".csv":
                mark = part.table.delimiter if number == 0 else mark  # files of a pattern may differ
                csv.writer(file, delimiter=mark).writerows(rows)
            else:  # no quoting: what would break a row becomes a space
                file.writelines("\t".join(" ".join(value.split()) for value in row) + "\n" for row in rows)


def write_parquet(
    path: Path, parts: Iterator[Predicted], label_names: list[str], has_bad: bool, schema: pyarrow.Schema
) -> None:
    """Write a Parquet file; see `write`."""
    kinds = [pyarrow.string(), pyarrow.float32(), pyarrow.float32(), pyarrow.string()]
    for name, kind in zip(new_columns(label_names, has_bad), kinds, strict=False):
        schema = schema.append(pyarrow.field(name, kind))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            columns = joined(part, label_names, has_bad)
            for field in schema:
                if pyarrow.types.is_string(field.type):
                    columns[field.name] = [None if value is None else text(value) for value in columns[field.name]]
            writer.write_table(pyarrow.table(columns, schema=schema))


def joined(rows: Predicted, label_names: Sequence[str], has_bad: bool) -> dict[str, list[Any]]:
    """Return the columns of some rows, with those that are added."""
    return {**rows.table.columns, **added(rows, label_names, has_bad)}


def text(value: Any) -> str:
    """Write a cell: text as it is, nothing for None, lists and dictionaries as JSON."""
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return "" if value is None else str(value)
