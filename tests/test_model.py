import inspect
import math
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
from mrpc_lightning.nn.speedups import make_fast


def make_data(folder: Path, encoder: str, pairs: int = 60, **options: Any) -> MRPCDataModule:
    train = write_csv(folder / "train.csv", make_rows(pairs))
    validation = write_csv(folder / "validation.csv", make_rows(25, seed=1))
    options = {"max_length": 48, "global_batch_size": 8, "eval_batch_size": 7, **options}
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


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_schedule_is_sized_for_the_optimizer_steps_that_run(tmp_path: Path, encoder: str, accumulate: int) -> None:
    watch, model = Watch(), ParaphraseClassifier(encoder, learning_rate=1e-3, warmup=0.25)
    trainer = make_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[watch])
    trainer.fit(model, make_data(tmp_path, encoder))
    steps = 2 * 8  # 60 pairs, 8 an optimizer step
    warmup = round(0.25 * steps)
    assert trainer.global_step == len(watch.rates) == steps
    assert watch.rates[0] == 0
    assert watch.rates[warmup] == pytest.approx(1e-3) == max(watch.rates)
    assert watch.rates[-1] == pytest.approx(1e-3 / (steps - warmup))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


@pytest.mark.parametrize("options", [{}, {"class_weights": [3.0, 0.5]}, {"label_smoothing": 0.1}], ids=str)
def test_all_pairs_of_an_optimizer_step_weigh_the_same_in_however_many_batches_they_come(
    tmp_path: Path, encoder: str, options: dict[str, Any]
) -> None:
    # 61 pairs: the last step of an epoch has 5, in batches of 1 or 2, or of 1 and of none.
    weights, curves = [], []
    for accumulate in (1, 2, 4, 8):
        torch.manual_seed(0)
        model = ParaphraseClassifier(encoder, learning_rate=1e-3, hidden_dropout=0.0, attention_dropout=0.0, **options)
        trainer = make_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=accumulate)
        trainer.fit(model, make_data(tmp_path, encoder, pairs=61))
        assert trainer.global_step == 16 and trainer.num_training_batches == 8 * accumulate
        # The gradient of a key's bias is 0 but for rounding, which Adam makes large.
        trained = [weight.detach() for name, weight in model.named_parameters() if not name.endswith("key.bias")]
        weights.append(torch.cat([weight.flatten() for weight in trained]))
        curves.append([float(trainer.callback_metrics[name]) for name in ("train_loss", "train_f1", "val_loss")])
    for other, curve in zip(weights[1:], curves[1:], strict=True):
        torch.testing.assert_close(other, weights[0], atol=1e-5, rtol=1e-4)
        assert curve == pytest.approx(curves[0], abs=1e-5)


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
        ({"label_names": ["yes"]}, "model.label_names .*: two classes only"),
        ({"label_names": ["a", "b", "c"]}, "model.label_names .*: two classes only"),
        ({"label_names": ["yes", "yes"]}, "model.label_names"),
        ({"learning_rate": -1.0}, "model.learning_rate"),
        ({"weight_decay": -1.0}, "model.weight_decay"),
        ({"layer_decay": 1.5}, "^model.layer_decay 1.5: must lie above 0 and be at most 1"),
        ({"layer_decay": 0.0}, "^model.layer_decay 0: must lie above 0"),
        ({"label_smoothing": 1.0}, "^model.label_smoothing 1: a share, from 0 to below 1"),
        ({"class_weights": [1.0]}, "^model.class_weights .*: give two numbers above 0"),
        ({"class_weights": [1.0, 0.0]}, "^model.class_weights .*: give two numbers above 0"),
        ({"reinit_layers": -1}, "^model.reinit_layers -1: must not be negative"),
        ({"reinit_layers": 0, "pretrained": False}, "^model.reinit_layers: all weights are random"),
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


