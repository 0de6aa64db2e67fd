"""Batches are what transformers would make of the same tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, RoCBertTokenizer

from mrpc_lightning import demo
from mrpc_lightning.pairs.loader import make_loader
from mrpc_lightning.pairs.tokens import load_tokenizer, tokenize


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("width,multiple", [(None, None), (None, 8), (20, None), (20, 8)])
def test_batches_are_padded_as_transformers_pads_them(side: str, width: int | None, multiple: int | None) -> None:
    tokenizer = load_tokenizer(str(demo.FOLDER), None, "")
    tokenizer.padding_side, tokenizer.pad_token, tokenizer._pad_token_type_id = side, "[MASK]", 1
    tokens = tokens_of(tokenizer)
    tokens = tokens.add_column("special_tokens_mask", [[0] * len(one) for one in tokens["input_ids"]])
    compare(tokens, tokenizer, width, multiple)


def test_tokens_of_other_names_are_padded_as_their_tokenizer_pads_them(tmp_path: Path) -> None:
    words = {
        word: place for place, word in enumerate("[MASK] [UNK] [CLS] [SEP] [PAD] rents rose in the spring .".split())
    }
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    for name in ("shape", "pronunciation"):
        (tmp_path / f"{name}.json").write_text(json.dumps(words))
    files = [str(tmp_path / name) for name in ("vocab.txt", "shape.json", "pronunciation.json")]
    tokenizer: Any = RoCBertTokenizer(*files)
    tokens = tokens_of(tokenizer)
    assert "input_shape_ids" in tokens.column_names
    compare(tokens, tokenizer, None, None)


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return the tokens of pairs of several lengths."""
    words, lengths = "Rents rose in the spring .".split(), [1, 2, 2, 5]
    pairs = {"sentence1": [" ".join(words[:n]) for n in lengths], "sentence2": ["Rents"] * 4, "label": [0, 1, 1, 0]}
    return tokenize(tokenizer, Dataset.from_dict({**pairs, "soft_label": [0.1, 0.9, 1.0, 0.0]}), 32)[0]


def compare(tokens: Dataset, tokenizer: PreTrainedTokenizerBase, width: int | None, multiple: int | None) -> None:
    """Compare batches with those of transformers, value for value."""
    pad = DataCollatorWithPadding(tokenizer, "max_length" if width else "longest", width, multiple)
    for rows in ([0], [3, 1], [0, 1, 2, 3]):
        [batch] = make_loader(tokens.select(rows), tokenizer, 4, None, width, multiple)
        torch.testing.assert_close(batch, dict(pad(tokens[rows])), rtol=0, atol=0)
