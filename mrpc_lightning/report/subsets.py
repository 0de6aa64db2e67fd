"""Which pairs a model gets right and wrong: by length, by overlap, and its most confident mistakes."""

import difflib
import itertools
import re
from typing import Any

import numpy

from mrpc_lightning.report.metrics import Array, Scored, intervals, measure, plain
from mrpc_lightning.report.overlap import WORD

PARTS = 4  # of the pairs, by length or by overlap
MISTAKES = 20


def length(first: str, second: str) -> int:
    """Return the number of words of a pair, punctuation left out."""
    return sum(word[0].isalnum() for word in WORD.findall(f"{first} {second}"))


def parts(scored: Scored, values: Array) -> list[dict[str, Any]]:
    """Score four parts of the pairs, of about the same size, from low values to high ones; equal values stay together.

    Args:
        scored: The pairs.
        values: What they are parted by, of shape (pairs,).

    Returns:
        For each part: `low` and `high`, the values that it spans; `pairs`; `positives`, their share; accuracy and F1,
        each with its 95 % interval; None for what the part does not have.
    """
    edges = numpy.unique(numpy.quantile(values, numpy.arange(1, PARTS) / PARTS, method="inverted_cdf"))
    number, names, found = numpy.searchsorted(edges, values), ("accuracy", "f1"), []
    for inside in (number == part for part in numpy.unique(number)):
        labels, probabilities = scored.labels[inside], scored.probabilities[inside]
        metrics, bounds = plain(measure(labels, probabilities)), intervals(labels, probabilities, names)
        found.append(
            {
                "low": float(values[inside].min()),
                "high": float(values[inside].max()),
                "pairs": len(labels),
                "positives": float(labels.mean()),
                **{name: (metrics[name], bounds[name]) for name in names},
            }
        )
    return found


def mistakes(scored: Scored) -> list[int]:
    """Return the rows of the most confident mistakes, the most confident first."""
    rows = numpy.flatnonzero(scored.predicted != scored.labels)
    confidence = numpy.abs(scored.positive[rows] - 0.5)
    return [int(row) for row in rows[numpy.argsort(-confidence, kind="stable")][:MISTAKES]]


def differences(first: str, second: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Cut two sentences into pieces, and say of each whether the other sentence lacks it at that place.

    Returns:
        The pieces of both, each with True where it differs; joined they are the sentence.
    """
    words = [list(WORD.finditer(sentence)) for sentence in (first, second)]
    one, two = ([word.group().lower() for word in side] for side in words)
    blocks = difflib.SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks()
    same_in_first = {block.a + i for block in blocks for i in range(block.size)}
    same_in_second = {block.b + i for block in blocks for i in range(block.size)}
    return _pieces(first, words[0], same_in_first), _pieces(second, words[1], same_in_second)


def _pieces(sentence: str, words: list[re.Match[str]], same: set[int]) -> list[tuple[str, bool]]:
    marked = [False] * len(sentence)
    for number, word in enumerate(words):
        if number not in same:  # the space between two words that differ is theirs
            start = words[number - 1].end() if number and number - 1 not in same else word.start()
            marked[start : word.end()] = [True] * (word.end() - start)
    groups = itertools.groupby(zip(sentence, marked, strict=True), key=lambda letter: letter[1])
    return [("".join(letter for letter, _ in letters), differs) for differs, letters in groups]
