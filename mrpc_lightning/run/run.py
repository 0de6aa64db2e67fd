"""`Run`: a run's folder. Which one is meant, what it holds, and how everything is written into it."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mrpc_lightning.errors import InputError
from mrpc_lightning.origin import best_checkpoint, folder_of

LOGS = Path("tb_logs")  # where runs are searched and made, unless a logger says otherwise
TRAIN_HINT = "python -m mrpc_lightning fit --config configs/mrpc.yaml trains one"


class Run:
    """The folder of one training run, and all that is known of the run.

    Args:
        folder: The folder. It need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._made: list[Path] = []
        self._lock: FileLock | None = None

    @classmethod
    def new(cls, parent: Path, name: str | None = None) -> "Run":
        """Make the folder of a new run. Of two commands that ask at the same time, each gets its own.

        Args:
            parent: The folder of all runs of this name.
            name: The folder's name; without it the first free version_N.

        Raises:
            InputError: If a folder of this name is there and not empty.
        """
        made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name[8:]) for path in parent.glob("version_*") if path.name[8:].isdecimal()]
        number = max(numbers, default=-1) + 1
        while True:
            run = cls(parent / (name or f"version_{number}"))
            try:
                run.folder.mkdir()
            except FileExistsError as error:
                if name is not None and not any(run.folder.iterdir()):
                    return run
                if name is not None:
                    raise InputError(
                        f"{run.folder}: holds a run already; --ckpt_path {run.folder} resumes it; for a new run give "
                        "another --trainer.logger.name, or --trainer.logger.version"
                    ) from error
                number += 1
            else:
                run._made = [run.folder, *made]
                return run

    @classmethod
    def of(cls, checkpoint: Path) -> "Run":
        """Return the run that a checkpoint belongs to; of a file that was moved elsewhere, the folder it lies in."""
        return cls(folder_of(checkpoint))

    @classmethod
    def find(cls, ckpt_path: str | Path = "best", logs: Path = LOGS) -> "Run":
        """Return the run that a person means; see `find_checkpoint`."""
        return cls.of(find_checkpoint(str(ckpt_path), logs))

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint that holds everything needed to resume."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch, whatever it is called."""
        return best_checkpoint(self.folder)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds; empty for a run that was not scored."""
        return self.read("metrics.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's recipe: what config.yaml holds.

        Raises:
            InputError: If the file is missing or damaged.
        """
        path = self.folder / "config.yaml"
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; a run is resumed with its recipe") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{path}: damaged: {' '.join(str(error).split())}") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: damaged: holds no keys")
        return found

    def read(self, name: str) -> dict[str, Any]:
        """Return what a JSON file of the run holds; nothing if it is missing or damaged."""
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def path(self, name: str) -> Path:
        """Return where a file of the run lies.

        Raises:
            InputError: If a folder on the way is a link, which may lead out of the run's folder.
        """
        path = self.folder / name
        for part in path.relative_to(self.folder).parents:
            if (self.folder / part).is_symlink() and str(part) != ".":
                raise InputError(f"{self.folder / part}: is a link; nothing is written through it")
        return path

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the run whole or not at all, and return its path."""
        path = self.path(name)
        with replacing(path) as temporary:
            temporary.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return path

    def lock(self) -> None:
        """Keep other commands from training in this folder until this process ends or releases it.

        Raises:
            InputError: If another process trains in it, or one of its files is a link: loggers write through links.
        """
        for path in (*self.folder.iterdir(), *self.folder.glob("logger_*/*")):
            if path.is_symlink():
                raise InputError(f"{path}: is a link; a run's files are plain ones in its own folder")
        self._lock = FileLock(self.path(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.folder}: another process is training this run; wait for it, or name another with --ckpt_path"
            ) from error

    @property
    def is_training(self) -> bool:
        """Whether a process trains this run: one whose parent was killed goes on by itself."""
        lock = self.folder / ".lock"
        if not lock.is_file():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True

    def release(self) -> None:
        """Let other commands train in this folder; and if nothing was written into a new one, remove it."""
        if self._lock is not None:
            self._lock.release()
        if self._made and {path.name for path in self.folder.iterdir()} <= {".lock"}:
            (self.folder / ".lock").unlink(missing_ok=True)
            for folder in self._made:
                with contextlib.suppress(OSError):  # another run came into it meanwhile
                    folder.rmdir()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write to, which takes the place of `path` once it is whole and on the disk.

    Neither file is written through a link: what stands at their place is replaced.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # such as a full disk: say which file it was
            error.filename = str(path)
        raise


def find_checkpoint(ckpt_path: str, logs: Path = LOGS, name: str | None = None, kind: str = "best") -> Path:
    """Find the checkpoint file that a person means.

    Args:
        ckpt_path: "best" or "last", of the newest run that has one; a run's folder; or a checkpoint file.
        logs: The folder in which runs are searched, at any depth.
        name: The end of the path of the run's folder, such as "version_3", where the newest is not meant.
        kind: Which checkpoint of a run's folder is meant: "best" or "last".

    Raises:
        InputError: If there is none, or several runs have that name.
    """
    if ckpt_path not in ("best", "last"):
        if name is not None:
            raise InputError(f"--run {name}: goes with --ckpt_path best or last, not with {ckpt_path}")
        path = Path(ckpt_path)
        if path.is_dir():
            path = getattr(Run(path), kind)
        if not path.is_file():
            raise InputError(f"ckpt_path {ckpt_path}: no {path}; give best, last, a run's folder or a checkpoint file")
        return path
    found = newest(logs, ckpt_path)
    if name is None and not found:
        raise InputError(
            f"ckpt_path {ckpt_path}: means the {ckpt_path} checkpoint of the newest run, and no run in {logs} has one; "
            f"{TRAIN_HINT}"
        )
    if name is None:
        return found[0]
    wanted = Path(name).parts
    named = [path for path in found if Run.of(path).folder.parts[-len(wanted) :] == wanted]
    if len(named) > 1:
        names = ", ".join(sorted(str(Run.of(path).folder) for path in named))
        raise InputError(f"--run {name}: several runs have that name: {names}; give more of the path")
    if not named:
        names = ", ".join(sorted(str(Run.of(path).folder.relative_to(logs)) for path in found))
        raise InputError(f"--run {name}: no such run in {logs}" + (f", only {names}" if names else f"; {TRAIN_HINT}"))
    return named[0]


def newest(logs: Path, kind: str) -> list[Path]:
    """Return all runs' checkpoints of a kind, "best" or "last", the newest first; links are passed over."""
    found: list[Path] = [getattr(Run.of(folder / kind), kind) for folder in logs.glob("**/checkpoints")]
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def passed_over(checkpoint: Path, logs: Path) -> list[str]:
    """Name the runs that are newer than the chosen one, but have no such checkpoint."""
    kind = "last" if checkpoint.name == "last.ckpt" else "best"
    return [
        f"skipped   {config.parent}: newer, but has no {kind} checkpoint"
        for config in sorted(logs.glob("**/config.yaml"))
        if config.stat().st_mtime > checkpoint.stat().st_mtime and not getattr(Run(config.parent), kind).is_file()
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key; a class with its arguments is one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and "class_path" not in value and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
