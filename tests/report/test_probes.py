"""What the probes change, and what they say of a model that sees a change and of one that does not."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from helpers import RUN

from mrpc_lightning import Predictor, main
from mrpc_lightning.report import probes
from mrpc_lightning.report.metrics import Array, Scored, both

PAIRS = [
    ("On Monday, Osei sold 12 ships.", "Osei sold 12 ships on Monday."),
    ("The port of Oslo was shut.", "In Oslo, the port was closed."),
    ("Rents rose by 3.5 percent.", "The rise of rents was 3.5 percent."),
    ("He did not come.", "He will stay away."),
    ("the cat sleeps", "the cat is asleep"),
]


def scored(pairs: list[tuple[str, str]], labels: list[int] | None = None, positive: float = 0.9) -> Scored:
    first, second = zip(*pairs, strict=True)
    probabilities = both(numpy.full(len(pairs), positive))
    return Scored(numpy.array(labels or [1] * len(pairs)), probabilities, None, first, second, range(len(pairs)))


def words(sentence: str) -> list[str]:
    return re.findall(r"[\w.]+", sentence.lower().rstrip("."))


def ignores(pairs: list[tuple[str, str]]) -> Array:
    return numpy.full(len(pairs), 0.9)


def sees(pairs: list[tuple[str, str]]) -> Array:
    """Positive where a number, a "not" or one of the names is in both sentences, or in none."""

    def said(sentence: str) -> Counter[str]:
        return Counter(
            word for word in words(sentence) if word[0].isdigit() or word in ("not", "osei", "oslo", "monday")
        )

    return numpy.array([0.9 if said(first) == said(second) else 0.1 for first, second in pairs])


def test_changes_are_those_that_a_person_would_make() -> None:
    made = [dict(probes.changes(pair, ["Monday", "Vienna"])) for pair in PAIRS]
    assert [one.get("number", ("", ""))[1] for one in made] == [
        "Osei sold 62 ships on Monday.",
        "",
        "The rise of rents was 8.5 percent.",
        "",
        "",
    ]
    assert [one.get("name", ("", ""))[1] for one in made] == [
        "Osei sold 12 ships on Vienna.",
        "In Monday, the port was closed.",
        "",
        "",
        "",
    ]
    assert [one.get("negation", ("", ""))[1] for one in made] == [
        "",
        "In Oslo, the port was not closed.",
        "The rise of rents was not 3.5 percent.",
        "",  # it has a "not" already
        "the cat is not asleep",
    ]
    for (first, second), one in zip(PAIRS, made, strict=True):
        assert one["order"] == (second, first) and one["itself"] == (first, first)
        assert all(one[name][0] == first for name in ("number", "name", "negation") if name in one)


@pytest.mark.parametrize("number", ["0", "1", "5", "9", "10,000", "2.5"])
def test_a_number_becomes_another_one_of_the_same_form(number: str) -> None:
    sentence = f"It is {number} or 77."
    changed = dict(probes.changes((sentence, sentence), []))["number"][1]
    assert changed != sentence and changed.endswith(f"{number[1:]} or 77.")
    assert re.fullmatch(r"It is [1-9][\d.,]* or 77\.", changed)


@pytest.mark.parametrize("sentence", ["They sold it on May 3.", "She met Will Smith.", "Can you mend it?"])
def test_months_names_and_questions_get_no_negation(sentence: str) -> None:
    assert "negation" not in dict(probes.changes((sentence, sentence), []))


def test_order_says_nothing_of_a_symmetric_model() -> None:
    both_orders = replace(scored(PAIRS), orders=numpy.full((5, 2), 0.9))
    assert "order" not in probes.probe(both_orders, ignores)


def test_a_model_that_ignores_changes_and_one_that_sees_them() -> None:
    counts = {"number": 2, "name": 2, "negation": 3, "order": 5, "itself": 5}
    ignoring = probes.probe(scored(PAIRS), ignores)
    assert {name: one["pairs"] for name, one in ignoring.items()} == counts
    assert [ignoring[name]["expected"] for name in counts] == [0, 0, 0, 5, 5]
    # "He did not come." and "He will stay away.": whoever asks for the same "not" takes them for different.
    seeing = probes.probe(scored(PAIRS), sees)
    assert [seeing[name]["expected"] for name in counts] == [2, 2, 3, 4, 5]
    [wrong, *_] = seeing["order"]["examples"]
    assert wrong["idx"] == 3 and wrong["after"] == 0.1 and wrong["changed"] == PAIRS[3][::-1]


def test_only_pairs_that_are_positive_by_label_and_by_prediction_are_changed() -> None:
    found = probes.probe(scored(PAIRS, labels=[1, 0, 0, 0, 1]), ignores)
    assert found["order"]["pairs"] == 2 and "negation" in found
    assert probes.probe(scored(PAIRS, positive=0.4), ignores) == {}
    assert probes.probe(scored(PAIRS, labels=[0] * 5), ignores) == {}


def test_of_many_pairs_some_are_drawn() -> None:
    found = probes.probe(scored(PAIRS * 1000), ignores)
    assert all(one["pairs"] == probes.PAIRS for one in found.values())


def test_a_run_probes_its_best_weights(trained: Path) -> None:
    main(["test", "--trainer.enable_progress_bar=false"])
    predictor = Predictor.from_run("best")

    def positive_of(pairs: list[tuple[str, str]]) -> Array:
        return numpy.array([one.probabilities["equivalent"] for one in predictor.predict(pairs)])

    table = [line.split(",") for line in (trained / RUN / "test_predictions.csv").read_text().splitlines()[1:]]
    pairs, labels = [(row[1], row[2]) for row in table], [int(row[3] == "equivalent") for row in table]
    again = Scored(
        numpy.array(labels),
        both(numpy.array([float(row[6]) for row in table])),
        None,
        *zip(*pairs, strict=True),
        range(len(pairs)),
    )
    expected = {name: (one["pairs"], one["expected"]) for name, one in probes.probe(again, positive_of).items()}
    assert expected["order"][0] == sum(again.labels & again.predicted) > 0
    for name in ("metrics.json", "test_metrics.json"):
        found = json.loads((trained / RUN / name).read_text())["probes"]
        assert {name: (one["pairs"], one["expected"]) for name, one in found.items()} == expected
    page = (trained / RUN / "test_report.html").read_text()
    assert "the sentences swapped" in page and "Small changes" in page
