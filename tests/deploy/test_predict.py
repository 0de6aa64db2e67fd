import csv
import gzip
import io
import json
import random
import re
import signal
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers import ENTRY, Forked, fails, make_rows, write_csv

from mrpc_lightning import Predictor, main
from mrpc_lightning.deploy import predict, tables
from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.model import ParaphraseClassifier

RUN = Path("tb_logs/mrpc/version_0")
CPU = "--trainer.accelerator=cpu"
COLUMNS = ["sentence1", "sentence2", "label", "prediction", "probability_not_equivalent", "probability_equivalent"]


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
    assert list(expected[0]) == COLUMNS
    assert [(a["sentence1"], a["label"]) for a in expected] == [
        (b["sentence1"], b["label"]) for b in read(Path("validation.csv"))
    ]
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
    rows = [f"{number}\t{names[row['prediction']]}" for number, row in enumerate(expected)]
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
    message = fails(capsys, ["predict", CPU, f"--data.predict_file={path}", "--strict"])
    assert f"{path}, line {18 if ending == 'jsonl' else 19}" in message and "sentence2 is empty" in message
    assert (RUN / "predictions.csv").read_bytes() == before and not list(Path().glob("**/*.parts"))


def test_what_a_stopped_prediction_has_done_is_not_done_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (RUN / "predictions.csv").read_bytes()
    words = ["predict", CPU, "--data.predict_file=validation.csv", "--data.eval_batch_size=2"]
    main([*words, "--output=whole.csv"])
    scored: list[int] = []
    score, limit = predict.score, [3]

    def stop_at_third(trainer, model, loader):  # type: ignore[no-untyped-def]
        if len(scored) == limit[0]:
            raise Stopped(signal.SIGTERM, "stopped")
        rows, found = score(trainer, model, loader)
        scored.append(len(rows))
        return rows, found

    monkeypatch.setattr(predict, "score", stop_at_third)
    monkeypatch.setattr(predict, "SECONDS", 0.0)  # a part is a batch
    said = stopped(capsys, words)
    done = sum(scored)
    assert 0 < done < 10 and said == f"stopped; {done} of 25 pairs are done, and the same command continues there"
    assert len(list(RUN.glob("predictions.csv.*.parts/*.npz"))) == 3
    assert (RUN / "predictions.csv").read_bytes() == expected  # the earlier one, until all is done
    capsys.readouterr()
    limit[0] = 99
    main(words)
    assert sum(scored) == 25 and f"{done} of 25 pairs are done" in capsys.readouterr().out
    assert (RUN / "predictions.csv").read_bytes() == Path("whole.csv").read_bytes()
    # Other pairs, other batches or another model are started anew.
    scored[:], limit[0] = [], 3
    stopped(capsys, words)
    scored[:], limit[0] = [], 99
    main([*words, "--data.eval_batch_size=3"])
    assert sum(scored) == 25 and not list(RUN.glob("*.parts"))
    scored[:], limit[0] = [], 3
    stopped(capsys, words)
    write_csv(Path("validation.csv"), make_rows(25, seed=7))
    scored[:], limit[0] = [], 99
    main(words)
    assert sum(scored) == 25 and not list(RUN.glob("*.parts"))


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
    for name in ("score", "chunks"):
        with monkeypatch.context() as patch:
            patch.setattr(predict, name, stop)
            said = "stopped before the first pair was done; the same command starts again"
            assert stopped(capsys, words) == said


