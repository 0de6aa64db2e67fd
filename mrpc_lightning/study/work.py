"""How a study's runs are done: each by `fit` in a process of its own, resumed where one was killed.

A worker takes the next unit that nobody has. Its claim is a lock, which ends with the worker; the run's own lock ends
with the run. So any number of workers, on one machine or on several with a shared folder, share a study, and what a
dead one leaves behind is taken up by the next.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from mrpc_lightning.run.run import Run
from mrpc_lightning.study.plan import Unit

ATTEMPTS = 5  # of a run that a signal ended, before it counts as failed
WAIT = 0.5  # seconds between two looks at what others do


@dataclass
class Progress:
    """What the workers of this command have done so far."""

    units: Sequence[Unit]
    report: Callable[[Unit, str | None], None]
    failed: dict[Unit, str] = field(default_factory=dict)
    attempts: dict[Unit, int] = field(default_factory=dict)
    children: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def left(self) -> list[Unit]:
        """Return what is neither finished nor failed."""
        return [unit for unit in self.units if unit not in self.failed and not unit.run.metrics]


def work(
    units: Sequence[Unit], words: Sequence[str], workers: int, report: Callable[[Unit, str | None], None]
) -> dict[Unit, str]:
    """Run all units that are not finished.

    Args:
        units: The units, in the order in which they are taken.
        words: The flags of `fit` that all of them share.
        workers: How many to run at a time; they share this machine's cores.
        report: Is called with each unit that this command has finished, and with the error of one that failed.

    Returns:
        The units that failed, each with its last line of errors.
    """
    progress = Progress(units, report)
    threads = [threading.Thread(target=_work, args=(progress, words, workers), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(timeout=0.2)
    except BaseException:
        progress.stopping.set()
        with progress.lock:
            for child in progress.children:
                child.send_signal(signal.SIGTERM)  # it writes last.ckpt
        for thread in threads:
            thread.join()
        raise
    return progress.failed


def _work(progress: Progress, words: Sequence[str], workers: int) -> None:
    while not progress.stopping.is_set() and (left := progress.left()):
        for unit in left:
            with claimed(unit) as is_ours:
                if is_ours and not unit.run.metrics and unit not in progress.failed:
                    _run(progress, unit, words, workers)
                    break
        else:
            progress.stopping.wait(WAIT)


def _run(progress: Progress, unit: Unit, words: Sequence[str], workers: int) -> None:
    folder, log = unit.run.folder, unit.study / "logs" / f"{unit.setting.folder}.seed_{unit.seed}.txt"
    resumed = unit.run.last.is_file()
    if folder.is_dir() and not resumed:
        shutil.rmtree(folder)  # stopped before its first checkpoint
    own = ["--ckpt_path", str(folder)] if resumed else [*words, *unit.flags]
    command = [sys.executable, "-m", "mrpc_lightning", "fit", *own, "--trainer.enable_progress_bar=false"]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        with progress.lock:
            if progress.stopping.is_set():
                return
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
            progress.children.add(child)
        code = child.wait()
    with progress.lock:
        progress.children.discard(child)
        if code == 0 and unit.run.metrics:
            progress.report(unit, None)
            return
        if progress.stopping.is_set() or is_training(unit.run):  # what a dead worker has left behind came first
            return
        progress.attempts[unit] = progress.attempts.get(unit, 0) + 1
        if 0 <= code < 128 or progress.attempts[unit] >= ATTEMPTS:
            progress.failed[unit] = last_line(log) if code else "it was not scored"
            progress.report(unit, progress.failed[unit])


@contextlib.contextmanager
def claimed(unit: Unit) -> Iterator[bool]:
    """Claim a unit, if no other worker has it and no process trains its run; yield whether it is ours."""
    path = unit.study / "claims" / f"{unit.setting.folder}.seed_{unit.seed}"
    path.parent.mkdir(parents=True, exist_ok=True)
    claim = FileLock(path)
    try:
        claim.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield not is_training(unit.run)
    finally:
        claim.release()


def is_training(run: Run) -> bool:
    """Say whether a process trains a run: one whose worker was killed goes on by itself."""
    lock = run.folder / ".lock"
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def last_line(log: Path) -> str:
    """Return the last line of what a run printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
