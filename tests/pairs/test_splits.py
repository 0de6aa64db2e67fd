"""Folds: every pair is in one, no sentence in two, and each has its share of both classes."""

import random
from pathlib import Path

import numpy
import pytest
from helpers import fails, make_rows, write_csv
from sklearn.model_selection import StratifiedGroupKFold

from mrpc_lightning import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.splits import folds


def make_pairs(pairs: int) -> tuple[list[str], list[str], list[int]]:
    """Pairs of which some share a sentence, in another case, directly or by way of others."""
    generator = random.Random(0)
    names = [f"sentence {number}" for number in range(pairs)]
    first, second = (generator.choices(names, k=pairs) for _ in range(2))
    fresh = [f"other {number}" for number in range(pairs)]
    second = [one.upper() if generator.random() < 0.3 else other for one, other in zip(second, fresh, strict=True)]
    return first, second, [int(generator.random() < 0.7) for _ in range(pairs)]


def components(first: list[str], second: list[str]) -> list[int]:
    """The smallest row that each pair is connected with, found by passing it on until nothing changes."""
    found, before = [*range(len(first))], []
    while found != before:
        before = found[:]
        smallest: dict[str, int] = {}
        for sentences in (first, second):
            for sentence, row in zip(sentences, found, strict=True):
                smallest[sentence.casefold()] = min(row, smallest.get(sentence.casefold(), row))
        pairs = zip(first, second, strict=True)
        found = [min(smallest[one.casefold()], smallest[two.casefold()]) for one, two in pairs]
    return found


def test_pairs_that_share_a_sentence_are_in_one_fold_and_folds_are_alike() -> None:
    first, second, labels = make_pairs(600)
    found, groups = folds(first, second, labels, 5, seed=1), numpy.array(components(first, second))
    assert 10 < len(set(groups)) < 600
    for group in set(groups):
        assert len(set(found[groups == group])) == 1
    assert set(found) == set(range(5))
    # As even as scikit-learn's folds of the same groups, in size and in the share of positives.
    theirs = numpy.empty(600, dtype=int)
    for number, (_, rows) in enumerate(
        StratifiedGroupKFold(5, shuffle=True, random_state=0).split(first, labels, groups)
    ):
        theirs[rows] = number
    for value in (numpy.ones(600), numpy.array(labels)):
        ours_spread, their_spread = (numpy.ptp(numpy.bincount(one, value)) for one in (found, theirs))
        assert ours_spread <= max(their_spread, 1)
    assert (found == folds(first, second, labels, 5, seed=1)).all()
    alone = [[f"{name} {row}" for row in range(600)] for name in ("a", "b")]
    assert not (folds(*alone, labels, 5, seed=1) == folds(*alone, labels, 5, seed=2)).all()


def test_of_a_data_module_folds_part_the_training_pairs_and_test_scores_the_validation_split(
    project: Path, encoder: str
) -> None:
    rows = [(f"{first} {row}", f"{second} {row}", label) for row, (first, second, label) in enumerate(make_rows(60))]
    write_csv(project / "train.csv", rows)
    seen: list[tuple[str, str]] = []
    for number in range(1, 4):
        data = MRPCDataModule(
            encoder, train_file="train.csv", validation_file="validation.csv", max_length=32, fold=f"{number}/3"
        )
        parts = {split: data.read(split) for split in ("train", "validation", data.test_split)}
        assert len(parts["train"]) + len(parts["validation"]) == 60 and abs(len(parts["validation"]) - 20) <= 1
        assert parts["test"]["sentence1"][:] == [first for first, _, _ in make_rows(25, seed=1)]
        left_out = [*zip(parts["validation"]["sentence1"], parts["validation"]["sentence2"], strict=True)]
        trained = {sentence for name in ("sentence1", "sentence2") for sentence in parts["train"][name]}
        assert not trained & {sentence for pair in left_out for sentence in pair}
        assert data.source("validation") == f"train.csv, fold {number}/3" and data.source("test") == "validation.csv"
        seen += left_out
    assert sorted(seen) == sorted((first, second) for first, second, _ in rows)


@pytest.mark.parametrize("fold", ["3", "0/3", "4/3", "1/1", "a/b", "1/3/4"])
def test_a_fold_that_there_is_not_is_refused(fold: str) -> None:
    with pytest.raises(InputError, match=f"data.fold {fold}: give its number"):
        MRPCDataModule(fold=fold)


def test_folds_without_both_classes_are_refused(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(project / "train.csv", [(f"{number} rose", f"{number} fell", number % 2) for number in range(9)])
    message = fails(capsys, ["fit", *arguments, "--data.fold=1/9"])
    assert "--data.fold 1/9: 9 training pairs are too few for 9 folds" in message
