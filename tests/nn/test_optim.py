import math
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import LayerNorm
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.optim import make_schedule, parameter_groups, warmup_steps


def test_weight_decay_spares_exactly_biases_and_layer_norm() -> None:
    model = BertForSequenceClassification(
        BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    )
    # A second way to tell them: by the names and kinds of modules instead of the shapes of weights.
    spared = {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, LayerNorm)
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = parameter_groups(model, 0.01)
    assert {names[id(parameter)] for parameter in plain["params"]} == spared
    assert {names[id(parameter)] for parameter in decayed["params"]} == set(names.values()) - spared
    assert decayed["weight_decay"] == 0.01 and plain["weight_decay"] == 0.0


def test_parameters_that_a_strategy_keeps_as_vectors_decay_all_the_same() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.Linear(4, 2, bias=False))
    for parameter in model.parameters():
        parameter.data = parameter.data.flatten()
    decayed, plain = parameter_groups(model, 0.01)
    assert [*map(id, decayed["params"])] == [id(model[0].weight), id(model[3].weight)]
    assert [*map(id, plain["params"])] == [
        *map(id, (model[0].bias, model[1].weight, model[1].bias, model[2].weight)),
    ]


def test_frozen_parameters_are_left_out() -> None:
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    assert [group["params"] for group in parameter_groups(frozen, 0.01)] == [[], []]


BERT_LIKE = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "pad_token_id": 0}
# The bottom of each: what has the lowest rate, by the names of transformers; and how many layers have weights.
SHAPES: dict[str, tuple[dict[str, Any], str, int]] = {
    "bert": (BERT_LIKE, r"bert\.embeddings\.", 3),
    "roberta": (BERT_LIKE, r"roberta\.embeddings\.", 3),
    "distilbert": ({"vocab_size": 9, "dim": 8, "n_layers": 3, "n_heads": 2}, r"distilbert\.embeddings\.", 3),
    "electra": ({**BERT_LIKE, "embedding_size": 4}, r"electra\.embeddings(_project)?\.", 3),
    "modernbert": (BERT_LIKE, r"model\.embeddings\.", 3),
    "albert": ({**BERT_LIKE, "embedding_size": 4}, r"albert\.(embeddings|encoder\.embedding_hidden_mapping_in)\.", 1),
    "deberta-v2": (
        {**BERT_LIKE, "relative_attention": True, "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 8},
        r"deberta\.(embeddings|encoder\.rel_embeddings|encoder\.LayerNorm)\.",
        3,
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_layer_has_a_share_of_the_rate_of_the_layer_above(kind: str) -> None:
    shape, bottom, layers = SHAPES[kind]
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **shape))
    groups = parameter_groups(model, 0.01, learning_rate=1.0, layer_decay=0.5)
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    decayed = {id(parameter) for parameter in parameter_groups(model, 0.01)[0]["params"]}
    for name, parameter in model.named_parameters():
        layer = re.search(r"\.(?:layers?|albert_layer_groups)\.(\d+)\.", name)
        depth = layers - int(layer[1]) if layer else layers + 1 if re.match(bottom, name) else 0
        assert found.pop(id(parameter)) == (0.5**depth, 0.01 if id(parameter) in decayed else 0.0), name
    assert not found and groups[0]["lr"] == 1.0 and any(parameter.dim() > 1 for parameter in groups[0]["params"])


def test_without_layer_decay_the_groups_have_no_rate_of_their_own() -> None:
    model = BertForSequenceClassification(BertConfig(**BERT_LIKE))
    groups = parameter_groups(model, 0.01, learning_rate=0.5)
    assert [[*group] for group in groups] == [["params", "weight_decay"]] * 2
    with pytest.raises(InputError, match="model.layer_decay 0.9: a Linear has no list of layers"):
        linear = nn.Linear(2, 2)
        linear.base_model = linear  # type: ignore[assignment]  # as an encoder without layers would have
        parameter_groups(linear, 0.01, 1.0, 0.9)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (0.1, 10), (0.5, 50), (1, 1), (30, 30)])
def test_warmup_is_a_share_below_one_and_steps_from_one_on(warmup: float, steps: int) -> None:
    assert warmup_steps(warmup, 100) == steps


@pytest.mark.parametrize("warmup", [-0.1, 100, 1000])
def test_a_warmup_that_does_not_fit_is_refused(warmup: float) -> None:
    with pytest.raises(InputError, match="model.warmup .* 100 optimizer steps"):
        warmup_steps(warmup, 100)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, warmup=0.2, total_steps=10)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_after_the_warmup_the_rate_may_follow_a_cosine_or_stay(kind: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, 0.2, 10, kind)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    falling = [(1 + math.cos(math.pi * step / 8)) / 2 if kind == "cosine" else 1 for step in range(9)]
    assert rates == pytest.approx([0, 1 / 2, *falling])


@pytest.mark.parametrize("total_steps", [float("inf"), -1])
def test_a_run_without_an_end_is_refused(total_steps: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(InputError, match="trainer.max_epochs"):
        make_schedule(optimizer, 0.1, total_steps)
