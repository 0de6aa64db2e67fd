"""Results that look like results and are none."""

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from helpers import RUN, fails, make_rows, write_csv

from mrpc_lightning import ParaphraseClassifier, main
from mrpc_lightning.report import caveats
from mrpc_lightning.report.metrics import Scored, collect


def warnings(run: Path = RUN) -> list[str]:
    found: list[str] = json.loads((run / "metrics.json").read_text())["warnings"]
    return found


# What only training can change, and what a person who only scores a model is not told.
ADVICE = r"seed_everything|learning_rate|max_epochs|(more|fewer) epochs|[Tt]ry "


def test_a_collapsed_run_is_called_one_once_in_the_table_and_in_the_file(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments])  # two epochs: too few for the tiny encoder to learn anything
    printed = capsys.readouterr().out
    first = warnings()[0]
    assert first.startswith('every pair was predicted "') and first.endswith("the model tells no pair from another")
    assert printed.count(f"warning: {first}") == 1
    assert printed.count("Try ") == 1, "what to try is said once, by the curves"
    main(["test", "--trainer.accelerator=cpu"])
    assert json.loads((RUN / "test_metrics.json").read_text())["warnings"][0] == first
    printed = capsys.readouterr().out
    assert f"warning: {first}" in printed and not re.search(ADVICE, printed)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # true and false positives, true and false negatives
        ((302, 198, 0, 0), ['every pair was predicted "same"', "accuracy and F1 are the baseline's, those of always"]),
        (
            (0, 0, 198, 302),
            [
                'every pair was predicted "different"',
                'accuracy 0.3960 is below the baseline, 0.6040 of always "same"',
                'F1 0.0000 is below the baseline, 0.7531 of always "same"',
            ],
        ),
        # Six in a hundred are positive.
        (
            (0, 0, 470, 30),
            ['every pair was predicted "different"', "F1 0.0000 is below the baseline, 0.1132 of"],
        ),
        ((20, 40, 430, 10), ['accuracy 0.9000 is below the baseline, 0.9400 of always "different"']),
        # RTE, 146 of 277 positive: below in both.
        (
            (100, 94, 37, 46),
            ["accuracy 0.4946 is below the baseline, 0.5271", "F1 0.5882 is below the baseline, 0"],
        ),
        ((300, 100, 98, 2), []),
        ((500, 0, 0, 0), ['every pair is labelled "same"']),
        ((0, 2, 498, 0), ['every pair is labelled "different"']),
    ],
)
def test_single_class_predictions_and_metrics_below_the_baseline(
    counts: tuple[int, int, int, int], expected: list[str]
) -> None:
    tp, fp, tn, fn = counts
    labels, predicted = numpy.repeat([1, 0, 0, 1], counts), numpy.repeat([1, 1, 0, 0], counts)
    probabilities = numpy.where(predicted == 1, 0.9, 0.1)
    scored = Scored(labels, numpy.stack((1 - probabilities, probabilities), axis=1), None, [], [], [])
    metrics = collect(scored, ["different", "same"])
    assert [metrics[name] for name in ("true_positives", "false_positives")] == [tp, fp]
    found = caveats.of_metrics(metrics, ["different", "same"], tp + fp + tn + fn)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))
    assert not re.search(ADVICE, " ".join(found))


@pytest.mark.parametrize("pairs", [3, 29, 30])
def test_intervals_of_few_pairs_that_look_certain_are_warned_of(pairs: int) -> None:
    labels = numpy.arange(pairs) % 2
    probabilities = numpy.stack((1 - labels, labels), axis=1).astype(numpy.float64)
    metrics = collect(Scored(labels, probabilities, None, [], [], []), ["different", "same"])
    assert metrics["intervals"]["accuracy"] == (1, 1)
    line = f"the intervals are of {pairs} pairs: below 30 they are too narrow, of no width where all is right"
    assert caveats.of_metrics(metrics, ["different", "same"], pairs) == [line] * (pairs < 30)


