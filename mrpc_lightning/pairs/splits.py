"""How pairs are parted: a share that is held out, or folds. What belongs together stays together."""

from collections.abc import Sequence

import numpy
from datasets import Dataset, disable_progress_bars
from numpy.typing import NDArray

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.sources import pair_key


def hold_out(pairs: Dataset, share: float, seed: int, source: str) -> dict[str, Dataset]:
    """Split pairs into "train" and "validation", each class in proportion, the same for the same seed.

    Pairs that differ in order, case or spaces alone stay together.

    Raises:
        InputError: If there are too few pairs of a class.
    """
    disable_progress_bars()
    first: dict[frozenset[str], int] = {}
    firsts = [
        first.setdefault(key, row) for row, key in enumerate(map(pair_key, pairs["sentence1"], pairs["sentence2"]))
    ]
    unique = [*first.values()]
    labels = pairs.select(unique).select_columns("label").add_column("row", unique)
    try:
        splits = labels.train_test_split(share, stratify_by_column="label", seed=seed)
    except ValueError as error:
        raise InputError(
            f"{source}: {len(unique)} {'different ' * (len(unique) < len(pairs))}pairs are too few to hold out a share "
            f"of {share:g} of each class; give data.validation_file"
        ) from error
    rows = {"train": splits["train"]["row"][:], "validation": splits["test"]["row"][:]}
    held_out = set(rows["validation"])
    for row, same in enumerate(firsts):
        if row != same:
            rows["validation" if same in held_out else "train"].append(row)
    return {split: pairs.select(chosen) for split, chosen in rows.items()}


def leave_out(pairs: Dataset, fold: str, seed: int) -> dict[str, Dataset]:
    """Split pairs into "train" and "validation", which is one of several folds, such as "3/10".

    Raises:
        InputError: If any of the folds lacks one of the classes.
    """
    number, count = map(int, fold.split("/"))
    parts = folds(pairs["sentence1"], pairs["sentence2"], pairs["label"][:], count, seed)
    if len({*zip(parts.tolist(), pairs["label"][:], strict=True)}) < 2 * count:
        raise InputError(f"data.fold {fold}: {len(pairs)} training pairs are too few for {count} folds; give fewer")
    is_in = parts == number - 1
    return {name: pairs.select(numpy.flatnonzero(rows)) for name, rows in (("train", ~is_in), ("validation", is_in))}


def folds(
    first: Sequence[str], second: Sequence[str], labels: Sequence[int], count: int, seed: int
) -> NDArray[numpy.int64]:
    """Return the fold of each pair, from 0: of about the same size and share of positives, the same for the same seed.

    Pairs that share a sentence, but for case and spaces, are in the same fold; and so are those that share one with
    these, and so on.
    """
    leader: dict[str, str] = {}

    def lead(sentence: str) -> str:
        while leader.setdefault(sentence, sentence) != sentence:
            leader[sentence] = sentence = leader[leader[sentence]]
        return sentence

    keys = [sorted(pair_key(*pair)) for pair in zip(first, second, strict=True)]
    for key in keys:
        leader[lead(key[0])] = lead(key[-1])
    together: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        together.setdefault(lead(key[0]), []).append(row)
    groups = [*together.values()]
    order = sorted(numpy.random.default_rng(seed).permutation(len(groups)), key=lambda i: -len(groups[i]))
    found, sizes = numpy.empty(len(keys), dtype=numpy.int64), numpy.zeros((count, 2))
    totals = numpy.maximum(numpy.bincount(labels, minlength=2), 1)
    for group in (groups[i] for i in order):  # the large ones first: the small ones then level the folds
        counts = numpy.bincount([labels[row] for row in group], minlength=2)
        fold = int(((sizes + counts) / totals).max(axis=1).argmin())
        found[group] = fold
        sizes[fold] += counts
    return found
