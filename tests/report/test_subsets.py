import numpy
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    precision_recall_curve,
    precision_score,
    recall_score,
)
from torchmetrics.functional.classification import binary_calibration_error

from mrpc_lightning.report import subsets as analysis
from mrpc_lightning.report.subsets import Scored


def make_scored(pairs: int = 200, seed: int = 0, swapped: float = 0.1) -> Scored:
    generator = numpy.random.default_rng(seed)
    labels = (generator.random(pairs) < 0.7).astype(numpy.int64)
    positive = numpy.clip(0.25 + 0.4 * labels + generator.normal(0, 0.25, pairs), 0.001, 0.999).round(2)  # with ties
    other = numpy.clip(positive + generator.normal(0, swapped, pairs), 0, 1)
    sentences = [f"Rents rose in town {number}" for number in range(pairs)]
    return Scored(labels, positive, positive, other, sentences, sentences, list(range(pairs)))


@pytest.mark.parametrize("weighted", [False, True])
def test_every_figure_is_scikit_learns(weighted: bool) -> None:
    scored = make_scored()
    weights = numpy.random.default_rng(1).integers(0, 4, (3, 200)).astype(float) if weighted else numpy.ones((1, 200))
    found = analysis.measure(scored.labels, scored.positive, weights if weighted else None)
    for row, weight in enumerate(weights):
        predicted = scored.positive > 0.5
        expected = {
            "accuracy": accuracy_score(scored.labels, predicted, sample_weight=weight),
            "f1": f1_score(scored.labels, predicted, sample_weight=weight),
            "precision": precision_score(scored.labels, predicted, sample_weight=weight),
            "recall": recall_score(scored.labels, predicted, sample_weight=weight),
            "average_precision": average_precision_score(scored.labels, scored.positive, sample_weight=weight),
            "loss": log_loss(scored.labels, scored.positive, sample_weight=weight),
        }
        assert {name: found[name][row] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_the_calibration_error_is_torchmetrics() -> None:
    generator = numpy.random.default_rng(3)
    positive, labels = generator.random(500), generator.integers(0, 2, 500)
    expected = binary_calibration_error(torch.tensor(positive), torch.tensor(labels), n_bins=analysis.BINS, norm="l1")
    assert analysis.measure(labels, positive)["calibration_error"][0] == pytest.approx(float(expected), abs=1e-6)


def test_the_precision_recall_curve_is_scikit_learns() -> None:
    scored = make_scored()
    recall, precision = analysis.precision_recall(scored)
    expected_precision, expected_recall, _ = precision_recall_curve(scored.labels, scored.positive)
    assert recall == pytest.approx(expected_recall[:-1][::-1]) and precision == pytest.approx(
        expected_precision[:-1][::-1]
    )


def test_an_interval_of_accuracy_is_about_that_of_a_binomial() -> None:
    labels = numpy.ones(1000, dtype=numpy.int64)
    positive = numpy.where(numpy.arange(1000) < 800, 0.9, 0.1)
    low, high = analysis.intervals(labels, positive)["accuracy"] or (0, 0)
    error = 1.96 * (0.8 * 0.2 / 1000) ** 0.5
    assert low == pytest.approx(0.8 - error, abs=0.004) and high == pytest.approx(0.8 + error, abs=0.004)
    assert analysis.intervals(labels, positive) == analysis.intervals(labels, positive)


def test_words_lengths_and_overlap_are_those_counted_by_hand() -> None:
    assert analysis.words("Don't pay $12.5, he said.") == ["Don't", "pay", "$", "12", ".", "5", ",", "he", "said", "."]
    assert analysis.length("Rents rose.", "In Oslo, rents went up.") == 7
    assert analysis.overlap("Rents rose in Oslo.", "In Oslo, rents went up.") == 3 / 6
    assert analysis.overlap("...", "!") == 0


def test_parts_hold_each_pair_once_and_equal_values_stay_together() -> None:
    scored = make_scored()
    values = numpy.repeat([1.0, 1.0, 2.0, 3.0, 9.0], 40)
    found = analysis.parts(scored, values)
    assert [(part["low"], part["high"], part["pairs"]) for part in found] == [
        (1, 1, 80),
        (2, 2, 40),
        (3, 3, 40),
        (9, 9, 40),
    ]
    predicted = scored.positive[:80] > 0.5
    assert found[0]["accuracy"][0] == accuracy_score(scored.labels[:80], predicted)
    assert found[0]["f1"][0] == f1_score(scored.labels[:80], predicted)
    for part in found:
        accuracy, (low, high) = part["accuracy"]
        assert low <= accuracy <= high


def test_mistakes_come_by_confidence() -> None:
    labels = numpy.array([1, 0, 1, 0, 1])
    positive = numpy.array([0.4, 0.99, 0.05, 0.2, 0.9])
    scored = Scored(labels, positive, positive, 1 - positive, ["a"] * 5, ["b"] * 5, [10, 11, 12, 13, 14])
    assert analysis.mistakes(scored) == [1, 2, 0]
    assert analysis.order_matters(scored) == 5


def test_differences_mark_the_words_that_the_other_sentence_lacks_and_lose_no_character() -> None:
    first, second = "  Rents in Oslo rose by 3 percent .", "Rents in oslo fell by 3 percent, he said."
    pieces = analysis.differences(first, second)
    assert ["".join(text for text, _ in side) for side in pieces] == [first, second]
    assert [[text for text, differs in side if differs] for side in pieces] == [["rose"], ["fell", ", he said"]]
    assert analysis.differences("", "a") == ([], [("a", True)])
