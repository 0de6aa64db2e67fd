import numpy
from sklearn.metrics import accuracy_score, f1_score

from mrpc_lightning.report import subsets
from mrpc_lightning.report.metrics import Scored


def make_scored(pairs: int = 200, seed: int = 0, swapped: float = 0.1) -> Scored:
    generator = numpy.random.default_rng(seed)
    labels = (generator.random(pairs) < 0.7).astype(numpy.int64)
    given = numpy.clip(0.25 + 0.4 * labels + generator.normal(0, 0.25, pairs), 0.001, 0.999)
    orders = numpy.stack((given, numpy.clip(given + generator.normal(0, swapped, pairs), 0, 1)), axis=1)
    positive = orders.mean(axis=1)
    sentences = [f"Rents rose in town {number}" for number in range(pairs)]
    probabilities = numpy.stack((1 - positive, positive), axis=1)
    return Scored(labels, probabilities, orders, sentences, sentences, list(range(pairs)))


def test_lengths_are_those_counted_by_hand() -> None:
    assert subsets.length("Don't pay $12.5, he said.", "") == 6
    assert subsets.length("Rents rose.", "In Oslo, rents went up.") == 7


def test_parts_hold_each_pair_once_and_equal_values_stay_together() -> None:
    scored = make_scored()
    values = numpy.repeat([1.0, 1.0, 2.0, 3.0, 9.0], 40)
    found = subsets.parts(scored, values)
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


def test_a_part_without_a_positive_pair_has_no_f1() -> None:
    negative = numpy.array([[0.9, 0.1]] * 8)
    scored = Scored(numpy.array([0] * 4 + [1] * 4), negative, None, ["a"] * 8, ["a"] * 8, range(8))
    first, *_ = subsets.parts(scored, numpy.repeat([1.0, 2.0], 4))
    assert first["f1"] == (None, None) and first["accuracy"][0] == 1


def test_mistakes_come_by_confidence() -> None:
    labels = numpy.array([1, 0, 1, 0, 1])
    positive = numpy.array([0.4, 0.99, 0.05, 0.2, 0.9])
    probabilities = numpy.stack((1 - positive, positive), axis=1)
    scored = Scored(labels, probabilities, None, ["a"] * 5, ["b"] * 5, [10, 11, 12, 13, 14])
    assert subsets.mistakes(scored) == [1, 2, 0]


def test_differences_mark_the_words_that_the_other_sentence_lacks_and_lose_no_character() -> None:
    first, second = "  Rents in Oslo rose by 3 percent .", "Rents in oslo fell by 3 percent, he said."
    pieces = subsets.differences(first, second)
    assert ["".join(text for text, _ in side) for side in pieces] == [first, second]
    assert [[text for text, differs in side if differs] for side in pieces] == [["rose"], ["fell", ", he said"]]
    assert subsets.differences("", "a") == ([], [("a", True)])
