"""Which checkpoint is meant, what it carries, what wins, and how a run stops."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import LAST, RUN, Forked, differences, fails, load, make_rows, read_predictions, stop, wait_for
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import mrpc_lightning
from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, main
from mrpc_lightning.errors import InputError
from mrpc_lightning.report import final
from mrpc_lightning.run.checkpoint import AtomicCheckpointIO

CPU = "--trainer.accelerator=cpu"


def figures(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    return {name: content[name] for name in ("accuracy", "f1", "loss", "true_positives", "true_negatives", "pairs")}


def test_a_run_copied_elsewhere_needs_neither_its_encoder_nor_its_old_folder(
    project: Path, arguments: list[str], encoder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(encoder, "encoder")
    main(["fit", *arguments, "--model.model_name=./encoder"])
    main(["predict", CPU, "--data.predict_file=validation.csv"])
    here, there = figures(RUN / "metrics.json"), tmp_path_factory.mktemp("elsewhere") / "a run"
    before = read_predictions(RUN / "predictions.csv")
    shutil.move(RUN, there)
    shutil.rmtree("encoder")
    shutil.rmtree("tb_logs")
    shutil.rmtree(there / "tokenizer")  # the checkpoint has it too
    main(["test", CPU, "--ckpt_path", str(there)])
    assert figures(there / "test_metrics.json") == here
    (there / "predictions.csv").unlink()
    main(["predict", CPU, "--ckpt_path", str(there), "--data.predict_file=validation.csv"])
    assert read_predictions(there / "predictions.csv") == before
    alone = there.parent / "alone.ckpt"
    shutil.copy(there / "checkpoints/best.ckpt", alone)
    main(["export", "--ckpt_path", str(alone), "--to=exported"])
    assert (Path("exported") / "tokenizer.json").is_file()


def test_the_mean_of_the_best_checkpoints_is_scored_and_used(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = [f"--model_checkpoint.{value}" for value in ("save_top_k=3", "monitor=val_loss", "mode=min")]
    main(["fit", *arguments, *kept, "--trainer.max_epochs=4", "--early_stopping.patience=4"])
    folder, found = RUN / "checkpoints", json.loads((RUN / "metrics.json").read_text())
    losses = sorted((epoch["val_loss"], epoch["step"]) for epoch in found["epochs"])[:3]
    steps = [step for _, step in losses]
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt", *(f"best-{n}.ckpt" for n in steps)}
    assert found["averaged"] == sorted(steps) and found["checkpoint"] == "checkpoints/best.ckpt"
    assert found["optimizer_step"] == steps[0] and "epoch" not in found
    weights = [load(folder / f"best-{step}.ckpt")["state_dict"] for step in steps]
    best = load(folder / "best.ckpt")
    mean = best["state_dict"]
    assert best["metrics"] == {}, "those of one of them are not the mean's"
    for name, value in mean.items():
        expected = sum(state[name].double() for state in weights) / 3
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(mean[name], state[name]) for state in weights for name in mean)
    model = mrpc_lightning.Predictor.from_run("best").model
    torch.testing.assert_close(dict(model.state_dict()), mean, rtol=0, atol=0)
    printed = capsys.readouterr().out
    assert re.search(r"^mean of 3 checkpoints  \d", printed, re.MULTILINE) and "best checkpoint" not in printed
    main(["test", CPU])
    assert figures(RUN / "test_metrics.json") == figures(RUN / "metrics.json")
    assert "mean of the weights after optimizer steps " + ", ".join(map(str, sorted(steps))) in capsys.readouterr().out
    main(["export", "--to=exported"])
    assert "mean of those after optimizer steps" in Path("exported/README.md").read_text()

    # Stopped before it was scored, and elsewhere by now; then with an epoch more.
    moved = tmp_path_factory.mktemp("elsewhere") / "run"
    shutil.move(RUN, moved)
    before = load(moved / "checkpoints/best.ckpt")
    for name in ("metrics.json", "checkpoints/best.ckpt"):
        (moved / name).unlink()
    main(["fit", f"--ckpt_path={moved}"])
    assert figures(moved / "metrics.json").items() <= found.items()
    assert differences(before, load(moved / "checkpoints/best.ckpt")) == []
    main(["fit", f"--ckpt_path={moved}", "--trainer.max_epochs=5"])
    assert len(json.loads((moved / "metrics.json").read_text())["averaged"]) == 3


@pytest.mark.parametrize("count", [0, -1])
def test_a_run_keeps_one_checkpoint_or_more(count: int, capsys: pytest.CaptureFixture[str], project: Path) -> None:
    message = fails(capsys, ["fit", f"--model_checkpoint.save_top_k={count}"])
    assert f"--model_checkpoint.save_top_k {count}: 1, the best, or more, which are averaged" in message


def test_an_exported_folder_gives_the_checkpoints_logits_and_names(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = main(["fit", *arguments, "--model.label_names=[different,same]"])
    main(["export", "--to=exported"])
    model = AutoModelForSequenceClassification.from_pretrained("exported")
    tokenizer = AutoTokenizer.from_pretrained("exported")
    batch = tokenizer(
        [row[0] for row in make_rows(5)], [row[1] for row in make_rows(5)], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        ours, theirs = fitted.model.eval()(**batch), model(**batch).logits
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert model.config.id2label == {0: "different", 1: "same"}
    assert {path.suffix for path in Path("exported").iterdir()} <= {".json", ".safetensors", ".md"}

    # Fine-tuned elsewhere, as this command sees it: scored as it is, with the same figures, and in no run's folder.
    words = ["test", CPU, "--ckpt_path=none", "--model.model_name=./exported", "--data.max_length=48"]
    main([*words, "--data.test_file=validation.csv", "--model.label_names=[different,same]"])
    scored = Path("tb_logs/pretrained/exported/test_metrics.json")
    assert figures(scored) == pytest.approx(figures(RUN / "metrics.json"), rel=1e-6)
    message = fails(capsys, [*words, "--data.test_file=validation.csv"])
    assert "the head's classes are ['different', 'same']; name them in this order" in message


def test_a_command_says_which_checkpoint_it_loaded_and_what_that_scored(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--model.learning_rate=0"])
    metrics = json.loads((RUN / "metrics.json").read_text())
    capsys.readouterr()
    for words, name, epoch, step in (
        ([], "best", 1, 8),
        (["--ckpt_path=last"], "last", 2, 16),
        (["--run=version_0"], "best", 1, 8),
    ):
        main(["test", CPU, *words])
        printed = capsys.readouterr().out
        loaded = f"loaded    {RUN}/checkpoints/{name}.ckpt, epoch {epoch}, optimizer step {step}; when it was saved: "
        assert loaded + f"val_loss {metrics['loss']:.4f}" in printed
        assert f"val_f1 {metrics['f1']:.4f}" in printed


def test_a_checkpoint_decides_on_no_code_that_transformers_would_fetch(trained: Path) -> None:
    best = RUN / "checkpoints/best.ckpt"
    content = load(best)
    content["encoder_config"] |= {
        "attn_implementation": "someone/kernel",
        "auto_map": {"AutoConfig": "someone--code.A"},
    }
    torch.save(content, best)
    tested = main(["test", CPU])
    assert tested.model.model.config._attn_implementation in ("sdpa", "mrpc_lightning")
    assert figures(RUN / "test_metrics.json") == figures(RUN / "metrics.json")


@pytest.mark.parametrize("logger", ["false", "lightning.pytorch.loggers.CSVLogger"])
def test_a_run_with_another_logger_or_none_goes_on_in_its_folder(
    logger: str, project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *arguments, f"--trainer.logger={logger}", "--trainer.log_every_n_steps=1"]
    words += (
        []
        if logger == "false"
        else ["--trainer.logger.save_dir=tb_logs", "--trainer.logger.flush_logs_every_n_steps=1"]
    )
    stop(words, monkeypatch, 11)
    (last,) = Path("tb_logs").glob("*/version_0/checkpoints/last.ckpt")
    main(["fit", "--ckpt_path=last"])
    folder = last.parent.parent
    assert load(last)["global_step"] == 16 and (folder / "metrics.json").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    if logger != "false":
        tables = [folder / "metrics_until_step_11.csv", folder / "metrics.csv"]
        steps = [int(row["step"]) for table in tables for row in csv.DictReader(table.open()) if row["train_loss_step"]]
        assert steps == list(range(16))


def test_debug_shows_where_an_error_comes_from(project: Path) -> None:
    with pytest.raises(InputError, match="no run in tb_logs"):
        main(["test", "--debug"])


def test_a_config_file_is_passed_over_where_the_run_says_otherwise(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(["fit", *arguments], monkeypatch, 3)
    Path("other.yaml").write_text(
        "seed_everything: 7\nmodel: {learning_rate: 0.5}\ndata: {max_length: 48}\ntrainer: {max_epochs: 9}\n"
    )
    capsys.readouterr()
    resumed = main(["fit", "--config=other.yaml", "--ckpt_path=last", "--trainer.max_epochs=3"])
    printed = capsys.readouterr().out
    assert "changed   trainer.max_epochs 2 -> 3" in printed
    line = next(line for line in printed.splitlines() if line.startswith("config"))
    for text in (
        "model.learning_rate 0.5 (run: 0.001)",
        "seed_everything 7 (run: 42)",
        "trainer.max_epochs 9 (run: 2)",
    ):
        assert text in line
    assert "max_length" not in line
    assert resumed.trainer.max_epochs == 3 and resumed.trainer.current_epoch == 3
    assert resumed.model.hparams["learning_rate"] == 1e-3
    assert json.loads((RUN / "metrics.json").read_text())["seed"] == 42


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO({"made_with": {}})
    writer.save_checkpoint({"weights": torch.ones(3)}, path)
    (tmp_path / "last.ckpt.tmp").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match="cannot be written: No space left on device; the previous one is intact"):
        writer.save_checkpoint({"weights": torch.zeros(10**6)}, path)
    assert load(path)["weights"].sum() == 3
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"], "a link is replaced, never written through"


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_loss_that_is_no_number_stops_the_run_at_its_step_and_leaves_the_best(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ParaphraseClassifier.training_step

    def training_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        return loss * float("nan") if self.global_step == 10 else loss

    monkeypatch.setattr(ParaphraseClassifier, "training_step", training_step)
    message = fails(capsys, ["fit", *arguments, "--trainer.max_epochs=3", "--checkpoint_every=1"])
    assert "optimizer step 11, epoch 2: the training loss is no finite number" in message
    assert f"the best checkpoint so far is {RUN}/checkpoints/best.ckpt" in message
    assert load(LAST)["global_step"] == 10
    assert all(value.isfinite().all() for value in load(LAST)["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "workers"), [(signal.SIGINT, 0), (signal.SIGINT, 2), (signal.SIGTERM, 0), (signal.SIGHUP, 2)]
)
def test_a_signal_ends_a_process_in_good_order(signum: int, workers: int, project: Path, arguments: list[str]) -> None:
    many = ["--trainer.max_epochs=400", "--early_stopping.patience=400"]
    process = Forked(["fit", *arguments, *many, f"--data.num_workers={workers}"])
    wait_for(LAST)
    os.killpg(process.pid, signum)  # as a terminal does: to the processes that make batches too
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert "stopping after this step; once more stops at once" in errors
    assert re.search(rf"stopped after optimizer step \d+; resume with:\n  .* fit --ckpt_path {RUN}\n$", errors)
    assert "Traceback" not in errors + printed
    assert load(LAST)["global_step"] > 8


@pytest.fixture
def job(project: Path) -> dict[str, str]:
    """The environment of a SLURM job, with an `scontrol` that writes down what it is asked to do."""
    scontrol = project / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > requeued\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    return {"PATH": path, "SLURM_JOB_ID": "123", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "mrpc"}


@pytest.mark.parametrize(("owner", "name"), [(MRPCDataModule, "setup"), (final, "score")])
def test_a_job_that_is_preempted_while_it_reads_its_pairs_or_scores_its_best_checkpoint_is_requeued(
    owner: Any,
    name: str,
    arguments: list[str],
    job: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = getattr(owner, name)

    def preempted(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return original(*args, **options)

    for variable, value in job.items():
        monkeypatch.setenv(variable, value)
    words = ["fit", *arguments, "--trainer.max_epochs=1"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(owner, name, preempted)
        main(words)
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert "SLURM job 123 is in the queue again and will resume by itself" in capsys.readouterr().err
    assert Path("requeued").read_text() == "requeue 123\n" and not (RUN / "metrics.json").exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    main(words)
    assert json.loads((RUN / "metrics.json").read_text())["optimizer_step"] == 8


@pytest.mark.slow
def test_a_preempted_slurm_job_is_requeued_and_resumes_by_itself(arguments: list[str], job: dict[str, str]) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=20", "--early_stopping.patience=20"]
    process = Forked(words, **job)
    wait_for(LAST)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1
    assert "SLURM job 123 is in the queue again and will resume by itself" in errors
    assert Path("requeued").read_text() == "requeue 123\n"
    step = load(LAST)["global_step"]
    # Another command of the same job, and a file that is none of ours, are not what the requeued command goes on with.
    other = Path("tb_logs/other/version_0/checkpoints/last.ckpt")
    other.parent.mkdir(parents=True)
    torch.save({"state_dict": {}}, other)

    process = Forked(words, SLURM_RESTART_COUNT="1", **job)  # the very same command
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"loaded    {LAST}, epoch" in printed and f"optimizer step {step}; " in printed
    assert load(LAST)["global_step"] == 20 * 8
    assert [path.name for path in Path("tb_logs/mrpc").iterdir()] == ["version_0"]


@pytest.mark.slow
def test_each_way_to_name_a_checkpoint_works_from_a_new_process(project: Path, arguments: list[str]) -> None:
    quiet = [CPU, "--trainer.enable_progress_bar=false"]
    process = Forked(["test", *quiet])
    _, errors = process.communicate()
    assert process.returncode == 2
    hint = "python -m mrpc_lightning fit --config configs/mrpc.yaml trains one"
    meaning = "means the best checkpoint of the newest run, and no run in tb_logs has one"
    assert errors == f"error: --ckpt_path best: {meaning}; {hint}\n"
    assert Forked(["fit", *arguments]).wait() == 0
    expected = figures(RUN / "metrics.json")
    for words in (["best"], ["last"], [str(RUN)], [str(RUN / "checkpoints/best.ckpt")]):
        process = Forked(["test", *quiet, "--ckpt_path", *words])
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        assert f"loaded    {RUN}/checkpoints/{'last' if words == ['last'] else 'best'}.ckpt" in printed
        if words != ["last"]:
            assert figures(RUN / "test_metrics.json") == expected


def test_config_yaml_says_what_the_run_was_made_with(trained: Path) -> None:
    checkout = Path(mrpc_lightning.__file__).resolve().parents[1]
    asked = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = asked.stdout.strip()
    text = (RUN / "config.yaml").read_text()
    assert re.search(r"# torch: \d", text) and f"# git_commit: {commit}" in text and "# device: " in text
    assert yaml.safe_load(text)["model"]["learning_rate"] == 1e-3
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["git_commit"].rstrip("+") == commit and torch.__version__.startswith(metrics["torch"])
    assert load(LAST)["made_with"]["git_commit"].rstrip("+") == commit
