"""What a checkpoint holds, when it is written, and how: such that a run goes on as though it had never stopped."""

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics import Metric

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.run.runs_old import how_to_resume, read_checkpoint, run_dir
from mrpc_lightning.run.signals import StopRequest

__all__ = ["AtomicCheckpointIO", "FiniteLoss", "LastCheckpoint", "read_checkpoint"]
# Unless a number of steps is set, writing takes at most this share of the time; in the midst of an epoch it waits this
# many seconds at least.
SHARE_OF_TIME, LEAST_SECONDS = 0.01, 30.0
STEPS_BETWEEN_LOOKS = 10
# Until the first checkpoint was timed: AdamW keeps three numbers of 4 bytes for each weight, on a slow disk.
BYTES_A_WEIGHT, BYTES_A_SECOND = 12, 5e8


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, with the recipe of its run.

    Args:
        about: What each checkpoint says of its run.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.about = about

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file beside the final one, and let it take that one's place once it is on the disk.

        Raises:
            InputError: If it cannot be written; the file that was there is intact.
        """
        final = Path(path)
        temporary = final.with_name(f"{final.name}.tmp")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save({**checkpoint, **self.about}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error.__context__, Stopped):  # a signal came in the midst of it
                raise error.__context__ from error
            kept = "; the previous one is intact" if final.exists() else ""
            cause = error if isinstance(error, OSError) else error.__context__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).split("\n")[0]
            raise InputError(f"{final}: the checkpoint cannot be written: {reason}{kept}") from error


class LastCheckpoint(Callback):
    """Writes `last.ckpt`, which holds all that a run needs to go on, and takes it up again.

    It is written at the start of an epoch, when everything of the epoch before is done and logged; every so many
    optimizer steps; when a signal asks the run to stop; and at the end.

    Args:
        every: Optimizer steps between two writes. None: as often as costs one percent of the time, and then at the
            start of an epoch too only if it costs no more.
        stop_request: Knows whether a signal came.
    """

    def __init__(self, every: int | None, stop_request: StopRequest) -> None:
        self.every = every
        self.stop_request = stop_request
        self._restored: dict[str, Any] | None = None
        self._validation_progress: dict[str, Any] = {}
        self._saved_step = 0
        self._saved_at = time.perf_counter()
        self._seconds = 0.0
        self._saving = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to look out for signals."""
        self._saved_step, self._saved_at = trainer.global_step, time.perf_counter()
        weights = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        self._seconds = weights * BYTES_A_WEIGHT / BYTES_A_SECOND
        self.stop_request.listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write, where it is time to: between two batches nothing is half done, and all is logged."""
        if self._restored is not None:
            restore_process(pl_module, self._restored)
            self._restored = None
            # Lightning counts a step, a batch and, at an epoch's start, a validation too many where a checkpoint was
            # written between two batches.
            loop: Any = trainer.fit_loop.epoch_loop  # its trackers' types are Lightning's own
            loop._batches_that_stepped = trainer.global_step
            loop.batch_progress.total.ready = loop.batch_progress.total.started + 1
            loop.val_loop.batch_progress.load_state_dict(self._validation_progress)
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients of half a step are in no checkpoint
        # Several processes agree only now and then: asking makes each wait for all.
        together = trainer.world_size == 1 or trainer.global_step % STEPS_BETWEEN_LOOKS == 0
        signum = self.stop_request.agreed(trainer) if together else 0
        if (signum or self._is_due(trainer, batch_idx)) and trainer.global_step != self._saved_step:
            self.save(trainer)
        if signum and trainer.global_step == 0:
            raise Stopped(signum, "stopped before the first optimizer step: there is nothing to go on from")
        if signum:
            what = f"stopped after optimizer step {trainer.global_step:,}"
            if trainer.is_global_zero:
                what += self.stop_request.requeue(signum)
            raise Stopped(signum, how_to_resume(what, run_dir(trainer)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write at the end."""
        self.save(trainer)
        if signum := self.stop_request.agreed(trainer):
            folder = run_dir(trainer)
            raise Stopped(
                signum, f"training is done; score it with:\n  python -m mrpc_lightning test --ckpt_path {folder}"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what each process has of its own; to last.ckpt alone, as others are written in the midst of things."""
        if not self._saving:
            return
        state = process_state(pl_module)
        states = [state]
        if trainer.world_size > 1:
            states = [{}] * trainer.world_size
            torch.distributed.all_gather_object(states, state)
        checkpoint["processes"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what this process had until the first batch, and let the best checkpoint be where the run is now.

        Raises:
            InputError: If the checkpoint names a file outside its run as its own.
        """
        self._restored = checkpoint["processes"][trainer.global_rank]
        self._validation_progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state:
                callback.current_score = state["current_score"]  # Lightning does not take it up
                state = moved(state, state["dirpath"], str(callback.dirpath))
                check_paths(state)
                checkpoint["callbacks"][callback.state_key] = state
        for stopping in trainer.early_stopping_callbacks:
            state = checkpoint["callbacks"][stopping.state_key]
            state["patience"] = stopping.patience  # the checkpoint's would go before the flag's
            trainer.should_stop |= state["wait_count"] >= stopping.patience

    def save(self, trainer: Trainer) -> None:
        """Write `last.ckpt`, after the curves up to here.

        Raises:
            InputError: If a weight is not finite: the checkpoint could not be trained on.
        """
        start = time.perf_counter()
        if not all(bool(parameter.isfinite().all()) for parameter in trainer.lightning_module.parameters()):
            raise InputError(diverged(trainer, "a weight is no finite number"))
        for logger in trainer.loggers:
            logger.experiment.flush() if isinstance(logger, TensorBoardLogger) else logger.save()
        self._saving = True
        trainer.save_checkpoint(run_dir(trainer) / "checkpoints" / "last.ckpt", weights_only=False)
        self._saving = False
        self._saved_step, self._saved_at = trainer.global_step, time.perf_counter()
        self._seconds = self._saved_at - start

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.every is not None:
            return batch_idx == 0 or trainer.global_step % self.every == 0
        if batch_idx and trainer.global_step % STEPS_BETWEEN_LOOKS:
            return False
        waited, least = time.perf_counter() - self._saved_at, LEAST_SECONDS if batch_idx else 0.0
        return bool(trainer.strategy.broadcast(waited > max(least, self._seconds / SHARE_OF_TIME)))


class FiniteLoss(Callback):
    """Stops a run whose loss is no finite number, and names the optimizer step."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the first such step; on a GPU look at the note only now and then, as looking waits for the GPU.

        Raises:
            InputError: If there was such a step.
        """
        loss, step = outputs["loss"], trainer.global_step
        if self._first is None:
            self._first = torch.full_like(loss, torch.inf)
        self._first = self._first.minimum(torch.where(loss.isfinite(), torch.inf, float(step)))
        if (loss.device.type == "cpu" and trainer.world_size == 1) or step % STEPS_BETWEEN_LOOKS == 0:
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a checkpoint is kept as the best.

        Raises:
            InputError: If the loss was not finite.
        """
        if self._first is not None:
            self._look(trainer)
        loss = trainer.callback_metrics.get("val_loss")
        if loss is not None and not bool(loss.isfinite()) and not trainer.sanity_checking:
            raise InputError(diverged(trainer, f"the validation loss is {float(loss)}"))

    def _look(self, trainer: Trainer) -> None:
        assert self._first is not None
        if trainer.world_size > 1:
            torch.distributed.all_reduce(self._first, torch.distributed.ReduceOp.MIN)
        if bool(self._first.isfinite()):
            raise InputError(diverged(trainer, "the training loss is no finite number", int(self._first)))


def diverged(trainer: Trainer, what: str, step: int | None = None) -> str:
    """Say that training came to nothing, at which optimizer step, and what is left."""
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), "")
    left = f"; the best checkpoint so far is {best}" if best else ""
    return (
        f"optimizer step {trainer.global_step if step is None else step:,}, epoch {trainer.current_epoch + 1}: {what}; "
        f"training diverged: try a lower --model.learning_rate{left}"
    )


def process_state(module: LightningModule) -> dict[str, Any]:
    """Return what is not in Lightning's checkpoint: random numbers, and figures in the midst of an epoch."""
    version, key, gauss = random.getstate()
    name, words, *rest = numpy.random.get_state()
    return {
        "random": {
            "python": [version, list(key), gauss],
            "numpy": [name, [int(word) for word in words], *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(module.device) if module.device.type == "cuda" else None,
        },
        "metrics": {
            name: {key: value.clone() for key, value in metric.metric_state.items() if isinstance(value, Tensor)}
            for name, metric in module.named_modules()
            if isinstance(metric, Metric)
        },
    }


def restore_process(module: LightningModule, state: Mapping[str, Any]) -> None:
    """Set what `process_state` returned."""
    version, key, gauss = state["random"]["python"]
    random.setstate((version, tuple(key), gauss))
    name, words, *rest = state["random"]["numpy"]
    numpy.random.set_state((name, numpy.array(words, dtype=numpy.uint32), *rest))
    torch.set_rng_state(state["random"]["torch"].cpu())
    if state["random"]["cuda"] is not None and module.device.type == "cuda":
        torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), module.device)
    metrics = dict(module.named_modules())
    for name, values in state["metrics"].items():
        for key, value in values.items():
            setattr(metrics[name], key, value.to(module.device))


def check_paths(state: Mapping[str, Any]) -> None:
    """See to it that a ModelCheckpoint's state names files of its own folder alone: it may delete them.

    Raises:
        InputError: If it names others.
    """
    folder = Path(state["dirpath"])
    names = [state["best_model_path"], state["kth_best_model_path"], state["last_model_path"], *state["best_k_models"]]
    for name in names:
        if name and (folder not in Path(name).parents or ".." in Path(name).relative_to(folder).parts):
            raise InputError(f"the checkpoint names {name} as its run's, which is not in {folder}")


def moved(state: Any, old: str, new: str) -> Any:
    """Replace a folder at the start of every path in a callback's state."""
    if isinstance(state, dict):
        return {moved(key, old, new): moved(value, old, new) for key, value in state.items()}
    if isinstance(state, str) and (state == old or state.startswith(old + os.sep)):
        return new + state[len(old) :]
    return state
