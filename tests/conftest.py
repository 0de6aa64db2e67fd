"""A tiny encoder and a tiny corpus, made here: no test needs a network, a GPU or anyone else's files."""

import csv
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()  # tokens that other runs left, and those of these
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the Hub by mistake fails at once, the same everywhere

import torch
from transformers import BertConfig, BertForSequenceClassification

from mrpc_lightning import demo, main

torch.set_num_threads(1)  # a tiny model waits longer for threads than for sums

Row = tuple[str, str, int]


def make_rows(pairs: int, seed: int = 0) -> list[Row]:
    """Pairs that are equivalent just when the second sentence says "rose" as the first does."""
    generator = random.Random(seed)
    rows = []
    for number in range(pairs):
        label = int(number % 3 != 0)
        city = generator.choice(["Oslo", "Vienna", "Lisbon", "Dublin"])
        tail = " " + " ".join(["on Monday"] * generator.randint(1, 12))
        rows.append((f"Rents in {city} rose{tail}", f"In {city} rents {'rose' if label else 'fell'}", label))
    generator.shuffle(rows)
    return rows


def write_csv(path: Path, rows: list[Row], header: tuple[str, ...] = ("sentence1", "sentence2", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pretrained-looking BERT of 2 layers, 32 wide, with dropout, and the demo's vocabulary."""
    folder = tmp_path_factory.mktemp("encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo.FOLDER / name, folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=BertConfig.from_pretrained(demo.FOLDER).vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with 60 training and 25 validation pairs: 25 is no multiple of any batch here."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "train.csv", make_rows(60))
    write_csv(tmp_path / "validation.csv", make_rows(25, seed=1))
    return tmp_path


@pytest.fixture
def arguments(project: Path, encoder: str) -> list[str]:
    """Flags of a run on the tiny encoder and corpus, which takes a second."""
    return [
        f"--model.model_name={encoder}",
        "--model.learning_rate=1e-3",
        "--data.train_file=train.csv",
        "--data.validation_file=validation.csv",
        "--data.max_length=48",
        "--data.batch_size=8",
        "--data.eval_batch_size=7",
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]


def fails(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message.startswith("error: ") and "\n" not in message and "Traceback" not in message
    return message
