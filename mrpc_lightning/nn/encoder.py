"""The encoder: loaded, with the head and the dropout that were asked for."""

import re
from typing import Any

import torch
from huggingface_hub.utils.tqdm import enable_progress_bars
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from mrpc_lightning import demo, hub, origin
from mrpc_lightning.errors import InputError

# What can make transformers fetch code or compute otherwise than in float32: nothing that a checkpoint may decide.
NAMES_CODE = re.compile("auto_map|custom_pipelines|trust_remote_code|quantization_config|.*_implementation(_internal)?")
# What configurations call the two kinds of dropout: BERT and its like, then DistilBERT, then ModernBERT.
DROPOUT = {
    "hidden_dropout": ("hidden_dropout_prob", "dropout", "mlp_dropout"),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout"),
}


def load_encoder(
    model_name: str,
    revision: str | None,
    pretrained: bool,
    label_names: list[str],
    head: bool = False,
    reinit_layers: int | None = None,
    **dropout: float | None,
) -> PreTrainedModel:
    """Load an encoder with a head for two classes, in float32 and in training mode; see `ParaphraseClassifier`.

    With `head` it must bring a trained head for these classes. Else a head for two classes is kept, whatever their
    names; if they are these names in the other order, so are its outputs. Without one it gets a fresh one.

    Raises:
        InputError: If there is no such encoder, the Hub cannot be reached, the weights do not fit the encoder, a
            trained head is missing, or the encoder has no such dropout or fewer layers; if a run's weights are not
            wanted.
    """
    source, key = demo.resolve(model_name), f"model.model_name {model_name}"
    run = origin.read_run(source)
    if run and not pretrained:
        raise InputError(f"model.pretrained false: {model_name} is a run, whose weights are trained; set it true")
    if not run:
        hub.prepare(source, key)
    trusted: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    verbosity = transformers_logging.get_verbosity()
    # The report of missing head weights is right, expected, and alarming.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()  # the download's: it can be 440 MB
    try:
        config = restore_config(run["encoder_config"]) if run else AutoConfig.from_pretrained(source, **trusted)
        if head:
            _check_labels(config, label_names)
        is_swapped = _labels(config) == label_names[::-1]
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: label for label, name in enumerate(label_names)}
        _set_dropout(config, key, dropout)
        if pretrained and model_name == demo.NAME:
            raise InputError(f"{key}: has no pretrained weights: give model.pretrained false")
        if pretrained:
            weights = {name.removeprefix("model."): value.clone() for name, value in run.get("state_dict", {}).items()}
            kind: Any = AutoModelForSequenceClassification
            if run:
                kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]  # the Auto class takes no weights
            model, found = kind.from_pretrained(
                None if run else source,
                config=config,
                state_dict=weights or None,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **trusted,
            )
            check_weights(model, found, key, head or bool(run))
            if is_swapped:
                _swap_classes(model)
            if reinit_layers is not None:
                reinitialize(model, reinit_layers)
        else:
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{key}: {hub.explain(error, source)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    # from_pretrained returns a model in eval mode, and Lightning leaves it there: no dropout in training.
    encoder: PreTrainedModel = model.train()
    return encoder


def restore_encoder(encoder_config: dict[str, Any]) -> PreTrainedModel:
    """Make an encoder from the configuration that a checkpoint holds, without a network."""
    encoder: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        restore_config(encoder_config), dtype=torch.float32, trust_remote_code=False
    )
    return encoder


def restore_config(encoder_config: dict[str, Any]) -> PreTrainedConfig:
    """Make the configuration that a checkpoint holds."""
    values = without_code(encoder_config)
    config: PreTrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
    return config


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the encoder's layers, from the embeddings up: the longest list of modules in it, if there is one."""
    lists = (module for module in model.base_model.modules() if isinstance(module, nn.ModuleList))
    return [*max(lists, key=len, default=())]


