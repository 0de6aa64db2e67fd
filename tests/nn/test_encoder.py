"""All weights of a pretrained encoder are the pretrained ones, and nothing of a checkpoint runs code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, BertModel, PreTrainedModel

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.encoder import load_encoder, restore_encoder

NAMES = ["not_equivalent", "equivalent"]


def rename_a_layer(folder: Path) -> int:
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("encoder.layer.1.", "coder.blocks.1."): value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return len(renamed.keys() - weights.keys())


def change_the_width(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    return 2 * 3  # in each of two layers: weight and bias into it, weight out of it


@pytest.mark.parametrize("spoil", [rename_a_layer, change_the_width])
def test_weights_that_do_not_fill_the_encoder_are_counted(
    spoil: Callable[[Path], int], tmp_path: Path, encoder: str
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(encoder, folder)
    count = spoil(folder)
    with pytest.raises(InputError, match=rf"^model.model_name {folder}: .*\b{count} of the encoder's are missing or"):
        load_encoder(str(folder), None, True, NAMES)
    load_encoder(str(folder), None, False, NAMES)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_a_checkpoint_without_a_head_or_pooler_gets_fresh_ones(
    kind: type[PreTrainedModel], tmp_path: Path, encoder: str
) -> None:
    torch.manual_seed(1)
    saved = kind(BertConfig.from_pretrained(encoder, initializer_range=0.1))
    saved.save_pretrained(tmp_path)
    loaded = dict(load_encoder(str(tmp_path), None, True, NAMES).named_parameters())
    for name, value in saved.named_parameters():
        if not name.startswith("cls."):
            assert torch.equal(loaded[f"bert.{name.removeprefix('bert.')}"], value)
    with pytest.raises(InputError, match="has no trained head"):
        load_encoder(str(tmp_path), None, True, NAMES, head=True)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_head_pooler_and_top_layers_start_anew(layers: int, encoder: str) -> None:
    saved = dict(load_encoder(encoder, None, True, NAMES).named_parameters())
    model = load_encoder(encoder, None, True, NAMES, reinit_layers=layers)
    fresh = ("classifier.", "bert.pooler.", *(f"bert.encoder.layer.{1 - n}." for n in range(layers)))
    for name, value in model.named_parameters():
        if not name.startswith(fresh):
            assert torch.equal(value, saved[name]), name
        elif value.dim() > 1:  # as BERT's class makes them: normal, with the configuration's deviation
            assert not torch.equal(value, saved[name]) and 0.07 < value.std() < 0.13, name
        else:
            assert value.unique().tolist() == [float("LayerNorm.weight" in name)], name
    with pytest.raises(InputError, match="^model.reinit_layers 3: the encoder has 2 layers; give at most that"):
        load_encoder(encoder, None, True, NAMES, reinit_layers=3)


def test_the_demo_has_no_pretrained_weights() -> None:
    with pytest.raises(
        InputError, match="^model.model_name demo: has no pretrained weights: give model.pretrained false"
    ):
        load_encoder("demo", None, True, NAMES)


def test_label_names_are_the_models(encoder: str) -> None:
    model = load_encoder(encoder, None, True, ["different", "same"])
    assert model.config.id2label == {0: "different", 1: "same"} and model.config.num_labels == 2
    assert model.config.label2id == {"different": 0, "same": 1} and model.training


FOREIGN = {
    "auto_map": {"AutoConfig": "someone--code.A"},
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "_attn_implementation_internal": "someone/kernel",
    "experts_implementation": "someone/kernel",
    "quantization_config": {"quant_method": "someone"},
    "custom_pipelines": {"text-classification": {"impl": "someone.Pipeline"}},
}
DEPTHS: dict[str, Callable[[dict[str, Any]], None]] = {
    "at the top": lambda config: config.update(FOREIGN),
    "one level down": lambda config: config.update(text_config={"hidden_size": 32, **FOREIGN}),
    "two levels down": lambda config: config.update(text_config={"vision_config": {"hidden_size": 32, **FOREIGN}}),
    "in a list": lambda config: config.update(parts=[{"hidden_size": 32, **FOREIGN}]),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_name_of_code_survives_in_a_restored_configuration(depth: str, encoder: str) -> None:
    config = AutoModelForSequenceClassification.from_pretrained(encoder).config.to_dict()
    DEPTHS[depth](config)
    restored = restore_encoder(config)
    assert "someone" not in str(restored.config.to_dict()) and restored.config.hidden_size == 32
