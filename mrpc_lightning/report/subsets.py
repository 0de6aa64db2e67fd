"""What scored pairs say: figures with their error bars, calibration, parts of the pairs, mistakes."""

import difflib
import re
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

Array = NDArray[numpy.float64]
FIGURES = ("accuracy", "f1", "precision", "recall", "average_precision", "loss", "calibration_error")
BINS = 10  # of probability, in the reliability diagram and the calibration error
PARTS = 4  # of the pairs, by length or by overlap
MISTAKES = 20
RESAMPLES = 2000
WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Scored:
    """Pairs with their labels and answers.

    Attributes:
        labels: 0 or 1, of shape (pairs,).
        positive: Probability of the positive class, of shape (pairs,), as it counts.
        given: The same for the order in which the sentences are given.
        swapped: The same for the other order.
        first: First sentences.
        second: Second sentences.
        idx: Number of each pair.
    """

    labels: NDArray[numpy.int64]
    positive: Array
    given: Array
    swapped: Array
    first: list[str]
    second: list[str]
    idx: list[int]

    @property
    def predicted(self) -> NDArray[numpy.int64]:
        """The class with the higher probability; the negative one, should both be equal."""
        return (self.positive > 0.5).astype(numpy.int64)

    @property
    def wrong(self) -> NDArray[numpy.bool_]:
        """Which pairs were predicted otherwise than they are labelled."""
        wrong: NDArray[numpy.bool_] = self.predicted != self.labels
        return wrong


def measure(labels: NDArray[numpy.int64], positive: Array, weights: Array | None = None) -> dict[str, Array]:
    """Compute all figures of some pairs, for one or more weightings of them at once.

    Args:
        labels: 0 or 1, of shape (pairs,).
        positive: Probability of the positive class, of shape (pairs,).
        weights: How often each pair counts, of shape (weightings, pairs). Without it each counts once.

    Returns:
        Each of `FIGURES`, of shape (weightings,); NaN where a class that it needs is missing. The loss is the mean
        cross-entropy. `average_precision` is the area under the precision-recall curve, in steps. The
        `calibration_error` is the expected one (Naeini et al., 2015) of the positive class's probability: the mean
        distance between probability and share of positives, over `BINS` bins of equal width.
    """
    weights = numpy.ones((1, len(labels))) if weights is None else weights
    total = weights.sum(axis=1)
    predicted = positive > 0.5
    true_positives = weights @ (predicted & (labels == 1))
    false_positives = weights @ (predicted & (labels == 0))
    false_negatives = weights @ (~predicted & (labels == 1))
    right = numpy.where(labels == 1, positive, 1 - positive)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return {
            "accuracy": weights @ (predicted == (labels == 1)) / total,
            "f1": 2 * true_positives / (2 * true_positives + false_positives + false_negatives),
            "precision": true_positives / (true_positives + false_positives),
            "recall": true_positives / (true_positives + false_negatives),
            "average_precision": average_precision(labels, positive, weights),
            "loss": weights @ -numpy.log(numpy.maximum(right, numpy.finfo(numpy.float64).eps)) / total,
            "calibration_error": _calibration_error(labels, positive, weights),
        }


def average_precision(labels: NDArray[numpy.int64], positive: Array, weights: Array) -> Array:
    """Return the mean of the precisions at each threshold, weighted by the gain in recall there."""
    order = numpy.argsort(-positive, kind="stable")
    ends = numpy.flatnonzero(numpy.append(numpy.diff(positive[order]) != 0, True))  # equal answers are one threshold
    predicted = weights[:, order].cumsum(axis=1)[:, ends]
    found = (weights * labels)[:, order].cumsum(axis=1)[:, ends]
    gains = numpy.diff(found, axis=1, prepend=0)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        precision = numpy.where(predicted > 0, found / predicted, 0)
        mean: Array = (precision * gains).sum(axis=1) / found[:, -1]
    return mean


def _calibration_error(labels: NDArray[numpy.int64], positive: Array, weights: Array) -> Array:
    bins = bin_of(positive)
    distance = numpy.zeros(len(weights))
    for number in range(BINS):
        inside = bins == number
        distance += numpy.abs(weights[:, inside] @ (positive[inside] - labels[inside]))
    error: Array = distance / weights.sum(axis=1)
    return error


def bin_of(positive: Array) -> NDArray[numpy.int64]:
    """Return the bin of probability that each pair falls into, from 0."""
    return numpy.minimum((positive * BINS).astype(numpy.int64), BINS - 1)


