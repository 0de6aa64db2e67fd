"""Small changes to pairs that a model says are the same, and whether its prediction follows: no metric shows that."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
from lightning.pytorch import Trainer

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.pairs.tokens import loader_of, to_dataset
from mrpc_lightning.report.metrics import Array, Scored
from mrpc_lightning.run.scoring import score

Pair = tuple[str, str]

# What is changed, and whether the prediction should then become negative; after CheckList (Ribeiro et al. 2020).
PROBES = {
    "number": ("another number in one sentence", True),
    "name": ("another name in one sentence", True),
    "negation": ('"not" in one sentence', True),
    "order": ("the sentences swapped", False),
    "itself": ("the first sentence twice", False),
}
PAIRS = 200  # of each probe at most: the share is then known to 7 points, and all of them cost a few seconds
EXAMPLES = 3
NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*\b")
INSIDE = re.compile(r"(?<=[\w,;:] )[^\W\d]{2,}")  # words that do not begin a sentence
AUXILIARY = re.compile(r"\b(?:is|are|was|were|will|would|can|could|should|may|might|must)\b")
NEGATION = re.compile(
    r"\b(?:not|no|never|nothing|nobody|none|neither|nor|cannot|without)\b|n['\u2019]t\b", re.IGNORECASE
)


def changes(pair: Pair, names: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    """Yield each probe that a pair has a place for, and the pair as changed.

    Args:
        pair: Both sentences. Only what both have is changed in the second one: then they no longer say the same.
        names: Names that take a name's place; the first that is not in the pair.
    """
    first, second = pair
    given = {*NUMBER.findall(first)}
    if both := [number for number in NUMBER.findall(second) if number in given]:
        digit = str((int(both[0][0]) + 4) % 9 + 1)  # far from the digit that was there, and not 0
        yield "number", (first, NUMBER.sub(lambda n: digit + n[0][1:] if n[0] == both[0] else n[0], second))
    given = {*re.findall(r"\w+", first)}
    both = [name for name in names_in(second) if name in given]
    other = next((name for name in names if name not in first and name not in second), None)
    if both and other:
        yield "name", (first, re.sub(rf"\b{both[0]}\b", other, second))
    if (place := AUXILIARY.search(second)) and not NEGATION.search(f"{first} {second}"):
        yield "negation", (first, f"{second[: place.end()]} not{second[place.end() :]}")
    yield "order", (second, first)
    yield "itself", (first, first)


def names_in(sentence: str) -> list[str]:
    """Return the words with a capital letter that do not begin a sentence: names, mostly."""
    return [word for word in INSIDE.findall(sentence) if word[0].isupper()]


def probe(scored: Scored, positive_of: Callable[[list[Pair]], Array]) -> dict[str, dict[str, Any]]:
    """Change pairs that are positive, by label and by prediction, and see whether the prediction follows.

    Args:
        scored: The scored pairs.
        positive_of: Returns the probability of the positive class of each changed pair, of shape (pairs,).

    Returns:
        For each probe that some pair has a place for: `pairs`, how many were changed; `expected`, how many were then
        predicted as they should be; and up to three `examples`, first of those that were not: `idx`, the `original`
        pair, its `changed` form, and the probability of the positive class `before` and `after`.
    """
    rows = numpy.flatnonzero((scored.labels == 1) & (scored.predicted == 1))
    rows = numpy.random.default_rng(0).permutation(rows)[: 10 * PAIRS].tolist()
    pairs = [(scored.first[row], scored.second[row]) for row in rows]
    names = [*dict.fromkeys(name for pair in pairs for sentence in pair for name in names_in(sentence))]
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in PROBES}
    for number, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        for name, changed in changes(pair, names[number % max(len(names), 1) :] + names):
            is_moot = name == "order" and scored.orders is not None  # the mean of both orders is the same
            if len(made[name]) < PAIRS and not is_moot:
                before = float(scored.positive[row])
                made[name].append({"idx": scored.idx[row], "original": pair, "changed": changed, "before": before})
    everything = [one for found in made.values() for one in found]
    probabilities = positive_of([one["changed"] for one in everything]) if everything else numpy.empty(0)
    for one, after in zip(everything, probabilities.tolist(), strict=True):
        one["after"] = after
    result = {}
    for name, found in made.items():
        wrong = [one for one in found if not as_expected(name, one["after"])]
        right = [one for one in found if as_expected(name, one["after"])]
        if found:
            result[name] = {"pairs": len(found), "expected": len(right), "examples": (wrong + right)[:EXAMPLES]}
    return result


def as_expected(name: str, positive: float) -> bool:
    """Say whether a changed pair is predicted as it should be, by the probability of the positive class."""
    return (positive <= 0.5) == PROBES[name][1]


def run(trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, scored: Scored) -> dict[str, Any]:
    """Probe a model with the weights that it has; as `probe` returns it. Every process must call this function."""

    def positive_of(pairs: list[Pair]) -> Array:
        trainer.limit_predict_batches = 1.0
        loader = loader_of(
            to_dataset(pairs),
            data.load_tokenizer(),
            data.hparams["max_length"],
            data.hparams["eval_batch_size"],
            data.hparams["symmetric"],
            trainer.world_size,
            trainer.global_rank,
        )
        _, probabilities = score(trainer, model, loader)
        positive: Array = probabilities.reshape(len(pairs), -1, 2).mean(axis=1)[:, 1]
        return positive

    return probe(scored, positive_of)


def line(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the probes found, for the terminal."""
    parts = [f"{name} {one['expected']} of {one['pairs']}" for name, one in found.items()]
    none = "none, as no pair is positive by label and by prediction"
    return f"small changes, predicted as they should be: {', '.join(parts) or none}"
