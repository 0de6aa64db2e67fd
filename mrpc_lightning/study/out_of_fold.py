"""What folds tell: each training pair is scored by a run that has not seen it.

All of them together are many more pairs than the validation split has. From their probabilities come a threshold and a
temperature, and the pairs whose label looks doubtful.
"""

from collections.abc import Sequence
from typing import Any

import numpy
from scipy.optimize import minimize_scalar

from mrpc_lightning.report.metrics import Array, Labels, best_threshold, intervals, measure, plain
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.study.predictions import Pair, Predictions, both

DOUBTFUL = 50  # pairs that are listed
NARROW = 1e-6  # probabilities are kept this far from 0 and 1, whose logits are infinite


def collect(units: Sequence[Unit]) -> dict[str, Any]:
    """Return what the runs of one setting say of the pairs that each of them had left out.

    A pair that several runs left out counts once, with the mean of their probabilities.

    Returns:
        `out_of_fold`: `pairs`; accuracy and F1 with their `intervals` over pairs; the `threshold` of the best F1, with
        the accuracy and F1 that it gives on the same pairs (`tuned`), which flatter it; and the `temperature`.
        `doubtful`: the pairs to whose label the runs give the least probability.
    """
    sums: dict[Pair, list[float]] = {}
    classes: dict[str, int] = {}
    for unit in units:
        left_out = Predictions.read(unit.run.folder, "validation")
        classes |= {pair[3]: int(label) for pair, label in zip(left_out.pairs, left_out.labels, strict=True)}
        for pair, share in zip(left_out.pairs, left_out.positive.tolist(), strict=True):
            sums.setdefault(pair, []).append(share)
    if not sums:
        return {}
    pairs = [*sums]
    labels = numpy.array([classes[pair[3]] for pair in pairs], dtype=numpy.int64)
    positive = numpy.array([float(numpy.mean(shares)) for shares in sums.values()])
    threshold = best_threshold(labels, positive)
    scores = [plain(measure(labels, both(found))) for found in (positive, (positive >= threshold).astype(float))]
    own = numpy.where(labels == 1, positive, 1 - positive)
    doubtful = numpy.argsort(own, kind="stable")[:DOUBTFUL]
    names = ("accuracy", "f1")
    return {
        "out_of_fold": {
            "pairs": len(pairs),
            **{name: scores[0][name] for name in names},
            "intervals": intervals(labels, both(positive), names),
            "threshold": threshold,
            "tuned": {name: scores[1][name] for name in names},
            "temperature": temperature(labels, positive),
        },
        "doubtful": [
            {"idx": pairs[row][0], "sentences": pairs[row][1:3], "label": pairs[row][3], "probability": float(own[row])}
            for row in doubtful.tolist()
            if own[row] < 0.5
        ],
    }


def temperature(labels: Labels, positive: Array) -> float:
    """Return what logits must be divided by for the smallest cross-entropy (Guo et al. 2017); above 1: overconfident.

    Args:
        labels: 0 or 1, of shape (pairs,).
        positive: Probability of the positive class, of shape (pairs,).
    """
    clipped = numpy.clip(positive, NARROW, 1 - NARROW)
    logits = numpy.log(clipped / (1 - clipped)) * (2 * labels - 1)  # of the label's own class

    def loss(logarithm: float) -> float:
        return float(numpy.logaddexp(0, -logits / numpy.exp(logarithm)).mean())

    return float(numpy.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x))