def intervals(labels: NDArray[numpy.int64], positive: Array, seed: int = 0) -> dict[str, tuple[float, float] | None]:
    """Return the 95 % bootstrap interval of each figure: between percentiles 2.5 and 97.5 over resampled pairs.

    A figure that these pairs do not have, such as the recall of a class that none of them is of, has none.

    It says how much a figure depends on which pairs happen to be in the split, not on the seed of the training. Of
    many pairs fewer resamples are drawn, 200 at the least.
    """
    pairs = len(labels)
    resamples = int(numpy.clip(1e7 / pairs, 200, RESAMPLES))
    generator = numpy.random.default_rng(seed)
    chunk = max(1, int(1e6 / pairs))
    found: dict[str, list[Array]] = {name: [] for name in FIGURES}
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, pairs, (rows, pairs)) + pairs * numpy.arange(rows)[:, None]
        weights = numpy.bincount(drawn.ravel(), minlength=rows * pairs).reshape(rows, pairs).astype(numpy.float64)
        for name, values in measure(labels, positive, weights).items():
            found[name].append(values)
    bounds: dict[str, tuple[float, float] | None] = {}
    for name, parts in found.items():
        values = numpy.concatenate(parts)
        values = values[~numpy.isnan(values)]  # a resample without one of the classes
        low, high = numpy.percentile(values, (2.5, 97.5)) if len(values) else (0.0, 0.0)
        bounds[name] = (float(low), float(high)) if len(values) else None
    return bounds


def calibration(scored: Scored) -> list[dict[str, float]]:
    """Return, for each bin of probability with a pair in it, mean probability, share of positives and pairs."""
    bins = bin_of(scored.positive)
    return [
        {
            "probability": float(scored.positive[bins == number].mean()),
            "positives": float(scored.labels[bins == number].mean()),
            "pairs": int((bins == number).sum()),
        }
        for number in range(BINS)
        if (bins == number).any()
    ]


def precision_recall(scored: Scored) -> tuple[Array, Array]:
    """Return recall and precision at each threshold, the highest first."""
    order = numpy.argsort(-scored.positive, kind="stable")
    ends = numpy.flatnonzero(numpy.append(numpy.diff(scored.positive[order]) != 0, True))
    found = scored.labels[order].cumsum()[ends]
    return found / max(found[-1], 1), found / (ends + 1)


def words(sentence: str) -> list[str]:
    """Return the words and punctuation marks of a sentence."""
    return WORD.findall(sentence)


def length(first: str, second: str) -> int:
    """Return the words of a pair, punctuation left out."""
    return sum(word[0].isalnum() for word in words(first) + words(second))


def overlap(first: str, second: str) -> float:
    """Return the share of a pair's different words that both sentences have (Jaccard), in lower case."""
    sets = [{word.lower() for word in words(sentence) if word[0].isalnum()} for sentence in (first, second)]
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


def parts(scored: Scored, values: Array) -> list[dict[str, Any]]:
    """Score four parts of the pairs, of about the same size, from low values to high ones; equal values stay together.

    Args:
        scored: The pairs.
        values: What they are parted by, of shape (pairs,).

    Returns:
        For each part: `low` and `high`, the values that it spans; `pairs`; `positives`, their share; accuracy and F1,
        each with its 95 % interval.
    """
    edges = numpy.unique(numpy.quantile(values, numpy.arange(1, PARTS) / PARTS, method="inverted_cdf"))
    number = numpy.searchsorted(edges, values)
    found = []
    for part in numpy.unique(number):
        inside = number == part
        labels, positive = scored.labels[inside], scored.positive[inside]
        figures, bounds = measure(labels, positive), intervals(labels, positive)
        found.append(
            {
                "low": float(values[inside].min()),
                "high": float(values[inside].max()),
                "pairs": int(inside.sum()),
                "positives": float(labels.mean()),
                **{name: (float(figures[name][0]), bounds[name]) for name in ("accuracy", "f1")},
            }
        )
    return found


def mistakes(scored: Scored) -> list[int]:
    """Return the rows of the most confident mistakes, the most confident first."""
    rows = numpy.flatnonzero(scored.wrong)
    confidence = numpy.abs(scored.positive[rows] - 0.5)
    return [int(row) for row in rows[numpy.argsort(-confidence, kind="stable")][:MISTAKES]]


def differences(first: str, second: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Cut two sentences into pieces, and say of each whether the other sentence has it at that place.

    Returns:
        The pieces of both, each with True where it differs; joined they are the sentence.
    """
    spans = [list(WORD.finditer(sentence)) for sentence in (first, second)]
    folded = [[found.group().lower() for found in found_words] for found_words in spans]
    same: tuple[set[int], set[int]] = (set(), set())
    for block in difflib.SequenceMatcher(None, folded[0], folded[1], autojunk=False).get_matching_blocks():
        same[0].update(range(block.a, block.a + block.size))
        same[1].update(range(block.b, block.b + block.size))
    return _pieces(first, spans[0], same[0]), _pieces(second, spans[1], same[1])


def _pieces(sentence: str, found: list[re.Match[str]], same: set[int]) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    place = 0
    for number, word in enumerate(found):
        differs = number not in same
        # The space between two words that differ is theirs.
        joined = differs and bool(pieces) and pieces[-1][1]
        text = sentence[place : word.end()]
        if joined or (pieces and not differs and not pieces[-1][1]):
            pieces[-1] = (pieces[-1][0] + text, differs)
        else:
            pieces += [(sentence[place : word.start()], False)] * (place < word.start()) + [(word.group(), differs)]
        place = word.end()
    return pieces + [(sentence[place:], False)] * (place < len(sentence))


def order_matters(scored: Scored) -> int:
    """Count the pairs whose predicted class is another one when their sentences are swapped."""
    return int(((scored.given > 0.5) != (scored.swapped > 0.5)).sum())
