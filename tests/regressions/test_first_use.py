"""What a newcomer types and gets: in a shell, with the flags of other programs, and in Python."""

import importlib.util
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import RUN, fails, from_run, make_rows, write_csv
from lightning.pytorch import Trainer
from torch import Tensor

import mrpc_lightning
from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, main
from mrpc_lightning.errors import InputError

CPU = "--trainer.accelerator=cpu"
PAIR = ("Rents in Oslo rose", "In Oslo rents fell")

# What other trainers call it: (what a person types, what it is called here).
OTHER_NAMES = {
    "epochs of the HF Trainer": (["--num_train_epochs", "3"], "--trainer.max_epochs"),
    "batch size of the HF Trainer": (["--per_device_train_batch_size", "8"], "--data.global_batch_size"),
    "evaluation's batch size": (["--per_device_eval_batch_size=8"], "--data.eval_batch_size"),
    "learning rate": (["--learning_rate", "1e-4"], "--model.learning_rate"),
    "learning rate, short": (["--lr", "1e-4"], "--model.learning_rate"),
    "epochs": (["--epochs=2"], "--trainer.max_epochs"),
    "folder of the output": (["--output_dir", "out"], "--trainer.logger.save_dir"),
    "accumulation": (["--gradient_accumulation_steps", "2"], "--trainer.accumulate_grad_batches"),
    "seed": (["--seed", "1"], "--seed_everything"),
    "warmup": (["--warmup_ratio", "0.1"], "--model.warmup"),
    "half precision": (["--fp16"], "--trainer.precision"),
    "half precision, with a value": (["--fp16", "true"], "--trainer.precision"),
    "brain floats": (["--bf16"], "--trainer.precision"),
    "length": (["--max_seq_length", "64"], "--data.max_length"),
    "encoder": (["--model_name_or_path", "bert-base-uncased"], "--model.model_name"),
    "resuming": (["--resume_from_checkpoint", "last.ckpt"], "--ckpt_path"),
}


def make_data(encoder: str, **values: Any) -> MRPCDataModule:
    files = {"train_file": "train.csv", "validation_file": "validation.csv"}
    return MRPCDataModule(model_name=encoder, **{**files, "max_length": 48, "global_batch_size": 8, **values})


def make_trainer() -> Trainer:
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def is_answer(answer: Any) -> bool:
    return answer.label in answer.probabilities and sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-2)


