import pytest
import torch
from torch import nn
from torch.nn import LayerNorm
from transformers import BertConfig, BertForSequenceClassification

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.optim import linear_schedule, parameter_groups, warmup_steps


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


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (0.1, 10), (0.5, 50), (1, 1), (30, 30)])
def test_warmup_is_a_share_below_one_and_steps_from_one_on(warmup: float, steps: int) -> None:
    assert warmup_steps(warmup, 100) == steps


@pytest.mark.parametrize("warmup", [-0.1, 100, 1000])
def test_a_warmup_that_does_not_fit_is_refused(warmup: float) -> None:
    with pytest.raises(InputError, match="model.warmup .* 100 optimizer steps"):
        warmup_steps(warmup, 100)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = linear_schedule(optimizer, warmup=0.2, total_steps=10)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])


@pytest.mark.parametrize("total_steps", [float("inf"), -1])
def test_a_run_without_an_end_is_refused(total_steps: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(InputError, match="trainer.max_epochs"):
        linear_schedule(optimizer, 0.1, total_steps)