def test_a_prediction_writes_beside_its_table_into_its_own_folder_alone(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tables.write
    seen: set[str] = set()

    def look(*rest):  # type: ignore[no-untyped-def]
        seen.update(str(path.relative_to("out")) for path in Path("out").rglob("*"))
        write(*rest)

    monkeypatch.setattr(tables, "write", look)
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


def test_parts_of_other_batches_are_given_up_and_the_next_command_makes_them_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    main(words)
    whole = (RUN / "predictions.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict.shutil, "rmtree", lambda *_, **__: None)  # killed before the table is made of its parts
        main(words)
    [folder] = RUN.glob("predictions.csv.*.parts")
    part = min(folder.glob("*.npz"))
    rows, found = predict.read_part(part)
    predict.write_part(part, rows[:-1], found[:-1])  # as though a version before had left a pair to the next batch
    assert "give the same command again" in fails_at_end(capsys, words)
    main(words)
    assert (RUN / "predictions.csv").read_bytes() == whole and not list(RUN.glob("*.parts"))


def test_parts_that_are_missing_or_cut_short_are_made_again(trained: Path) -> None:
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    expected = (RUN / "predictions.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict.shutil, "rmtree", lambda *_, **__: None)  # killed before the table is made of its parts
        main(words)
    [folder] = RUN.glob("predictions.csv.*.parts")
    parts = sorted(folder.glob("*.npz"))
    assert len(parts) >= 3
    parts[0].unlink()  # and while they are taken away
    parts[-1].write_bytes(parts[-1].read_bytes()[:-20])
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
    score = predict.score

    def change(trainer, model, loader):  # type: ignore[no-untyped-def]
        write_csv(Path("validation.csv"), make_rows(40, seed=9))
        return score(trainer, model, loader)

    monkeypatch.setattr(predict, "score", change)
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
    write_csv(Path("many.csv"), make_rows(2000, seed=3))
    small = f"from mrpc_lightning.deploy import predict; predict.CHUNK, predict.SECONDS = 400, 0.02; {ENTRY}"
    command = ["predict", CPU, "--data.predict_file=many.csv"]
    whole = Forked([*command, "--output=whole.csv"], small)
    assert whole.wait() == 0, whole.communicate()
    moments, kills = random.Random(0), 0
    while not Path("found.csv").exists():
        before = len(list(Path().glob("found.csv.*.parts/*.npz")))
        process = Forked([*command, "--output=found.csv"], small)
        wanted, wait = before + moments.randint(1, 16), moments.uniform(0, 0.05)
        while process.poll() is None and len(list(Path().glob("found.csv.*.parts/*.npz"))) < wanted:
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
    monkeypatch.setattr(sys, "stdin", io.StringIO("one sentence alone\n" + lines[0]))
    main(["predict", CPU, "-"])
    wrong, right = capsys.readouterr().out.splitlines()
    assert wrong == "\t\tline 1: not two sentences with a tab between them" and right == first
    monkeypatch.setattr(sys, "stdin", io.StringIO("one sentence alone\n" + lines[0]))
    assert "standard input, line 1: not two sentences" in fails_at_end(capsys, ["predict", CPU, "-", "--strict"])


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


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"sentence1": "a"}', "line 2: no JSON object with sentence1 and sentence2"),
        (b'{"sentence1": "a", "sentence2": "b"', "line 2: no JSON object with sentence1 and sentence2"),
        (b"one sentence alone", "line 2: not two sentences with a tab between them"),
        (b"a\tb\tc", "line 2: not two sentences"),
        (b"Rents rose\t ", "line 2: sentence2 is empty or no text"),
        (b'{"sentence1": "a", "sentence2": 5}', "line 2: sentence2 is empty or no text"),
        (b'{"sentence1": "a", "sentence2": "\\ud800"}', "line 2: sentence2 is no text: it holds half a character"),
        (b'{"sentence1": "a", "sentence2": ' + b"[" * 100_000, "line 2: no JSON object with sentence1 and sentence2"),
        (
            b'{"sentence1": "a", "sentence2": [' + b"1, " * 10_000 + b"1]}",
            r"line 2: sentence2 is empty or no text \(\[1, 1,",
        ),
        (b"caf\xe9\tb", "line 1 or soon after: not UTF-8"),
    ],
)
def test_a_line_that_holds_no_pair_is_named(trained: Path, line: bytes, reason: str) -> None:
    predictor, good = Predictor.from_run("best"), b"Rents rose\tRents fell\n"

    def predict(strict: bool) -> list[str]:
        pipe = io.TextIOWrapper(io.BytesIO(good + line + b"\n" + good), encoding="utf-8")
        return [*predictor.predict_lines(pipe, strict=strict)]

    with pytest.raises(InputError, match=f"standard input, {reason}"):
        predict(strict=True)
    if "UTF-8" in reason:
        with pytest.raises(InputError, match=f"standard input, {reason}"):
            predict(strict=False)
        return
    with pytest.warns(UserWarning, match="^standard input: 1 line without a prediction, the first of them 2$"):
        before, bad, after = predict(strict=False)
    assert before == after and before.split("\t")[0] in ("equivalent", "not_equivalent")
    if line.startswith(b"{"):
        found = json.loads(bad)
        assert [found[name] for name in COLUMNS[3:]] == [None] * 3
        problem = found["problem"]
    else:
        *empty, problem = bad.split("\t")
        assert empty == ["", ""]
    assert re.match(reason, problem) and len(problem) < 200


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
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"sentence1": "a", "sentence2": "b", "id": 7}'))
    main(words)
    found = json.loads(capsys.readouterr().out)
    assert found["problem"] == "line 1: no JSON object with q1 and q2"
    assert found["id"] == 7 and found["prediction"] is None
    # A line that came out, with its sentence mended, goes in again.
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**found, "q1": "a", "q2": "b"})))
    main(words)
    found = json.loads(capsys.readouterr().out)
    assert "problem" not in found and found["prediction"] in ("equivalent", "not_equivalent") and found["id"] == 7


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
    assert "leave --output out" in fails(capsys, [*words, "--output=found.csv", "--glue"])
    assert "--pair prints what it predicts" in fails(capsys, [*words, "--pair", "a", "b"])
    for flag in ("--output=found.csv", "--glue"):
        name = flag.partition("=")[0]
        assert f"{name}: predict - prints what it predicts" in fails(capsys, ["predict", CPU, "-", flag])
        assert f"{name}: --pair prints" in fails(capsys, ["predict", CPU, "--pair", "a", "b", flag])
    Path("folder.csv").mkdir()
    assert "is a folder" in fails(capsys, [*words, "--output=folder.csv"])
    assert "every pair" in fails(capsys, [*words, "--trainer.limit_predict_batches=1"])


