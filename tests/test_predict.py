import csv
import io
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import fails, make_rows, write_csv

from mrpc_lightning import main, predict
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier

RUN = Path("tb_logs/mrpc/version_0")
CPU = "--trainer.accelerator=cpu"
COLUMNS = ["idx", "sentence1", "sentence2", "prediction", "probability_not_equivalent", "probability_equivalent"]


@pytest.fixture
def trained(project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in an empty folder, and 25 pairs to predict; they come in chunks of 10."""
    monkeypatch.setattr(predict, "CHUNK", 10)
    main(["fit", *arguments, "--trainer.max_epochs=1"])
    main(["predict", CPU, "--data.predict_file=validation.csv"])
    return project


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_of_table_says_the_same(trained: Path) -> None:
    expected = read(RUN / "predictions.csv")
    assert list(expected[0]) == COLUMNS and [row["idx"] for row in expected] == [str(row) for row in range(25)]
    for ending in ("tsv", "jsonl", "parquet"):
        main(["predict", CPU, "--data.predict_file=validation.csv", f"--output=found.{ending}"])
    with Path("found.tsv").open(newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)) == expected
    lines = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    for found in (lines, pyarrow.parquet.read_table("found.parquet").to_pylist()):
        assert [list(row) for row in found] == [COLUMNS] * 25
        for row, text in zip(found, expected, strict=True):
            assert [str(row[name]) for name in COLUMNS[:4]] == [text[name] for name in COLUMNS[:4]]
            assert [row[name] for name in COLUMNS[4:]] == pytest.approx([float(text[n]) for n in COLUMNS[4:]], abs=1e-6)
    main(["predict", CPU, "--data.predict_file=validation.csv", "--glue"])
    names = {"equivalent": "1", "not_equivalent": "0"}
    rows = [f"{row['idx']}\t{names[row['prediction']]}" for row in expected]
    assert (RUN / "MRPC.tsv").read_text().splitlines() == ["index\tprediction", *rows]
    assert not list(Path().glob("**/*.parts"))


def test_the_order_of_a_chunk_changes_no_answer(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(RUN / "predictions.csv")
    monkeypatch.setattr(predict, "CHUNK", 1000)
    main(["predict", CPU, "--data.predict_file=validation.csv", "--output=whole.csv"])
    for one, two in zip(expected, read(Path("whole.csv")), strict=True):
        assert one["sentence1"] == two["sentence1"]
        assert float(one["probability_equivalent"]) == pytest.approx(float(two["probability_equivalent"]), abs=0.02)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_bad_row_in_the_middle_is_named_before_any_is_scored(
    ending: str, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (RUN / "predictions.csv").read_bytes()
    rows = [("Rents rose", "Rents fell")] * 17 + [("Rents rose", " ")] + [("Rents rose", "Rents fell")] * 5
    path = Path(f"bad.{ending}")
    if ending == "jsonl":
        path.write_text("".join(json.dumps({"sentence1": a, "sentence2": b}) + "\n" for a, b in rows))
    else:
        separator = {"csv": ",", "tsv": "\t"}[ending]
        path.write_text("".join(separator.join(row) + "\n" for row in [("sentence1", "sentence2"), *rows]))
    monkeypatch.setattr(ParaphraseClassifier, "predict_step", None)  # who scores, fails otherwise
    message = fails(capsys, ["predict", CPU, f"--data.predict_file={path}"])
    assert f"{path}, line {18 if ending == 'jsonl' else 19}" in message and "sentence2 is empty" in message
    assert (RUN / "predictions.csv").read_bytes() == before and not list(Path().glob("**/*.parts"))


def test_what_a_stopped_prediction_has_done_is_not_done_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (RUN / "predictions.csv").read_bytes()
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    scored: list[int] = []
    score = predict.score

    def stop_at_third(trainer, model, data, pairs):  # type: ignore[no-untyped-def]
        scored.append(len(pairs))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(trainer, model, data, pairs)

    monkeypatch.setattr(predict, "score", stop_at_third)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        main(words)
    assert len(list((RUN / "predictions.csv.parts").glob("*.parquet"))) == 2
    assert (RUN / "predictions.csv").read_bytes() == expected  # the earlier one, until all is done
    capsys.readouterr()
    main(words)
    assert scored == [10, 10, 5, 5] and "20 of 25 pairs are done" in capsys.readouterr().out
    assert (RUN / "predictions.csv").read_bytes() == expected
    # Other pairs, or another model, are begun anew.
    scored[:] = []
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        main(words)
    write_csv(Path("validation.csv"), make_rows(25, seed=7))
    main(words)
    assert scored == [10, 10, 5, 10, 10, 5]


@pytest.mark.slow
def test_a_prediction_killed_at_random_moments_ends_as_one_that_was_not(trained: Path) -> None:
    write_csv(Path("many.csv"), make_rows(4000, seed=3))
    code = "from mrpc_lightning import main, predict; predict.CHUNK = 100; import sys; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "predict", CPU, "--data.predict_file=many.csv"]
    subprocess.run([*command, "--output=whole.csv"], check=True, capture_output=True)
    moments, kills = random.Random(0), 0
    parts = Path("found.csv.parts")
    while not Path("found.csv").exists():
        before = len(list(parts.glob("*.parquet")))
        process = subprocess.Popen([*command, "--output=found.csv"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wanted, wait = before + moments.randint(1, 12), moments.uniform(0, 0.05)
        while process.poll() is None and len(list(parts.glob("*.parquet"))) < wanted:
            time.sleep(0.002)
        time.sleep(wait)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    assert Path("found.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_standard_input_is_answered_line_by_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read(RUN / "predictions.csv")[:2]
    lines = [f"{expected[0]['sentence1']}\t{expected[0]['sentence2']}\n", "\n"]
    lines.append(json.dumps({"id": 7, **{name: expected[1][name] for name in ("sentence1", "sentence2")}}) + "\n")
    capsys.readouterr()
    for word in ("--data.predict_file=-", "-"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
        main(["predict", CPU, word])
        first, second = capsys.readouterr().out.splitlines()
        assert first.split("\t")[0] == expected[0]["prediction"]
        assert float(first.split("\t")[1]) == pytest.approx(float(expected[0]["probability_equivalent"]), abs=0.02)
        found = json.loads(second)
        assert found["id"] == 7 and found["prediction"] == expected[1]["prediction"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("one sentence alone\n"))
    with pytest.raises(SystemExit) as stopped:
        main(["predict", CPU, "-"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: standard input, line 1: not two sentences")


def test_answers_come_before_the_next_line_is_read(trained: Path) -> None:
    model = ParaphraseClassifier.from_run("best")
    asked: list[int] = []

    def lines():  # type: ignore[no-untyped-def]
        for number in range(3):
            asked.append(number)
            yield f"Rents rose\tRents fell {number}\n"

    answers = predict.answer_lines(model, lines())
    next(answers)
    assert asked == [0]
    with pytest.raises(InputError, match="line 1"):
        next(predict.answer_lines(model, ['{"sentence1": "a"}\n']))


def test_an_unknown_kind_of_table_is_refused_before_anything_is_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ".csv, .tsv, .jsonl, .parquet" in fails(capsys, ["predict", CPU, "--output=found.xlsx"])
