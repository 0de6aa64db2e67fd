import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mrpc_lightning import hub
from mrpc_lightning.errors import InputError


def load_tokenizer(source: str, revision: str | None, flag: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from the Hub or from a folder.

    Raises:
        InputError: If there is none, or it has no padding token.
    """
    hub.prepare(source, flag)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{flag}: {hub.explain(error, source)}") from error
    if tokenizer.pad_token is None:
        raise InputError(f"{flag}: its tokenizer has no padding token; choose an encoder such as BERT or RoBERTa")
    return tokenizer


def tokenize(tokenizer: PreTrainedTokenizerBase, pairs: Dataset, max_length: int) -> tuple[Dataset, int]:
    """Tokenize sentence pairs.

    Args:
        tokenizer: The tokenizer.
        pairs: `sentence1`, `sentence2` and, if there are labels, `label`.
        max_length: Tokens a pair.

    Returns:
        The model's inputs, row for row, and the number of pairs that were cut.
    """
    # Both sentences at once: the tokenizer puts the separator and token_type_ids where this encoder wants them.
    encoded = tokenizer(pairs["sentence1"][:], pairs["sentence2"][:], truncation=True, max_length=max_length)
    cut = sum(bool(encoding.overflowing) for encoding in encoded.encodings or ())
    columns = dict(encoded)
    if "label" in pairs.column_names:
        columns["labels"] = pairs["label"][:]
    return Dataset.from_dict(columns), cut


def pack(tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Return a tokenizer's files by name, as bytes in tensors, which a checkpoint can hold and run no code."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in sorted(Path(folder).iterdir())
        }


def unpack(files: Mapping[str, torch.Tensor], flag: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that `pack` packed.

    Raises:
        InputError: If the files are no tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / Path(name).name).write_bytes(content.numpy().tobytes())
        return load_tokenizer(folder, None, flag)
