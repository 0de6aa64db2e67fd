"""Stops a run whose loss is no finite number."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mrpc_lightning.errors import InputError

STEPS_BETWEEN_CHECKS = 10


class FiniteLoss(Callback):
    """Stop a run whose loss is no finite number, and name the optimizer step."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the first such step; on a GPU check the note only now and then, as a check waits for the GPU.

        Raises:
            InputError: If there was such a step.
        """
        loss, step = outputs["loss"], trainer.global_step
        if self._first is None:
            self._first = torch.full_like(loss, torch.inf)
        self._first = self._first.minimum(torch.where(loss.isfinite(), torch.inf, float(step)))
        if (loss.device.type == "cpu" and trainer.world_size == 1) or step % STEPS_BETWEEN_CHECKS == 0:
            self._check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a checkpoint is kept as the best.

        Raises:
            InputError: If the loss was not finite.
        """
        if self._first is not None:
            self._check(trainer)
        loss = trainer.callback_metrics.get("val_loss")
        if loss is not None and not bool(loss.isfinite()) and not trainer.sanity_checking:
            raise InputError(diverged(trainer, f"the validation loss is {float(loss)}"))

    def _check(self, trainer: Trainer) -> None:
        assert self._first is not None
        if trainer.world_size > 1:
            torch.distributed.all_reduce(self._first, torch.distributed.ReduceOp.MIN)
        if bool(self._first.isfinite()):
            raise InputError(diverged(trainer, "the training loss is no finite number", int(self._first)))


def diverged(trainer: Trainer, what: str, step: int | None = None) -> str:
    """Return the line that says at which optimizer step training diverged, and what is left."""
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), "")
    left = f"; the best checkpoint so far is {os.path.relpath(best)}" if best else ""
    return (
        f"optimizer step {trainer.global_step if step is None else step:,}, epoch {trainer.current_epoch + 1}: {what}; "
        f"training diverged: try a lower --model.learning_rate{left}"
    )
