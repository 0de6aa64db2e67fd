"""Cards and other devices: what is asked for is what computes. Without a card, as far as that can be seen."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LAST, RUN, curve, differences, load, make_rows, stop, train
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.accelerators import MPSAccelerator

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, main

NEEDS_A_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
SENTENCES = ["Rents in Oslo rose on Monday", "In Oslo rents rose"]


@pytest.fixture
def other_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device that `--trainer.accelerator=mps` means: the processor, by a name that nothing else here gives it."""
    device = torch.device("cpu", 0)
    for name, answer in (
        ("is_available", True),
        ("parse_devices", [0]),
        ("get_parallel_devices", [device]),
        ("auto_device_count", 1),
    ):
        monkeypatch.setattr(MPSAccelerator, name, staticmethod(lambda *_, answer=answer: answer))
    monkeypatch.setattr(MPSAccelerator, "setup_device", lambda *_: None)
    return device


@pytest.mark.parametrize("piped", [False, True])
def test_one_pair_is_answered_on_the_device_that_was_asked_for(
    piped: bool,
    project: Path,
    encoder: str,
    other_device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(project, encoder)
    used: list[torch.device] = []
    original = ParaphraseClassifier.predict_step

    def predict_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        used.append(self.device)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ParaphraseClassifier, "predict_step", predict_step)
    monkeypatch.setattr("sys.stdin", ["\t".join(SENTENCES) + "\n"])
    capsys.readouterr()
    main(["predict", "--trainer.accelerator=mps", *(["-"] if piped else ["--pair", *SENTENCES])])
    assert capsys.readouterr().out.strip().split("\t")[0] in ("equivalent", "not_equivalent")
    assert used == [other_device]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_batches_are_copied_to_a_card_without_waiting(
    split: str, project: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = MRPCDataModule(encoder, train_file="train.csv", validation_file="validation.csv", max_length=48)
    data.setup("fit")
    batch = next(iter(data.train_dataloader() if split == "train" else data.val_dataloader()))
    waited: dict[str, bool] = {}
    to = torch.Tensor.to

    def record(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        waited[str(tuple(self.shape)) + str(len(waited))] = not options.get("non_blocking", False)
        return to(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", record)
    move_data_to_device(batch, torch.device("meta"))  # any but a CPU, from which there is nothing to wait for
    assert len(waited) == len(batch) and not any(waited.values())
    assert type(batch) is dict


def test_a_compiled_run_may_compile_every_width_that_its_batches_have(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Widths of 4 to 64 tokens, in steps of 4; compiling itself is left out."""
    import torch._dynamo  # a run imports it late

    limits: list[int] = []
    original = ParaphraseClassifier.training_step

    def training_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        limits.append(max(own, torch._dynamo.config.recompile_limit))
        return original(self, batch, batch_idx)

    own = 0

    def compile_nothing(model: Any, **options: Any) -> Any:
        nonlocal own
        own = options.get("recompile_limit") or 0
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(ParaphraseClassifier, "training_step", training_step)
    words = ["--model.compile=true", "--data.pad_to_multiple_of=4", "--data.max_length=64", "--trainer.max_epochs=1"]
    try:
        with torch._dynamo.config.patch(recompile_limit=8):
            main(["fit", *arguments, *words])
    except SystemExit as stopped:  # so many widths may as well be refused
        message = capsys.readouterr().err.strip()
        assert stopped.code == 2 and "--data.pad_to_multiple_of 4" in message and "\n" not in message
        return
    assert len(limits) == 8 and min(limits) >= 64 // 4


@pytest.mark.cuda
@NEEDS_A_CARD
def test_the_demo_trains_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Path(__file__).resolve().parents[2] / "configs/demo.yaml"
    monkeypatch.chdir(tmp_path)
    words = ["--trainer.accelerator=cuda", "--trainer.devices=1", "--trainer.max_epochs=2"]
    fitted = main(["fit", f"--config={config}", *words])
    assert fitted.trainer.strategy.root_device.type == "cuda"
    [folder] = Path("tb_logs").glob("*/version_0")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["epochs_trained"] == 2 and (folder / "report.html").is_file()
    on_the_card = metrics["f1"]
    main(["test", "--trainer.accelerator=cpu", "--trainer.precision=32-true"])
    assert json.loads((folder / "test_metrics.json").read_text())["f1"] == pytest.approx(on_the_card, abs=0.05)


@pytest.mark.cuda
@NEEDS_A_CARD
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_run_on_a_card_that_was_stopped_and_resumed_ends_as_one_that_was_not(
    step: int, precision: str, project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *arguments, "--trainer.accelerator=cuda", "--trainer.devices=1", "--trainer.deterministic=true"]
    words += [f"--trainer.precision={precision}", "--trainer.log_every_n_steps=1"]
    main(words)
    shutil.move("tb_logs", "finished")
    stop(words, monkeypatch, step)
    assert load(LAST)["global_step"] == step
    time.sleep(1.1)  # TensorBoard orders event files by the second they were begun in
    main(["fit", "--ckpt_path", str(RUN)])
    whole = Path("finished/mrpc/version_0")
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert differences(load(whole / name), load(RUN / name)) == []
    assert curve(whole) == curve(RUN)


@pytest.mark.cuda
@NEEDS_A_CARD
def test_one_pair_is_answered_on_the_card(
    project: Path, encoder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, encoder)
    used: list[str] = []
    original = ParaphraseClassifier.predict_step

    def predict_step(self: ParaphraseClassifier, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        used.append(batch["input_ids"].device.type)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ParaphraseClassifier, "predict_step", predict_step)
    first, second, _ = make_rows(1)[0]
    main(["predict", "--trainer.accelerator=cuda", "--trainer.devices=1", "--pair", first, second])
    assert used == ["cuda"]
