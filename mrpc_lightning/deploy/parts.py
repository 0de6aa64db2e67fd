"""What is done of a prediction that is not finished: probabilities, in a folder beside the table."""

import contextlib
import glob
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from mrpc_lightning.errors import InputError
from mrpc_lightning.run.run import replacing
from mrpc_lightning.run.scoring import Array

LOCK = ".lock"


class Part(NamedTuple):
    """Which batches of which chunk a file of probabilities is of; its name says so."""

    chunk: int
    begin: int
    end: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.chunk:06}.{self.begin:06}-{self.end:06}.npz"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this command, and remove those that other commands have left for the same table.

    Raises:
        InputError: If another command has it, or it is a link, which may lead elsewhere.
    """
    if folder.is_symlink():
        raise InputError(f"{folder}: is a link; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name[: -len("123456789012.parts")]
    for other in folder.parent.glob(f"{glob.escape(name)}{'?' * 12}.parts"):
        with contextlib.suppress(Timeout):
            if other != folder and not other.is_symlink():
                with FileLock(other / LOCK, timeout=0):
                    shutil.rmtree(other, ignore_errors=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another command is writing this table") from error


def write_part(path: Path, rows: NDArray[numpy.int64], found: Array) -> None:
    """Write the probabilities of some pairs, the mean over both orders where there are two, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        numpy.savez(file, rows=rows, found=found.mean(axis=1) if found.ndim == 3 else found)


def read_part(path: Path) -> tuple[NDArray[numpy.int64], Array]:
    """Return what `write_part` wrote.

    Raises:
        OSError: If there is no such file, or it is damaged.
    """
    try:
        with numpy.load(path) as content:
            return content["rows"], content["found"]
    except (ValueError, LookupError, zipfile.BadZipFile) as error:
        raise OSError(f"{path}: damaged") from error


def find_parts(folder: Path, sizes: Sequence[int]) -> dict[Part, int]:
    """Return which parts are done, from each chunk's first batch on without a gap, and how many pairs they have."""
    found: dict[Part, int] = {}
    ends = dict.fromkeys(range(len(sizes)), 0)
    for path in sorted(folder.glob("*.npz")):
        if match := re.fullmatch(r"(\d+)\.(\d+)-(\d+)\.npz", path.name):
            part = Part(*map(int, match.groups()))
            if ends.get(part.chunk) == part.begin:
                with contextlib.suppress(OSError):
                    found[part] = len(read_part(path)[0])
                    ends[part.chunk] = part.end
    return found
