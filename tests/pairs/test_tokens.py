"""What is kept between runs is never met by another tokenizer, other pairs or another length."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from datasets import Dataset, config
from transformers import AutoTokenizer, BertGenerationTokenizer, PreTrainedTokenizerBase

from mrpc_lightning import demo
from mrpc_lightning.pairs.sources import digest
from mrpc_lightning.pairs.tokens import cache_key, lengths, load_tokenizer, pack, tokenize, unpack

PAIRS = {
    "sentence1": ["Rents rose in Oslo.", "Exports fell in the spring."],
    "sentence2": ["In Oslo rents rose.", "Imports rose."],
    "label": [1, 0],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache/mrpc_lightning"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer's files, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo.FOLDER / name, tmp_path)
    return tmp_path


def run(folder: Path, pairs: dict[str, list[Any]] = PAIRS, max_length: int = 32) -> tuple[dict[str, list[Any]], int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = Dataset.from_dict(pairs)
    tokens, cut = tokenize(tokenizer, given, max_length, cache_key(pack(tokenizer), digest(given), max_length))
    assert lengths(tokens).tolist() == [len(ids) for ids in tokens["input_ids"]]
    return tokens.to_dict(), cut


def expected(folder: Path, pairs: dict[str, list[Any]] = PAIRS, max_length: int = 32) -> dict[str, list[Any]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(pairs["sentence1"], pairs["sentence2"], truncation=True, max_length=max_length)
    return {**encoded, **({"labels": pairs["label"]} if "label" in pairs else {})}


def test_pairs_are_tokenized_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(folder)
    assert first == (expected(folder), 0)
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(made) == 1
    monkeypatch.setattr(Dataset, "_map_single", None)  # what would call the tokenizer
    assert run(folder) == first
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made


def test_whatever_tokens_depend_on_makes_them_anew(folder: Path, cache: Path) -> None:
    run(folder)
    shorter, cut = run(folder, max_length=9)
    assert shorter == expected(folder, max_length=9) and cut == 2 and max(map(len, shorter["input_ids"])) == 9
    for changed in (
        {**PAIRS, "sentence2": ["In Oslo rents fell.", "Imports rose."]},
        {**PAIRS, "label": [1, 1]},
        {name: PAIRS[name] for name in ("sentence1", "sentence2")},
        {**PAIRS, "sentence1": PAIRS["sentence2"], "sentence2": PAIRS["sentence1"]},
    ):
        assert run(folder, changed)[0] == expected(folder, changed)

    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words["rose"], words["fell"] = words["fell"], words["rose"]
    before = expected(folder)
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert run(folder)[0] == expected(folder) != before

    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "model_input_names": ["input_ids", "attention_mask"]})
    )
    tokens, _ = run(folder)
    assert "token_type_ids" not in tokens and tokens == expected(folder)
    assert len(list(cache.iterdir())) == 8


def test_the_order_of_splits_and_a_tokenizer_that_was_used_change_nothing(folder: Path, cache: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    files, pairs = pack(tokenizer), Dataset.from_dict(PAIRS)
    for max_length in (9, 32, 9):
        tokens, _ = tokenize(tokenizer, pairs, max_length, cache_key(files, digest(pairs), max_length))
        assert tokens.to_dict() == expected(folder, max_length=max_length)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cache_and_one_that_cannot_be_written_do_no_harm(folder: Path, cache: Path) -> None:
    first = run(folder)
    (file,) = cache.iterdir()
    file.write_bytes(b"no table")
    assert run(folder) == first
    shutil.rmtree(cache)
    cache.write_text("a file in its place")
    assert run(folder) == first


PIECES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "albert": (
        "AlbertTokenizer",
        "spiece.model",
        {
            **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
            **{"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]},
        },
    ),
    "deberta-v2": (
        "DebertaV2Tokenizer",
        "spm.model",
        {
            **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
            **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
        },
    ),
    "in Python": ("BertGenerationTokenizer", "spiece.model", {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}),
}


def write_pieces(folder: Path, kind: str) -> Path:
    """A tokenizer as some repositories have it: a SentencePiece model, and no tokenizer.json."""
    folder.mkdir()
    class_name, file_name, options = PIECES[kind]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PAIRS["sentence1"] + PAIRS["sentence2"]),
        model_prefix=str(folder / "pieces"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / "pieces.model").rename(folder / file_name)
    (folder / "pieces.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}))
    return folder


@pytest.mark.parametrize("kind", PIECES)
def test_a_tokenizer_with_a_sentencepiece_model_alone_is_loaded_packed_and_unpacked(tmp_path: Path, kind: str) -> None:
    tokenizer = load_tokenizer(str(write_pieces(tmp_path / "pieces", kind)), None, "x")
    if kind == "in Python":
        assert isinstance(tokenizer, BertGenerationTokenizer) and not tokenizer.is_fast
    files = pack(tokenizer)
    shutil.rmtree(tmp_path / "pieces")
    again = unpack(files)
    whole, cut = tokenize(again, Dataset.from_dict(PAIRS), 64)
    assert cut == 0 and whole["input_ids"][:] == tokenizer(PAIRS["sentence1"], PAIRS["sentence2"])["input_ids"]
    assert not any(again.unk_token_id in ids for ids in whole["input_ids"])
    for length in (max(lengths(whole)), max(lengths(whole)) - 1, min(lengths(whole)) - 1):
        for cache in (None, f"{kind}-{length}"):
            tokens, cut = tokenize(again, Dataset.from_dict(PAIRS), int(length), cache)
            assert cut == sum(lengths(whole) > length) and max(lengths(tokens)) <= length


def test_without_a_key_nothing_is_cached(folder: Path, cache: Path) -> None:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokens, cut = tokenize(tokenizer, Dataset.from_dict(PAIRS), 9)
    assert tokens.to_dict() == expected(folder, max_length=9) and cut == 2
    assert not cache.exists()
