"""Which values the data's keys may have."""

import os
from collections.abc import MutableMapping
from typing import Any

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.sources import ROLES

PATHS = ("data_dir", "train_file", "validation_file", "test_file", "predict_file")
# 8 tokens: both sentences keep at least one word between the three or four special tokens.
LEAST = {"max_length": 8, "global_batch_size": 1, "eval_batch_size": 1, "pad_to_multiple_of": 1, "num_workers": 0}


def check_values(values: MutableMapping[Any, Any]) -> None:
    """Check the hyper-parameters of `MRPCDataModule`, and turn paths into text: a checkpoint holds plain values.

    Raises:
        InputError: If one makes no sense, or two contradict each other.
    """
    for name in PATHS:
        if not isinstance(values[name], str | os.PathLike | None):
            hint = f"; rows in memory go into {split}=..." if (split := name.removesuffix("_file")) != name else ""
            raise InputError(f"data.{name}: a {type(values[name]).__name__} is no path{hint}")
        values[name] = values[name] and os.fspath(values[name])
    for name, least in LEAST.items():
        if values[name] is not None and values[name] < least:
            raise InputError(f"data.{name} {values[name]}: must be at least {least}")
    columns = {f"{role}_column": values[f"{role}_column"] for role in ROLES if values[f"{role}_column"] is not None}
    if len(set(columns.values())) < len(columns):
        listed = ", ".join(f"data.{name} {column}" for name, column in columns.items())
        raise InputError(f"{listed}: {len(columns)} columns, and two of them are the same")
    if not 0 < (share := values["validation_share"]) < 1:
        raise InputError(f"data.validation_share {share:g}: must lie between 0 and 1")
    number, _, folds = (values["fold"] or "1/2").partition("/")
    if not (number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) > 1):
        raise InputError(f"data.fold {values['fold']}: give its number and how many there are, such as 3/10")
    if values["data_dir"] and values["train_file"]:
        raise InputError("data.data_dir and data.train_file both say where training pairs are; give one")
