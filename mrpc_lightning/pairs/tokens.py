import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy
import pyarrow.compute
import tokenizers
import torch
import transformers
from datasets import Dataset, config, disable_progress_bars
from numpy.typing import NDArray
from pyarrow.lib import ArrowException
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mrpc_lightning import hub, origin
from mrpc_lightning.errors import InputError

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
    tokenizer: PreTrainedTokenizerBase, pairs: Dataset, max_length: int, files: Files | None = None
) -> tuple[Dataset, int]:
    """Tokenize sentence pairs, or take what an earlier run made of the same pairs from the cache of `datasets`.

    What the tokenizer does follows from its files, as `pack` returns them; without them nothing is cached.

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

    if files is None:
        tokens = Dataset.from_dict(encode(pairs[:]))
    else:
        disable_progress_bars()
        key = cache_key(files, pairs, max_length)
        folder = Path(config.HF_DATASETS_CACHE) / "mrpc_lightning"
        options: dict[str, Any] = {"batched": True, "remove_columns": pairs.column_names, "new_fingerprint": key}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tokens = pairs.map(encode, cache_file_name=str(folder / f"{key}.arrow"), **options)
        except (OSError, ArrowException):  # a full or read-only disk, a damaged file: it goes without
            tokens = pairs.map(encode, keep_in_memory=True, load_from_cache_file=False, **options)
    return tokens.remove_columns("cut"), sum(tokens["cut"][:])


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


def swap(pairs: Dataset) -> Dataset:
    """Return pairs with their two sentences swapped."""
    return pairs.rename_columns({"sentence1": "sentence2", "sentence2": "sentence1"})


def cache_key(files: Files, pairs: Dataset, max_length: int) -> str:
    """Return a hash of all that decides on the tokens: tokenizer, libraries, pairs and `max_length`."""
    made_with = [tokenizers.__version__, transformers.__version__, datasets.__version__, str(max_length)]
    key = hashlib.sha256("\n".join(made_with).encode())
    for name, content in sorted(files.items()):
        key.update(f"\n{name} {len(content)}\n".encode() + content.numpy().tobytes())
    for name in pairs.column_names:
        if name != "idx":
            key.update(f"\n{name}\n{json.dumps(pairs[name][:])}".encode())
    return key.hexdigest()


def lengths(tokens: Dataset) -> NDArray[numpy.int64]:
    """Return the tokens of each pair."""
    found: NDArray[numpy.int64] = pyarrow.compute.list_value_length(tokens.data.column("input_ids")).to_numpy()
    return found


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
