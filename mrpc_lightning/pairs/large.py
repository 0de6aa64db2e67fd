"""More training pairs than memory should hold: read and checked a piece at a time, kept on the disk, mapped from there.

Pieces and tokens lie in the cache of `datasets`, one folder for a source. A command that was killed goes on with the
first piece that is missing; of several that ask at once, one works, and the others wait for it.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.files import Table
from mrpc_lightning.pairs.sources import LARGE, PIECE, digest, pieces

LARGE_FILE = 2**28  # bytes: about `LARGE` pairs of MRPC's length, in a file that is not compressed
LIMIT = f"more than {LARGE_FILE >> 20} MB of files, or {LARGE:,} pairs of a data set"
FORMAT = 1  # of what is kept, to be raised where rows are checked otherwise
COMPRESSED = 4  # times that a compressed file grows, about


def folder() -> Path:
    """Return the folder of what is kept, within the cache of `datasets`."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "mrpc_lightning"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positives(pairs: Dataset) -> int:
    """Return the number of pairs of the positive class."""
    return sum(sum(piece["label"][:]) for piece in pieces(pairs))


def is_large(files: Sequence[Path]) -> bool:
    """Say of files, by their bytes, whether they hold more pairs than memory should."""
    plain = (".csv", ".tsv", ".jsonl", ".json")
    return sum(one.stat().st_size * (1 if one.suffix.lower() in plain else COMPRESSED) for one in files) > LARGE_FILE


def keep(
    files: Sequence[Path],
    about: Any,
    tables: Iterable[Table],
    check: Callable[[Table], tuple[Dataset, int]],
    source: str,
) -> tuple[Dataset, int, str]:
    """Check the rows of files, and keep the pairs on the disk; or find those that are kept already.

    Args:
        files: The files: other ones, or others by size or time of change, are read again.
        about: Plain values: all else that decides on the pairs.
        tables: The files' rows, `PIECE` at a time.
        check: Makes pairs of rows, and says how many rows were left out.
        source: What the files are called in messages.

    Returns:
        The pairs, mapped into memory; how many rows were left out; and the pairs' digest, as `sources.digest` has it.

    Raises:
        InputError: If the rows are not in order, or the disk is full.
    """
    facts = [(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    made_of = json.dumps([facts, about, PIECE, FORMAT, datasets.__version__], sort_keys=True)
    place = folder() / f"pairs-{hashlib.sha256(made_of.encode()).hexdigest()[:24]}"
    with working_in(place):
        known = json.loads((place / "all.json").read_text()) if (place / "all.json").is_file() else {}
        counts = known.get("pairs") or list(_keep(place, tables, check, source))
        parts = [Dataset.from_file(str(place / f"{number:06}.arrow")) for number in range(len(counts))]
        if [len(part) for part in parts] != [pairs for pairs, _ in counts]:
            raise InputError(f"{place}: does not hold the pairs that it should; delete it")
        kept = concatenate_datasets(parts)
        if not known:
            known = {"pairs": counts, "digest": digest(kept)}
            write(place, "all", known)
    return kept, sum(left_out for _, left_out in counts), known["digest"]


@contextlib.contextmanager
def working_in(place: Path) -> Iterator[None]:
    """Work in a folder, alone, after removing what a command that was killed there has left half done.

    Raises:
        InputError: If the disk is full, cannot be written, or holds a damaged file.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / ".lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process, which works in {place}", flush=True)
            held = lock.acquire()
        with held:
            for half in place.glob("tmp*"):
                half.unlink()
            yield
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{place}: {error}; delete it, or let HF_HOME name a disk with more room") from error


def _keep(
    place: Path, tables: Iterable[Table], check: Callable[[Table], tuple[Dataset, int]], source: str
) -> Iterator[list[int]]:
    """Write the pieces that are missing, and yield of each how many pairs it has, and how many rows were left out."""
    shown = sys.stderr.isatty()
    if not shown:
        print(f"{source}: reading its pairs into {place}; this is done once", flush=True)
    with Tqdm(desc="reading", unit=" pairs", unit_scale=True, disable=not shown, leave=False) as bar:
        for number, table in enumerate(tables):
            name = f"{number:06}"
            if not (place / f"{name}.json").is_file():
                pairs, left_out = check(table)
                rows = pairs.with_format("arrow")[:]
                temporary = place / f"tmp-{name}"
                with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_stream(sink, rows.schema) as writer:
                    writer.write_table(rows)
                temporary.replace(place / f"{name}.arrow")
                write(place, name, [len(pairs), left_out])
            yield json.loads((place / f"{name}.json").read_text())
            bar.update(len(table))


def write(place: Path, name: str, content: Any) -> None:
    """Write plain values, whole or not at all."""
    temporary = place / f"tmp-{name}.json"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, place / f"{name}.json")
