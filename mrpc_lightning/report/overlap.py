"""The baseline of word overlap: a pair is positive where its sentences share many words, whatever they say."""

import re
from typing import Any

import numpy
from datasets import Dataset

from mrpc_lightning.report.metrics import Scored, best_threshold, both, margins, measure, plain

DRAWN = 10_000  # training pairs at most: 1.4 s of a million; of MRPC's, 2,000 come within 0.004 of the best F1
WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def share(first: str, second: str) -> float:
    """Return the share of a pair's different words that both sentences have (Jaccard), in lower case.

    A script without spaces, such as Chinese or Thai, has a clause where others have a word: hardly any is shared, and
    the baseline comes to answer one class.
    """
    one, two = ({word.lower() for word in WORD.findall(side) if word[0].isalnum()} for side in (first, second))
    return len(one & two) / max(len(one | two), 1)


def fit(pairs: Dataset) -> float:
    """Return the threshold of `share` that has the best F1 on training pairs; of many, `DRAWN` are drawn.

    One threshold for accuracy and F1: the baseline is a classifier like the model, whose metrics are of one prediction
    for each pair. It is chosen by F1, as the model's epoch is, but on training pairs alone, which the model's is not.

    Args:
        pairs: `sentence1`, `sentence2` and `label`; both labels occur.
    """
    drawn = pairs.select(numpy.random.default_rng(0).choice(len(pairs), min(len(pairs), DRAWN), replace=False))
    shares = numpy.array(list(map(share, drawn["sentence1"][:], drawn["sentence2"][:])), dtype=numpy.float64)
    return best_threshold(numpy.array(drawn["label"][:], dtype=numpy.int64), shares)


def score(scored: Scored, threshold: Any) -> dict[str, Any]:
    """Score the baseline.

    Args:
        scored: The pairs that the model was scored on.
        threshold: What `fit` returned for the training pairs, as a metrics.json holds it.

    Returns:
        `overlap_accuracy` and `overlap_f1`, None where the pairs do not have it; `overlap_threshold`; and
        `overlap_margins`, see `metrics.margins`. Nothing if the threshold is not known.
    """
    if not (isinstance(threshold, float) and 0 <= threshold <= 1):
        return {}
    shares = numpy.array(list(map(share, scored.first, scored.second)), dtype=numpy.float64)
    predicted = (shares >= threshold).astype(numpy.int64)
    found = plain(measure(scored.labels, both(predicted.astype(numpy.float64))))
    return {
        "overlap_accuracy": found["accuracy"],
        "overlap_f1": found["f1"],
        "overlap_threshold": threshold,
        "overlap_margins": margins(scored.labels, scored.predicted, predicted),
    }
