"""Results that look like results and are none."""

import json
from pathlib import Path

import pytest
from helpers import RUN, make_rows, write_csv

from mrpc_lightning import main
from mrpc_lightning.report import caveats as checks


def warnings(run: Path = RUN) -> list[str]:
    found: list[str] = json.loads((run / "metrics.json").read_text())["warnings"]
    return found


def test_a_collapsed_run_is_called_one_once_in_the_table_and_in_the_file(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments])  # two epochs: too few for the tiny encoder to learn anything
    printed = capsys.readouterr().out
    first = warnings()[0]
    assert first.startswith('every pair was predicted "') and "a collapsed run" in first
    assert printed.count(f"warning: {first}") == 1


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((302, 198, 0, 0), ['every pair was predicted "same"', "the figures are the baseline's"]),
        ((0, 0, 198, 302), ['every pair was predicted "different"']),
        ((300, 100, 98, 2), []),
        ((500, 0, 0, 0), ['every pair is labelled "same"']),
    ],
)
def test_single_class_predictions_and_baseline_figures(counts: tuple[int, int, int, int], expected: list[str]) -> None:
    tp, fp, tn, fn = counts
    figures = {
        "true_positives": tp,
        "false_positives": fp,
        "true_negatives": tn,
        "false_negatives": fn,
        "pairs": 500,
        "accuracy": (tp + tn) / 500,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "baseline_accuracy": (tp + fn) / 500,
        "baseline_f1": 2 * (tp + fn) / (500 + tp + fn),
    }
    found = checks.of_figures(figures, ["different", "same"], 500)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_validation_pairs_that_were_trained_on_are_counted_with_three_examples(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    training = [(f"Sentence {number} of the first kind", f"Its fellow {number}", number % 2) for number in range(40)]
    # Four of them come again: one as it is, one in the other order, one in other letters, one with other spaces.
    again = [training[0], (training[1][1], training[1][0], 1), (training[2][0].upper(), training[2][1], 0)]
    again.append((training[3][0].replace(" ", "  "), training[3][1], 1))
    write_csv(project / "train.csv", training)
    write_csv(project / "validation.csv", [*again, *make_rows(20)])
    main(["fit", *arguments])
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["validation_pairs_in_training"] == 4
    assert metrics["examples_in_training"][0] == "Sentence 0 of the first kind | Its fellow 0"
    assert len(metrics["examples_in_training"]) == 3
    printed = capsys.readouterr().out
    assert 'warning: 4 of 24 validation pairs were trained on, so the figures flatter: "Sentence 0 of' in printed


def test_pairs_that_were_cut_are_counted(project: Path, arguments: list[str]) -> None:
    # [CLS] + words + [SEP] + words + [SEP]: "a b c" and "d e" have 8 tokens, so that a third sentence is one too long.
    rows = [("rents in Oslo", "rents rose", 1)] * 10 + [("rents in Oslo rose", "rents rose", 0)] * 3
    write_csv(project / "train.csv", rows)
    write_csv(project / "validation.csv", rows[:1] + rows[-1:])
    main(["fit", *arguments, "--data.max_length=8"])
    assert json.loads((RUN / "metrics.json").read_text())["pairs_cut"] == {"train": 3, "validation": 1}
    line = "3 of 13 train pairs and 1 of 2 validation pairs are longer than --data.max_length 8 and were cut"
    assert line in warnings()


def test_a_schedule_that_does_not_reach_its_end_is_named(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=9", "--model.warmup=0", "--model.learning_rate=1e-9"])
    line = next(line for line in warnings() if line.startswith("training ended"))
    # Early stopping after three of nine epochs: 24 of 72 steps, and two thirds of the learning rate are left.
    assert "at optimizer step 24 of the 72 that the schedule is sized for" in line
    assert "still 6.7e-10 of 1e-09" in line


def test_a_sound_run_is_warned_of_nothing() -> None:
    assert checks.of_schedule(72, 72, 0.0, 1e-3) == []


def test_figures_of_a_part_of_the_pairs_say_so(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments])
    main(["test", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=2"])
    scored = json.loads((RUN / "test_metrics.json").read_text())
    assert 2 <= scored["pairs"] <= 14
    assert f"only {scored['pairs']} of 25 pairs were scored, as --trainer.limit_* says" in scored["warnings"]
