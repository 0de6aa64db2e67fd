"""What a run is said to be: by its tables, reports, warnings and curves, and by the words of the command line."""

import html
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import RUN, Row, copy_to, fails, make_rows, read_curves, stop, write_csv

from mrpc_lightning import main

CPU = "--trainer.accelerator=cpu"
DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
# What only training can do, and what tells a model that a person only scores nothing.
TRAINING_ADVICE = r"seed_everything|learning_rate|max_epochs|(more|fewer) epochs"
NEGATIVE, POSITIVE = "not_equivalent", "equivalent"


@pytest.fixture(scope="module")
def trained(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run that tells "rose" from "fell", which is all that there is to learn."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_csv(folder / "train.csv", make_rows(240))
        write_csv(folder / "validation.csv", make_rows(40, seed=1))
        files = ["--data.train_file=train.csv", "--data.validation_file=validation.csv", "--data.max_length=48"]
        learning = ["--model.learning_rate=5e-3", "--data.global_batch_size=8", "--trainer.max_epochs=2"]
        main(["fit", f"--model.model_name={encoder}", *files, *learning, "--trainer.precision=32-true", CPU])
    assert read(folder / RUN / "metrics.json")["accuracy"] > 0.9
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, to work in."""
    return copy_to(trained, tmp_path / "finished", monkeypatch)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """The figures of a metrics.json: at its top, or together under one key."""
    found: dict[str, Any] = content if "accuracy" in content else content["metrics"]
    return found


def text_of(page: Path) -> str:
    """What a person reads on a page."""
    text = re.sub(r"<style.*?</style>|<[^>]*>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(text).split())


def rows_of(label: int, answers: Sequence[tuple[int, int]]) -> list[Row]:
    """Pairs with one label: so many that the model calls 0, or 1, for each of (answer, number)."""
    rows: list[Row] = []
    for answer, number in answers:
        said = [row for row in make_rows(200, seed=7 + label) if row[2] == answer]
        rows += [(first, second, label) for first, second, _ in said[:number]]
    return rows


def score(positives: Sequence[tuple[int, int]], negatives: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Score pairs whose labels and answers are known, and return what test_metrics.json holds."""
    write_csv(Path("scored.csv"), [*rows_of(1, positives), *rows_of(0, negatives)])
    main(["test", CPU, "--data.test_file=scored.csv"])
    return read(RUN / "test_metrics.json")


def make_late_learner(arguments: list[str]) -> dict[str, Any]:
    """Train a run whose learning rate is high enough to learn only near its end."""
    write_csv(Path("train.csv"), make_rows(400))
    write_csv(Path("validation.csv"), make_rows(200, seed=1))
    main(["fit", *arguments, "--model.learning_rate=1e-3", "--model.warmup=0.95", "--trainer.precision=32-true"])
    return read(RUN / "metrics.json")


def test_a_run_that_learned_late_is_not_called_underfitting(project: Path, arguments: list[str]) -> None:
    metrics = make_late_learner(arguments)
    first, last = metrics["epochs"]
    assert last["val_loss"] < first["val_loss"] - 0.1 and last["val_accuracy"] > first["val_accuracy"] + 0.1
    assert not metrics["diagnosis"].startswith(("Underfitting", "Collapsed"))


@pytest.mark.slow
def test_a_short_run_of_the_demo_that_learned_is_not_called_underfitting(project: Path) -> None:
    main(["fit", f"--config={DEMO}", "--model.learning_rate=3e-3", "--seed_everything=1", "--trainer.max_epochs=2"])
    metrics = read(Path("tb_logs/demo/version_0/metrics.json"))
    first, last = metrics["epochs"]
    assert last["val_loss"] < first["val_loss"] - 0.1 and last["val_accuracy"] > first["val_accuracy"] + 0.1
    assert not metrics["diagnosis"].startswith(("Underfitting", "Collapsed"))


def test_the_baseline_of_accuracy_answers_the_larger_class_and_that_of_f1_the_positive_one(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures(score(positives=[(1, 2)], negatives=[(0, 30)]))
    printed = capsys.readouterr().out
    assert found["baseline_accuracy"] == pytest.approx(30 / 32)
    assert found["baseline_f1"] == pytest.approx(2 * 2 / (32 + 2))
    assert f'"{NEGATIVE}"' in printed and "0.9375" in printed and "0.1176" in printed
    page = text_of(RUN / "test_report.html")
    assert f"“{NEGATIVE}”" in page and "0.9375" in page and "0.1176" in page


@pytest.mark.parametrize(
    ("figure", "positives", "negatives"),
    [("accuracy", [(1, 1)], [(1, 14), (0, 1)]), ("F1", [(1, 3), (0, 7)], [(1, 1), (0, 9)])],
)
def test_a_figure_below_its_baseline_is_warned_of(
    figure: str,
    positives: list[tuple[int, int]],
    negatives: list[tuple[int, int]],
    finished: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = score(positives, negatives)
    below = [line for line in content["warnings"] if re.search(r"\b(below|lower|worse|less)\b", line)]
    assert [line for line in below if figure in line and re.search("baseline|always", line)]
    other = "F1" if figure == "accuracy" else "accuracy"
    assert not [line for line in below if other in line]
    assert "warning: " in capsys.readouterr().out
    assert "Warning" in text_of(RUN / "test_report.html")


def test_a_run_is_not_told_to_train_for_fewer_epochs_and_for_more(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=9", "--model.warmup=0", "--model.learning_rate=1e-9"])
    printed = capsys.readouterr().out
    assert "stopped early" in printed
    told = {word for word in ("fewer", "more") if re.search(rf"\b{word} (--)?(trainer\.)?(max_)?epochs", printed)}
    assert len(told) < 2


def test_a_collapsed_run_is_told_that_another_learning_rate_may_help_be_it_lower_or_higher(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments])  # two epochs: too few for the tiny encoder to learn anything
    metrics = read(RUN / "metrics.json")
    assert metrics["diagnosis"].startswith("Collapsed")
    for line in capsys.readouterr().out.splitlines():
        if "ollapsed" in line and re.search(r"\b(lower|smaller) (or \w+ )?(--)?(model\.)?learning.rate", line):
            assert re.search(r"\b(higher|larger)\b", line)


def test_scoring_gives_no_advice_on_training(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    content = score(positives=[(1, 6)], negatives=[(1, 4)])
    assert content["warnings"]  # of one answer to all pairs
    assert not re.search(TRAINING_ADVICE, "\n".join(content["warnings"]))
    assert not re.search(TRAINING_ADVICE, capsys.readouterr().out)
    assert not re.search(TRAINING_ADVICE, text_of(RUN / "test_report.html").partition("How it came about")[0])


def test_each_interval_in_metrics_json_has_its_figure(finished: Path) -> None:
    score(positives=[(1, 3), (0, 7)], negatives=[(1, 1), (0, 9)])
    for name in ("metrics.json", "test_metrics.json"):
        content = read(RUN / name)
        found = figures(content)
        assert {"precision", "recall", "average_precision", "calibration_error"} <= content["intervals"].keys()
        for figure in content["intervals"]:
            assert isinstance(found.get(figure), float), figure
        assert found["precision"] == pytest.approx(0.75 if name.startswith("test") else found["precision"])
        assert found["recall"] == pytest.approx(0.3 if name.startswith("test") else found["recall"])


def test_the_number_format_of_a_run_has_a_name_of_its_own(finished: Path) -> None:
    assert '"32-true"' in (RUN / "metrics.json").read_text(encoding="utf-8")
    assert read(RUN / "metrics.json").get("precision") != "32-true"


def test_tensorboard_calls_no_figure_of_the_validation_split_one_of_a_test(finished: Path) -> None:
    curves = read_curves(RUN)
    assert "val_accuracy" in curves and not [tag for tag in curves if tag.startswith("test")]
    written = b"".join(path.read_bytes() for path in RUN.glob("events.out.tfevents*"))
    assert b"learning_rate" in written and b"test_accuracy" not in written and b"test_f1" not in written


@pytest.mark.parametrize("swapped", [False, True], ids=["as they are", "swapped"])
def test_pairs_that_come_twice_are_on_one_side_of_the_split(
    swapped: bool, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    once = [(f"Sentence {number} of the first kind", f"Its fellow {number}", number % 2) for number in range(40)]
    twice = [(second, first, label) if swapped else (first, second, label) for first, second, label in once]
    write_csv(project / "train.csv", [*once, *twice])
    main(["fit", *(word for word in arguments if "validation_file" not in word), "--trainer.max_epochs=1"])
    metrics = read(RUN / "metrics.json")
    assert metrics["validation_pairs_in_training"] == 0
    assert not [line for line in metrics["warnings"] if "trained on" in line]
    assert figures(metrics)["pairs"] + metrics["training_pairs"] == 80 and 4 <= figures(metrics)["pairs"] <= 12


def test_a_finished_run_is_said_to_have_trained_for_as_long_as_it_did(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, ["fit", "--ckpt_path=last", "--trainer.max_epochs=1"])
    assert "trained for 2 epochs" in message and "--trainer.max_epochs" in message


def test_the_card_of_a_run_that_was_stopped_says_that_it_was_not_scored(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(["fit", *arguments], monkeypatch, 10)
    main(["export", CPU, "--to=stopped"])
    card = Path("stopped/README.md").read_text(encoding="utf-8")
    assert re.search(r"(not|never) (yet )?(been )?scored", card)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="terminals of this kind are not Windows's")
def test_a_terminal_of_unknown_width_gets_a_bar(project: Path, arguments: list[str]) -> None:
    shown = in_terminal(["fit", *(word for word in arguments if "progress_bar" not in word), "--trainer.max_epochs=1"])
    assert "best checkpoint" in shown and re.search(r"\d+%\|", shown)


def in_terminal(words: list[str]) -> str:
    """Run a command in a terminal that does not know its width; return what it shows."""
    import pty

    ours, theirs = pty.openpty()  # its size is 0 by 0
    command = [sys.executable, "-m", "mrpc_lightning", *words]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # Linux's way to say that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode(errors="replace")


def test_no_words_lie_on_the_precision_recall_curve(finished: Path) -> None:
    score(positives=[(0, 20)], negatives=[(1, 30)])  # wrong throughout: a curve that others' legends do not expect
    page = (RUN / "test_report.html").read_text(encoding="utf-8")
    [picture] = [svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if ">recall</text>" in svg]
    number = r"(-?[\d.]+)"
    texts = re.findall(rf'text-anchor: start[^>]*x="{number}" y="{number}"[^>]*rotate\(-0[^>]*>([^<]+)<', picture)
    lines = [
        [(float(x), float(y)) for x, y in re.findall(rf"[ML] {number} {number}", path)]
        for path in re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--validation\)', picture)
    ]
    curve = max(lines, key=len)
    assert len(curve) > 20
    for left, baseline, text in texts:
        box = (float(left), float(baseline) - 7, float(left) + 5 * len(text), float(baseline))  # of letters 10 high
        for (x1, y1), (x2, y2) in itertools.pairwise(curve):  # steps: each goes along one axis
            outside = max(x1, x2) < box[0] or min(x1, x2) > box[2] or max(y1, y2) < box[1] or min(y1, y2) > box[3]
            assert outside, text


@pytest.mark.parametrize("kind", ["best", "last"])
def test_where_no_run_has_a_checkpoint_it_is_said_of_which_run_it_would_be(
    kind: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, ["test", f"--ckpt_path={kind}"])
    assert re.search(rf"{kind} (checkpoint|epoch) of the newest run", message)


@pytest.mark.parametrize("place", ["in the file", "on the command line"])
def test_three_classes_are_told_that_only_two_are_supported(
    place: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["entailment", "neutral", "contradiction"]
    rows = [(first, second, names[number % 3]) for number, (first, second, _) in enumerate(make_rows(30))]
    write_csv(Path("train.csv"), rows)  # type: ignore[arg-type]  # labels by their names
    words = [f"--model.label_names={json.dumps(names)}"] if place == "on the command line" else []
    message = fails(capsys, ["fit", *arguments, *words])
    assert re.search(r"only (for )?two classes|two classes (only|alone)|(at most|no more than) two classes", message)


def test_scores_in_place_of_classes_are_told_to_be_cut_at_a_threshold(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(first, second, f"{number % 11 / 2:.3f}") for number, (first, second, _) in enumerate(make_rows(30))]
    write_csv(Path("train.csv"), rows)  # type: ignore[arg-type]  # scores as text
    message = fails(capsys, ["fit", *arguments])
    assert "train.csv, line 2" in message and "score" in message and "threshold" in message
