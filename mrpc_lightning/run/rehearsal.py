"""How long an epoch will take: some of its optimizer steps are trained, of a model that is thrown away."""

import time
from typing import Any

import numpy
from lightning.pytorch import Callback, LightningModule, Trainer

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.pairs.tokens import lengths

WARM = 4  # batches that are not timed: the first ones load libraries
SECONDS = 10.0  # after which no further batch is begun
# The Trainer's arguments, so that it trains a part of one epoch and does nothing else.
ARGUMENTS: dict[str, Any] = {
    "max_epochs": 1,
    "min_epochs": None,
    "max_steps": -1,
    "min_steps": None,
    "max_time": None,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "fast_dev_run": False,
    "overfit_batches": 0.0,
    "profiler": None,
    "enable_progress_bar": False,
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
}


class Clock(Callback):
    """Note when each batch ends, and end training after some seconds."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when the first batch begins."""
        self.ends.append(time.perf_counter())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note when a batch ends."""
        batch["attention_mask"].sum().item()  # waits for the device
        self.ends.append(time.perf_counter())
        trainer.should_stop = len(self.ends) > WARM + 1 and self.ends[-1] - self.ends[WARM] > SECONDS


def rehearse(trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule) -> dict[str, Any]:
    """Train for some seconds, and say from these how long an epoch takes, without its validation.

    Time goes with the tokens that are computed, padding included. So the time of the batches that were trained is
    multiplied by the tokens of the whole epoch over theirs.

    Args:
        trainer: A Trainer that was made with `ARGUMENTS`.
        model: The model, whose weights are changed.
        data: The data, set up.

    Returns:
        `seconds` of an epoch, its optimizer `steps`, `pairs_per_second`, the share of `padding`, `timed_pairs`, and the
        `device` and `precision`.
    """
    clock: Any = Clock()
    trainer.callbacks = [clock]  # type: ignore[attr-defined]  # Lightning sets it; the others watch or write a run
    trainer.fit(model, datamodule=data)
    loader, tokens = data.train_dataloader(), lengths(data.tokens["train"])
    if data.hparams["both_orders"]:
        tokens = numpy.concatenate([tokens, tokens])
    batches = [*loader.sampler]
    width, multiple = data.hparams["max_length"], data.hparams["pad_to_multiple_of"] or 1
    fixed = data.hparams["padding"] == "max_length"
    longest = [width if fixed else int(tokens[rows].max()) for rows in batches]
    widths = [-(-wide // multiple) * multiple for wide in longest]
    computed = numpy.array([len(rows) * wide for rows, wide in zip(batches, widths, strict=True)])
    seconds = numpy.diff(clock.ends)
    timed = slice(min(WARM, len(seconds) // 2), len(seconds))
    epoch = float(seconds[timed].sum() * computed.sum() / computed[timed].sum())
    return {
        "seconds": epoch,
        "steps": -(-len(batches) // trainer.accumulate_grad_batches),
        "pairs_per_second": sum(map(len, batches)) / epoch,
        "padding": float(1 - sum(int(tokens[rows].sum()) for rows in batches) / computed.sum()),
        "timed_pairs": sum(map(len, batches[timed])),
        "device": str(trainer.strategy.root_device),
        "precision": str(trainer.precision),
    }