def test_a_prediction_that_was_stopped_before_its_first_part_says_that_it_starts_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = ParaphraseClassifier.forward

    def stop(self: ParaphraseClassifier, **inputs: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, **inputs)

    monkeypatch.setattr(ParaphraseClassifier, "forward", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", CPU, "--data.predict_file=validation.csv", "--data.eval_batch_size=7"])
    message = capsys.readouterr().err
    assert stopped.value.code == 128 + signal.SIGTERM and "stopped" in message
    assert "goes on where it was" not in message
    assert re.search(r"(starts?|begins?) (again|anew|over|from the (beginning|start))", message)


def test_a_model_and_data_of_different_encoders_are_not_trained_together(project: Path, encoder: str) -> None:
    shutil.copytree(encoder, "other")
    tokenizer = json.loads(Path("other/tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    Path("other/tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="other"):
        make_trainer().fit(ParaphraseClassifier(model_name=encoder), datamodule=make_data("other"))


def test_labels_of_other_names_than_the_runs_are_not_answered_with_a_flag_that_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [(first, second, ["different", "duplicate"][label]) for first, second, label in make_rows(20)]
    write_csv(Path("named.csv"), named)  # type: ignore[arg-type]  # a label by its name
    with pytest.raises(SystemExit):
        main(["test", CPU, "--data.test_file=named.csv"])
    message = capsys.readouterr().err
    assert "named.csv" in message and "different" in message and "equivalent" in message
    assert "--model.label_names" not in message


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_a_csv_with_semicolons_is_trained_on(
    quote: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [";".join(f"{quote}{value}{quote}" for value in row) for row in make_rows(20)]
    Path("pairs.csv").write_text("sentence1;sentence2;label\n" + "\n".join(rows) + "\n")
    main(["fit", *arguments, "--data.train_file=pairs.csv", "--trainer.max_epochs=1"])
    assert "20 to train" in capsys.readouterr().out


@pytest.mark.parametrize(("logger", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")])
def test_a_logger_whose_package_is_missing_says_in_a_short_line_what_to_install(
    logger: str, package: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    message = fails(capsys, ["fit", *arguments, f"--trainer.logger={logger}"])
    assert "pip install" in message and package in message and len(message) < 200


def test_a_mistyped_key_is_named_with_its_config_file_and_line(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("good.yaml").write_text("data:\n  global_batch_size: 4\n")
    Path("typo.yaml").write_text("seed_everything: 1\nmodel:\n  warmup: 0.2\n  learning_rat: 3\n")
    message = fails(capsys, ["fit", *arguments, "--config=good.yaml", "--config=typo.yaml"])
    assert "learning_rat" in message and "model.learning_rate" in message
    assert re.search(r"typo\.yaml\W+(line )?4\b", message)


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(trained: Path) -> None:
    command = [sys.executable, "-m", "mrpc_lightning", "test", CPU]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert not re.search("error|pipe|Traceback", errors, re.IGNORECASE)


@pytest.mark.parametrize("case", OTHER_NAMES)
def test_a_flag_of_another_trainer_is_answered_with_the_one_that_does_this_here(
    case: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words, flag = OTHER_NAMES[case]
    message = fails(capsys, ["fit", *arguments, *words])
    assert words[0].partition("=")[0] in message
    hint = message.partition(words[0].partition("=")[0])[2]
    assert re.search(rf"{re.escape(flag)}(?![\w.])", hint)


def test_a_flag_that_there_is_nothing_like_gets_no_hint_of_something_else(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, ["fit", *arguments, "--model.threshold=0.5"])
    assert "--model.threshold" in message and "revision" not in message


@pytest.mark.parametrize("name", ["validation.csv", "new.csv"], ids=["there", "not there"])
def test_a_file_after_predict_is_answered_with_the_flag_that_takes_it(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--data.predict_file {name}" in fails(capsys, ["predict", name])


def test_the_demo_encoder_needs_no_flag_of_its_own_or_says_which(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        main(["fit", "--model.model_name", "demo", "--data.train_file", "train.csv", "--trainer.max_epochs=1", CPU])
    except SystemExit:
        message = capsys.readouterr().err
        assert "--data.max_length 64" in message and "default" in message and "128" in message


def test_names_of_classes_that_are_no_list_are_answered_with_an_example(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert """'["a", "b"]'""" in fails(capsys, ["fit", *arguments, "--model.label_names", "a,b"])


def test_the_package_lists_its_classes() -> None:
    assert {"MRPCDataModule", "ParaphraseClassifier", "main"} <= set(dir(mrpc_lightning))


@pytest.mark.parametrize(("kind", "argument"), [(MRPCDataModule, "train_file"), (ParaphraseClassifier, "warmup")])
def test_the_help_of_a_constructor_explains_its_arguments(kind: type, argument: str) -> None:
    assert argument in (inspect.getdoc(kind.__init__) or "")  # type: ignore[misc]  # of the class


def test_batches_that_are_asked_for_before_setup_are_refused_with_advice(project: Path, encoder: str) -> None:
    with pytest.raises(InputError, match="setup"):
        make_data(encoder).train_dataloader()


def test_a_table_in_memory_is_taken_or_refused_in_plain_words(project: Path, encoder: str) -> None:
    pandas = pytest.importorskip("pandas")
    try:
        make_data(encoder, train_file=pandas.read_csv("train.csv")).setup("fit")
    except InputError as refused:
        message = str(refused)
        assert "train_file" in message and "DataFrame" in message and "\n" not in message


def test_a_model_that_lightnings_own_trainer_trained_answers_pairs(project: Path, encoder: str) -> None:
    model = ParaphraseClassifier(model_name=encoder)
    make_trainer().fit(model, datamodule=make_data(encoder))
    assert is_answer(model.predict([PAIR])[0])


def test_a_model_that_lightning_loaded_from_a_checkpoint_answers_as_the_run_does(trained: Path) -> None:
    model = ParaphraseClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt", map_location="cpu")
    [answer], [expected] = model.predict([PAIR]), from_run().predict([PAIR])
    assert answer.label == expected.label
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-2)


def test_an_exported_folder_answers_as_the_run_does(trained: Path) -> None:
    main(["export", CPU, "--to=exported"])
    [expected] = from_run().predict([PAIR])
    [answer] = from_run("exported").predict([PAIR])
    assert answer.label == expected.label
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-2)


def make_model(**values: Any) -> object:
    return ParaphraseClassifier(**values)


MISTAKES: dict[str, tuple[Callable[[str], object], list[str], str]] = {
    "too short": (
        lambda encoder: make_data(encoder, max_length=3),
        ["fit", "--data.train_file=train.csv", "--data.max_length=3"],
        "data.max_length",
    ),
    "no such file": (
        lambda encoder: make_data(encoder, train_file="nope.csv").setup("fit"),
        ["fit", "--model.model_name=demo", "--data.max_length=64", "--data.train_file=nope.csv"],
        "data.train_file",
    ),
    "negative": (
        lambda encoder: make_model(learning_rate=-1.0),
        ["fit", "--data.train_file=train.csv", "--model.learning_rate=-1"],
        "model.learning_rate",
    ),
    "no such run": (lambda encoder: from_run("nowhere"), ["test", "--ckpt_path=nowhere"], "ckpt_path"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_an_error_names_a_key_in_python_and_a_flag_on_the_command_line(
    case: str, project: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake, words, key = MISTAKES[case]
    assert f"--{key}" in fails(capsys, words)
    with pytest.raises(InputError) as refused:
        mistake(encoder)
    assert key in str(refused.value) and "--" not in str(refused.value)
