"""`last.ckpt`: when it is written, and how a run is restored from it."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.run.checkpoint import AtomicCheckpointIO
from mrpc_lightning.run.finite import diverged
from mrpc_lightning.run.resume import how_to_resume
from mrpc_lightning.run.run import Run
from mrpc_lightning.run.signals import StopRequest, requeue
from mrpc_lightning.run.state import check_paths, moved, process_state, restore_process, shared_out

# Unless a number of steps is set, writing takes at most this share of the time; in the middle of an epoch at least this
# many seconds lie between two writes.
SHARE_OF_TIME, LEAST_SECONDS = 0.01, 30.0
STEPS_BETWEEN_CHECKS = 10
LONG_VALIDATION = 5.0  # seconds after which a validation is broken off, whenever the signal came
CHEAP = 0.1  # seconds of a copy that is made before each validation, however short
# Until the first checkpoint was timed: AdamW keeps three numbers of 4 bytes for each weight, on a slow disk.
BYTES_A_WEIGHT, BYTES_A_SECOND = 12, 5e8


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
        self._validation_began = 0.0
        self._has_copy, self._copied_at, self._copy_seconds = False, 0.0, 0.0
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
            queued = self._requeue(trainer, signum)
            raise Stopped(signum, f"stopped before the first optimizer step: there is nothing to resume from{queued}")
        if signum:
            self._stop(trainer, signum, f"stopped after optimizer step {trainer.global_step:,}")
        self._copy_before_validation(trainer, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when the validation began."""
        self._validation_began = time.monotonic()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Stop in the middle of a validation, if a signal asks for it: the run is resumed a step before it.

        A signal that came before the validation lets a short one end, so that the step before it counts.
        """
        io: Any = trainer.strategy.checkpoint_io
        if not self._has_copy or not (signum := self.stop_request.agreed(trainer, rest[2])):
            return
        came_within = self.stop_request.came_at > self._validation_began
        if not trainer.strategy.broadcast(came_within or time.monotonic() - self._validation_began > LONG_VALIDATION):
            return
        if trainer.is_global_zero:
            io.save_checkpoint(io.held, self.run.path("checkpoints/last.ckpt"))
        trainer.strategy.barrier()
        self._stop(trainer, signum, f"stopped in the validation after optimizer step {trainer.global_step:,}")

    def _stop(self, trainer: Trainer, signum: int, what: str) -> None:
        raise Stopped(signum, how_to_resume(what + self._requeue(trainer, signum), self.run.folder))

    def _requeue(self, trainer: Trainer, signum: int) -> str:
        queued = requeue(signum) if trainer.is_global_zero else ""
        trainer.strategy.barrier()  # SLURM ends the first process where another has ended
        return queued

    def _copy_before_validation(self, trainer: Trainer, batch_idx: int) -> None:
        """Copy what a checkpoint holds, if a validation follows this optimizer step and the copy costs little time.

        Nothing that could be written in the middle of a validation resumes exactly; the copy does.
        """
        io, every, ends = trainer.strategy.checkpoint_io, trainer.val_check_batch, trainer.num_training_batches
        batches = range(batch_idx + 1, batch_idx + 1 + trainer.accumulate_grad_batches)
        if not any(n == ends or (isinstance(every, int) and n % every == 0) for n in batches):
            return
        self._has_copy, start, spent = False, time.perf_counter(), time.process_time()
        due = self._copy_seconds < CHEAP or start - self._copied_at > self._copy_seconds / SHARE_OF_TIME
        if isinstance(io, AtomicCheckpointIO) and trainer.global_step and trainer.strategy.broadcast(due):
            io.hold, self._has_copy = True, True
            self._dump(trainer)
            io.hold, self._copied_at = False, start
            self._copy_seconds = time.process_time() - spent  # of work, however busy the machine is

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write at the end."""
        self.save(trainer)
        self.stop_request.release()
        if signum := self.stop_request.agreed(trainer, now=True):
            self._stop(trainer, signum, "stopped when training was done and nothing scored")

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
        position, states = checkpoint["MRPCDataModule"]["position"], checkpoint["processes"]
        rank, seeds = trainer.global_rank, (position["order_seed"], checkpoint["global_step"])
        self._restored = states[rank] if len(states) == trainer.world_size else shared_out(states, rank, seeds)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):  # of batches; a step may now have more or fewer
            for name, value in counts.items():
                counts[name] = value * trainer.accumulate_grad_batches // position["parts"]
        if done := position["steps_done"]:  # a run that trainer.max_time ended may have begun another step
            progress["current"] = dict.fromkeys(progress["current"], done * trainer.accumulate_grad_batches)
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
        finite = all(bool(parameter.isfinite().all()) for parameter in trainer.lightning_module.parameters())
        # Of a sharded model each process sees its share; all must end, or none.
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise InputError(diverged(trainer, "a weight is no finite number"))
        for logger in trainer.loggers:
            logger.experiment.flush() if isinstance(logger, TensorBoardLogger) else logger.save()
        self._dump(trainer)
        self._saved_step, self._saved_at = trainer.global_step, time.perf_counter()
        self._seconds = self._saved_at - start

    def _dump(self, trainer: Trainer) -> None:
        self._saving = True
        trainer.save_checkpoint(self.run.path("checkpoints/last.ckpt"), weights_only=False)
        self._saving = False

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.every is not None:
            return batch_idx == 0 or trainer.global_step % self.every == 0
        if batch_idx and trainer.global_step % STEPS_BETWEEN_CHECKS:
            return False
        waited, least = time.perf_counter() - self._saved_at, LEAST_SECONDS if batch_idx else 0.0
        return bool(trainer.strategy.broadcast(waited > max(least, self._seconds / SHARE_OF_TIME)))
