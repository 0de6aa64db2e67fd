"""The baseline of word overlap, against a search over all thresholds and scikit-learn."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from datasets import Dataset
from helpers import RUN, write_csv
from huggingface_hub import ModelCard
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score

from mrpc_lightning import main
from mrpc_lightning.report import caveats, overlap
from mrpc_lightning.report.metrics import Scored, both, collect, table

CPU = "--trainer.accelerator=cpu"
NAMES = ["different", "same"]


def make_pairs(pairs: int, seed: int = 0) -> Dataset:
    """Pairs of 1 to 8 words, of which the second sentence repeats some; the more, the likelier they are the same."""
    generator = numpy.random.default_rng(seed)
    lengths = generator.integers(1, 9, pairs)
    kept = generator.integers(0, lengths + 1)
    labels = (generator.random(pairs) < 0.2 + 0.6 * kept / lengths).astype(int)
    first = [" ".join(f"w{i}" for i in range(length)) for length in lengths]
    second = [" ".join(f"W{i}" if i < k else f"v{i}" for i in range(n)) for n, k in zip(lengths, kept, strict=True)]
    return Dataset.from_dict({"sentence1": first, "sentence2": second, "label": labels})


def shares(pairs: Dataset) -> NDArray[numpy.float64]:
    return numpy.array(list(map(overlap.share, pairs["sentence1"][:], pairs["sentence2"][:])))


def make_scored(pairs: Dataset, predicted: NDArray[numpy.int64]) -> Scored:
    positive = numpy.where(predicted == 1, 0.9, 0.1)
    probabilities = numpy.stack((1 - positive, positive), axis=1)
    labels = numpy.array(pairs["label"][:])
    return Scored(labels, probabilities, None, pairs["sentence1"][:], pairs["sentence2"][:], range(len(labels)))


def test_the_share_of_common_words_is_that_counted_by_hand() -> None:
    assert overlap.share("Rents rose in Oslo.", "In Oslo, rents went up.") == 3 / 6
    assert overlap.share("...", "!") == 0
    assert overlap.share("房租上涨了", "奥斯陆的房租上涨了") == 0, "a script without spaces has no words to share"


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_better_f1_on_the_training_pairs(seed: int) -> None:
    pairs = make_pairs(300, seed)
    labels, found, threshold = pairs["label"][:], shares(pairs), overlap.fit(pairs)
    best = max(f1_score(labels, found >= other) for other in {*found, 0.0, 2.0})
    assert f1_score(labels, found >= threshold) == pytest.approx(best, abs=1e-12)


def test_of_many_pairs_some_are_drawn_in_no_order_of_the_file() -> None:
    pairs = make_pairs(60_000).sort("label")
    labels, found, threshold = numpy.array(pairs["label"][:]), shares(pairs), overlap.fit(pairs)
    best = max(f1_score(labels, found >= other) for other in {*found})
    assert f1_score(labels, found >= threshold) == pytest.approx(best, abs=0.005)


def test_accuracy_and_f1_are_scikit_learns_of_the_rule_and_unknown_without_a_threshold() -> None:
    pairs = make_pairs(200, seed=7)
    labels, predicted = pairs["label"][:], shares(pairs) >= 0.4
    scored = make_scored(pairs, numpy.ones(200, dtype=numpy.int64))
    found = overlap.score(scored, 0.4)
    assert {name: value for name, value in found.items() if name != "overlap_margins"} == {
        "overlap_accuracy": pytest.approx(accuracy_score(labels, predicted)),
        "overlap_f1": pytest.approx(f1_score(labels, predicted)),
        "overlap_threshold": 0.4,
    }
    for unknown in (None, "0.4", float("nan"), 2.0):
        assert overlap.score(scored, unknown) == {}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        # Of 18 positive and 12 negative pairs, those that the model gets wrong; the rule has 3 negative ones wrong.
        ((0, 0), []),
        ((0, 3), ["accuracy 0.9000 is not above that of word overlap, 0.9000 (", "F1 0.9231 is not above that of"]),
        ((3, 3), ["accuracy 0.8000 is not above that of word overlap, 0.9000 (", "F1 0.8333 is not above that of"]),
        # Below the trivial baseline, F1 0.75, is said once. All one class is said, and nothing of words.
        ((9, 0), ["accuracy 0.7000 is not above that of word overlap", "F1 0.6667 is below the baseline, 0.7500"]),
        ((0, 12), ['every pair was predicted "same"', "accuracy and F1 are the baseline's"]),
    ],
)
def test_a_model_that_does_not_beat_word_overlap_is_told_so_once(wrong: tuple[int, int], expected: list[str]) -> None:
    labels = numpy.repeat([1, 0], (18, 12))
    rows = {"sentence1": ["a b"] * 30, "sentence2": ["a b"] * 21 + ["c d"] * 9, "label": labels}
    pairs = Dataset.from_dict(rows)
    predicted = labels.copy()
    predicted[: wrong[0]] = 0
    predicted[18 : 18 + wrong[1]] = 1
    scored = make_scored(pairs, predicted)
    found = collect(scored, NAMES) | overlap.score(scored, overlap.fit(pairs))
    warnings = caveats.of_metrics(found, NAMES, 30)
    assert len(warnings) == len(expected)
    assert all(line.startswith(start) for line, start in zip(warnings, expected, strict=True))
    lines = table(found, "model", "same").splitlines()
    assert [line.split()[2:] for line in lines if line.startswith("word overlap ")] == [["0.9000", "0.9231"]]
    assert 'word overlap: "same" from 100.0% of common words on' in lines[-1]


def test_the_rule_of_the_training_pairs_is_shown_wherever_the_run_is_scored(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = json.loads((RUN / "metrics.json").read_text())
    # Of this corpus' pairs, "rents in Oslo rose on Monday | in Oslo rents rose", 4 of 6 words, are "equivalent".
    assert (fitted["overlap_threshold"], fitted["overlap_f1"], fitted["overlap_accuracy"]) == (4 / 6, 1.0, 1.0)
    write_csv(trained / "others.csv", [("a b", "b a", 1), ("a b", "b b a", 0), ("a c", "b d", 0), ("e f", "f e", 1)])
    for command, file in (("test", "test_file"), ("validate", "validation_file")):
        main([command, CPU, f"--data.{file}=others.csv"])
        found = json.loads((RUN / f"{command}_metrics.json").read_text())
        assert (found["overlap_threshold"], found["overlap_accuracy"], found["overlap_f1"]) == (4 / 6, 0.75, 0.8)
        assert re.search(r"word overlap +0\.7500 +0\.8000\n", capsys.readouterr().out)
    assert "Word overlap calls a pair “equivalent” from 66.7% of" in (RUN / "test_report.html").read_text()
    main(["export", CPU, "--to=my-model"])
    card = ModelCard.load("my-model/README.md").text
    assert "| word overlap, “equivalent” from 66.7% of common words on | 1.0000 | 1.0000 |" in card

    shutil.copy(RUN / "checkpoints/best.ckpt", "alone.ckpt")
    capsys.readouterr()
    main(["test", CPU, "--ckpt_path=alone.ckpt", "--data.test_file=others.csv"])
    assert "word overlap" not in capsys.readouterr().out
    assert not [name for name in json.loads(Path("test_metrics.json").read_text()) if name.startswith("overlap")]
    assert "Word overlap calls" not in Path("test_report.html").read_text()


def test_how_far_a_model_is_above_the_baseline_is_scipys_paired_bootstrap() -> None:
    generator = numpy.random.default_rng(3)
    labels = generator.integers(0, 2, 150)
    pairs = [("a b c", "a b c") if generator.random() < 0.6 + 0.2 * label else ("a", "b") for label in labels]
    right = generator.random(150) < 0.85
    positive = numpy.where(right, labels, 1 - labels).astype(float)
    scored = Scored(labels, both(positive), None, *zip(*pairs, strict=True), range(150))
    found = overlap.score(scored, 0.5)["overlap_margins"]
    baseline = numpy.array([float(first == second) for first, second in pairs])

    def difference(rows: Any) -> float:
        one, other = (f1_score(labels[rows], values[rows]) for values in (positive, baseline))
        return float(one - other)

    again = bootstrap((numpy.arange(150),), difference, vectorized=False, n_resamples=1000, method="percentile", rng=0)
    assert found["f1"] == pytest.approx(tuple(again.confidence_interval), abs=0.02)
    assert overlap.score(scored, None) == {}


def test_a_model_that_may_be_no_better_is_warned_of() -> None:
    metrics = {
        **{"pairs": 120, "accuracy": 0.83, "f1": 0.75, "baseline_accuracy": 0.6, "baseline_accuracy_class": "yes"},
        **{"baseline_f1": 0.6, "overlap_accuracy": 0.76, "overlap_f1": 0.65},
        **{"true_positives": 40, "false_positives": 10, "true_negatives": 60, "false_negatives": 10},
        "overlap_margins": {"accuracy": (0.01, 0.16), "f1": (-0.025, 0.242)},
    }
    [line] = caveats.of_metrics(metrics, ["no", "yes"], 120)
    assert line.startswith(
        "F1 0.7500 is not shown to be above that of word overlap, 0.6500: the difference is between -0.025 and"
    )