def depths(model: PreTrainedModel, key: str) -> dict[int, int]:
    """Return how far below the head each parameter of the encoder lies, by the parameter's `id`.

    1 is the top layer, and one more than the number of layers are the embeddings and all else that is in no layer. Head
    and pooler are not in it: their depth is 0.

    Raises:
        InputError: If the encoder has no list of layers. The `key` is for the message.
    """
    if not (layers := layers_of(model)):
        raise InputError(f"{key}: a {type(model).__name__} has no list of layers; leave the key out")
    names = model.base_model.named_parameters()
    above = {"pooler", "final_norm"}  # ModernBERT has the second
    found = {id(parameter): len(layers) + 1 for name, parameter in names if not above & {*name.split(".")}}
    for depth, layer in enumerate(reversed(layers), 1):
        found |= dict.fromkeys(map(id, layer.parameters()), depth)
    return found


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Let each layer be computed again in the backward pass, so that what it computed need not be kept.

    Raises:
        InputError: If the encoder cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise InputError(f"model.gradient_checkpointing true: a {type(model).__name__} cannot; leave it out")
    model.config.use_cache = False  # transformers warns that it is incompatible
    # The name in transformers 5.24 and in earlier versions.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@torch.no_grad()
def reinitialize(model: PreTrainedModel, layers: int) -> None:
    """Give head, pooler and so many of the top layers fresh random weights, as the encoder's own class makes them.

    Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning", section 5: pretrained top layers can be a bad start.

    Raises:
        InputError: If the encoder has fewer layers.
    """
    depth_of = depths(model, f"model.reinit_layers {layers}")
    if layers > (most := max(depth_of.values()) - 1):
        raise InputError(f"model.reinit_layers {layers}: the encoder has {most} layers; give at most that")
    fresh = dict(AutoModelForSequenceClassification.from_config(model.config, dtype=torch.float32).named_parameters())
    for name, parameter in model.named_parameters():
        if depth_of.get(id(parameter), 0) <= layers:
            parameter.copy_(fresh[name])


def check_width(model: PreTrainedModel, max_length: int, multiple: int | None) -> None:
    """Check that a pair of `max_length` tokens, rounded up to a multiple, fits into an encoder.

    Raises:
        InputError: If it does not.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    if isinstance(positions, int) and padding is not None:
        positions -= padding + 1  # RoBERTa's positions begin behind the padding token's id
    width = -(-max_length // (multiple or 1)) * (multiple or 1)
    if isinstance(positions, int) and width > positions:
        rounded = f", rounded up to {width} by data.pad_to_multiple_of {multiple}" if width > max_length else ""
        raise InputError(f"data.max_length {max_length}{rounded}: the encoder takes {positions} tokens at most")


def without_code(value: Any) -> Any:
    """Return a configuration without whatever names code, at any depth."""
    if isinstance(value, dict):
        return {name: without_code(one) for name, one in value.items() if not NAMES_CODE.fullmatch(str(name))}
    return [without_code(one) for one in value] if isinstance(value, list | tuple) else value


def check_weights(model: PreTrainedModel, found: dict[str, Any], key: str, head: bool) -> None:
    """Check that pretrained weights fit.

    Args:
        model: The model, loaded.
        found: What `from_pretrained` tells of its loading.
        key: What the person gave, for the message.
        head: Whether the head must be among them.

    Raises:
        InputError: If weights are missing, or of another shape.
    """
    # The head's may be missing, and the pooler's with it: encoders that learned from masked words alone have none.
    random = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    encoder = [name for name in random if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name]
    if encoder:
        raise InputError(
            f"{key}: its weights do not fit its configuration: {len(encoder)} of the encoder's are missing or of "
            f"another shape, such as {min(encoder)}"
        )
    if head and random:
        raise InputError(
            f"{key}: has no trained head for two classes, so there is nothing to score; fine-tune it first, with fit"
        )


def _set_dropout(config: PreTrainedConfig, encoder: str, dropout: dict[str, float | None]) -> None:
    for name, value in dropout.items():
        found = [key for key in DROPOUT[name] if hasattr(config, key)]
        if value is not None and not found:
            raise InputError(f"model.{name} {value:g}: the encoder of {encoder} has no such dropout")
        if value is not None:
            setattr(config, found[0], value)


def _labels(config: PreTrainedConfig) -> list[str]:
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def _swap_classes(model: PreTrainedModel) -> None:
    for name, weight in model.named_parameters():
        if not name.startswith(f"{model.base_model_prefix}.") and len(weight) == 2:  # the classes'
            weight.data = weight.data.flip(0)


def _check_labels(config: PreTrainedConfig, label_names: list[str]) -> None:
    found = _labels(config)
    if len(found) != 2 or found not in (label_names, ["LABEL_0", "LABEL_1"]):
        advice = "name them in this order" if len(found) == 2 else "only heads for two classes can be scored"
        raise InputError(f"model.label_names {label_names}: the head's classes are {found}; {advice}")