def make_encoder(folder: Path, tokenizer: str, kind: str) -> None:
    """Save an encoder of another kind, with an encoder's tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer) / name, folder)
    config = AutoConfig.for_model(kind, **ENCODERS[kind])
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_name_alone_changes_the_encoder(tmp_path: Path, encoder: str, kind: str) -> None:
    make_encoder(tmp_path, encoder, kind)
    model = ParaphraseClassifier(str(tmp_path))
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, make_data(tmp_path, str(tmp_path)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert 0 <= trainer.callback_metrics["val_f1"] <= 1
    restored = ParaphraseClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert restored.model is not None and restored.model.config.model_type == kind


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [2.0, 0.5]])
def test_only_the_training_loss_is_smoothed_weighted_and_against_soft_labels(
    tmp_path: Path, encoder: str, soft: bool, smoothing: float, weights: list[float] | None
) -> None:
    # Nothing moves, nothing is dropped, and the epoch is one batch: the loss is that of the pretrained weights.
    still: dict[str, Any] = {"learning_rate": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    model = ParaphraseClassifier(encoder, **still, label_smoothing=smoothing, class_weights=weights)
    data = make_data(tmp_path, encoder, global_batch_size=60, soft_label_column="p" if soft else None)
    rows = [(*row, row[2] * 0.5 + number / 200) for number, row in enumerate(make_rows(60))]
    write_csv(tmp_path / "train.csv", rows, ("sentence1", "sentence2", "label", "p"))  # type: ignore[arg-type]
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, data)

    def losses(rows: Any, smoothing: float) -> list[tuple[float, int]]:
        found = []
        for (_, _, label, *share), p in zip(rows, expected_of(model, [row[:2] for row in rows]), strict=True):
            target = (share[0] if soft and share else label) * (1 - smoothing) + smoothing / 2
            negative, positive = weights if weights and share else (1.0, 1.0)
            loss = -negative * (1 - target) * math.log(1 - p) - positive * target * math.log(p)
            found.append((loss, label))
        return found

    assert trainer.num_training_batches == 1
    training = losses(rows, smoothing)
    total = sum(loss for loss, _ in training)
    assert float(trainer.callback_metrics["train_loss_step"]) == pytest.approx(total / 60, rel=1e-5)
    trained_loss = trainer.callback_metrics["train_loss"]
    plain = [loss for loss, _ in losses(make_rows(25, seed=1), 0.0)]
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(sum(plain) / 25, rel=1e-5)
    scored = trainer.test(model, data.train_dataloader(), verbose=False)[0]  # soft labels among them
    labels = torch.tensor([label for _, label in training])
    shares = torch.tensor(expected_of(model, [row[:2] for row in rows]))
    expected = float(torch.nn.functional.binary_cross_entropy(shares, labels.float()))
    assert scored["test_loss"] == pytest.approx(expected, rel=1e-5)
    assert float(trained_loss) == pytest.approx(expected, rel=1e-5), "a curve beside validation's"


@pytest.mark.parametrize("kind", ENCODERS)
def test_layer_decay_and_fresh_layers_work_for_every_encoder(tmp_path: Path, encoder: str, kind: str) -> None:
    make_encoder(tmp_path, encoder, kind)
    watch, model = Watch(), ParaphraseClassifier(str(tmp_path), layer_decay=0.5, reinit_layers=1, warmup=0.0)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[watch])
    trainer.fit(model, make_data(tmp_path, str(tmp_path)))
    assert watch.rates[0] == 2e-5 and trainer.optimizers[0].param_groups[0]["initial_lr"] == 2e-5
    assert trainer.optimizers[0].param_groups[-1]["initial_lr"] == 2e-5 * 0.5**2  # one layer, and the embeddings


PAIRS = [(first, second) for first, second, _ in make_rows(25, seed=1)]


@pytest.mark.parametrize("kind", ENCODERS)
def test_layers_computed_again_give_the_same_gradients_and_keep_less(tmp_path: Path, encoder: str, kind: str) -> None:
    make_encoder(tmp_path, encoder, kind)
    inputs = torch.randint(5, 100, (8, 24))
    batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
    found = []
    for again in (False, True):
        model = ParaphraseClassifier(str(tmp_path), gradient_checkpointing=again)
        torch.manual_seed(0)
        model.setup("fit")
        assert model.model is not None
        make_fast(model.model, torch.device("cpu"))
        kept: list[torch.Tensor] = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda one, kept=kept: (kept.append(one), one)[1], lambda one: one
        ):
            outputs = model.train()(**batch).logsumexp(dim=-1).sum()
        count = sum(one.numel() for one in kept)
        outputs.backward()
        found.append(([parameter.grad for parameter in model.parameters()], count))
    (plain, much), (again, little) = found
    for one, other in zip(plain, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert little < much / 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> tuple[ParaphraseClassifier, dict[str, Any]]:
    """A model that Lightning's own Trainer trained for an epoch, and its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    model, trainer = ParaphraseClassifier(encoder, learning_rate=1e-3), make_trainer(folder, max_epochs=1)
    trainer.fit(model, make_data(folder, encoder))
    trainer.save_checkpoint(folder / "a.ckpt")
    return model, torch.load(folder / "a.ckpt", weights_only=True)


