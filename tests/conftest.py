"""A tiny encoder and a tiny corpus, made here: no test needs a network, a GPU or anyone else's files."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the commands that tests start; they run on all cores together
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()  # tokens that other runs left, and those of these
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the Hub by mistake fails at once, the same everywhere

import torch
from helpers import TINY, copy_to, make_rows, train, write_csv
from transformers import BertConfig, BertForSequenceClassification

from mrpc_lightning import demo
from mrpc_lightning.report import plots

# Ticks and their numbers take half of the time of drawing, and no test looks at them.
plots.STYLE |= dict.fromkeys(("xtick.bottom", "xtick.labelbottom", "ytick.left", "ytick.labelleft", "axes.grid"), False)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, as tests may be, ignore it
torch.set_num_threads(1)  # a tiny model waits longer for threads than for sums


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
    """Flags of a run of two epochs on the tiny encoder and corpus, which takes a second or two."""
    return [f"--model.model_name={encoder}", *TINY, "--trainer.max_epochs=2"]


@pytest.fixture(scope="session")
def tiny_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has trained for one epoch; made once, and copied by those who change it."""
    return train(tmp_path_factory.mktemp("run"), encoder)


@pytest.fixture
def trained(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, to work in."""
    return copy_to(tiny_run, tmp_path / "project", monkeypatch)
