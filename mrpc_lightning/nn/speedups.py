"""What makes a step cheaper and changes nothing of what is computed, but for rounding.

Each part answers a line of the profile in benchmarks/README.md.
"""

import contextlib
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import MethodType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from mrpc_lightning.nn.precision import bf16_instructions

# Encoders whose attention is the plain one: tests/nn/test_speedups.py compares each with what transformers computes.
PLAIN_ATTENTION = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
# Those whose layers are BERT's, and whose head looks at the first token alone.
BERT_LAYERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
ATTENTION = "mrpc_lightning"
MANY = 32  # pairs for which it pays to prepare an encoder
LOCK = threading.RLock()  # of encoders that are being prepared, used or restored
ROWS = 1024  # that a packed layer is laid out for, about 20 pairs; others it computes as well
SHAPES = 1024  # of batches that may be compiled; PyTorch's own limit is 8, beyond which it computes uncompiled


def make_fast(model: PreTrainedModel, device: torch.device, compiled: bool = False) -> None:
    """Let an encoder compute the same in less time; leave it as it is, with a warning, should it compute otherwise.

    Its weights and their names stay as they are, but `model.base_model` may return the first token's state alone. Where
    training is `compiled`, PyTorch makes the rest fast.
    """
    if vars(model).get("fast") in ((device.type, True), (device.type, compiled)):
        return  # and stays so: nothing is checked again
    make_plain(model)
    config: Any = model.config
    plain_layers = not getattr(config, "is_decoder", False) and not getattr(config, "chunk_size_feed_forward", 0)
    first_token = config.model_type in BERT_LAYERS and plain_layers
    on_cpu = device.type == "cpu" and not compiled
    expected = _first_state(model) if first_token or (on_cpu and config.model_type in PLAIN_ATTENTION) else None
    try:
        if first_token:
            encoder: Any = model.base_model.encoder
            last = encoder.layer[-1].attention
            last.forward = MethodType(attend_from_first_token, last)
        if on_cpu:
            _replace_dropout(model, nn.Dropout, Dropout)
            if config.model_type in PLAIN_ATTENTION:
                vars(model)["plain_attention"] = config._attn_implementation
                config._attn_implementation = ATTENTION  # neither saved nor exported
        if expected is not None:
            tolerance = 1e-3 if model.dtype.itemsize >= 4 else 0.1
            torch.testing.assert_close(_first_state(model), expected, rtol=tolerance, atol=tolerance)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError):  # transformers changed its layers
        make_plain(model)
        rank_zero_warn("this version of transformers is not known to the faster encoder; the plain one is used")
    vars(model)["fast"] = device.type, compiled
    if compiled:
        from torch._dynamo import config as limits  # it takes a second to import

        for name in ("recompile_limit", "accumulated_recompile_limit"):
            setattr(limits, name, max(getattr(limits, name), SHAPES))
        model.compile(dynamic=False)


def make_plain(model: PreTrainedModel) -> None:
    """Undo what `make_fast` did to an encoder, but for compiling."""
    vars(model).pop("fast", None)
    for module in model.modules():
        if getattr(module.forward, "__func__", None) is attend_from_first_token:
            del module.forward
    _replace_dropout(model, Dropout, nn.Dropout)
    config: Any = model.config
    if config._attn_implementation == ATTENTION and "plain_attention" in vars(model):  # else another model's
        config._attn_implementation = vars(model).pop("plain_attention")


@contextmanager
def predicting(model: PreTrainedModel, device: torch.device, pairs: int) -> Iterator[None]:
    """Let an encoder be in evaluation mode, and fast, while it predicts some pairs, and then be as it was.

    One thread at a time: another would find it half prepared.
    """
    with LOCK, contextlib.ExitStack() as ending:
        ending.callback(model.train, model.training)
        model.eval()
        if pairs >= MANY:
            if "fast" not in vars(model):
                ending.callback(make_plain, model)
                make_fast(model, device)
            ending.enter_context(packed(model, device))
        yield


