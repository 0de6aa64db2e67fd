"""docs/encoder.md's table is that of benchmarks/encoders.py, whose shapes are those of the published encoders."""

import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import kept_for_backward
from transformers import AutoConfig, AutoModelForSequenceClassification

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.encoder import check_width

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # as Python does for a script

import encoders  # noqa: E402
import scaling  # noqa: E402

PAGE = (ROOT / "docs" / "encoder.md").read_text(encoding="utf-8")
# Millions of parameters, as the authors or the Hub publish them, rounded.
PUBLISHED = {
    "google-bert/bert-base-uncased": 109,
    "google-bert/bert-large-uncased": 335,
    "distilbert/distilbert-base-uncased": 66,
    "FacebookAI/roberta-base": 125,
    "FacebookAI/roberta-large": 355,
    "google/electra-small-discriminator": 14,
    "google/electra-base-discriminator": 110,
    "microsoft/deberta-v3-base": 184,
    "answerdotai/ModernBERT-base": 149,
    "albert/albert-base-v2": 11.7,
    "nreimers/MiniLM-L6-H384-uncased": 22.7,
    "FacebookAI/xlm-roberta-base": 278,
}
ONE_OF_EACH_KIND = {shape["model_type"]: shape for shape, *_ in encoders.ENCODERS.values()}


def test_shapes_have_the_published_numbers_of_parameters() -> None:
    counted = {name: scaling.describe(shape).parameters / 1e6 for name, (shape, *_) in encoders.ENCODERS.items()}
    # Half a million is what rounding to millions takes of the smallest.
    assert counted == {name: pytest.approx(count, rel=0.02, abs=0.5) for name, count in PUBLISHED.items()}


def test_the_page_has_the_scripts_rows() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:3] == "| `"]
    of_costs = {cells[0]: cells for cells in rows if len(cells) == 10}
    assert [*of_costs.values()] == [encoders.row(name, of_costs[f"`{name}`"][2]) for name in encoders.ENCODERS]
    assert all(re.fullmatch(r"\d+\.\d\d", cells[2]) for cells in of_costs.values())
    assert of_costs["`google-bert/bert-base-uncased`"][2] == "1.00"


@pytest.mark.parametrize("kind", ONE_OF_EACH_KIND)
def test_an_encoder_takes_its_longest_input_and_no_longer_one(kind: str) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 16}
    own = {"n_layers": 1, "dim": 48, "hidden_dim": 16} if kind == "distilbert" else small
    config = AutoConfig.for_model(**ONE_OF_EACH_KIND[kind] | own)
    longest = encoders.longest(ONE_OF_EACH_KIND[kind])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    check_width(model, longest, None)
    with pytest.raises(InputError, match=f"the encoder takes {longest} tokens at most"):
        check_width(model, longest + 1, None)
    if kind in ("deberta-v2", "modernbert"):  # their positions have no end; this project stops where they say
        return
    with torch.inference_mode():
        assert model(input_ids=torch.full((1, longest), 5)).logits.shape == (1, 2)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))


@pytest.mark.parametrize("kind", ONE_OF_EACH_KIND)
def test_the_column_of_memory_tells_what_training_keeps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "PAIRS", 4)
    own = {"n_layers": 2} if kind == "distilbert" else {"num_hidden_layers": 2}
    shape = ONE_OF_EACH_KIND[kind] | {"vocab_size": 100, "pad_token_id": 1, **own}
    config = AutoConfig.for_model(**shape)
    for name in ("attention_probs_dropout_prob", "attention_dropout"):  # a GPU's fused attention keeps no mask of it
        setattr(config, name, 0.0)
    model = AutoModelForSequenceClassification.from_config(config).train()
    loss, kept = kept_for_backward(model, encoders.PAIRS, encoders.TOKENS, cache_enabled=False)  # as Lightning does
    states = scaling.STATES * sum(one.numel() for one in model.parameters())
    assert loss.requires_grad
    assert encoders.memory(shape) - states == pytest.approx(kept, rel=0.25)


def test_a_step_of_a_larger_encoder_takes_longer() -> None:
    small = {"model_type": "bert", "vocab_size": 100, "num_attention_heads": 4, "intermediate_size": 64}
    one, eight = {"hidden_size": 32, "num_hidden_layers": 1}, {"hidden_size": 256, "num_hidden_layers": 8}
    assert 0 < encoders.seconds(small | one, 3) < encoders.seconds(small | eight, 3)
