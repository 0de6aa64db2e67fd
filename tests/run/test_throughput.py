import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import BertConfig, BertForSequenceClassification

from mrpc_lightning import main
from mrpc_lightning.run.throughput import Throughput, matrix_flops, model_flops, peak_memory

RUN = Path("tb_logs/mrpc/version_0")


def test_figures_of_a_run_agree_with_its_batches(project: Path, arguments: list[str]) -> None:
    start = time.perf_counter()
    fitted = main(["fit", *arguments, "--trainer.log_every_n_steps=2"])
    seconds = time.perf_counter() - start
    lengths = torch.tensor([len(ids) for ids in fitted.datamodule.tokens["train"]["input_ids"]])
    computed = 0
    batches = fitted.datamodule.train_dataloader().sampler
    for epoch in range(2):
        batches.set_epoch(epoch)
        computed += sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    counts = next(one for one in fitted.trainer.callbacks if isinstance(one, Throughput)).state_dict()
    assert counts["counts"] == [120, 2 * int(lengths.sum()), computed]

    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["training_padding"] == pytest.approx(1 - 2 * int(lengths.sum()) / computed, rel=1e-3)
    assert metrics["training_pairs_per_second"] > 120 / seconds, "what is not training does not count"
    assert metrics["training_tokens_per_second"] / metrics["training_pairs_per_second"] == pytest.approx(
        lengths.float().mean().item(), rel=1e-2
    )
    assert 0 < metrics["training_model_flops_utilization"] < 1
    assert 0.1 < metrics["training_peak_memory_gigabytes"] < 100
    events = EventAccumulator(str(RUN)).Reload()
    for name in ("pairs_per_second", "tokens_per_second", "padding", "model_flops_utilization"):
        assert [event.step for event in events.Scalars(name)] == [1, 3, 5, 7, 9, 11, 13, 15]


def test_a_share_above_one_of_a_peak_that_was_measured_in_a_busy_moment_is_not_said(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mrpc_lightning.run.throughput.matrix_flops", lambda *_: 1.0)
    main(["fit", *arguments, "--trainer.max_epochs=1"])
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["training_pairs_per_second"] > 0 and "training_model_flops_utilization" not in metrics
    assert "MFU" not in capsys.readouterr().out


@pytest.mark.slow
def test_validation_stops_the_clock(project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mrpc_lightning import ParaphraseClassifier

    original = ParaphraseClassifier.validation_step

    def validation_step(self: Any, *rest: Any) -> None:
        time.sleep(0.2)
        original(self, *rest)

    monkeypatch.setattr(ParaphraseClassifier, "validation_step", validation_step)
    fitted = main(["fit", *arguments, "--trainer.val_check_interval=0.5"])
    validated = 0.2 * 4 * 2  # seconds: twice an epoch, at least two batches, two epochs
    throughput = next(one for one in fitted.trainer.callbacks if isinstance(one, Throughput))
    wall = json.loads((RUN / "metrics.json").read_text())["wall_seconds"]
    assert throughput.training_seconds < wall - validated


def test_flops_are_six_for_each_parameter_outside_the_embeddings() -> None:
    model = BertForSequenceClassification(
        BertConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=256)
    )
    layer = 4 * (64 * 64 + 64) + 2 * 64 * 256 + 256 + 64 + 4 * 64
    head = 64 * 64 + 64 + 2 * 64 + 2
    assert model_flops(model) == 6 * (2 * layer + head + 2 * 64)  # and the LayerNorm of the embeddings


def test_a_machines_matrix_rate_is_a_plausible_one() -> None:
    rate = matrix_flops(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e14
    assert matrix_flops(torch.device("meta"), torch.float32) == 0
    assert peak_memory() > 1e8
