"""What is made fast computes the same as transformers and PyTorch do."""

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.bert.modeling_bert import BertAttention, BertLayer

from mrpc_lightning.nn.speedups import (
    BERT_LAYERS,
    PLAIN_ATTENTION,
    Dropout,
    Packed,
    drop,
    make_fast,
    make_plain,
    packed,
    predicting,
)

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "embedding_size": 32,
}
DISTILBERT = {
    "vocab_size": 100,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 64,
}


def make_encoder(kind: str, **values: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = DISTILBERT if kind == "distilbert" else SHAPE
    config = AutoConfig.for_model(kind, **{"initializer_range": 0.2, **shape, **values})
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def make_batch() -> dict[str, Tensor]:
    """Five pairs of 20 to 24 tokens."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(24) < torch.tensor([[24], [20], [22], [24], [21]])).long()
    return {"input_ids": torch.randint(2, 100, (5, 24), generator=generator), "attention_mask": mask}


def gradients(model: PreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(**batch).logits, torch.tensor([0, 1, 1, 0, 1]))
    loss.backward()
    # Of positions and tokens that are not there some encoders have a gradient of zero, some none.
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", PLAIN_ATTENTION)
def test_a_fast_encoder_has_the_logits_and_gradients_of_the_plain_one(kind: str) -> None:
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0} if kind == "distilbert" else {}
    plain = make_encoder(kind, **(no_dropout or {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    fast, batch = copy.deepcopy(plain), make_batch()
    make_fast(fast, CPU)
    assert fast.config._attn_implementation == "mrpc_lightning" != plain.config._attn_implementation
    assert list(fast.state_dict()) == list(plain.state_dict())
    for model in (plain, fast):
        model.eval()
    torch.testing.assert_close(fast(**batch).logits, plain(**batch).logits, rtol=1e-5, atol=1e-6)
    expected, found = gradients(plain.train(), batch), gradients(fast.train(), batch)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", BERT_LAYERS)
def test_the_last_layer_computes_the_first_token_alone_on_any_device(kind: str) -> None:
    plain, batch = make_encoder(kind).eval(), make_batch()
    short = copy.deepcopy(plain)
    make_fast(short, torch.device("meta"))  # as on a GPU: attention and dropout stay PyTorch's
    assert short.config._attn_implementation == plain.config._attn_implementation == "sdpa"
    torch.testing.assert_close(short(**batch).logits, plain(**batch).logits, rtol=1e-5, atol=1e-6)
    assert short.base_model(**batch).last_hidden_state.shape == (5, 1, 32)


def rename_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers pass BERT's attention its mask by another name."""

    def attend(self: Any, hidden_states: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
        output, weights = self.self(hidden_states, attention_mask=mask, **options)
        return self.output(output, hidden_states), weights

    def layer(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **options: Any) -> Any:
        options.pop("encoder_attention_mask", None)
        attended, _ = self.attention(hidden_states, mask=attention_mask, **options)
        return self.feed_forward_chunk(attended)

    monkeypatch.setattr(BertAttention, "forward", attend)
    monkeypatch.setattr(BertLayer, "forward", layer)


def break_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let BERT's attention have other parts than those that the faster one calls."""
    original = BertAttention.__init__

    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.heads = self._modules.pop("self")

    def attend(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        output, weights = self.heads(hidden_states, attention_mask=attention_mask, **options)
        return self.output(output, hidden_states), weights

    monkeypatch.setattr(BertAttention, "__init__", __init__)
    monkeypatch.setattr(BertAttention, "forward", attend)


@pytest.mark.parametrize("change", [rename_the_mask, break_the_layer])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("initializer_range", [0.2, 0.02])
def test_an_encoder_that_transformers_changed_stays_the_plain_one(
    change: Any, device: str, initializer_range: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    plain = make_encoder("bert", initializer_range=initializer_range).eval()
    fast, batch = copy.deepcopy(plain), make_batch()
    with pytest.warns(UserWarning, match="this version of transformers"):
        make_fast(fast.train(), torch.device(device))
    assert all(module.training for module in fast.modules()), "else it is trained without dropout"
    assert torch.equal(fast.eval()(**batch).logits, plain(**batch).logits)


@pytest.mark.parametrize("kind", PLAIN_ATTENTION)
def test_making_it_fast_draws_no_random_number_changes_no_mode_and_can_be_done_twice(kind: str) -> None:
    model = make_encoder(kind).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    state, batch = torch.get_rng_state(), make_batch()
    make_fast(model, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    once = model.eval()(**batch).logits
    make_fast(model, CPU)
    assert torch.equal(model(**batch).logits, once)
    make_plain(model)
    torch.manual_seed(0)
    assert torch.equal(model(**batch).logits, make_encoder(kind).eval()(**batch).logits)


def test_as_many_widths_may_be_compiled_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo import config

    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    with config.patch(recompile_limit=8, accumulated_recompile_limit=8):
        make_fast(make_encoder("bert"), CPU, compiled=True)
        assert min(config.recompile_limit, config.accumulated_recompile_limit) >= 512


@pytest.mark.parametrize("values", [{"is_decoder": True}, {"chunk_size_feed_forward": 2}])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_that_is_not_berts_is_left_alone(values: dict[str, Any], device: str) -> None:
    plain = make_encoder("bert", **values).eval()
    fast, ids = copy.deepcopy(plain), make_batch()["input_ids"]
    make_fast(fast, torch.device(device))
    torch.testing.assert_close(fast(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


def test_the_head_ignores_padding() -> None:
    model, batch = make_encoder("bert").eval(), make_batch()
    make_fast(model, CPU)
    logits = model(**batch).logits
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)
    assert torch.equal(model(**batch).logits, logits)


@pytest.mark.parametrize("kind", PLAIN_ATTENTION)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_compute_the_same_and_follow_their_weights(kind: str, dtype: torch.dtype) -> None:
    plain, batch = make_encoder(kind, initializer_range=0.1).eval(), make_batch()
    other, tolerance = copy.deepcopy(plain), 0.02 if dtype == torch.bfloat16 else 1e-5
    make_fast(other, CPU)

    def check() -> None:
        for one in (plain, other):
            one.eval()
            context = packed(other, CPU) if one is other else contextlib.nullcontext()
            with context, torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                found.append(one(**batch).logits.float())
                if one is other:
                    assert any(isinstance(vars(module).get("forward"), Packed) for module in other.modules())
                    other.load_state_dict(other.state_dict())  # noticed within
                    assert torch.equal(other(**batch).logits.float(), found[-1])
        torch.testing.assert_close(found[-1], found[-2], rtol=tolerance, atol=tolerance)

    found: list[Tensor] = []
    check()
    with packed(other, CPU):
        gradients(other, batch)  # with plain layers: packed ones have none
    for model in (plain, other):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.mul_(1.5 if name.endswith("weight") else 1)
    check()
    for model in (plain, other):
        for parameter in model.parameters():
            parameter.data.mul_(0.7)  # which PyTorch does not count as a change
    check()
    for model in (plain, other):
        model.load_state_dict(make_encoder(kind, initializer_range=0.1).state_dict())
        for name, bias in model.named_parameters():
            bias.data.add_(1.0 if name.endswith("bias") else 0)
    check()
    assert not torch.allclose(found[0], found[2], atol=0.1) and not torch.allclose(found[2], found[4], atol=0.1)


def test_an_encoder_is_fast_for_a_prediction_alone() -> None:
    model, batch = make_encoder("bert").eval(), make_batch()
    whole = model.base_model(**batch)[0]
    with predicting(model, CPU, 32):
        assert model.base_model(**batch)[0].shape == (5, 1, 32)
    with predicting(model, CPU, 1):
        assert torch.equal(model.base_model(**batch)[0], whole), "it does not pay for one pair"
    assert torch.equal(model.base_model(**batch)[0], whole)
    make_fast(model, CPU)
    with predicting(model, CPU, 32):
        pass
    assert model.base_model(**batch)[0].shape == (5, 1, 32), "one that was fast stays so"


def test_threads_can_predict_with_one_encoder_at_once() -> None:
    model, batch = make_encoder("bert").eval(), make_batch()
    expected = model(**batch).logits.detach()

    def predict(number: int) -> Tensor:
        with predicting(model, CPU, 32 * (number % 2)), torch.inference_mode():
            return model(**batch).logits

    with ThreadPoolExecutor(4) as threads:
        for logits in threads.map(predict, range(40)):
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_what_is_saved_says_nothing_of_how_it_was_computed(tmp_path: Path) -> None:
    model = make_encoder("bert")
    make_fast(model, CPU)
    model.save_pretrained(tmp_path)
    assert "mrpc_lightning" not in (tmp_path / "config.json").read_text()
    assert not any("mrpc_lightning" in str(value) for value in model.config.to_dict().values())
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**make_batch()).logits, model.eval()(**make_batch()).logits)


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(257, 4099), (16, 50, 3, 384)])
def test_dropout_drops_its_share_independently_and_scales_the_rest(
    share: float, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    values = torch.ones(shape, dtype=dtype, requires_grad=True)
    dropped = drop(values, share)
    kept = dropped != 0
    count = kept.numel()
    deviation = (share * (1 - share) / count) ** 0.5
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=4 * deviation)
    reference = nn.functional.dropout(torch.ones(1000, dtype=dtype), share)
    assert dropped[kept].unique().tolist() == reference[reference != 0].unique().tolist(), "PyTorch's own factor"
    flat = kept.flatten().float() - (1 - share)
    for lag in (1, 2, 3, 4, shape[-1]):  # four values share a draw of 64 bits
        correlation = (flat[lag:] * flat[:-lag]).mean() / (share * (1 - share))
        assert abs(correlation) < 4 / count**0.5
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped), "where a value was dropped there is no gradient"
    assert not torch.equal(drop(values, share) != 0, kept), "the next step drops others"


def test_dropout_takes_any_strides_and_is_off_in_evaluation() -> None:
    values = torch.arange(1.0, 36.0).view(5, 7).T
    dropped = drop(values, 0.5)
    assert torch.equal(dropped[dropped != 0], 2 * values[dropped != 0]) and dropped.shape == (7, 5)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    assert torch.equal(Dropout(1.0)(values), torch.zeros(7, 5))
    assert (drop(torch.ones(10_000), 1 - 2**-18) != 0).float().mean() < 0.01


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_memory_is_kept_by_the_command_line_and_by_nobody_else() -> None:
    for module, expected in (("mrpc_lightning.cli.instant", "1"), ("mrpc_lightning", "None")):
        code = (
            f"import os, {module} as m; getattr(m, 'keep_memory', int)(); print(os.environ.get('THP_MEM_ALLOC_ENABLE'))"
        )
        environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_run_ends_like_one_that_is_not(project: Path, arguments: list[str]) -> None:
    from mrpc_lightning import main

    words = ["fit", *arguments, "--data.pad_to_multiple_of=48", "--trainer.precision=32-true"]
    no_dropout = ["--model.hidden_dropout=0", "--model.attention_dropout=0"]
    for compiled in ("false", "true"):
        main([*words, *no_dropout, f"--model.compile={compiled}"])
    plain, compiled_figures = (json.loads(Path(f"tb_logs/mrpc/version_{n}/metrics.json").read_text()) for n in (0, 1))
    assert compiled_figures["loss"] == pytest.approx(plain["loss"], rel=1e-3)
