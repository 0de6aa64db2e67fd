"""Which values the model's keys may have."""

from collections.abc import Mapping
from math import inf
from typing import Any

from mrpc_lightning.errors import InputError


def is_plain(value: Any) -> bool:
    """Say whether a hyper-parameter is a number, a text, None or a list of these."""
    return all(isinstance(one, str | int | float | None) for one in (value if isinstance(value, list) else [value]))


def check_values(values: Mapping[str, Any]) -> None:
    """Check the hyper-parameters of `ParaphraseClassifier`.

    Raises:
        InputError: If one makes no sense, or two contradict each other.
    """
    if len(names := values["label_names"]) != 2 or len(set(names)) != 2:
        raise InputError(f"model.label_names {names}: two classes only; give two names, the positive last")
    for name in ("learning_rate", "weight_decay", "warmup", "reinit_layers"):
        if (values[name] or 0) < 0:
            raise InputError(f"model.{name} {values[name]:g}: must not be negative")
    if (rate := values["learning_rate"]) > 1:
        raise InputError(f"model.learning_rate {rate:g}: at most 1; 2e-5 to 5e-5 suit pretrained weights")
    if not 0 < (decay := values["layer_decay"]) <= 1:
        raise InputError(f"model.layer_decay {decay:g}: must lie above 0 and be at most 1")
    for name in ("hidden_dropout", "attention_dropout", "label_smoothing"):
        if not 0 <= (share := values[name] or 0) < 1:
            raise InputError(f"model.{name} {share:g}: a share, from 0 to below 1")
    weights = values["class_weights"]
    if weights is not None and (len(weights) != 2 or not all(0 < weight < inf for weight in weights)):
        raise InputError(f"model.class_weights {weights}: give two numbers above 0, the positive class's last")
    if not values["pretrained"] and values["freeze_embeddings"]:
        raise InputError("model.freeze_embeddings true: random embeddings (model.pretrained false) must learn")
    if values["compile"] and values["gradient_checkpointing"]:
        raise InputError("model.compile true: was not tried with model.gradient_checkpointing; leave one out")
    if not values["pretrained"] and values["reinit_layers"] is not None:
        raise InputError("model.reinit_layers: all weights are random with model.pretrained false; leave one out")
