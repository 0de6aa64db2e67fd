"""Commands that end in a traceback, half way or with their work lost, and should end in good order."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    ENTRY,
    LAST,
    RUN,
    Forked,
    command,
    copy_to,
    curve,
    differences,
    fails,
    load,
    make_rows,
    read_predictions,
    train,
    write_csv,
)
from transformers import AutoConfig

from mrpc_lightning import ParaphraseClassifier, main
from mrpc_lightning.errors import Stopped

CPU = "--trainer.accelerator=cpu"
QUIET = [CPU, "--trainer.enable_progress_bar=false"]
SMILING = ["no 🙂", "yes 🙂"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.fixture(scope="module")
def smiling_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = json.dumps(SMILING, ensure_ascii=False)
    return train(tmp_path_factory.mktemp("smiling"), encoder, f"--model.label_names={names}")


@pytest.fixture
def smiling(smiling_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with an emoji in the names of both classes."""
    return copy_to(smiling_run, tmp_path / "project", monkeypatch)


def test_a_missing_test_file_is_refused_before_training(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, ["fit", *arguments, "--data.test_file=missing.csv"])
    assert "--data.test_file missing.csv: no such file" in message
    assert not Path("tb_logs").exists()


def test_a_run_with_an_emoji_in_its_label_names_is_scored(smiling: Path) -> None:
    main(["test", CPU])
    assert json.loads((RUN / "test_metrics.json").read_text(encoding="utf-8"))["pairs"] == 25
    assert {row["label"] for row in read_predictions(RUN / "test_predictions.csv")} == set(SMILING)


def test_a_run_with_an_emoji_in_its_label_names_predicts(smiling: Path) -> None:
    main(["predict", CPU, "--data.predict_file=validation.csv"])
    rows = read_predictions(RUN / "predictions.csv")
    assert len(rows) == 25 and {row["prediction"] for row in rows} <= set(SMILING)
    assert {f"probability_{name}" for name in SMILING} <= set(rows[0])


def test_a_run_with_an_emoji_in_its_label_names_is_exported(smiling: Path) -> None:
    main(["export", CPU, "--to=exported"])
    assert AutoConfig.from_pretrained("exported").id2label == dict(enumerate(SMILING))


def test_a_run_with_an_emoji_in_its_label_names_goes_on(smiling: Path) -> None:
    resumed = main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert resumed.trainer.global_step == 16 and resumed.model.hparams["label_names"] == SMILING


def test_pairs_that_are_all_negative_are_scored_in_both_orders(project: Path, arguments: list[str]) -> None:
    # A run that answers "negative" throughout: then F1 is 0/0.
    write_csv(project / "train.csv", [(a, b, int(row == 0)) for row, (a, b, _) in enumerate(make_rows(60))])
    main(["fit", *arguments, "--trainer.max_epochs=1", "--model.symmetric=true"])
    write_csv(project / "negative.csv", [(a, b, 0) for a, b, _ in make_rows(20, seed=2)])
    main(["test", CPU, "--data.test_file=negative.csv"])
    metrics = json.loads((RUN / "test_metrics.json").read_text(encoding="utf-8"))
    assert metrics["pairs"] == metrics["true_negatives"] == 20
    assert metrics["one_order"] == {"accuracy": 1, "f1": None} and metrics["f1"] is None
    assert metrics["accuracy"] == 1 and metrics["baseline_accuracy_class"] == "not_equivalent"
    assert (RUN / "test_report.html").is_file() and len(read_predictions(RUN / "test_predictions.csv")) == 20


IN_ASCII = f"import sys\nfor stream in (sys.stdout, sys.stderr): stream.reconfigure(encoding='ascii')\n{ENTRY}"


@pytest.mark.slow
def test_fit_ends_well_where_the_terminal_cannot_show_a_label(project: Path, arguments: list[str]) -> None:
    words = ["fit", *arguments, '--model.label_names=["nein", "schön"]', "--trainer.max_epochs=1"]
    finished = Forked(words, IN_ASCII)
    assert finished.wait() == 0, finished.communicate()
    assert (RUN / "metrics.json").is_file() and (RUN / "report.html").is_file()


@pytest.fixture(scope="module")
def umlaut_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("umlaut"), encoder, '--model.label_names=["schlecht", "schön"]')


@pytest.mark.slow
@pytest.mark.parametrize("words", [["test"], ["predict", "--pair", "Rents rose", "Rents rose"]])
def test_other_commands_end_well_where_the_terminal_cannot_show_a_label(
    words: list[str], umlaut_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_to(umlaut_run, tmp_path / "project", monkeypatch)
    finished = Forked([*words, *QUIET], IN_ASCII)
    printed, errors = finished.communicate()
    assert finished.returncode == 0, errors
    if words == ["test"]:
        assert (RUN / "test_metrics.json").is_file() and (RUN / "test_report.html").is_file()
    else:
        assert re.match(r"sch.*\t0\.\d+$", printed.strip())


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_spawned_processes_are_refused_before_anything_is_written(
    strategy: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", *arguments, "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    assert strategy in fails(capsys, words) and not Path("tb_logs").exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("val_check_interval", "1000"), ("limit_val_batches", "0.01"), ("limit_train_batches", "0")]
)
def test_an_epoch_that_comes_to_no_batch_is_refused_in_one_line(
    flag: str, value: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, ["fit", *arguments, f"--trainer.{flag}={value}"])
    assert f"--trainer.{flag} {value}" in message
    assert not LAST.exists()


def test_a_tpu_is_refused_in_one_line(project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, ["fit", *arguments, "--trainer.accelerator=tpu"])
    assert re.search(r"--trainer\.accelerator tpu: .*(support|TPU)", message)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="/proc is Linux's")