def test_all_columns_come_out_as_they_came_in(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [dict(zip(("sentence1", "sentence2"), row[:2], strict=True)) for row in make_rows(23, seed=4)]
    for number, row in enumerate(rows):
        extra = {"id": f"T-{number}", "tags": ["a", str(number)], "score": number / 3, "odd": None if number % 2 else 7}
        rows[number] = {"id": extra.pop("id"), **row, **extra}
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "in.parquet")
    for source in ("jsonl", "parquet"):
        for ending in ("jsonl", "parquet"):
            output = f"out_of_{source}.{ending}"
            main(["predict", CPU, f"--data.predict_file=in.{source}", f"--output={output}"])
            found = pyarrow.parquet.read_table(output).to_pylist() if ending == "parquet" else []
            found = found or [json.loads(line) for line in Path(output).read_text().splitlines()]
            assert [{name: row[name] for name in rows[0]} for row in found] == rows
            assert [*found[0]] == [*rows[0], *COLUMNS[3:]]
    types = {field.name: field.type for field in pyarrow.parquet.read_schema("out_of_parquet.parquet")}
    assert types["score"] == pyarrow.float64() and types["probability_equivalent"] == pyarrow.float32()
    # A table that was predicted before has the columns that would be added.
    message = fails(capsys, ["predict", CPU, "--data.predict_file=out_of_jsonl.jsonl", "--output=again.csv"])
    assert "has a column prediction already" in message and not Path("again.csv").exists()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_row_that_cannot_be_scored_has_no_prediction_and_a_reason(
    ending: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_rows(24, seed=4)
    write_csv(Path("good.csv"), good)
    # Chunks of 10 rows: of the second one none can be scored.
    rows: list[tuple[object, ...]] = [*good[:3], ("", "b", 1), *good[3:9], *[("a", " ", 0)] * 10, *good[9:]]
    write_csv(Path("some.csv"), rows)  # type: ignore[arg-type]
    main(["predict", CPU, "--data.predict_file=good.csv", "--output=good_out.csv"])
    capsys.readouterr()
    main(["predict", CPU, "--data.predict_file=some.csv", f"--output=out.{ending}"])
    assert "24 pairs predicted: out" in (printed := capsys.readouterr().out)
    assert "; 11 rows could not be: see the column problem" in printed
    found = {
        "csv": lambda: read(Path("out.csv")),
        "tsv": lambda: [*csv.DictReader(Path("out.tsv").open(), delimiter="\t", quoting=csv.QUOTE_NONE)],
        "jsonl": lambda: [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()],
        "parquet": lambda: pyarrow.parquet.read_table("out.parquet").to_pylist(),
    }[ending]()
    assert len(found) == 35 and [*found[0]] == [*COLUMNS, "problem"]
    empty = [row for row, values in enumerate(found) if not values["prediction"]]
    assert empty == [3, *range(10, 20)]
    assert all(not found[row]["probability_equivalent"] for row in empty)
    assert found[3]["problem"] == "sentence1 is empty or no text ('')" and "sentence2" in found[10]["problem"]
    scored = [values for row, values in enumerate(found) if row not in empty]
    for one, two in zip(scored, read(Path("good_out.csv")), strict=True):
        assert not one["problem"] and one["prediction"] == two["prediction"]
        assert float(one["probability_equivalent"]) == pytest.approx(float(two["probability_equivalent"]), abs=1e-5)
    assert "some.csv, line 5: sentence1 is empty" in fails(
        capsys, ["predict", CPU, "--glue", "--data.predict_file=some.csv"]
    )


def test_a_table_with_semicolons_comes_out_with_semicolons(trained: Path) -> None:
    rows = make_rows(6, seed=1)
    Path("in.csv").write_text(
        "id;sentence1;sentence2\n" + "".join(f"{n};{a}, so;{b}\n" for n, (a, b, _) in enumerate(rows))
    )
    main(["predict", CPU, "--data.predict_file=in.csv", "--output=out.csv"])
    with Path("out.csv").open(newline="") as file:
        found = [*csv.DictReader(file, delimiter=";")]
    assert [one["sentence1"] for one in found] == [f"{a}, so" for a, _, _ in rows]
    assert all(one["prediction"] for one in found) and [*found[0]] == ["id", *COLUMNS[:2], *COLUMNS[3:]]


def test_files_of_a_pattern_compressed_or_not_are_one_table(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows(25, seed=1)
    write_csv(Path("part-1.csv"), rows[:8])
    Path("part-2.csv").write_text("sentence1;sentence2;label\n" + "".join(f"{a};{b};{y}\n" for a, b, y in rows[8:17]))
    write_csv(Path("rest.csv"), rows[17:])
    Path("part-3.csv.gz").write_bytes(gzip.compress(Path("rest.csv").read_bytes()))
    main(["predict", CPU, "--data.predict_file=part-*", "--output=out.csv"])
    for one, two in zip(read(Path("out.csv")), read(RUN / "predictions.csv"), strict=True):
        assert [one[name] for name in COLUMNS[:4]] == [two[name] for name in COLUMNS[:4]]
        assert float(one[COLUMNS[5]]) == pytest.approx(float(two[COLUMNS[5]]), abs=1e-5)
    words = ["predict", CPU, "--data.predict_file=part-*", "--output=part-2.csv"]
    assert "is there, and holds no predictions" in fails(capsys, words)


def test_no_file_is_replaced_but_an_earlier_table_and_an_empty_file(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", CPU, "--data.predict_file=validation.csv"]
    Path("notes.csv").write_text("what,when\npaint the fence,soon\n")
    Path("link.csv").symlink_to("train.csv")
    Path("broken.parquet").write_bytes(b"PAR1")
    for name in ("validation.csv", "train.csv", "./train.csv", "link.csv", "notes.csv", "broken.parquet"):
        before = Path(name).read_bytes()
        message = fails(capsys, [*words, f"--output={name}"])
        assert f"--output {Path(name)}: is there, and holds no predictions" in message
        assert Path(name).read_bytes() == before
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        path = Path(f"found.{ending}")
        path.touch()
        main([*words, f"--output={path}"])
        before = path.read_bytes()
        main([*words, f"--output={path}"])
        assert path.read_bytes() == before != b""


def test_a_missing_file_is_named_before_anything_is_loaded(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.csv").unlink()  # a prediction needs it no more
    main(["predict", CPU, "--data.predict_file=validation.csv", "--output=found.csv"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["predict", CPU, "--data.predict_file=nope.csv"])
    printed = capsys.readouterr()
    assert "nope.csv: no such file" in printed.err and "loaded" not in printed.out
