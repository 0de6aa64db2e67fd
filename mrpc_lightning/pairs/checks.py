"""What makes pairs of a table's rows: columns, sentences and labels are checked, and what is wrong is named."""

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.files import Table
from mrpc_lightning.pairs.sources import COLUMNS, HIDDEN, ROLES

SCORE = re.compile(r"-?\d*\.\d+")
SURROGATE = re.compile("[\ud800-\udfff]")
LISTED = 20  # rows that a message names


class OtherLabels(InputError):
    """Labels are two names, but not those of the two classes.

    Args:
        what: What is wrong.
        advice: What to do, where the names of the classes can be chosen.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


def check(
    table: Table, columns: Sequence[str], label_names: list[str], labelled: bool, skip: bool = False
) -> tuple[Dataset, int]:
    """Check a table and turn it into a data set of pairs.

    Args:
        table: Rows as a reader returned them.
        columns: Names of the columns of the first sentence, the second sentence, the label and, where there are such,
            the soft label.
        label_names: Names of the negative and of the positive class.
        labelled: Whether each pair needs a label.
        skip: Leave out the rows that cannot be used.

    Returns:
        The pairs, and how many rows were left out. A pair has `sentence1`, `sentence2`, `idx` (the row number from 0,
        or where there are labels the table's own), and, if `labelled`, `label` (0, 1) and `soft_label`, the probability
        of the positive class.

    Raises:
        InputError: If there is no row, a column is missing, an `idx` is no whole number, a label is no class, or a soft
            label no probability; if a row cannot be used, unless it may be left out.
    """
    columns = columns if labelled else columns[:2]
    bad = unusable(table, columns)
    if bad and not skip:
        raise InputError(describe(table, bad) + "; data.skip_bad_rows true leaves such rows out" * labelled)
    numbers: Sequence[Any] = range(table.first_row, table.first_row + len(table))
    if labelled:
        numbers = table.columns.get("idx", numbers)
    for row, number in enumerate(numbers):
        if not re.fullmatch(r"-?\d{1,18}", str(number)):
            raise InputError(f"{table.where(row)}: idx {number!r} is no whole number; give the column another name")
    rows = [row for row in range(len(table)) if row not in bad]
    features = {"sentence1": Value("string"), "sentence2": Value("string"), "idx": Value("int64")}
    sentences = ((name, table.columns[column]) for name, column in zip(COLUMNS, columns[:2], strict=False))
    values: dict[str, Any] = {name: [column[row] for row in rows] for name, column in sentences}
    values["idx"] = [int(numbers[row]) for row in rows]
    if labelled:
        features["label"] = ClassLabel(names=label_names)
        values["label"] = _labels(table, columns[2], label_names, rows)
    if columns[3:]:
        features["soft_label"] = Value("float64")
        values["soft_label"] = _soft_labels(table, columns[3], rows)
    return Dataset.from_dict(values, Features(features)), len(bad)


def unusable(table: Table, columns: Sequence[str]) -> dict[int, str]:
    """Say of the rows whose sentences are no text, or whose label is missing, why they cannot be used.

    Args:
        table: Rows as a reader returned them.
        columns: Names of the columns of both sentences, and of the label where rows need one.

    Raises:
        InputError: If a column is missing, or there is no row.
    """
    if missing := {name: role for name, role in zip(columns, ROLES, strict=False) if name not in table.columns}:
        keys = " and ".join(f"data.{role}_column" for role in missing.values())
        raise InputError(
            f"{table.source}: no column {', '.join(map(repr, missing))}; it has {', '.join(table.columns) or 'none'}. "
            f"Say which one it is with {keys}"
        )
    if len(table) == 0:
        raise InputError(f"{table.source}: no pairs in it, only a header")
    found: dict[int, str] = {}
    for name in columns[:2]:
        for row, sentence in enumerate(table.columns[name]):
            if not isinstance(sentence, str) or not sentence.strip():
                found.setdefault(row, f"{name} is empty or no text ({reprlib.repr(sentence)})")
            elif SURROGATE.search(sentence):  # half of one that takes two, in JSON; a byte, in a pipe
                found.setdefault(row, f"{name} is no text: it holds half a character, or bytes that are not UTF-8")
    for row, label in enumerate(table.columns[columns[2]] if columns[2:] else ()):
        if label is None or label != label or not str(label).strip():  # NaN is not equal to itself
            found.setdefault(row, "the label is missing")
    return dict(sorted(found.items()))


def describe(table: Table, bad: Mapping[int, str]) -> str:
    """Say in a line which rows cannot be used, and why the first cannot."""
    first, *others = bad
    if not others:
        return f"{table.where(first)}: {bad[first]}"
    places = ", ".join(table.where(row).removeprefix(f"{table.source}, ") for row in others[:LISTED])
    more = " and others" * (len(others) > LISTED)
    return f"{table.where(first)}: {bad[first]}; {len(others):,} more of {len(table):,} rows: {places}{more}"


def _soft_labels(table: Table, column: str, rows: Sequence[int]) -> list[float]:
    found = []
    for row in rows:
        value = table.columns[column][row]
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            found.append(nan)
        if not 0 <= found[-1] <= 1:
            raise InputError(f"{table.where(row)}: {column} {value!r} is no probability, a number from 0 to 1")
    return found


def _labels(table: Table, column: str, label_names: list[str], rows: Sequence[int]) -> list[int]:
    raw, own_names = table.columns[column], table.class_names.get(column)
    if own_names not in (None, label_names):
        raise _other_labels(f"{table.source}: other label names", own_names, label_names)
    names = [_spelling(name) for name in label_names]
    if own_names:
        names = ["0", "1"]  # the source's own numbers
    elif not {"0", "1"} & {*names}:  # else a number is a class's name
        names += ["0", "1"]
    classes = {name: place % 2 for place, name in enumerate(names)}
    spellings = [_spelling(raw[row]) for row in rows]
    for row, spelling in zip(rows, spellings, strict=True):
        if spelling not in classes:
            raise _no_class(table, row, raw, label_names)
    return [classes[spelling] for spelling in spellings]


def _no_class(table: Table, row: int, raw: Sequence[Any], label_names: list[str]) -> InputError:
    if _spelling(raw[row]) == str(HIDDEN):
        return InputError(
            f"{table.where(row)}: the label is -1, which means hidden: this split cannot be scored. "
            "Score another split with data.test_split, or write predictions with `predict`"
        )
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
