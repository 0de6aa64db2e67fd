"""What folds tell: each training pair is scored by a run that has not seen it.

All of them together are many more pairs than the validation split has. From their probabilities come a threshold and a
temperature, and the pairs whose label looks doubtful.
"""

from collections.abc import Sequence
from typing import Any

import numpy
from scipy.optimize import minimize_scalar

from mrpc_lightning.report.calibration import Calibration
from mrpc_lightning.report.metrics import Array, Labels, best_threshold, both, intervals, measure, plain
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.study.predictions import left_out

DOUBTFUL = 50  # pairs that are listed
NARROW = 1e-6  # probabilities are kept this far from 0 and 1, whose logits are infinite


def collect(units: Sequence[Unit]) -> dict[str, Any]:
    """Return what the runs of one setting say of the pairs that each of them had left out.

    A pair that several runs left out counts once, with the mean of their probabilities.

    Returns:
        `out_of_fold`: `pairs`; accuracy and F1 with their `intervals` over pairs; the `temperature`, and with it the
        `threshold` of the best F1; and what both give on the same pairs (`tuned`), which flatters them.
        `doubtful`: the pairs to whose label the runs give the least probability.
    """
    found = left_out(units)
    if not found:
        return {}
    pairs, positive = [*found], numpy.array([*found.values()])
    label_names = units[0].data.hparams["label_names"]
    labels = numpy.array([label_names.index(pair[3]) for pair in pairs], dtype=numpy.int64)
    heat = temperature(labels, positive)
    scaled = Calibration(0.5, heat).scale(both(positive))[:, 1]
    threshold = best_threshold(labels, scaled)
    # Halfway to the next lower one: a pair is positive above it, on any machine.
    threshold = float(numpy.mean([threshold, scaled[scaled < threshold].max(initial=0)]))
    own = numpy.where(labels == 1, positive, 1 - positive)
    doubtful = numpy.argsort(own, kind="stable")[:DOUBTFUL]
    names = ("accuracy", "f1")
    return {
        "out_of_fold": {
            "pairs": len(pairs),
            **{name: value for name, value in plain(measure(labels, both(positive))).items() if name in names},
            "intervals": intervals(labels, both(positive), names),
            "threshold": threshold,
            "temperature": heat,
            "tuned": Calibration(threshold, heat).score(labels, both(positive)),
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
