import csv
import io
import json
import random
import re
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from helpers import ENTRY, Forked, fails, make_rows, write_csv

from mrpc_lightning import Predictor, main
from mrpc_lightning.deploy import predict
from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.model import ParaphraseClassifier

RUN = Path("tb_logs/mrpc/version_0")
CPU = "--trainer.accelerator=cpu"
COLUMNS = ["idx", "sentence1", "sentence2", "prediction", "probability_not_equivalent", "probability_equivalent"]


@pytest.fixture
def trained(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained project, and 25 pairs that were predicted; they come in chunks of 10."""
    monkeypatch.setattr(predict, "CHUNK", 10)
    main(["predict", CPU, "--data.predict_file=validation.csv"])
    return trained


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
    # A name alone does not ask for GLUE's format.
    main(["predict", CPU, "--data.predict_file=validation.csv", "--output=sub/MRPC.tsv"])
    assert Path("sub/MRPC.tsv").read_bytes() == Path("found.tsv").read_bytes()
    main(["predict", CPU, "--data.predict_file=validation.csv", "--glue"])
    names = {"equivalent": "1", "not_equivalent": "0"}
    rows = [f"{row['idx']}\t{names[row['prediction']]}" for row in expected]
    assert (RUN / "MRPC.tsv").read_text().splitlines() == ["index\tprediction", *rows]
    assert not list(Path().glob("**/*.parts"))


def test_the_order_of_a_chunk_changes_no_prediction(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    score = predict.score_pairs

    def stop_at_third(trainer, model, data, pairs):  # type: ignore[no-untyped-def]
        scored.append(len(pairs))
        if len(scored) == 3:
            raise Stopped(signal.SIGTERM, "stopped")
        return score(trainer, model, data, pairs)

    monkeypatch.setattr(predict, "score_pairs", stop_at_third)
    said = stopped(capsys, words)
    assert said == "stopped; 20 of 25 pairs are done, and the same command continues there"
    assert len(list(RUN.glob("predictions.csv.*.parts/*.parquet"))) == 2
    assert (RUN / "predictions.csv").read_bytes() == expected  # the earlier one, until all is done
    capsys.readouterr()
    main(words)
    assert scored == [10, 10, 5, 5] and "20 of 25 pairs are done" in capsys.readouterr().out
    assert (RUN / "predictions.csv").read_bytes() == expected
    # Other pairs, or another model, are started anew.
    scored[:] = []
    stopped(capsys, words)
    write_csv(Path("validation.csv"), make_rows(25, seed=7))
    main(words)
    assert scored == [10, 10, 5, 10, 10, 5] and not list(RUN.glob("*.parts"))


def stopped(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that a signal stops; return the last line that it prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 128 + signal.SIGTERM
    return capsys.readouterr().err.splitlines()[-1]


def test_a_prediction_that_is_stopped_before_its_first_part_says_that_it_starts_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise Stopped(signal.SIGTERM, "stopped")

    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    for name, first in (("score_pairs", "the first 10 pairs were done"), ("chunks", "the pairs were read")):
        with monkeypatch.context() as patch:
            patch.setattr(predict, name, stop)
            assert stopped(capsys, words) == f"stopped before {first}; the same command starts again"


def test_a_prediction_writes_beside_its_table_into_its_own_folder_alone(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows = predict.write_rows
    seen: set[str] = set()

    def look(*rest):  # type: ignore[no-untyped-def]
        seen.update(str(path.relative_to("out")) for path in Path("out").rglob("*"))
        write_rows(*rest)

    monkeypatch.setattr(predict, "write_rows", look)
    main(["predict", CPU, "--data.predict_file=validation.csv", "--output=out/found.csv"])
    [folder] = {name.split("/")[0] for name in seen}
    assert folder.startswith("found.csv.") and folder.endswith(".parts") and len(seen) > 4
    assert [path.name for path in Path("out").iterdir()] == ["found.csv"]


def test_sentences_are_written_as_they_were_read(trained: Path) -> None:
    rows = [("=1+1", "@SUM(A1)", 0), ("-2", "+3", 1), ('a "quote", and\na line', "\x1b[31mred", 1)]
    write_csv(Path("odd.csv"), rows)
    for ending in ("csv", "jsonl"):
        main(["predict", CPU, "--data.predict_file=odd.csv", f"--output=found.{ending}"])
    lines = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    for found in (read(Path("found.csv")), lines):
        assert [(row["sentence1"], row["sentence2"]) for row in found] == [row[:2] for row in rows]


def test_parts_that_are_missing_or_cut_short_are_made_again(trained: Path) -> None:
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    expected = (RUN / "predictions.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "write_table", lambda *_: None)  # killed before the table is made of its parts
        main(words)
    [folder] = RUN.glob("predictions.csv.*.parts")
    (folder / "000000.parquet").unlink()  # and while they are taken away
    part = folder / "000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    (RUN / "predictions.csv").unlink()
    main(words)
    assert (RUN / "predictions.csv").read_bytes() == expected and not folder.exists()


def test_the_same_prediction_twice_at_once_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    chunks = predict.chunks

    def ask_again(data):  # type: ignore[no-untyped-def]
        for number, pairs in enumerate(chunks(data)):
            if number == 1 and not asked:
                asked.append(len(list(RUN.glob("predictions.csv.*.parts"))))
                if not asked[0]:  # the pass that checks: nothing is begun
                    asked.clear()
            yield pairs

    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "chunks", ask_again)
        main(words)
    assert asked == [1]
    folder = RUN / "predictions.csv.123456789012.parts"
    with predict.locked(folder), pytest.raises(InputError, match="another command"), predict.locked(folder):
        pass


def test_a_file_that_changes_while_it_is_read_is_not_mixed_up(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (RUN / "predictions.csv").read_bytes()
    score = predict.score_pairs

    def change(trainer, model, data, pairs):  # type: ignore[no-untyped-def]
        write_csv(Path("validation.csv"), make_rows(40, seed=9))
        return score(trainer, model, data, pairs)

    monkeypatch.setattr(predict, "score_pairs", change)
    write_csv(Path("validation.csv"), make_rows(25, seed=8))
    assert "changed while it was read" in fails_at_end(capsys, ["predict", CPU, "--data.predict_file=validation.csv"])
    assert (RUN / "predictions.csv").read_bytes() == expected


def fails_at_end(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that must fail; return the last line that it prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_prediction_killed_at_random_moments_ends_as_one_that_was_not(trained: Path) -> None:
    write_csv(Path("many.csv"), make_rows(4000, seed=3))
    small = f"from mrpc_lightning.deploy import predict; predict.CHUNK = 100; {ENTRY}"
    command = ["predict", CPU, "--data.predict_file=many.csv"]
    whole = Forked([*command, "--output=whole.csv"], small)
    assert whole.wait() == 0, whole.communicate()
    moments, kills = random.Random(0), 0
    while not Path("found.csv").exists():
        before = len(list(Path().glob("found.csv.*.parts/*.parquet")))
        process = Forked([*command, "--output=found.csv"], small)
        wanted, wait = before + moments.randint(1, 12), moments.uniform(0, 0.05)
        while process.poll() is None and len(list(Path().glob("found.csv.*.parts/*.parquet"))) < wanted:
            time.sleep(0.002)
        time.sleep(wait)
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL), process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3
    assert Path("found.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_standard_input_is_predicted_line_by_line(
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
    assert "standard input, line 1: not two sentences" in fails_at_end(capsys, ["predict", CPU, "-"])


def test_a_prediction_comes_before_the_next_line_is_read(trained: Path) -> None:
    predictor = Predictor.from_run("best")
    asked: list[int] = []

    def lines():  # type: ignore[no-untyped-def]
        for number in range(3):
            asked.append(number)
            yield f"Rents rose\tRents fell {number}\n"

    found = predictor.predict_lines(lines())
    next(found)
    assert asked == [0]
    with pytest.raises(InputError, match="line 1"):
        next(predictor.predict_lines(['{"sentence1": "a"}\n']))


def test_a_json_object_has_the_columns_that_a_file_has(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read(RUN / "predictions.csv")[0]
    line = json.dumps({"q1": expected["sentence1"], "q2": expected["sentence2"], "sentence1": 5})
    words = ["predict", CPU, "-", "--data.sentence1_column=q1", "--data.sentence2_column=q2"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    capsys.readouterr()
    main(words)
    found = json.loads(capsys.readouterr().out)
    assert found["prediction"] == expected["prediction"] and found["q1"] == expected["sentence1"]
    assert found["probability_equivalent"] == pytest.approx(float(expected["probability_equivalent"]), abs=0.02)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"sentence1": "a", "sentence2": "b"}'))
    assert "no JSON object with q1 and q2" in fails_at_end(capsys, words)


def test_no_control_character_of_a_line_reaches_the_terminal(trained: Path) -> None:
    predictor = Predictor.from_run("best")
    row = {"sentence1": "Rents \x1b[31mrose", "sentence2": "Rents \x9b2J fell\x7f", "note": "\u202eabc Ünïcode"}
    [line] = predictor.predict_lines([json.dumps(row, ensure_ascii=False)])
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", line) and "Ünïcode" in line
    assert {name: json.loads(line)[name] for name in row} == row
    predictor.model.hparams["label_names"] = ["\x1b[2Jno", "yes\x1b]0;"]
    [line] = predictor.predict_lines(["Rents rose\tRents fell"])
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", line) and line.count("\t") == 1


def test_an_unknown_kind_of_table_is_refused_before_anything_is_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    assert ".csv, .tsv, .jsonl, .parquet" in fails(capsys, [*words, "--output=found.xlsx"])
    assert "data.predict_file reads; give another" in fails(capsys, [*words, "--output=validation.csv"])
    assert "leave --output out" in fails(capsys, [*words, "--output=found.csv", "--glue"])
    assert "--pair prints what it predicts" in fails(capsys, [*words, "--pair", "a", "b"])
    for flag in ("--output=found.csv", "--glue"):
        name = flag.partition("=")[0]
        assert f"{name}: predict - prints what it predicts" in fails(capsys, ["predict", CPU, "-", flag])
        assert f"{name}: --pair prints" in fails(capsys, ["predict", CPU, "--pair", "a", "b", flag])
    Path("folder.csv").mkdir()
    assert "is a folder" in fails(capsys, [*words, "--output=folder.csv"])
    assert "every pair" in fails(capsys, [*words, "--trainer.limit_predict_batches=1"])