@contextmanager
def packed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let a CPU compute a model's linear layers as `Packed` does, for as long as their weights do not change."""
    layers = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    layers = layers if device.type == "cpu" else []
    try:
        for layer in layers:
            vars(layer)["forward"] = Packed(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


class Packed:
    """Compute a linear layer, where no gradients are asked for, with oneDNN and weights in oneDNN's own layout.

    Autocast would cast the weights at each call; PyTorch's float32 product (MKL's) takes twice as long on CPUs of AMD.
    The weights are copied at the first call, and again after a checkpoint was loaded; not every other way to change
    them is noticed, so this is for `packed` alone.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._copy: tuple[tuple[Any, ...], Tensor] | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Return the layer's output: of shape (..., outputs), for values of shape (..., inputs)."""
        weight: Tensor = self.layer.weight
        bias: Tensor | None = self.layer.bias
        is_autocast = torch.is_autocast_enabled("cpu") and values.dtype != torch.float64
        dtype = torch.get_autocast_dtype("cpu") if is_autocast else values.dtype
        is_known = weight.device.type == "cpu" and not weight.is_inference() and (is_autocast or weight.dtype == dtype)
        if torch.is_grad_enabled() or not is_known or dtype not in packable():
            return nn.functional.linear(values, weight, bias)
        made_from, copy = (dtype, weight.data_ptr(), weight._version), self._copy
        if copy is None or copy[0] != made_from:
            made = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
            self._copy = copy = made_from, made
        bias = None if bias is None else bias.to(dtype)
        compute: Any = torch.ops.mkldnn._linear_pointwise
        found: Tensor = compute(values.to(dtype), copy[1], bias, "none", [], "")
        return found


@cache
def packable() -> tuple[torch.dtype, ...]:
    """Return the number formats in which packed layers compute on this CPU; none where it was not tried."""
    operators = "_reorder_linear_weight", "_linear_pointwise"
    if platform.machine() not in ("x86_64", "AMD64") or not all(hasattr(torch.ops.mkldnn, one) for one in operators):
        return ()
    return (torch.float32, torch.bfloat16) if bf16_instructions() else (torch.float32,)


def _replace_dropout(model: nn.Module, old: type[nn.Dropout], new: type[nn.Dropout]) -> None:
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is old:
                setattr(parent, name, new(module.p).train(module.training))


@torch.no_grad()
def _first_state(model: PreTrainedModel) -> Tensor:
    # Of two sequences, of which one is padded. No global random number is drawn.
    embeddings: Any = model.get_input_embeddings()
    device = embeddings.weight.device
    ids = torch.randint(embeddings.num_embeddings, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(6) < torch.tensor([[6], [4]])).long()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        states: Tensor = model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device))[0]
    finally:  # however it ends: else an encoder that transformers changed is trained without dropout
        for module, training in modes:
            module.training = training
    return states[:, 0].float()


def drop(values: Tensor, share: float) -> Tensor:
    """Drop values as PyTorch does, but on a CPU in a sixth of the time: PyTorch draws one number a value, serially.

    One draw of 64 bits serves four values there, so that `share`, from 0 to below 1, is rounded to a multiple of
    1/65,536.
    """
    if values.device.type != "cpu":
        return nn.functional.dropout(values, share)
    count = values.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = torch.empty_like(values, memory_format=torch.contiguous_format)
    threshold = min(round(share * 2**16), 2**16 - 1) - 2**15
    torch.ge(drawn.view(torch.int16)[:count].view(values.shape), threshold, out=keep)
    return values * keep.div_(1 - share)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` with the `drop` above."""

    def forward(self, values: Tensor) -> Tensor:
        """Drop a share `p` of the values while training, and scale up the rest."""
        return drop(values, self.p) if self.training and 0 < self.p < 1 else super().forward(values)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step: faster on a CPU, at any length up to 512, than PyTorch's fused one.

    The query is of shape (batch, heads, queries, head size), key and value of (batch, heads, tokens, head size), the
    mask of (batch, 1, queries, tokens): 0 where to look and a large negative number elsewhere.

    Returns:
        The output, (batch, queries, heads, head size), and the weights, (batch, heads, queries, tokens).
    """
    scores = (query * (query.size(-1) ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask.to(scores.dtype)
    # In float32: PyTorch's softmax of bfloat16 takes longer where the width is no multiple of 16.
    is_short = scores.dtype.itemsize < 4
    weights = scores.softmax(dim=-1, dtype=torch.float32 if is_short else None).to(scores.dtype)
    if module.training and dropout > 0:
        weights = drop(weights, dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def attend_from_first_token(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """Stand in for the attention of a BERT's last layer, of which the head uses the first token's output alone.

    What follows in the layer is then computed for that token only: five sixths of the layer are saved. The states are
    of shape (batch, tokens, hidden), the mask (batch, 1, tokens, tokens), the output (batch, 1, hidden).
    """
    layer = self.self
    batch, first = len(hidden_states), hidden_states[:, :1]

    def heads(states: Tensor) -> Tensor:
        return states.view(batch, -1, layer.num_attention_heads, layer.attention_head_size).transpose(1, 2)

    output, weights = AttentionInterface().get_interface(layer.config._attn_implementation, attention)(
        layer,
        heads(layer.query(first)),
        heads(layer.key(hidden_states)),
        heads(layer.value(hidden_states)),
        None if attention_mask is None else attention_mask[:, :, :1],
        dropout=layer.dropout.p if layer.training else 0.0,
        scaling=layer.scaling,
    )
    return self.output(output.reshape(batch, 1, -1), first), weights


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
