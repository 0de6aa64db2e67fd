import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_rows, write_csv
from lightning.pytorch import Callback, LightningModule, Trainer
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier
from mrpc_lightning.errors import InputError


def make_data(folder: Path, encoder: str, pairs: int = 60, **options: Any) -> MRPCDataModule:
    train = write_csv(folder / "train.csv", make_rows(pairs))
    validation = write_csv(folder / "validation.csv", make_rows(25, seed=1))
    options = {"max_length": 48, "batch_size": 8, "eval_batch_size": 7, **options}
    return MRPCDataModule(encoder, train_file=str(train), validation_file=str(validation), **options)


def make_trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=folder, accelerator="cpu", **{**quiet, **options})


class Watch(Callback):
    """Note what a user relies on while training: dropout, and each optimizer step's learning rate."""

    def __init__(self) -> None:
        self.modules_in_eval: list[str] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.modules_in_eval += [name for name, module in pl_module.model.named_modules() if not module.training]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_the_encoder_trains_with_dropout_in_every_epoch(tmp_path: Path, encoder: str) -> None:
    watch, model = Watch(), ParaphraseClassifier(encoder)
    make_trainer(tmp_path, max_epochs=2, callbacks=[watch]).fit(model, make_data(tmp_path, encoder))
    assert watch.modules_in_eval == []
    batch = {"input_ids": torch.ones(4, 8, dtype=torch.long), "attention_mask": torch.ones(4, 8, dtype=torch.long)}
    model.train()
    assert not torch.equal(model(**batch), model(**batch))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_schedule_is_sized_for_the_optimizer_steps_that_run(tmp_path: Path, encoder: str, accumulate: int) -> None:
    watch, model = Watch(), ParaphraseClassifier(encoder, learning_rate=1e-3, warmup=0.25)
    trainer = make_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[watch])
    trainer.fit(model, make_data(tmp_path, encoder))
    steps = 2 * -(-8 // accumulate)  # 60 pairs in batches of 8 make 8 batches an epoch
    warmup = round(0.25 * steps)
    assert trainer.global_step == len(watch.rates) == steps
    assert watch.rates[0] == 0
    assert watch.rates[warmup] == pytest.approx(1e-3) == max(watch.rates)
    assert watch.rates[-1] == pytest.approx(1e-3 / (steps - warmup))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_a_tiny_model_overfits_a_tiny_corpus(tmp_path: Path, encoder: str) -> None:
    torch.manual_seed(0)
    data = make_data(tmp_path, encoder, pairs=16)
    model = ParaphraseClassifier(encoder, learning_rate=3e-3)
    trainer = make_trainer(tmp_path, max_epochs=40, limit_val_batches=0)
    trainer.fit(model, data)
    scored = trainer.test(model, data.train_dataloader(), verbose=False)[0]
    assert scored["test_accuracy"] == scored["test_f1"] == 1
    assert scored["test_loss"] < 0.1


def test_a_checkpoint_is_restored_without_a_network_or_the_pretrained_weights(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path, encoder)
    model = ParaphraseClassifier(encoder, label_names=["different", "same"])
    data.hparams["label_names"] = ["different", "same"]
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pretrained weights or a network were asked for")

    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    restored = ParaphraseClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
    assert restored.model is not None and restored.model.config.id2label == {0: "different", 1: "same"}
    batch = next(iter(data.val_dataloader()))
    torch.testing.assert_close(restored.predict_step(batch, 0), model.eval().predict_step(batch, 0), rtol=0, atol=1e-6)


def test_half_precision_weights_are_trained_in_float32(tmp_path: Path, encoder: str) -> None:
    BertForSequenceClassification.from_pretrained(encoder, dtype=torch.float16).save_pretrained(tmp_path)
    model = ParaphraseClassifier(str(tmp_path))
    model.setup("fit")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_head_of_three_classes_gives_way_to_a_fresh_one_of_two(tmp_path: Path, encoder: str) -> None:
    BertForSequenceClassification.from_pretrained(encoder, num_labels=3, ignore_mismatched_sizes=True).save_pretrained(
        tmp_path
    )
    model = ParaphraseClassifier(str(tmp_path))
    model.setup("fit")
    assert model.model is not None and model.model.classifier.weight.shape == (2, 32)


def test_random_weights_are_random_and_of_the_same_shape(encoder: str) -> None:
    models = [ParaphraseClassifier(encoder, pretrained=pretrained) for pretrained in (True, False)]
    for model in models:
        model.setup("fit")
    first, second = (dict(model.named_parameters()) for model in models)
    assert {name: p.shape for name, p in first.items()} == {name: p.shape for name, p in second.items()}
    name = "model.bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(first[name], second[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_names": ["yes"]}, "model.label_names"),
        ({"label_names": ["yes", "yes"]}, "model.label_names"),
        ({"learning_rate": -1.0}, "model.learning_rate"),
        ({"weight_decay": -1.0}, "model.weight_decay"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ParaphraseClassifier("demo", **options)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_dropout_is_set_by_one_name_for_every_encoder(tmp_path: Path, encoder: str, kind: str) -> None:
    shape = ENCODERS[kind] if kind != "bert" else BERT_LIKE
    AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **shape)).save_pretrained(tmp_path)
    model = ParaphraseClassifier(str(tmp_path), hidden_dropout=0.25, attention_dropout=0.375)
    model.setup("fit")
    found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert 0.25 in found or (kind == "modernbert" and model.model.config.mlp_dropout == 0.25)
    assert 0.375 in found or model.model.config.attention_dropout == 0.375


