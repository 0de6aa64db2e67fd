import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import kept_for_backward
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks import scaling
from mrpc_lightning.nn.encoder import checkpoint_gradients

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
def test_contestants_train_on_the_same_pairs_and_are_measured_alike(tmp_path: Path) -> None:
    names = ["bare PyTorch loop, our settings", "mrpc_lightning"]
    words = [
        "--model=demo",
        "--max_length=64",
        "--layers=1",
        "--hidden=64",
        "--pairs=320",
        "--epochs=2",
        "--repeats=1",
        f"--out={tmp_path}",
    ]
    command = [sys.executable, str(BENCHMARKS / "compare.py"), *words, "--only", *names]
    for _ in range(2):  # the second time everything is there
        subprocess.run(command, check=True, timeout=300, cwd=tmp_path)
    bare, ours = (json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines())
    assert [bare["name"], ours["name"]] == names
    for one in (bare, ours):
        assert 0 < one["seconds_to_first_step"] < one["seconds_to_metrics"]
        assert one["pairs_per_second"] > 0 and 0.3 < one["f1"] < 1
    assert bare["padding"] == pytest.approx(ours["padding"], abs=0.01), "the order's seed is drawn otherwise"
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {name} |" in table for name in names) and "320 training pairs" in table


SHAPES = [  # layers, hidden, intermediate, heads, pairs, tokens
    (2, 64, 256, 2, 4, 32),
    (4, 64, 256, 4, 8, 64),
    (3, 96, 128, 2, 4, 96),
    (6, 128, 512, 8, 2, 128),
]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("layers,hidden,intermediate,heads,pairs,tokens", SHAPES)
def test_the_formula_of_memory_tells_what_training_keeps(
    layers: int, hidden: int, intermediate: int, heads: int, pairs: int, tokens: int, checkpointed: bool
) -> None:
    config = BertConfig(
        vocab_size=100,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        attention_probs_dropout_prob=0.0,  # a CPU's fused attention knows none; a GPU's keeps no mask of it
        attn_implementation="sdpa",
    )
    model = AutoModelForSequenceClassification.from_config(config).train()
    if checkpointed:
        checkpoint_gradients(model)
    loss, measured = kept_for_backward(model, pairs, tokens)
    of = scaling.shape(model)
    one_layer = of.unit_bytes * pairs * tokens + scaling.COPY * of.linear / layers if checkpointed else 0
    expected = (
        scaling.activations(of, pairs * tokens, checkpointed) - one_layer
    )  # it is there in the backward pass alone
    assert expected == pytest.approx(measured, rel=0.1 if checkpointed else 0.03)

    optimizer = torch.optim.AdamW(model.parameters())
    loss.backward()
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.numel() > 1]
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *gradients, *states))
    assert held == pytest.approx(scaling.STATES * of.parameters, rel=1e-3)
    alone, many = (scaling.memory(of, pairs * tokens, n, True, checkpointed) for n in (1, 1000))
    assert alone > many > scaling.activations(of, pairs * tokens, checkpointed)