def expected_of(model: ParaphraseClassifier, pairs: list[tuple[str, str]]) -> list[float]:
    """What a pair's probability is when it is scored alone, by transformers alone."""
    assert model.tokenizer is not None and model.model is not None
    model.eval()
    found = []
    for first, second in pairs:
        inputs = model.tokenizer(first, second, truncation=True, max_length=48, return_tensors="pt")
        found.append(model.model(**inputs).logits.softmax(dim=-1)[0, 1].item())
    return found


def test_a_model_predicts_after_lightnings_own_fit_and_load_and_after_restore(
    trained: tuple[ParaphraseClassifier, dict[str, Any]], tmp_path: Path
) -> None:
    model, content = trained
    torch.save(content, tmp_path / "a.ckpt")
    loaded = ParaphraseClassifier.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu", weights_only=True)
    for one in (model, loaded, ParaphraseClassifier.restore(content)):
        assert one.max_length == 48 and one.autocast_dtype is None
        predictions = one.predict(PAIRS, batch_size=7)
        assert [p.probabilities["equivalent"] for p in predictions] == pytest.approx(expected_of(one, PAIRS), abs=1e-6)
        for prediction in predictions:
            assert [*prediction.probabilities] == ["not_equivalent", "equivalent"]
            assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)


@pytest.mark.parametrize("mode", [True, False])
def test_predicting_changes_neither_mode_nor_random_numbers(
    mode: bool, trained: tuple[ParaphraseClassifier, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained[0].train(mode)
    state = torch.get_rng_state()
    first, second = model.predict(iter(PAIRS)), model.predict(PAIRS)
    assert first == second and model.training == mode
    assert torch.equal(torch.get_rng_state(), state)
    assert model.predict([]) == []

    def stop(*_: Any) -> None:
        assert not model.model.training
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "predict_step", stop)
    with pytest.raises(KeyboardInterrupt):
        model.predict(PAIRS)
    assert {module.training for module in model.modules()} == {mode}


def test_a_symmetric_model_predicts_the_mean_of_both_orders(
    trained: tuple[ParaphraseClassifier, dict[str, Any]],
) -> None:
    model = ParaphraseClassifier.restore(trained[1], symmetric=True)
    given, turned = expected_of(model, PAIRS), expected_of(model, [(second, first) for first, second in PAIRS])
    assert max(abs(a - b) for a, b in zip(given, turned, strict=True)) > 1e-3
    mean = [(a + b) / 2 for a, b in zip(given, turned, strict=True)]
    assert [p.probabilities["equivalent"] for p in model.predict(PAIRS)] == pytest.approx(mean, abs=1e-6)


def test_both_orders_are_scored_as_their_mean_and_come_apart_in_a_prediction(
    trained: tuple[ParaphraseClassifier, dict[str, Any]], tmp_path: Path, encoder: str
) -> None:
    model = ParaphraseClassifier.restore(trained[1], symmetric=True)
    data, trainer = make_data(tmp_path, encoder, symmetric=True), make_trainer(tmp_path)
    scored = trainer.test(model, data, verbose=False)[0]
    given, turned = expected_of(model, PAIRS), expected_of(model, [(second, first) for first, second in PAIRS])
    mean = torch.tensor([(a + b) / 2 for a, b in zip(given, turned, strict=True)])
    labels = torch.tensor([label for *_, label in make_rows(25, seed=1)])
    loss = torch.nn.functional.binary_cross_entropy(mean, labels.float())
    assert scored["test_loss"] == pytest.approx(float(loss), abs=1e-5)
    assert scored["test_accuracy"] == pytest.approx(float(((mean > 0.5) == labels.bool()).float().mean()))
    loader = data.scoring_dataloader("validation")
    outputs: Any = trainer.predict(model, loader)
    found = torch.cat(outputs)
    assert found.shape == (25, 2, 2) and found.dtype == torch.float32
    rows = [row for batch in loader.sampler for row in batch]
    assert found[:, 0, 1].tolist() == pytest.approx([given[row] for row in rows], abs=1e-6)
    assert found[:, 1, 1].tolist() == pytest.approx([turned[row] for row in rows], abs=1e-6)


def test_a_restored_model_computes_in_the_number_format_of_its_run(
    trained: tuple[ParaphraseClassifier, dict[str, Any]],
) -> None:
    half = ParaphraseClassifier.restore({**trained[1], "made_with": {"trainer_precision": "bf16-mixed"}})
    assert half.autocast_dtype == torch.bfloat16
    plain = ParaphraseClassifier.restore(trained[1]).predict(PAIRS)
    shares = [[p.probabilities["equivalent"] for p in found] for found in (half.predict(PAIRS), plain)]
    assert shares[0] != shares[1] and shares[0] == pytest.approx(shares[1], abs=0.02)


RESHAPED = {"model.classifier.weight": torch.zeros(3, 32)}
# name: (what of the checkpoint is another, what the line says)
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "a stranger's class": ({"hyper_parameters": {"_instantiator": "os.system"}}, "its model._instantiator is nothing"),
    "no plain value": ({"hyper_parameters": {"warmup": torch.zeros(2)}}, "its model.warmup is nothing that"),
    "a list of lists": ({"hyper_parameters": {"label_names": [["a"], ["b"]]}}, "its model.label_names is nothing that"),
    "a word for a number": ({"hyper_parameters": {"warmup": "long"}}, "its weights do not fit its own configuration"),
    "weights of another shape": ({"state_dict": RESHAPED}, "its weights do not fit .*size mismatch"),
    "a weight too many": ({"state_dict": {"model.x": torch.zeros(1)}}, "its weights do not fit .*Unexpected key"),
    "an unknown encoder": ({"encoder_config": {"model_type": "foo"}}, "its weights do not fit .*foo"),
    "no tokenizer": ({"MRPCDataModule": {"tokenizer": {"a": torch.zeros(1).byte()}}}, "the checkpoint's tokenizer: "),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_checkpoint_of_something_else_is_refused_in_one_line(
    case: str, trained: tuple[ParaphraseClassifier, dict[str, Any]]
) -> None:
    changes, message = DAMAGED[case]
    content = {**trained[1], **{key: {**trained[1][key], **values} for key, values in changes.items()}}
    with pytest.raises(InputError, match=message) as refused:
        ParaphraseClassifier.restore(content)
    assert "\n" not in str(refused.value)
    content = {key: value for key, value in trained[1].items() if key not in changes}
    if "MRPCDataModule" not in changes:
        with pytest.raises(InputError, match="its weights do not fit"):
            ParaphraseClassifier.restore(content)


@pytest.mark.parametrize(
    ("name", "value"), [("model_name", "other"), ("revision", "v2"), ("label_names", ["a", "b"]), ("symmetric", True)]
)
def test_a_model_and_data_that_are_set_up_for_others_are_not_trained_together(
    name: str, value: Any, tmp_path: Path, encoder: str
) -> None:
    shutil.copytree(encoder, tmp_path / "other")
    value = str(tmp_path / "other") if name == "model_name" else value
    data = make_data(tmp_path, **{"encoder": encoder, **({} if name == "model_name" else {name: value})})
    if name == "model_name":
        data = make_data(tmp_path, value)
    with pytest.raises(InputError, match=f"data.{name} .*: the model's is .*; give both the same"):
        make_trainer(tmp_path, max_epochs=1).fit(ParaphraseClassifier(encoder), data)


def test_a_checkpoint_has_the_latest_metrics(trained: tuple[ParaphraseClassifier, dict[str, Any]]) -> None:
    assert {"val_loss", "val_accuracy", "val_f1", "train_loss", "train_accuracy", "train_f1"} == {
        *trained[1]["metrics"]
    }
    assert trained[0].saved_metrics == trained[1]["metrics"] == ParaphraseClassifier.restore(trained[1]).saved_metrics


def test_the_help_of_the_constructor_is_the_classs() -> None:
    assert "warmup: Below 1 a share" in (inspect.getdoc(ParaphraseClassifier.__init__) or "")


def test_gradients_are_clipped(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def record(self: torch.optim.AdamW, closure: Any) -> Any:
        def watched() -> Any:
            loss = closure()
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
            return loss

        return step(self, watched)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    trainer = make_trainer(tmp_path, max_steps=2, max_epochs=1, gradient_clip_val=1e-3)
    trainer.fit(ParaphraseClassifier(encoder), make_data(tmp_path, encoder))
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2)
