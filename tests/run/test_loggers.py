"""Loggers that keep their things elsewhere, as W&B's and MLflow's do."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import stop

from mrpc_lightning import main

LOGGER = ["--trainer.logger=helpers.Elsewhere", "--trainer.logger.save_dir=elsewhere"]


def logged(name: str) -> list[float]:
    rows = [json.loads(line) for line in Path("elsewhere/log.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_each_run_has_a_folder_of_its_own_and_the_logger_gets_the_figures(project: Path, arguments: list[str]) -> None:
    for version in (0, 1):
        run = Path(f"tb_logs/runs/version_{version}")
        main(["fit", *arguments, *LOGGER])
        metrics = json.loads((run / "metrics.json").read_text())
        for name in (
            "config.yaml",
            "report.html",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "pictures/curves.png",
        ):
            assert (run / name).is_file(), name
        assert logged("val_f1")[-2:] == pytest.approx([epoch["val_f1"] for epoch in metrics["epochs"]])
        assert logged("best_f1")[-1] == pytest.approx(metrics["f1"])
    assert [path.name for path in Path("elsewhere").iterdir()] == ["log.jsonl"]
    main(["test", "--trainer.accelerator=cpu"])
    assert (run / "test_report.html").is_file()


def test_such_a_run_goes_on_in_its_folder_with_its_own_file(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path("tb_logs/runs/version_0")
    stop(["fit", *arguments, *LOGGER], monkeypatch, 3)
    assert yaml.safe_load((run / "config.yaml").read_text())["model_checkpoint"]["dirpath"] is None
    main(["fit", "--ckpt_path", str(run), "--config", str(run / "config.yaml")])
    assert (run / "metrics.json").is_file() and not Path("tb_logs/runs/version_1").exists()
