"""The final metrics of scored pairs, their intervals and trivial baselines: the one place where they are computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from mrpc_lightning.errors import InputError

Array = NDArray[numpy.float64]
Labels = NDArray[numpy.int64]
TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "matthews": "Matthews correlation",
    "loss": "loss",
    "calibration_error": "calibration error",
}
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")
BINS = 10  # of probability, in the reliability diagram and the calibration error
RESAMPLES = 2000
TINIEST = float(numpy.finfo(numpy.float32).smallest_subnormal)  # a float32 probability that is not 0


@dataclass(frozen=True)
class Scored:
    """Pairs with their labels and probabilities.

    Attributes:
        labels: 0 or 1, of shape (pairs,).
        probabilities: Probabilities of both classes, of shape (pairs, 2); the mean over both orders, where there are.
        orders: Probability of the positive class in the order that is given and in the other one, of shape
            (pairs, 2); None where pairs were scored in one order.
        first: First sentences.
        second: Second sentences.
        idx: Number of each pair.
    """

    labels: Labels
    probabilities: Array
    orders: Array | None
    first: Sequence[str]
    second: Sequence[str]
    idx: Sequence[int]

    @property
    def positive(self) -> Array:
        """The probability of the positive class, of shape (pairs,)."""
        return self.probabilities[:, 1]

    @property
    def predicted(self) -> Labels:
        """The class with the higher probability; the negative one, should both be equal."""
        return (self.probabilities[:, 1] > self.probabilities[:, 0]).astype(numpy.int64)


def measure(labels: Labels, probabilities: Array, weights: Array | None = None) -> dict[str, Array]:
    """Compute all metrics of some pairs, for one or more weightings of them at once.

    Args:
        labels: 0 or 1, of shape (pairs,).
        probabilities: Probabilities of both classes, of shape (pairs, 2).
        weights: How often each pair counts, of shape (weightings, pairs). Without it each counts once.

    Returns:
        The metrics in `TITLES` and the `COUNTS`, each of shape (weightings,); NaN where a class that a metric needs is
        missing. The loss is the mean cross-entropy. `average_precision` is the area under the precision-recall curve,
        in steps; `roc_auc` that under the curve of recall over the false positive rate. `matthews` is the correlation
        of label and prediction (Matthews, 1975), 0 where all predictions are of one class. The `calibration_error` is
        the expected one (Naeini et al., 2015) of the positive class's probability: the mean distance between
        probability and share of positives, over `BINS` bins of equal width.
    """
    weights = numpy.ones((1, len(labels))) if weights is None else weights
    total, positive, predicted = weights.sum(axis=1), probabilities[:, 1], probabilities.argmax(axis=1)
    tp, fp, tn, fn = (weights @ ((predicted == p) & (labels == y)) for p, y in ((1, 1), (1, 0), (0, 0), (0, 1)))
    # Of the label's own class: 1 - p would lose what a confident mistake costs to rounding.
    own = numpy.maximum(probabilities[numpy.arange(len(labels)), labels], TINIEST)
    bins = bin_of(positive)
    distances = [numpy.abs(weights[:, bins == i] @ (positive - labels)[bins == i]) for i in range(BINS)]
    recall, precision, false_positives = curve(labels, positive, weights)
    middle = recall - numpy.diff(recall, axis=1, prepend=0) / 2  # between one threshold and the next
    spread = numpy.sqrt((tp + fp) * (tn + fn))
    spread[spread == 0] = 1  # the numerator is 0, too
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return {
            "accuracy": (tp + tn) / total,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "average_precision": (precision * numpy.diff(recall, axis=1, prepend=0)).sum(axis=1),
            "roc_auc": (middle * numpy.diff(false_positives, axis=1, prepend=0)).sum(axis=1),
            "matthews": (tp * tn - fp * fn) / numpy.sqrt((tp + fn) * (tn + fp)) / spread,
            "loss": weights @ -numpy.log(own) / total,
            "calibration_error": numpy.sum(distances, axis=0) / total,
            **dict(zip(COUNTS, (tp, fp, tn, fn), strict=True)),
        }


def curve(labels: Labels, positive: Array, weights: Array | None = None) -> tuple[Array, Array, Array]:
    """Return recall, precision and false positive rate at each threshold, from high to low.

    Each is of shape (weightings, thresholds).
    Recall is NaN without positive pairs, the false positive rate without negative ones; precision is 0 where no pair
    counts.

    Args:
        labels: 0 or 1, of shape (pairs,).
        positive: Probability of the positive class, of shape (pairs,).
        weights: As `measure` has them.
    """
    weights = numpy.ones((1, len(labels))) if weights is None else weights
    order = numpy.argsort(-positive, kind="stable")
    ends = numpy.flatnonzero(numpy.append(numpy.diff(positive[order]) != 0, True))  # equal values are one threshold
    counted = weights[:, order].cumsum(axis=1)[:, ends]
    found = (weights * labels)[:, order].cumsum(axis=1)[:, ends]
    wrong = counted - found
    with numpy.errstate(divide="ignore", invalid="ignore"):
        precision = numpy.where(counted > 0, found / counted, 0)
        return found / found[:, -1:], precision, wrong / wrong[:, -1:]


def both(positive: Array) -> Array:
    """Return both classes' probabilities, of shape (pairs, 2), from the positive class's, of shape (pairs,)."""
    return numpy.stack((1 - positive, positive), axis=1)


def best_threshold(labels: Labels, positive: Array) -> float:
    """Return the threshold of the best F1, one of the values: a pair is positive where its value is at least as high.

    Args:
        labels: 0 or 1, of shape (pairs,); both occur.
        positive: Probability of the positive class, or any other value that is higher for it, of shape (pairs,).
    """
    recalls, precisions, _ = curve(labels, positive)
    f1 = 2 * precisions * recalls / numpy.maximum(precisions + recalls, TINIEST)
    return float(numpy.unique(positive)[::-1][f1.argmax()])


def bin_of(positive: Array) -> Labels:
    """Return the bin of probability that each pair falls into, from 0."""
    return numpy.minimum((positive * BINS).astype(numpy.int64), BINS - 1)


def plain(found: Mapping[str, Array]) -> dict[str, float | None]:
    """Return the metrics that `measure` found for one weighting as numbers; None for those that the pairs lack."""
    return {name: None if numpy.isnan(found[name][0]) else float(found[name][0]) for name in TITLES}


def intervals(
    labels: Labels, probabilities: Array, names: Sequence[str] = tuple(TITLES), seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """Return the 95 % bootstrap interval of each metric: between percentiles 2.5 and 97.5 over resampled pairs.

    It says how much a metric depends on which pairs happen to be in the split, not on the seed of the training. A
    metric that these pairs do not have, such as the recall of a class that none of them is of, has none.
    """
    found = [measure(labels, probabilities, weights) for weights in resamples(len(labels), seed)]
    return {name: percentiles(numpy.concatenate([part[name] for part in found])) for name in names}


def margins(labels: Labels, predicted: Labels, beside: Labels) -> dict[str, tuple[float, float] | None]:
    """Return the intervals of how much higher accuracy and F1 are than those of other predictions for the same pairs.

    Both are measured on the same resampled pairs: that says more than whether their own intervals overlap.

    Args:
        labels: 0 or 1, of shape (pairs,).
        predicted: The predictions, of shape (pairs,).
        beside: The other ones.
    """

    def scores(given: Labels, weights: Array) -> Array:
        accuracy = weights @ (given == labels) / weights.sum(axis=1)
        with numpy.errstate(invalid="ignore"):
            f1 = 2 * (weights @ (given & labels)) / (weights @ (given + labels))
        return numpy.stack([accuracy, f1])

    found = [scores(predicted, weights) - scores(beside, weights) for weights in resamples(len(labels), 0)]
    accuracy, f1 = numpy.concatenate(found, axis=1)
    return {"accuracy": percentiles(accuracy), "f1": percentiles(f1)}


def resamples(pairs: int, seed: int) -> Iterator[Array]:
    """Yield how often each pair is drawn, of shape (resamples, pairs): of many pairs 200 times in all, at the least."""
    generator = numpy.random.default_rng(seed)
    resamples, chunk = int(numpy.clip(1e7 / pairs, 200, RESAMPLES)), max(1, int(1e6 / pairs))
    for start in range(0, resamples, chunk):  # all at once would take too much memory
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, pairs, (rows, pairs)) + pairs * numpy.arange(rows)[:, None]
        yield numpy.bincount(drawn.ravel(), minlength=rows * pairs).reshape(rows, pairs).astype(numpy.float64)


def percentiles(values: Array) -> tuple[float, float] | None:
    """Return percentiles 2.5 and 97.5; None if no resample has a value, as it may lack one of the classes."""
    values = values[~numpy.isnan(values)]
    if not len(values):
        return None
    low, high = numpy.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def baseline(positives: int, pairs: int) -> tuple[float, float]:
    """Return the accuracy of predicting the larger class for every pair, and the F1 of predicting the positive one."""
    return max(positives, pairs - positives) / pairs, 2 * positives / (pairs + positives)


def collect(scored: Scored, label_names: Sequence[str]) -> dict[str, Any]:
    """Compute the final metrics, as metrics.json has them.

    Args:
        scored: The scored pairs.
        label_names: Names of the negative and of the positive class.

    Returns:
        Each metric, None if these pairs do not have it; the counts behind them; `pairs`; `baseline_accuracy`, with the
        name of the class that it predicts, and `baseline_f1`; `intervals`; and where both orders of the sentences were
        scored `one_order`, accuracy and F1 of the order that is given.

    Raises:
        InputError: If a probability is no number.
    """
    labels, probabilities = scored.labels, scored.probabilities
    if not numpy.isfinite(probabilities).all():
        raise InputError("the loss is nan: training diverged, or the checkpoint is damaged")
    found, positives = measure(labels, probabilities), int(labels.sum())
    accuracy, f1 = baseline(positives, len(labels))
    metrics: dict[str, Any] = {
        **plain(found),
        **{name: round(float(found[name][0])) for name in COUNTS},
        "pairs": len(labels),
        "baseline_accuracy": accuracy,
        "baseline_accuracy_class": label_names[int(2 * positives >= len(labels))],
        "baseline_f1": f1,
        "intervals": intervals(labels, probabilities),
    }
    if scored.orders is not None:
        one_order = plain(measure(labels, both(scored.orders[:, 0])))
        metrics["one_order"] = {name: one_order[name] for name in ("accuracy", "f1")}
    return metrics


def table(metrics: Mapping[str, Any], title: str, positive: str) -> str:
    """Return metrics beside the baselines, as lines for the terminal.

    Args:
        metrics: What `collect` and `overlap.score` returned.
        title: What was scored.
        positive: Name of the positive class.
    """
    larger = metrics["baseline_accuracy_class"]
    cells = [with_interval(metrics[name], metrics["intervals"][name]) for name in ("accuracy", "f1", "loss")]
    # A baseline answers one class: for accuracy the larger one, for F1 the positive one.
    baselines = {f'always "{name}"': ["", "", ""] for name in dict.fromkeys((larger, positive))}
    baselines[f'always "{larger}"'][0] = number(metrics["baseline_accuracy"])
    baselines[f'always "{positive}"'][1] = number(metrics["baseline_f1"])
    notes = ["in brackets: 95 % intervals, over resampled pairs; always ...: the score of that answer to every pair"]
    if "overlap_threshold" in metrics:
        baselines["word overlap"] = [number(metrics["overlap_accuracy"]), number(metrics["overlap_f1"]), ""]
        rule = f'"{positive}" from {metrics["overlap_threshold"]:.1%} of common words on'
        notes.append(f"word overlap: {rule}, the threshold with the best F1 on the training pairs")
    rows = [("", "accuracy", "F1", "loss"), (title, *cells), *((name, *row) for name, row in baselines.items())]
    width, column = max(len(row[0]) for row in rows) + 2, max(map(len, cells)) + 2
    lines = [f"{row[0]:{width}}" + "".join(f"{cell:{column}}" for cell in row[1:]) for row in rows]
    counts = ", ".join(f"{metrics[count]:,} {count.replace('_', ' ')}" for count in COUNTS)
    return "\n".join([*(line.rstrip() for line in lines), f"{metrics['pairs']:,} pairs: {counts}", *notes])


def number(value: float | None, form: str = "{:.4f}") -> str:
    """Write a metric; a dash if the pairs do not have it."""
    # 0.94375 is 0.9438, though the nearest binary number lies below it.
    return "-" if value is None else form.format(value + 1e-9)


def with_interval(value: float | None, bounds: Sequence[float] | None) -> str:
    """Write a metric with its interval."""
    return number(value) + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")
