"""Flags, columns and files that mean what a person takes them to mean; or else the command says so in one line."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from helpers import RUN, copy_to, fails, from_run, make_rows, read_predictions, stop, train

from mrpc_lightning import main

CPU = "--trainer.accelerator=cpu"
PREDICT = ["predict", CPU, "--data.predict_file=validation.csv"]
FIRST, SECOND = "Rents in Oslo rose on Monday", "In Oslo rents rose"


def done_or_refused(words: list[str], flag: str, capsys: pytest.CaptureFixture[str]) -> bool:
    """Say whether a command did its work; if not, see to it that it was refused in one line that names a flag."""
    capsys.readouterr()
    try:
        main(words)
    except SystemExit as stopped:
        message = capsys.readouterr().err.strip()
        assert stopped.code == 2 and message.startswith(f"error: {flag}") and "\n" not in message, message
        return False
    return True


def metrics(name: str = "test_metrics.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RUN / name).read_text(encoding="utf-8"))
    return content


def test_another_data_set_is_the_one_that_is_scored(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if done_or_refused(["test", CPU, "--data.dataset_name=demo"], "--data.dataset_name", capsys):
        assert "demo" in metrics()["source"] and metrics()["pairs"] != 25


@pytest.mark.parametrize("split", ["validation", "test"])
def test_another_folder_is_the_one_that_is_scored(split: str, trained: Path) -> None:
    parts = {
        part: Dataset.from_list([{"sentence1": a, "sentence2": b, "label": label} for a, b, label in make_rows(pairs)])
        for part, pairs in (("train", 30), ("validation", 12), ("test", 14))
    }
    DatasetDict(parts).save_to_disk("folder")
    main(["test", CPU, "--data.data_dir=folder", f"--data.test_split={split}"])
    assert metrics()["pairs"] == len(parts[split]) and "folder" in metrics()["source"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_answers_of_standard_input_are_written_where_output_says(
    ending: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{FIRST}\t{SECOND}\n{SECOND}\t{FIRST}\n"))
    if done_or_refused(["predict", CPU, "-", f"--output=found.{ending}"], "--output", capsys):
        text = Path(f"found.{ending}").read_text(encoding="utf-8")
        assert len(text.splitlines()) - (ending == "csv") == 2 and "equivalent" in text


@pytest.fixture(scope="module")
def renamed_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("renamed"), encoder, "--model_checkpoint.filename=mine")


@pytest.mark.parametrize("words", [["test", CPU], PREDICT, ["export", CPU, "--to=exported"]])
def test_a_best_checkpoint_is_found_by_whatever_name_the_run_gave_it(
    words: list[str],
    renamed_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy_to(renamed_run, tmp_path / "project", monkeypatch)
    assert [path.name for path in (RUN / "checkpoints").iterdir() if path.name != "last.ckpt"] == ["mine.ckpt"]
    capsys.readouterr()
    main(words)
    assert f"loaded    {RUN}/checkpoints/mine.ckpt" in capsys.readouterr().out


def test_a_model_is_loaded_from_a_best_checkpoint_of_another_name(
    renamed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_to(renamed_run, tmp_path / "project", monkeypatch)
    assert len(from_run("best").predict([(FIRST, SECOND)])) == 1


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_files_own_numbers_are_kept_or_refused(
    ending: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"idx": idx, "sentence1": a, "sentence2": b} for idx, (a, b, _) in zip((7, 9, -1), make_rows(3), strict=True)
    ]
    dataset = Dataset.from_list(rows)
    path = f"own.{ending}"
    if ending == "parquet":
        dataset.to_parquet(path)
    elif ending == "jsonl":
        dataset.to_json(path)
    else:
        dataset.to_csv(path, sep="," if ending == "csv" else "\t")
    if done_or_refused(["predict", CPU, f"--data.predict_file={path}"], f"--data.predict_file {path}", capsys):
        assert [row["idx"] for row in read_predictions(RUN / "predictions.csv")] == ["7", "9", "-1"]


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_a_table_called_mrpc_is_an_ordinary_one(folder: str, trained: Path) -> None:
    main([*PREDICT, f"--output={folder}other.tsv"])
    main([*PREDICT, f"--output={folder}MRPC.tsv"])
    assert Path(f"{folder}MRPC.tsv").read_text(encoding="utf-8").startswith("sentence1\tsentence2\tlabel\tprediction\t")
    assert Path(f"{folder}MRPC.tsv").read_bytes() == Path(f"{folder}other.tsv").read_bytes()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_sentence_of_any_length_is_read(ending: str, trained: Path) -> None:
    long = " ".join(["Rents in Oslo rose on Monday"] * 7000)
    assert len(long) > 200_000 - 5_000
    separator = {"csv": ",", "tsv": "\t"}[ending]
    rows = [("sentence1", "sentence2"), (long, SECOND), (FIRST, SECOND)]
    Path(f"long.{ending}").write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    main(["predict", CPU, f"--data.predict_file=long.{ending}", "--output=found.jsonl"])
    found = [json.loads(line) for line in Path("found.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["sentence1"], row["sentence2"]) for row in found] == rows[1:]


def test_label_names_that_yaml_takes_for_false_and_true_are_to_be_quoted(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("names.yaml").write_text("model:\n  label_names: [no, yes]\n", encoding="utf-8")
    message = fails(capsys, ["fit", "--config=names.yaml", *arguments])
    assert "label_names" in message and re.search(r"quot|[\"']no[\"'], ?[\"']yes[\"']", message)


COLUMNS = ["--data.sentence1_column=question1", "--data.sentence2_column=question2"]


def answers(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what `predict -` prints for what comes in."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    capsys.readouterr()
    main(["predict", CPU, "-", *COLUMNS])
    return capsys.readouterr().out.splitlines()


def test_objects_of_standard_input_have_the_columns_that_flags_name(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = answers(json.dumps({"question1": FIRST, "question2": SECOND}) + "\n", monkeypatch, capsys)
    assert json.loads(line)["question1"] == FIRST and "prediction" in json.loads(line)


def test_a_header_line_of_standard_input_names_columns_and_is_no_pair(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [expected] = answers(f"{FIRST}\t{SECOND}\n", monkeypatch, capsys)
    found = answers(f"question1\tquestion2\n{FIRST}\t{SECOND}\n", monkeypatch, capsys)
    assert [line for line in found if re.fullmatch(r"\w+\t\d\.\d+", line)] == [expected]


def test_the_command_to_go_on_with_can_be_pasted(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(["fit", *arguments, "--trainer.logger.save_dir=my runs"], monkeypatch, 3)
    pasted = shlex.split(capsys.readouterr().err.strip().splitlines()[-1])
    assert pasted == ["python", "-m", "mrpc_lightning", "fit", "--ckpt_path", "my runs/mrpc/version_0"]
    assert main(pasted[3:]).trainer.global_step == 16


def test_the_commands_that_follow_a_run_can_be_pasted(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=1", "--trainer.logger.save_dir=my runs"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "--logdir" in line or " --ckpt_path " in line]
    pasted = [shlex.split(line.removeprefix("next")) for line in lines]
    assert len(pasted) == 2 and all("my runs/mrpc/version_0" in words for words in pasted)


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_link_to_nowhere_is_passed_over(name: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("tb_logs/x/version_0/checkpoints")
    folder.mkdir(parents=True)
    (folder / name).symlink_to("nowhere.ckpt")
    capsys.readouterr()
    main(["test", CPU, f"--ckpt_path={name.removesuffix('.ckpt')}"])
    assert f"loaded    {RUN}/checkpoints/{name}" in capsys.readouterr().out
    assert metrics()["pairs"] == 25
