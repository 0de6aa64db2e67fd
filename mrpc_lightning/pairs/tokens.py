import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy
import pyarrow.compute
import tokenizers
import torch
import transformers
from datasets import Dataset, concatenate_datasets, disable_progress_bars, enable_progress_bars
from numpy.typing import NDArray
from pyarrow.lib import ArrowException
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mrpc_lightning import hub, origin
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.batches import EvaluationBatches
from mrpc_lightning.pairs.large import cores, folder, working_in
from mrpc_lightning.pairs.loader import make_loader
from mrpc_lightning.pairs.sources import LARGE, PIECE, pieces

Encode = Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]
Files = Mapping[str, torch.Tensor]


def load_tokenizer(source: str, revision: str | None, key: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from the Hub, from a folder or from a run.

    Raises:
        InputError: If there is none, or it has no padding token.
    """
    run = origin.read_run(source)
    if not run:
        hub.prepare(source, key)
    try:
        if run:
            return unpack(run["MRPCDataModule"]["tokenizer"])
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{key}: {hub.explain(error, source)}") from error
    if tokenizer.pad_token is None:
        raise InputError(f"{key}: its tokenizer has no padding token; choose an encoder such as BERT or RoBERTa")
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase, pairs: Dataset, max_length: int, key: str | None = None
) -> tuple[Dataset, int]:
    """Tokenize sentence pairs, or take what an earlier run made of the same pairs from the cache of `datasets`.

    There they lie under a key, as `cache_key` returns it; without one nothing is cached.

    Returns:
        The model's inputs, row for row, with `labels` and `soft_labels` (negative, positive) where the pairs have them,
        and the number of pairs that were cut.
    """

    def encode(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        # Both sentences at once: the tokenizer puts the separator and token_type_ids where this encoder wants them.
        sentences = rows["sentence1"], rows["sentence2"]
        encoded = tokenizer(*sentences, truncation=True, max_length=max_length)
        if encoded.encodings:
            cut = [bool(encoding.overflowing) for encoding in encoded.encodings]
        else:  # a tokenizer in Python does not say what it cut
            cut = [len(ids) > max_length for ids in tokenizer(*sentences, verbose=False)["input_ids"]]
        labels = {"labels": rows["label"]} if "label" in rows else {}
        if "soft_label" in rows:
            labels["soft_labels"] = [[1 - share, share] for share in rows["soft_label"]]
        return {**encoded, "cut": cut, **labels}

    if key is None:
        tokens = Dataset.from_dict(encode(pairs[:]))
    elif len(pairs) <= LARGE:
        tokens = map_cached(pairs, encode, key)
    else:
        tokens = map_large(pairs, encode, key[:24])
    return tokens.remove_columns("cut"), pyarrow.compute.sum(tokens.data.column("cut")).as_py()


def map_cached(pairs: Dataset, encode: Encode, key: str) -> Dataset:
    """Map pairs, or take what is kept under the key."""
    disable_progress_bars()
    options: dict[str, Any] = {"batched": True, "remove_columns": pairs.column_names, "new_fingerprint": key}
    try:
        folder().mkdir(parents=True, exist_ok=True)
        return pairs.map(encode, cache_file_name=str(folder() / f"{key}.arrow"), **options)
    except (OSError, ArrowException):  # a full or read-only disk, a damaged file: it goes without
        return pairs.map(encode, keep_in_memory=True, load_from_cache_file=False, **options)


def map_large(pairs: Dataset, encode: Encode, key: str) -> Dataset:
    """Map more pairs than memory should hold, `LARGE` at a time, with a process for each core.

    Raises:
        InputError: If the disk is full, or cannot be written.
    """
    own, parents = os.getpid(), list[int]()

    def encode_for_parent(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        if os.getpid() != own:  # a worker: where the command was killed, it would go on to the end
            parents.append(os.getppid())
            if parents[-1] != parents[0]:
                os._exit(1)
        return encode(rows)

    place, parts, many = folder() / f"tokens-{key}-{LARGE}", list[Dataset](), -(-len(pairs) // LARGE)
    if sys.stderr.isatty():
        enable_progress_bars()
    else:
        disable_progress_bars()
    with working_in(place):
        for number, part in enumerate(pieces(pairs, LARGE), 1):
            name = f"{number:04}"
            if not [*place.glob(f"{name}*")]:
                print(f"tokenizing part {number} of {many}, {len(part):,} pairs; this is done once", flush=True)
            parts.append(
                part.map(
                    encode_for_parent,
                    batched=True,
                    remove_columns=pairs.column_names,
                    num_proc=max(min(cores(), len(part) // PIECE), 1),
                    cache_file_name=str(place / f"{name}.arrow"),
                    new_fingerprint=f"{key}-{name}",
                    desc=f"part {number} of {many}",
                )
            )
    tokens = concatenate_datasets(parts)
    if len(tokens) != len(pairs):
        raise InputError(f"{place}: does not hold the tokens of all pairs; delete it")
    return tokens


def to_dataset(pairs: Iterable[tuple[str, str]]) -> Dataset:
    """Return pairs of sentences, given in code, as a data set without labels.

    Raises:
        InputError: If something is no pair of sentences.
    """
    pairs = list(pairs)
    for number, pair in enumerate(pairs, 1):
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"pair {number}: give a list of pairs, each of two sentences")
        for side, sentence in enumerate(pair, 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise InputError(f"pair {number}: sentence{side} is empty or no text ({sentence!r})")
    return Dataset.from_dict({f"sentence{side + 1}": [pair[side] for pair in pairs] for side in (0, 1)})


def loader_of(
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    batch_size: int,
    both_orders: bool,
    num_replicas: int = 1,
    rank: int = 0,
) -> DataLoader[Any]:
    """Return the batches of pairs that are no split of a data module; their sampler knows which rows are in which.

    With `both_orders` each pair comes in both orders of its sentences. Of several processes it has the batches of one.
    """
    orders = [pairs, swap(pairs)] if both_orders else [pairs]
    given, *swapped = (tokenize(tokenizer, order, max_length)[0] for order in orders)
    return make_loader(given, tokenizer, EvaluationBatches(lengths(given), batch_size, num_replicas, rank), *swapped)


def swap(pairs: Dataset) -> Dataset:
    """Return pairs with their two sentences swapped."""
    return pairs.rename_columns({"sentence1": "sentence2", "sentence2": "sentence1"})


def cache_key(files: Files, digest: str, max_length: int) -> str:
    """Return a hash of all that decides on the tokens: tokenizer, libraries, the pairs' digest and `max_length`.

    What the tokenizer does follows from its files, as `pack` returns them.
    """
    made_with = [tokenizers.__version__, transformers.__version__, datasets.__version__, str(max_length), digest]
    key = hashlib.sha256("\n".join(made_with).encode())
    for name, content in sorted(files.items()):
        key.update(f"\n{name} {len(content)}\n".encode() + content.numpy().tobytes())
    return key.hexdigest()


def lengths(tokens: Dataset) -> NDArray[numpy.uint16]:
    """Return the tokens of each pair, in two bytes each: there can be many."""
    chunks = (pyarrow.compute.list_value_length(chunk) for chunk in tokens.data.column("input_ids").chunks)
    return numpy.concatenate([chunk.to_numpy().astype(numpy.uint16) for chunk in chunks])


def pack(tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Return a tokenizer's files by name, as bytes in tensors, which a checkpoint can hold and run no code."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in sorted(Path(folder).iterdir())
        }


def unpack(files: Files) -> PreTrainedTokenizerBase:
    """Load the tokenizer that `pack` packed.

    Raises:
        InputError: If the files are no tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / Path(name).name).write_bytes(content.numpy().tobytes())
        return load_tokenizer(folder, None, "the checkpoint's tokenizer")
