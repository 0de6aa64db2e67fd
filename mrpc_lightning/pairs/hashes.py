"""What a run keeps of its pairs, so that other pairs can be told from them later: hashes, never sentences."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy
import torch
from datasets import Dataset
from numpy.typing import NDArray

from mrpc_lightning.pairs.sources import LARGE, pair_key, pieces

Hashes = NDArray[numpy.int64]


def keep(pairs: Mapping[str, Dataset], digests: Mapping[str, str], training_source: str) -> dict[str, Any]:
    """Return what a checkpoint keeps of the pairs of a run.

    Args:
        pairs: The pairs by split.
        digests: Their digests by split, which are kept.
        training_source: Where those of training come from.

    Returns:
        `digests`; and of the training pairs `trained_on`: their source, digest and number, and 64-bit hashes of all
        different pairs and sentences, in ascending order. Order of sentences, case and spaces do not matter. Of more
        than `LARGE` pairs there are no hashes: they would be larger than the weights.
    """
    if "train" not in pairs:
        return {"digests": dict(digests)}
    few = pairs["train"] if len(pairs["train"]) <= LARGE else pairs["train"].select([])
    of_pair, of_sentences = (torch.from_numpy(numpy.unique(found)) for found in of_pairs(few))
    trained_on = {
        "training_source": training_source,
        "training_digest": digests["train"],
        "training_pairs": len(pairs["train"]),
        "pair_hashes": of_pair,
        "sentence_hashes": of_sentences,
    }
    return {"digests": dict(digests), "trained_on": trained_on}


def count(pairs: Dataset, kept: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Count the pairs that are among those of other runs, and the others that share a sentence with one of them.

    Args:
        pairs: The pairs.
        kept: What each of the runs has kept: `pair_hashes` and `sentence_hashes`.
    """
    known, sentences = (torch.cat([one[f"{name}_hashes"] for one in kept]).numpy() for name in ("pair", "sentence"))
    return shared(of_pairs(pairs), known, sentences)


def shared(found: tuple[Hashes, Hashes], pairs: Hashes, sentences: Hashes) -> tuple[int, int]:
    """Count the pairs whose hash is among others, and the rest of which a sentence's is; `found` is of `of_pairs`."""
    same = numpy.isin(found[0], pairs)
    sharing = numpy.isin(found[1], sentences).any(axis=1) & ~same
    return int(same.sum()), int(sharing.sum())


def of_pairs(pairs: Dataset) -> tuple[Hashes, Hashes]:
    """Return a hash of each pair, of shape (pairs,), and of each of its sentences, of shape (pairs, 2).

    They are equal where sentences differ in case and spaces alone; those of pairs, also where the order differs.
    """
    tables = []
    for piece in pieces(pairs):
        keys = map(pair_key, piece["sentence1"][:], piece["sentence2"][:])
        rows = [(_hash(*key), _hash(min(key)), _hash(max(key))) for key in keys]
        tables.append(numpy.array(rows, dtype=numpy.int64).reshape(-1, 3))
    table = numpy.concatenate(tables)
    return table[:, 0], table[:, 1:]


def _hash(*sentences: str) -> int:
    text = "\n".join(sorted(sentences)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)