def test_a_resumed_run_lets_go_of_the_checkpoint_that_it_will_replace(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped: list[bool] = []
    original = ParaphraseClassifier.training_step

    def training_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        mapped.append("last.ckpt" in Path("/proc/self/maps").read_text())
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ParaphraseClassifier, "training_step", training_step)
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert len(mapped) == 8 and not any(mapped)


@pytest.mark.slow
def test_fewer_validation_pairs_than_processes_are_scored_once(project: Path, arguments: list[str]) -> None:
    write_csv(project / "validation.csv", make_rows(1))
    finished = command(["fit", *arguments, *TWO], timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert json.loads((RUN / "metrics.json").read_text())["pairs"] == 1


def test_code_that_catches_exceptions_does_not_catch_a_stop() -> None:
    assert issubclass(Stopped, BaseException) and not issubclass(Stopped, Exception)


# What of the model's a command calls, and the command.
SWALLOWERS = {
    "while fit reads the encoder": ("setup", ["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]),
    "while test scores": ("predict_step", ["test", CPU]),
    "while predict answers": ("predict_step", ["predict", CPU, "--data.predict_file=validation.csv"]),
}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("case", SWALLOWERS)
def test_a_signal_ends_a_command_whatever_catches_exceptions(
    case: str, signum: int, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, words = SWALLOWERS[case]
    original = getattr(ParaphraseClassifier, name)
    sent: list[int] = []

    def swallow(self: ParaphraseClassifier, *arguments: Any, **options: Any) -> Any:
        try:
            if not sent:
                sent.append(signum)
                os.kill(os.getpid(), signum)
        except Exception:  # as libraries do, around what they try
            pass
        return original(self, *arguments, **options)

    monkeypatch.setattr(ParaphraseClassifier, name, swallow)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 128 + signum and sent == [signum]


@pytest.mark.slow
def test_two_predictions_for_one_table_at_once_do_not_meet(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {}
    for name, seed in (("one", 3), ("two", 4)):
        write_csv(Path(f"{name}.csv"), make_rows(30, seed))
        main(["predict", CPU, f"--data.predict_file={name}.csv", f"--output={name}_alone.csv"])
        tables[name] = Path(f"{name}_alone.csv").read_bytes()
    others: list[Forked] = []
    replace = os.replace

    def replace_after_the_other(source: Any, target: Any, **options: Any) -> None:
        """Let the other command come to its end, if it does so by itself, just before this one's table is there."""
        if Path(target).name == "found.csv" and not others:
            words = ["predict", *QUIET, "--data.predict_file=two.csv", "--output=found.csv"]
            others.append(Forked(words))
            try:
                others[0].wait(timeout=60)
            except subprocess.TimeoutExpired:
                pass
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", replace_after_the_other)
    monkeypatch.setattr(os, "rename", replace_after_the_other)
    try:
        main(["predict", CPU, "--data.predict_file=one.csv", "--output=found.csv"])
    finally:
        for other in others:
            _, errors = other.communicate(timeout=60)
    assert others and (others[0].returncode == 0 or "another command" in errors)
    assert Path("found.csv").read_bytes() in tables.values()
    assert not [*Path().glob("found.csv*.tmp"), *Path().glob("found.csv*.parts")]


def stop_in_validation(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Send this process SIGTERM at the first batch of the validation that follows an optimizer step.

    Returns:
        The batches of that validation, as they come.
    """
    seen: list[int] = []
    original = ParaphraseClassifier.validation_step

    def validation_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        if self.trainer.global_step == step and not self.trainer.sanity_checking:
            seen.append(batch_idx)
            if len(seen) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, batch_idx)

    monkeypatch.setattr(ParaphraseClassifier, "validation_step", validation_step)
    return seen


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ([], 8),
        pytest.param([], 24, marks=pytest.mark.slow),
        (["--trainer.val_check_interval=3", "--early_stopping.patience=9"], 11),
        pytest.param(["--checkpoint_every=2"], 16, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_in_a_validation_ends_as_one_that_was_not(
    options: list[str], step: int, project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *arguments, "--data.eval_batch_size=1", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]
    words += options
    main(words)
    shutil.move("tb_logs", "finished")
    with monkeypatch.context() as patch:
        seen = stop_in_validation(patch, step)
        with pytest.raises(SystemExit) as stopped:
            main(words)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert len(seen) <= 3
    time.sleep(1.1)  # TensorBoard orders event files by the second they were begun in
    main(["fit", "--ckpt_path", str(RUN)])
    whole = Path("finished") / RUN.relative_to("tb_logs")
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert differences(load(whole / name), load(RUN / name)) == []
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, RUN))
    assert differences(first, second) == []
    assert curve(whole) == curve(RUN)


@pytest.mark.slow
def test_two_processes_with_slow_steps_stop_within_a_few_of_them(project: Path, arguments: list[str]) -> None:
    """Each step takes a second: ten of them are a tenth of what SLURM leaves a job."""
    Path("slow.py").write_text(
        "import os, signal, sys, time\n"
        "from mrpc_lightning import ParaphraseClassifier, main\n"
        "step = ParaphraseClassifier.training_step\n"
        "def training_step(self, batch, batch_idx):\n"
        "    time.sleep(1)\n"
        "    if self.global_step == 2 and self.global_rank == 0:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, batch, batch_idx)\n"
        "ParaphraseClassifier.training_step = training_step\n"
        "main(sys.argv[1:])\n"
    )
    words = ["fit", *arguments, *TWO, "--trainer.max_epochs=5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "slow.py", *words], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert finished.returncode == 128 + signal.SIGTERM, finished.stderr
    assert 3 <= load(LAST)["global_step"] <= 6