def test_control_characters_of_sentences_and_label_names_do_not_reach_the_terminal(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = ("Rents \x1b[2J\x1b]0;owned\x07 rose", "Rents \x9b31m\u202erose", 1)
    write_csv(project / "train.csv", [*make_rows(60), hostile])
    write_csv(project / "validation.csv", [hostile, *make_rows(24, seed=1)])
    main(["fit", *arguments, "--trainer.max_epochs=1", '--model.label_names=["no", "\\u001b[31msame\\u0007"]'])
    main(["test", "--trainer.accelerator=cpu"])
    printed = "".join(capsys.readouterr())
    assert " of 25 validation pairs are training pairs too" in printed and r'always "\x1b[31msame\x07"' in printed
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", printed)
    assert r"Rents \x1b[2J\x1b]0;owned\x07 rose" in " ".join(warnings())
    assert json.loads((RUN / "metrics.json").read_text())["examples_in_training"][0] == " | ".join(hostile[:2])


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
    assert 'warning: 4 of 24 validation pairs are training pairs too, so the metrics flatter: "Sentence 0 of' in printed


def test_pairs_that_were_cut_are_counted(project: Path, arguments: list[str]) -> None:
    # [CLS] + words + [SEP] + words + [SEP]: "a b c" and "d e" have 8 tokens, so that a third sentence is one too long.
    rows = [("rents in Oslo", "rents rose", 1)] * 10 + [("rents in Oslo rose", "rents rose", 0)] * 3
    write_csv(project / "train.csv", rows)
    write_csv(project / "validation.csv", rows[:1] + rows[-1:])
    main(["fit", *arguments, "--data.max_length=8"])
    assert json.loads((RUN / "metrics.json").read_text())["pairs_cut"] == {"train": 3, "validation": 1}
    line = "3 of 13 train pairs and 1 of 2 validation pairs are longer than data.max_length 8 and are cut"
    assert line in warnings()


def test_rows_that_were_left_out_are_counted(project: Path, arguments: list[str]) -> None:
    write_csv(project / "train.csv", [*make_rows(60), ("", "no first sentence", 1), ("no second", " ", 0)])
    main(["fit", *arguments, "--data.skip_bad_rows=true"])
    assert json.loads((RUN / "metrics.json").read_text())["rows_left_out"] == {"train": 2}
    assert any(re.match(r"2 rows of .*train.csv.* left out, as data.skip_bad_rows says", line) for line in warnings())


def test_a_schedule_that_does_not_reach_its_end_is_warned_of_unless_early_stopping_ended_it(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=9", "--model.warmup=0", "--model.learning_rate=1e-9"]
    main(words)
    # Early stopping after three of nine epochs: 24 of 72 steps.
    assert "for 3 epochs, stopped early at optimizer step 24 of 72; while" in capsys.readouterr().out
    assert not [line for line in warnings() if line.startswith("training ended")]
    found = json.loads((RUN / "metrics.json").read_text())
    # Early stopping ended it: to wait longer is what gives it more epochs, and nothing else says fewer.
    assert "a larger early_stopping.patience" in found["diagnosis"]
    assert not re.search("fewer|max_epochs", " ".join([*found["warnings"], found["diagnosis"]]))

    def on_train_batch_end(self: ParaphraseClassifier, *_: Any) -> None:  # as trainer.max_time does, on a clock
        self.trainer.should_stop |= self.trainer.global_step == 24

    monkeypatch.setattr(ParaphraseClassifier, "on_train_batch_end", on_train_batch_end)
    main([*words, "--early_stopping.patience=9"])
    line = next(line for line in warnings(RUN.with_name("version_1")) if line.startswith("training ended"))
    assert "at optimizer step 24 of the 72 that the schedule is sized for" in line
    assert line.endswith("the learning rate did not come down to 0, it was still 6.7e-10 of 1e-09")


def test_a_sound_run_is_warned_of_nothing() -> None:
    assert caveats.of_schedule(72, 72, 0.0, 1e-3) == []
    assert caveats.of_schedule(24, 72, 1e-3, 1e-3, "constant") == []


def test_metrics_of_a_part_of_the_pairs_say_so(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.limit_val_batches=2"])
    assert json.loads((RUN / "metrics.json").read_text())["pairs"] == 25, "the final metrics are of the whole split"
    for command, limit in (("test", "limit_test_batches"), ("validate", "limit_val_batches")):
        main([command, "--trainer.accelerator=cpu", f"--trainer.{limit}=2"])
        scored = json.loads((RUN / f"{command}_metrics.json").read_text())
        assert 2 <= scored["pairs"] <= 14
        assert f"only {scored['pairs']} of 25 pairs were scored, as trainer.limit_* says" in scored["warnings"]
    assert fails(capsys, ["test", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=0"])
