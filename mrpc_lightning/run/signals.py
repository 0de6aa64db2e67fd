"""Ctrl-C, SIGTERM, a closed terminal and SLURM's pre-emption: what runs ends in good order."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from mrpc_lightning.errors import Stopped

# What `sbatch --signal=USR1@90` sends 90 s before the job's time is up, or SLURM before it takes the nodes away.
PREEMPTION = getattr(signal, "SIGUSR1", None)
# Ctrl-C, what a scheduler sends, and what a terminal sends that goes away.
ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def slurm_job() -> str | None:
    """Return the number of the SLURM job that this process belongs to, with its place in an array, if it has one."""
    if not SLURMEnvironment.detect() or "SLURM_JOB_ID" not in os.environ:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    return job if re.fullmatch(r"\d+(_\d+)?", job) else None


def job() -> str | None:
    """Return the name of the job that may be started again with the same words: SLURM's, or torchrun's; else None."""
    if (found := slurm_job()) is not None or not TorchElasticEnvironment.detect():
        return found
    # The id is the user's, who may give it again; what starts the processes again is their parent.
    return f"torchrun {os.environ.get('TORCHELASTIC_RUN_ID')} {os.getppid()}"


def watched() -> list[int]:
    """Return the signals that a run listens to."""
    extra = [PREEMPTION] if PREEMPTION is not None and slurm_job() else []
    # nohup and shells' background jobs have a signal ignored; it stays so.
    return [signum for signum in (*ENDING, *extra) if signal.getsignal(signum) != signal.SIG_IGN]


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let a signal raise `Stopped` wherever the process is, until a run listens for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {signum: signal.signal(signum, stop_at_once) for signum in watched()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by ending at this very place.

    Raises:
        Stopped: Always.
    """
    raise Stopped(signum, "stopped")


def requeue(signum: int) -> str:
    """Put a pre-empted SLURM job back into the queue.

    Returns:
        What to tell the person.
    """
    job = slurm_job()
    if signum != PREEMPTION or job is None:
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"; SLURM job {job} could not be requeued ({error.strerror})"
    if done.returncode:
        return f"; SLURM job {job} could not be requeued ({done.stderr.strip()})"
    return f"; SLURM job {job} is in the queue again and will resume by itself"


class StopRequest:
    """Remember a signal until the run has come to a place where it can stop."""

    def __init__(self) -> None:
        self.signum = 0
        self.came_at = 0.0  # by the monotonic clock
        self._next_step, self._asked = 0, (0, 0.0)

    def listen(self) -> None:
        """Handle the signals from now on."""
        if threading.current_thread() is threading.main_thread():
            for signum in watched():
                signal.signal(signum, self._note)

    def release(self) -> None:
        """Let a signal end the process at once again: nothing is left that could be lost."""
        if threading.current_thread() is threading.main_thread():
            for signum in watched():
                signal.signal(signum, stop_at_once)

    def agreed(self, trainer: Trainer, batch_idx: int = 0, now: bool = False) -> int:
        """Return the signal that came to any of the processes; 0 if none did.

        Several processes ask each other about once a second while they train, and every ten batches of a validation:
        asking makes each wait for all.

        Args:
            trainer: The Trainer. Every process must call this function at the same place.
            batch_idx: The batch of a validation.
            now: Ask now.
        """
        if trainer.world_size == 1:
            return self.signum
        step, clock = trainer.global_step, time.monotonic()
        if not now and ((trainer.training and step < self._next_step) or batch_idx % 10):
            return 0
        before, since = self._asked
        pace = (step - before) / max(clock - since, 1e-3)  # optimizer steps a second
        asked = torch.tensor([self.signum, -max(1, min(round(pace), 100))], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        signum, steps = int(asked[0]), -int(asked[1])
        # A validation that ends before the run stops has heard the signal, too: then the next step must ask.
        self._next_step, self._asked = step + (0 if signum else steps), (step, clock)
        return signum

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            stop_at_once(signum, frame)
        self.signum, self.came_at = signum, time.monotonic()
        name = signal.Signals(signum).name
        with contextlib.suppress(OSError):  # the terminal may have gone
            sys.stderr.write(f"\n{name}: stopping after this step; once more stops at once\n")
