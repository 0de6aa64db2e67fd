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
from pathlib import Path

from filelock import FileLock, Timeout

from mrpc_lightning.run.run import Run
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.text import printable

ATTEMPTS = 5  # of a run that a signal ended, before it counts as failed
HOPELESS = 3  # failed runs before the first that is finished: the next would fail as well
WAIT = 0.5  # seconds between two looks at what others do


class Work:
    """Runs all units that are not finished.

    Args:
        units: Returns the units, in the order in which they are taken; a search has others after each run.
        more: Adds to them, where all are taken; false if there are no more.
        words: The flags of `fit` that all of them share.
        workers: How many to run at a time; they share this machine's cores.
        report: Is called with each unit that this command has finished, and with the error of one that failed.

    Attributes:
        failed: The units that failed, each with its error.
        finished: The units that were found finished, whoever did them; their files need not be read again.
    """

    def __init__(
        self,
        units: Callable[[], Sequence[Unit]],
        more: Callable[[], bool],
        words: Sequence[str],
        workers: int,
        report: Callable[[Unit, str | None], None],
    ) -> None:
        self.units, self.more, self.words, self.workers, self.report = units, more, words, workers, report
        self.failed: dict[Unit, str] = {}
        self.finished: set[Unit] = set()
        self._attempts: dict[Unit, int] = {}
        self._children: dict[Unit, subprocess.Popen[bytes]] = {}
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run them, and return when none is left; a signal stops the runs first, which then write last.ckpt."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.workers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(timeout=0.2)
        finally:
            self._stopping.set()
            with self._lock:
                for child in self._children.values():
                    child.send_signal(signal.SIGTERM)
            for thread in threads:
                if thread.is_alive():
                    thread.join()
        if self._error is not None:
            raise self._error

    def left(self) -> list[Unit]:
        """Return the units that are neither finished nor failed; one that is trained here is left until its end."""
        known, units = {*self.finished, *tuple(self._children)}, self.units()
        self.finished |= {unit for unit in units if unit not in known and unit.scores}
        return [unit for unit in units if unit not in self.finished and unit not in self.failed]

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                left = self.left()
                if len(self.failed) >= HOPELESS and not self.finished:
                    return
                for unit in left:
                    with claimed(unit) as is_ours:
                        if is_ours and not unit.scores:
                            self._do(unit)
                            break
                else:
                    if self.more():
                        continue
                    if not left:
                        return
                    self._stopping.wait(WAIT)
        except BaseException as error:
            self._error = error
            self._stopping.set()

    def _do(self, unit: Unit) -> None:
        """Train a unit, or resume it; and score one with a fold on the validation split as well."""
        folder, log = unit.run.folder, Run(unit.study).path(f"logs/{unit.name}.txt")
        resumed, code = unit.run.last.is_file(), 0
        if resumed:
            own = ["--ckpt_path", str(folder), "--config", str(folder / "config.yaml")]
        else:
            own = unit.words(self.words)
            if folder.is_dir():  # stopped before its first checkpoint
                shutil.rmtree(Run(unit.study).path(f"{unit.setting.folder}/{folder.name}"))
        if not unit.run.metrics:
            code = self._run(unit, ["fit", *own], log)
        if unit.run.metrics and not unit.scores:
            log = log.with_suffix(".test.txt")
            code = self._run(unit, ["test", "--ckpt_path", str(folder), *hardware(unit.run)], log)
        with self._lock:
            self._children.pop(unit, None)
            if unit.scores:
                self.report(unit, None)
                return
            # A run that a dead worker has left behind may have come first.
            if self._stopping.is_set() or unit.run.is_training:
                return
            self._attempts[unit] = self._attempts.get(unit, 0) + 1
            if 0 <= code < 128 or self._attempts[unit] >= ATTEMPTS:
                what = last_line(log) if code > 0 else f"signal {-code}" if code else "it was not scored"
                self.failed[unit] = what + f"; to begin it anew, delete {folder}" * resumed
                self.report(unit, self.failed[unit])

    def _run(self, unit: Unit, words: Sequence[str], log: Path) -> int:
        """Run a command in a process of its own, and return its exit code."""
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // self.workers))
        # The job is the study's: a run must neither put it back into the queue nor count its tasks.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        command = [sys.executable, "-m", "mrpc_lightning", *words, "--trainer.enable_progress_bar=false"]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            with self._lock:
                if self._stopping.is_set():
                    return 0
                child = subprocess.Popen(
                    command,
                    env={**environment, "OMP_NUM_THREADS": threads},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
                self._children[unit] = child
            return child.wait()


def hardware(run: Run) -> list[str]:
    """Return the flags that let a command compute where a run was trained."""
    values = run.config.get("trainer") or {}
    names = [name for name in ("accelerator", "devices", "strategy") if isinstance(values.get(name), str | int)]
    return [f"--trainer.{name}={values[name]}" for name in names]


@contextlib.contextmanager
def claimed(unit: Unit) -> Iterator[bool]:
    """Claim a unit, if no other worker has it and no process trains its run; yield whether it is ours."""
    path = Run(unit.study).path(f"claims/{unit.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        claim = FileLock(path).acquire(timeout=0)
    except Timeout:
        yield False
        return
    with claim:
        yield not unit.run.is_training


def last_line(log: Path) -> str:
    """Return the last line of what a run printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return printable(lines[-1].removeprefix("error: ")) if lines else "it printed nothing"