def test_an_encoder_without_such_dropout_says_so(tmp_path: Path) -> None:
    config = AutoConfig.for_model("xlnet", vocab_size=300, d_model=16, n_layer=1, n_head=2, d_inner=32)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.attention_dropout 0.2: the encoder of .* has no such dropout"):
        ParaphraseClassifier(str(tmp_path), attention_dropout=0.2).setup("fit")


def test_what_the_user_froze_stays_frozen(tmp_path: Path, encoder: str) -> None:
    model = ParaphraseClassifier(encoder)
    model.setup("fit")
    assert model.model is not None
    model.model.base_model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    make_trainer(tmp_path, max_epochs=1).fit(model, make_data(tmp_path, encoder))
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed <= {"model.classifier.weight", "model.classifier.bias"}


def test_figures_of_a_validation_that_broke_off_are_forgotten(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, trainer = ParaphraseClassifier(encoder), make_data(tmp_path, encoder), make_trainer(tmp_path)
    original = ParaphraseClassifier.validation_step

    def broken(self: Any, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        raise OSError

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(ParaphraseClassifier, "validation_step", broken)
        trainer.validate(model, data, verbose=False)
    trainer = make_trainer(tmp_path)
    trainer.validate(model, data, verbose=False)
    counts = ("true_positives", "false_positives", "true_negatives", "false_negatives")
    assert sum(trainer.callback_metrics[f"val_{name}"] for name in counts) == len(data.pairs["validation"])


def test_frozen_embeddings_stay_as_they_are_and_all_else_learns(tmp_path: Path, encoder: str) -> None:
    model = ParaphraseClassifier(encoder, freeze_embeddings=True, warmup=0.0)
    model.setup("fit")
    before = {name: value.clone() for name, value in model.named_parameters()}
    make_trainer(tmp_path, max_epochs=1).fit(model, make_data(tmp_path, encoder))
    same = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert same == {"model.bert.embeddings.word_embeddings.weight"}


SMALL = {"vocab_size": 300, "max_position_embeddings": 70, "pad_token_id": 0}
BERT_LIKE = {**SMALL, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": BERT_LIKE,
    "electra": {**BERT_LIKE, "embedding_size": 16},
    "distilbert": {**SMALL, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {**BERT_LIKE, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_name_alone_changes_the_encoder(tmp_path: Path, encoder: str, kind: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(encoder) / name, tmp_path)
    config = AutoConfig.for_model(kind, **ENCODERS[kind])
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = ParaphraseClassifier(str(tmp_path))
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, make_data(tmp_path, str(tmp_path)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert 0 <= trainer.callback_metrics["val_f1"] <= 1
    restored = ParaphraseClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert restored.model is not None and restored.model.config.model_type == kind
