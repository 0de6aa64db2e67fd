"""A checkpoint's file: written whole or not at all, read without running code from it, and written when it is time."""

import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.run.finite import diverged
from mrpc_lightning.run.provenance import describe as describe_run
from mrpc_lightning.run.resume import how_to_resume
from mrpc_lightning.run.run import Run, replacing
from mrpc_lightning.run.signals import StopRequest
from mrpc_lightning.run.state import check_paths, moved, process_state, restore_process

# Unless a number of steps is set, writing takes at most this share of the time; in the middle of an epoch at least this
# many seconds lie between two writes.
SHARE_OF_TIME, LEAST_SECONDS = 0.01, 30.0
STEPS_BETWEEN_CHECKS = 10
# Until the first checkpoint was timed: AdamW keeps three numbers of 4 bytes for each weight, on a slow disk.
BYTES_A_WEIGHT, BYTES_A_SECOND = 12, 5e8


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole or not at all, with facts about its run.

    Args:
        about: What each checkpoint says of its run.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.about = about

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file beside the final one, and move it there once it is on the disk.

        Raises:
            InputError: If it cannot be written; the file that was there is intact.
        """
        final = Path(path)
        try:
            with replacing(final) as temporary, temporary.open("wb") as file:
                torch.save({**checkpoint, **self.about}, file)
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, Stopped):  # a signal came while it was written
                raise error.__context__ from error
            kept = "; the previous one is intact" if final.exists() else ""
            cause = error if isinstance(error, OSError) else error.__context__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).split("\n")[0]
            raise InputError(f"{final}: the checkpoint cannot be written: {reason}{kept}") from error


def record_facts(trainer: Trainer, recipe: str, job: tuple[str | None, list[str]]) -> str:
    """Let each checkpoint of a run say what it was made with.

    Args:
        trainer: The run's Trainer.
        recipe: The run's recipe as YAML.
        job: The SLURM job, if this is one, and the command line, by which a requeued job knows its run.

    Returns:
        The text of config.yaml: the recipe under the same facts.
    """
    about = describe_run(trainer)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a plugin of the user's own stays
        facts = {"made_with": about, "world_size": trainer.world_size, "slurm_job": job if job[0] else None}
        trainer.strategy.checkpoint_io = AtomicCheckpointIO(facts)
    return "".join(f"# {name}: {value}\n" for name, value in about.items()) + recipe


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it; tensors stay on disk until they are used.

    Raises:
        InputError: If the file is no checkpoint of this project.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"--ckpt_path {checkpoint}: holds something other than weights and plain values; nothing of it was run"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"--ckpt_path {checkpoint}: not a readable checkpoint; it is damaged or cut short") from error
    if not isinstance(content, dict) or "encoder_config" not in content:
        raise InputError(f"--ckpt_path {checkpoint}: not a checkpoint of mrpc_lightning")
    return content


def without_weights(value: Any) -> Any:
    """Return a checkpoint's values without its weights; other tensors are copied, so that the file can be replaced."""
    if isinstance(value, dict):
        big = ("state_dict", "optimizer_states")
        return {key: without_weights(item) if key not in big else {} for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_weights, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def describe(checkpoint: Path, content: Mapping[str, Any]) -> str:
    """Say which checkpoint was read, of which epoch, and its validation metrics when it was saved."""
    epoch, step = content["loops"]["fit_loop"]["epoch_progress"]["current"]["started"], content["global_step"]
    metrics = {name: value for name, value in content.get("metrics", {}).items() if name.startswith("val_")}
    scored = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "no validation yet"
    return f"{checkpoint}, epoch {epoch}, optimizer step {step:,}; when it was saved: {scored}"


class LastCheckpoint(Callback):
    """Write `last.ckpt`, which holds everything that a run needs to be resumed, and restore a run from it.

    It is written at the start of an epoch, when everything of the epoch before is done and logged; every so many
    optimizer steps; when a signal asks the run to stop; and at the end.

    Args:
        run: The run.
        every: Optimizer steps between two writes. None: as often as costs one percent of the time, and then at the
            start of an epoch too only if it costs no more.
        stop_request: Knows whether a signal came.
    """

    def __init__(self, run: Run, every: int | None, stop_request: StopRequest) -> None:
        self.run = run
        self.every = every
        self.stop_request = stop_request
        self._restored: dict[str, Any] | None = None
        self._validation_progress: dict[str, Any] = {}
        self._saved_step = 0
        self._saved_at = time.perf_counter()
        self._seconds = 0.0
        self._saving = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to listen for signals."""
        self._saved_step, self._saved_at = trainer.global_step, time.perf_counter()
        weights = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        self._seconds = weights * BYTES_A_WEIGHT / BYTES_A_SECOND
        self.stop_request.listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write, where it is time to: between two batches nothing is half done, and everything is logged."""
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
        signum = self.stop_request.agreed(trainer)
        if (signum or self._is_due(trainer, batch_idx)) and trainer.global_step != self._saved_step:
            self.save(trainer)
        if signum and trainer.global_step == 0:
            raise Stopped(signum, "stopped before the first optimizer step: there is nothing to resume from")
        if signum:
            what = f"stopped after optimizer step {trainer.global_step:,}"
            if trainer.is_global_zero:
                what += self.stop_request.requeue(signum)
            raise Stopped(signum, how_to_resume(what, self.run.folder))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write at the end."""
        self.save(trainer)
        if signum := self.stop_request.agreed(trainer, at_once=True):
            raise Stopped(signum, how_to_resume("stopped when training was done and nothing scored", self.run.folder))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what each process has of its own; to last.ckpt alone, as others are written in the middle of a step."""
        if not self._saving:
            return
        state = process_state(pl_module)
        states = [state]
        if trainer.world_size > 1:
            states = [{}] * trainer.world_size
            torch.distributed.all_gather_object(states, state)
        checkpoint["processes"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep this process's state until the first batch, and move the paths of a moved run.

        Raises:
            InputError: If the checkpoint names a file outside its run as its own.
        """
        self._restored = checkpoint["processes"][trainer.global_rank]
        self._validation_progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state:
                callback.current_score = state["current_score"]  # Lightning does not restore it
                state = moved(state, state["dirpath"], str(callback.dirpath))
                check_paths(state)
                checkpoint["callbacks"][callback.state_key] = state
        for stopping in trainer.early_stopping_callbacks:
            state = checkpoint["callbacks"][stopping.state_key]
            state["patience"] = stopping.patience  # else the checkpoint's would win over the flag's
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
        trainer.save_checkpoint(self.run.path("checkpoints/last.ckpt"), weights_only=False)
        self._saving = False
        self._saved_step, self._saved_at = trainer.global_step, time.perf_counter()
        self._seconds = self._saved_at - start

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.every is not None:
            return batch_idx == 0 or trainer.global_step % self.every == 0
        if batch_idx and trainer.global_step % STEPS_BETWEEN_CHECKS:
            return False
        waited, least = time.perf_counter() - self._saved_at, LEAST_SECONDS if batch_idx else 0.0
        return bool(trainer.strategy.broadcast(waited > max(least, self._seconds / SHARE_OF_TIME)))
