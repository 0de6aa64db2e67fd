"""The final metrics, against scikit-learn, SciPy, torchmetrics and sums done by hand."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from helpers import RUN
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score
from torchmetrics.functional.classification import binary_calibration_error

from mrpc_lightning import main
from mrpc_lightning.errors import InputError
from mrpc_lightning.report import metrics
from mrpc_lightning.report.metrics import COUNTS, TITLES, Scored, baseline, collect, measure

CPU = "--trainer.accelerator=cpu"
NAMES = ["different", "same"]


def both(positive: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    return numpy.stack((1 - positive, positive), axis=1)


def make_scored(labels: list[int], positive: list[float]) -> Scored:
    texts = ["a"] * len(labels)
    return Scored(numpy.array(labels), both(numpy.array(positive)), None, texts, texts, range(len(labels)))


def make_pairs(pairs: int = 200, seed: int = 0) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
    generator = numpy.random.default_rng(seed)
    labels = (generator.random(pairs) < 0.7).astype(numpy.int64)
    positive = numpy.clip((0.25 + 0.4 * labels + generator.normal(0, 0.25, pairs)).round(2), 0.01, 0.99)  # with ties
    return labels, both(positive)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_metric_is_scikit_learns(weighted: bool) -> None:
    labels, probabilities = make_pairs()
    positive, predicted = probabilities[:, 1], probabilities[:, 1] > 0.5
    weights = numpy.random.default_rng(1).integers(0, 4, (3, 200)).astype(float) if weighted else numpy.ones((1, 200))
    found = measure(labels, probabilities, weights if weighted else None)
    for row, weight in enumerate(weights):
        expected = {
            "accuracy": accuracy_score(labels, predicted, sample_weight=weight),
            "f1": f1_score(labels, predicted, sample_weight=weight),
            "precision": precision_score(labels, predicted, sample_weight=weight),
            "recall": recall_score(labels, predicted, sample_weight=weight),
            "average_precision": average_precision_score(labels, positive, sample_weight=weight),
            "roc_auc": roc_auc_score(labels, positive, sample_weight=weight),
            "matthews": matthews_corrcoef(labels, predicted, sample_weight=weight),
            "loss": log_loss(labels, probabilities, sample_weight=weight),
            "false_positives": weight[predicted & (labels == 0)].sum(),
            "false_negatives": weight[~predicted & (labels == 1)].sum(),
        }
        assert {name: found[name][row] for name in expected} == pytest.approx(expected, abs=1e-12)
        assert sum(found[name][row] for name in COUNTS) == weight.sum()


def test_answers_of_one_class_correlate_with_no_label() -> None:
    labels = numpy.array([0, 1, 1])
    found = measure(labels, both(numpy.array([0.6, 0.7, 0.8])))
    assert found["matthews"][0] == matthews_corrcoef(labels, [1, 1, 1]) == 0
    assert found["roc_auc"][0] == 1.0, "yet they are in the right order"


def test_the_loss_of_a_confident_mistake_is_the_cross_entropy_of_its_logits() -> None:
    # In float32, 1 - p is 0 from a margin of 17 on; p of the label's own class is there down to 103.
    margins = numpy.array([-60.0, -30.0, -18.0, -1.0, 2.0, 30.0])
    logits = numpy.stack((-margins / 2, margins / 2), axis=1).astype(numpy.float32)
    labels = numpy.array([1, 1, 1, 0, 0, 0])
    expected = -log_softmax(logits.astype(numpy.float64), axis=1)[numpy.arange(6), labels].mean()
    probabilities = softmax(logits, axis=1).astype(numpy.float64)
    assert measure(labels, probabilities)["loss"][0] == pytest.approx(expected, rel=1e-6)
    certain = numpy.array([[1.0, 0.0]])
    assert measure(numpy.array([1]), certain)["loss"][0] == pytest.approx(103.28, abs=0.01)  # the most there is


def test_the_calibration_error_is_torchmetrics() -> None:
    generator = numpy.random.default_rng(3)
    positive, labels = generator.random(500), generator.integers(0, 2, 500)
    expected = binary_calibration_error(torch.tensor(positive), torch.tensor(labels), n_bins=metrics.BINS, norm="l1")
    assert measure(labels, both(positive))["calibration_error"][0] == pytest.approx(float(expected), abs=1e-6)


def test_the_precision_recall_curve_is_scikit_learns() -> None:
    labels, probabilities = make_pairs()
    recall, precision, _ = metrics.curve(labels, probabilities[:, 1])
    expected = precision_recall_curve(
        labels, probabilities[:, 1]
    )  # from the lowest threshold on, with an end of its own
    assert precision[0] == pytest.approx(expected[0][:-1][::-1])
    assert recall[0] == pytest.approx(expected[1][:-1][::-1])


def test_an_interval_of_accuracy_is_about_that_of_a_binomial() -> None:
    labels = numpy.ones(1000, dtype=numpy.int64)
    probabilities = both(numpy.where(numpy.arange(1000) < 800, 0.9, 0.1))
    found = metrics.intervals(labels, probabilities)
    low, high = found["accuracy"] or (0, 0)
    error = 1.96 * (0.8 * 0.2 / 1000) ** 0.5
    assert low == pytest.approx(0.8 - error, abs=0.004) and high == pytest.approx(0.8 + error, abs=0.004)
    assert metrics.intervals(labels, probabilities) == found


def test_metrics_of_training_and_final_ones_have_one_definition() -> None:
    labels, probabilities = make_pairs(seed=5)
    classes, targets = torch.tensor(probabilities.argmax(axis=1)), torch.tensor(labels)
    found = measure(labels, probabilities)
    assert found["accuracy"][0] == pytest.approx(float(BinaryAccuracy()(classes, targets)), abs=1e-6)
    assert found["f1"][0] == pytest.approx(float(BinaryF1Score()(classes, targets)), abs=1e-6)


@pytest.mark.parametrize("symmetric", ["false", "true"])
def test_final_metrics_are_those_that_the_best_epoch_had_in_training(
    symmetric: str, project: Path, arguments: list[str]
) -> None:
    words = ["--trainer.precision=32-true", "--trainer.max_epochs=3", f"--model.symmetric={symmetric}"]
    main(["fit", *arguments, *words])
    found = json.loads((RUN / "metrics.json").read_text())
    [epoch] = [epoch for epoch in found["epochs"] if epoch["epoch"] == found["epoch"]]
    for name in ("accuracy", "f1", "loss"):
        assert found[name] == pytest.approx(epoch[f"val_{name}"], abs=1e-6)


@pytest.mark.parametrize(
    ("positives", "pairs", "accuracy", "f1"),
    [(2, 32, 30 / 32, 2 * 2 / 34), (279, 408, 279 / 408, 2 * 279 / 687), (0, 5, 1.0, 0.0), (5, 5, 1.0, 1.0)],
)
def test_the_baseline_of_accuracy_is_the_larger_class_and_that_of_f1_the_positive_one(
    positives: int, pairs: int, accuracy: float, f1: float
) -> None:
    assert baseline(positives, pairs) == pytest.approx((accuracy, f1))
    scored = make_scored([1] * positives + [0] * (pairs - positives), [0.6] * pairs)
    found = collect(scored, NAMES)
    assert (found["baseline_accuracy"], found["baseline_f1"]) == pytest.approx((accuracy, f1))
    assert found["baseline_accuracy_class"] == ("same" if positives >= pairs / 2 else "different")
    rows = {line.split("  ")[0]: line.split()[2:] for line in metrics.table(found, "model", "same").splitlines()[1:]}
    if positives >= pairs / 2:
        assert rows['always "same"'] == [f"{accuracy:.4f}", f"{f1:.4f}"]
    else:
        assert (rows['always "different"'], rows['always "same"']) == ([f"{accuracy:.4f}"], [f"{f1:.4f}"])


@pytest.mark.parametrize(
    ("labels", "positive", "missing"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], {"f1", "precision", "recall", "average_precision", "roc_auc", "matthews"}),
        ([0, 0, 0], [0.1, 0.2, 0.9], {"recall", "average_precision", "roc_auc", "matthews"}),
        ([1, 1, 1], [0.1, 0.2, 0.3], {"precision", "roc_auc", "matthews"}),
        ([1, 1, 1], [0.9, 0.8, 0.7], {"roc_auc", "matthews"}),
        ([1, 0, 0], [0.1, 0.2, 0.3], {"precision"}),
    ],
)
def test_what_pairs_of_one_class_do_not_have_is_none_and_a_dash(
    labels: list[int], positive: list[float], missing: set[str]
) -> None:
    found = collect(make_scored(labels, positive), NAMES)
    assert {name for name in TITLES if found[name] is None} == missing
    json.dumps(found, allow_nan=False)
    row = metrics.table(found, "model", "same").splitlines()[1]
    assert (" - " in row) == ("f1" in missing) and "nan" not in row


def test_half_a_digit_is_rounded_up() -> None:
    assert metrics.number(604 / 640) == "0.9438" and metrics.number(0.12344999) == "0.1234"
    assert metrics.number(None) == "-"


def test_probabilities_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="the loss is nan: training diverged"):
        collect(make_scored([0, 1], [0.5, float("nan")]), NAMES)


def test_a_metrics_file_has_a_value_for_each_interval_and_a_name_for_the_number_format(trained: Path) -> None:
    main(["validate", CPU])
    for name in ("metrics.json", "validate_metrics.json"):
        found = json.loads((RUN / name).read_text(encoding="utf-8"))
        assert found["intervals"].keys() == TITLES.keys() <= found.keys()
        assert found["trainer_precision"] in ("32-true", "bf16-mixed") and not isinstance(found["precision"], str)
        assert "one_order" not in found
    assert not (RUN / "validate_report.html").exists()
