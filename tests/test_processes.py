"""Two processes on one machine, as several GPUs would be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import read_predictions


def run(words: list[str], devices: int) -> str:
    command = [sys.executable, "-m", "mrpc_lightning", *words, f"--trainer.devices={devices}"]
    if devices > 1:
        command.append("--trainer.strategy=ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A process that waits for another forever is the likeliest fault here; it must not hang the tests.
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_two_processes_halve_the_steps_and_agree_with_one_on_every_prediction(
    project: Path, arguments: list[str]
) -> None:
    printed = run(["fit", *arguments], devices=2)
    assert "2 epochs, 8 optimizer steps, 1 of them warmup" in printed  # 60 pairs in batches of 8 for each of 2
    assert printed.count("best checkpoint") == 1
    metrics = json.loads(Path("tb_logs/mrpc/version_0/metrics.json").read_text())
    assert metrics["epochs_trained"] == 2

    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    predictions = []
    for devices in (2, 1):
        run(["predict", *quick, "--data.predict_file=validation.csv"], devices)
        predictions.append(read_predictions(Path("tb_logs/mrpc/version_0/predictions.csv")))
    assert [row["sentence1"] for row in predictions[0]] == [row["sentence1"] for row in predictions[1]]
    for first, second in zip(*predictions, strict=True):
        assert float(first["probability_equivalent"]) == pytest.approx(
            float(second["probability_equivalent"]), abs=1e-5
        )
