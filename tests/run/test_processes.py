"""Two processes on one machine, as several GPUs would be."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ENTRY, LAST, RUN, Forked, differences, load, read_predictions

# The second process alone hears a signal, after the first step of the third epoch.
ONE_IS_STOPPED = """
import os
import signal

from mrpc_lightning import ParaphraseClassifier
from mrpc_lightning.__main__ import entry


def on_train_batch_end(self, *_):
    if self.trainer.global_rank == 1 and self.trainer.global_step == 9:
        os.kill(os.getpid(), signal.SIGTERM)


ParaphraseClassifier.on_train_batch_end = on_train_batch_end
entry()
"""


def run(words: list[str], devices: int, code: str = "", exit_code: int = 0) -> str:
    if devices == 1:
        alone = Forked(words, code or ENTRY)
        printed, errors = alone.communicate(timeout=300)
        assert alone.returncode == 0, errors
        return printed
    Path("code.py").write_text(code)
    program = ["code.py"] if code else ["-m", "mrpc_lightning"]
    command = [sys.executable, *program, *words, f"--trainer.devices={devices}", "--trainer.strategy=ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A process that waits for another forever is the likeliest fault here; it must not hang the tests.
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == exit_code, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_two_processes_halve_the_steps_and_agree_with_one_on_every_prediction(
    project: Path, arguments: list[str]
) -> None:
    printed = run(["fit", *arguments], devices=2)
    assert "2 epochs, 8 optimizer steps, 1 of them warmup" in printed  # 60 pairs in batches of 8 for each of 2
    assert printed.count("best checkpoint") == 1 and re.search(r"\b(2|two) processes", printed)
    metrics = json.loads(Path("tb_logs/mrpc/version_0/metrics.json").read_text())
    assert metrics["epochs_trained"] == 2 and metrics["pairs"] == 25

    figures = []
    for devices in (2, 1):
        run(["test", "--trainer.accelerator=cpu", "--data.eval_batch_size=7"], devices)
        figures.append(json.loads(Path("tb_logs/mrpc/version_0/test_metrics.json").read_text()))
    counts = ("pairs", "true_positives", "false_positives", "true_negatives", "false_negatives", "accuracy", "f1")
    assert [figures[0][name] for name in counts] == [figures[1][name] for name in counts]
    assert figures[0]["pairs"] == 25 and figures[0]["loss"] == pytest.approx(figures[1]["loss"], abs=1e-5)

    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    predictions = []
    # Chunks of 8 pairs, the last of 1: a process goes without one.
    small_chunks = (
        "import sys\nfrom mrpc_lightning import main\nfrom mrpc_lightning.deploy import predict\n"
        "predict.CHUNK = 8\nmain(sys.argv[1:])\n"
    )
    for devices in (2, 1):
        run(["predict", *quick, "--data.predict_file=validation.csv"], devices, small_chunks)
        predictions.append(read_predictions(Path("tb_logs/mrpc/version_0/predictions.csv")))
    assert [row["sentence1"] for row in predictions[0]] == [row["sentence1"] for row in predictions[1]]
    for first, second in zip(*predictions, strict=True):
        assert float(first["probability_equivalent"]) == pytest.approx(
            float(second["probability_equivalent"]), abs=1e-5
        )


@pytest.mark.slow
def test_a_run_on_two_processes_goes_on_as_though_it_had_not_stopped(
    project: Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = ["fit", *arguments, "--trainer.max_epochs=8", "--early_stopping.patience=8", "--checkpoint_every=1"]
    run(words, devices=2)
    kept = tmp_path_factory.mktemp("finished")
    shutil.move("tb_logs", kept)

    run(words, devices=2, code=ONE_IS_STOPPED, exit_code=128 + signal.SIGTERM)
    assert 9 <= load(LAST)["global_step"] <= 16  # the processes ask each other in each validation, every 4 steps
    run(["fit", "--ckpt_path=last"], devices=2)
    assert differences(load(kept / RUN / "checkpoints/last.ckpt"), load(LAST)) == []


@pytest.mark.slow
def test_processes_that_torchrun_starts_agree_on_the_run(project: Path, arguments: list[str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "mrpc_lightning"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words in (["fit", *arguments], ["fit", "--ckpt_path=last", "--trainer.max_epochs=3"]):
        finished = subprocess.run(
            [*launcher, *words, *two], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert finished.returncode == 0, finished.stderr
    assert [path.name for path in Path("tb_logs/mrpc").iterdir()] == ["version_0"]
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["epochs_trained"] == 3 and metrics["pairs"] == 25 and load(LAST)["world_size"] == 2
