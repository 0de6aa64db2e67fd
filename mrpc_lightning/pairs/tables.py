"""Predictions beside the rows that they are of: a table comes out as it came in, with columns added."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.checks import unusable
from mrpc_lightning.pairs.files import Table
from mrpc_lightning.pairs.sources import from_memory

PREDICTION = "prediction"  # the first column that is added
PROBLEM = "problem"  # the column that says why a row has no prediction


class Prediction(NamedTuple):
    """What a model says of a pair: the name of the likelier class, and each class's probability by name."""

    label: str
    probabilities: dict[str, float]


class Predicted(NamedTuple):
    """Rows of a table, and what was predicted of them.

    Attributes:
        table: The rows.
        predictions: Of the rows that could be scored, in their order: the class's name and both probabilities.
        bad: Why the others could not, by row.
    """

    table: Table
    predictions: Sequence[tuple[str, float, float]]
    bad: Mapping[int, str]


def new_columns(label_names: Sequence[str], has_bad: bool) -> list[str]:
    """Return the names of the columns that are added; the last one only where a row could not be scored."""
    return [PREDICTION, *(f"probability_{name}" for name in label_names), *[PROBLEM] * has_bad]


def check_names(table: Table, names: Sequence[str]) -> None:
    """Check that a table has no column of the names that are to be added.

    Raises:
        InputError: If it has.
    """
    if taken := [name for name in names if name in table.columns]:
        raise InputError(f"{table.source}: has a column {taken[0]} already, which would be added; rename it")


def added(rows: Predicted, label_names: Sequence[str], has_bad: bool) -> dict[str, list[Any]]:
    """Return the columns that are added to some rows; None where a row could not be scored."""
    columns: dict[str, list[Any]] = {name: [None] * len(rows.table) for name in new_columns(label_names, has_bad)}
    places = (row for row in range(len(rows.table)) if row not in rows.bad)
    for row, values in zip(places, rows.predictions, strict=True):
        for column, value in zip(columns.values(), values, strict=False):
            column[row] = value
    for row, reason in rows.bad.items():
        columns[PROBLEM][row] = reason
    return columns


def is_table(rows: Any) -> bool:
    """Say whether rows are a DataFrame or a `datasets.Dataset`."""
    return isinstance(rows, Dataset) or hasattr(rows, "assign")


def fill(
    rows: Any,
    columns: Sequence[str],
    label_names: Sequence[str],
    predict: Callable[[list[tuple[str, str]]], list[Prediction]],
) -> Any:
    """Return a DataFrame or a `datasets.Dataset` with predictions beside its rows, in new columns.

    A row whose sentences are no text has none, and a column `problem` says why.

    Args:
        rows: The DataFrame or Dataset.
        columns: Names of the columns of both sentences.
        label_names: Names of the negative and of the positive class.
        predict: Predicts pairs of sentences.

    Raises:
        InputError: If a column is missing, or is there that would be added.
    """
    table = from_memory(rows, "the table", columns)
    bad = unusable(table, columns[:2])
    check_names(table, new_columns(label_names, bool(bad)))
    first, second = (table.columns[name] for name in columns[:2])
    found = predict([(first[row], second[row]) for row in range(len(table)) if row not in bad])
    negative, positive = label_names
    predictions = [(one.label, one.probabilities[negative], one.probabilities[positive]) for one in found]
    filled = added(Predicted(table, predictions, bad), label_names, bool(bad))
    if isinstance(rows, Dataset):
        for name, values in filled.items():
            rows = rows.add_column(name, values)
        return rows
    return rows.assign(**filled)
