from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import ModuleDict
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, BinaryStatScores
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn import speedups as step
from mrpc_lightning.nn.encoder import load_encoder, restore_encoder
from mrpc_lightning.nn.optim import linear_schedule, parameter_groups

FIGURES = [f"{stage}_{figure}" for stage in ("val", "train") for figure in ("loss", "accuracy", "f1")]
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")


class Prediction(NamedTuple):
    """What a model says of a pair.

    Attributes:
        label: Name of the class with the higher probability.
        probabilities: Probability of each class by name.
    """

    label: str
    probabilities: dict[str, float]


class ParaphraseClassifier(LightningModule):
    """A BERT-like encoder with a head that says whether two sentences mean the same.

    A batch is a dictionary: `input_ids` and `attention_mask`, and `token_type_ids` where the encoder has them, of
    shape (batch, tokens), and `labels` of shape (batch,). Where pairs are scored in both orders of their sentences, the
    tokens are of shape (2, batch, tokens): as they are given, then swapped.

    A Trainer makes the encoder fast (`step.make_fast`): from then on `model.base_model` returns states of the first
    token alone, where that is all that the head looks at.

    Args:
        model_name: An encoder on the Hugging Face Hub, a local folder, or "demo" for the embedded one. Any that
            `AutoModelForSequenceClassification` loads.
        revision: Branch, tag or commit of the encoder on the Hub.
        pretrained: Start from pretrained weights; false starts from random ones, of the same shape.
        label_names: Names of the negative and of the positive class, in this order. F1 is the positive class's.
        learning_rate: Peak of the schedule. 2e-5 is among the values that the BERT paper recommends.
        weight_decay: AdamW's, for all weights but biases and LayerNorm. 0.01 as in BERT's own optimizer.
        warmup: Below 1 a share of all optimizer steps; from 1 on, optimizer steps. 0.1 as in BERT's own optimizer.
        hidden_dropout: Share of each layer's outputs that training drops. Unset: the encoder's own, BERT's is 0.1.
        attention_dropout: Share of attention weights that training drops. Unset: the encoder's own, BERT's is 0.1.
        freeze_embeddings: Leave the word embeddings as they are pretrained.
        symmetric: Score each pair in both orders of its sentences, and average the probabilities: the answer does not
            depend on the order, and takes twice as long. Training is the same.
        compile: Train with `torch.compile`, which takes a minute to start and pays for long runs on a GPU.
    """

    def __init__(
        self,
        model_name: str = "google-bert/bert-base-uncased",
        revision: str | None = None,
        pretrained: bool = True,
        label_names: list[str] = ["not_equivalent", "equivalent"],  # noqa: B006 -- read only; its value is shown by --help
        learning_rate: float = 2e-5,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
        freeze_embeddings: bool = False,
        symmetric: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if len(set(label_names)) != 2 or len(label_names) != 2:
            raise InputError(f"--model.label_names {label_names}: give two names, the positive class last")
        for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay), ("warmup", warmup)):
            if value < 0:
                raise InputError(f"--model.{name} {value:g}: must not be negative")
        for name, share in (("hidden_dropout", hidden_dropout), ("attention_dropout", attention_dropout)):
            if share is not None and not 0 <= share < 1:
                raise InputError(f"--model.{name} {share:g}: a share, from 0 to below 1")
        if freeze_embeddings and not pretrained:
            raise InputError("--model.freeze_embeddings true: random embeddings (--model.pretrained false) must learn")
        if learning_rate > 1:
            raise InputError(
                f"--model.learning_rate {learning_rate:g}: at most 1; 2e-5 to 5e-5 suit a pretrained encoder"
            )
        self.save_hyperparameters()
        self.model: PreTrainedModel | None = None
        self.metrics = ModuleDict(
            {
                f"{stage}_metrics": MetricCollection(
                    # Labels were checked when they were read, and predictions are classes.
                    {"accuracy": BinaryAccuracy(validate_args=False), "f1": BinaryF1Score(validate_args=False)},
                    prefix=f"{stage}_",
                )
                for stage in ("train", "val", "test")
            }
        )
        # A metric, not a number logged: it is the mean over pairs on any number of processes, and a checkpoint has it.
        self.losses = ModuleDict(
            {f"{stage}_loss": MeanMetric(nan_strategy="disable") for stage in ("train", "val", "test")}
        )
        self.counts = ModuleDict({stage: BinaryStatScores(validate_args=False) for stage in ("val", "test")})
        self.saved_figures: dict[str, float] = {}
        self.tokenizer: PreTrainedTokenizerBase | None = None  # for `predict` alone
        self.max_length = 128
        self.autocast_dtype: torch.dtype | None = None

    def predict(self, pairs: Iterable[tuple[str, str]], batch_size: int = 64) -> list[Prediction]:
        """Say of pairs of sentences whether they mean the same.

        Args:
            pairs: Pairs of sentences.
            batch_size: Pairs that are computed together.

        Returns:
            An answer for each pair, in their order. It is computed in the precision of the run's training: bf16 or
            float32.
        """
        return answer(self, list(pairs), batch_size)

    # The encoder is made late: a checkpoint brings its own configuration and needs no pretrained weights.

    def setup(self, stage: str) -> None:
        """Load the encoder, unless a checkpoint has already made it."""
        values = self.hparams
        if self.model is None:
            self.model = load_encoder(
                values["model_name"],
                values["revision"],
                values["pretrained"],
                values["label_names"],
                hidden_dropout=values["hidden_dropout"],
                attention_dropout=values["attention_dropout"],
            )
        if values["freeze_embeddings"]:
            self.model.get_input_embeddings().requires_grad_(False)

    def configure_model(self) -> None:
        """Make the encoder fast on the Trainer's device."""
        if self.model is not None and self._trainer is not None:  # load_from_checkpoint calls this before either
            step.make_fast(self.model, self.trainer.strategy.root_device, self.hparams["compile"])

    def load_finetuned(self) -> None:
        """Load an encoder that was fine-tuned elsewhere, to score it as it is.

        Raises:
            InputError: If it has no head for two classes, or its classes are others.
        """
        name, label_names = self.hparams["model_name"], self.hparams["label_names"]
        self.model = load_encoder(name, self.hparams["revision"], True, label_names, head=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder's configuration, label names included, and the latest figures beside the weights."""
        assert self.model is not None
        checkpoint["encoder_config"] = self.model.config.to_dict()
        logged = self.trainer.callback_metrics.items()
        figures = {name: float(value) for name, value in logged if name in FIGURES}
        self.saved_figures = checkpoint["figures"] = {**self.saved_figures, **figures}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the encoder from the checkpoint's configuration, without a network."""
        self.saved_figures = dict(checkpoint.get("figures", {}))
        if self.model is None:
            self.model = restore_encoder(checkpoint["encoder_config"])

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits, of shape (batch, 2) or (2, batch, 2), of tokens, (batch, tokens) or (2, batch, tokens)."""
        assert self.model is not None
        if inputs["input_ids"].dim() == 3:
            both: Tensor = self(**{name: tensor.flatten(0, 1) for name, tensor in inputs.items()})
            return both.view(2, -1, both.shape[-1])
        # Only training is compiled: its batches have few shapes.
        call = self.model.forward if self.hparams["compile"] and not self.training else self.model
        logits: Tensor = call(**inputs).logits
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        loss, _ = self._step(batch, "train")
        self.log("train_loss_step", loss, prog_bar=True)
        scheduler: Any = self.lr_schedulers()
        self.log("learning_rate", scheduler.get_last_lr()[0])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation figures."""
        self._step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Add a batch to the test figures; return the probabilities of both classes, as the logits are shaped."""
        _, logits = self._step(batch, "test")
        return logits.float().softmax(dim=-1)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the probabilities of both classes, of shape (batch, 2) or (batch, 2 orders, 2), in float32."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        probabilities: Tensor = self(**inputs).float().softmax(dim=-1)
        return probabilities.transpose(0, 1) if probabilities.dim() == 3 else probabilities

    def on_train_epoch_start(self) -> None:
        """Forget what an epoch that was broken off has left; an epoch that is resumed gets it back later."""
        self._reset_figures("train")

    def on_validation_epoch_start(self) -> None:
        """Forget what a validation that was broken off has left."""
        self._reset_figures("val")

    def on_test_epoch_start(self) -> None:
        """Forget what a test that was broken off has left."""
        self._reset_figures("test")

    def on_train_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._log_figures("train")

    def on_validation_epoch_end(self) -> None:
        """Log the figures and the counts behind them."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures and the counts behind them."""
        self._log_figures("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW and its schedule, which advances with each optimizer step."""
        assert self.model is not None
        groups = parameter_groups(self.model.parameters(), self.hparams["weight_decay"])
        # Where gradients are scaled (fp16) those of a fused optimizer cannot be clipped.
        fused = self.trainer.strategy.root_device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["learning_rate"], fused=fused)
        if fused:
            optimizer._step_supports_amp_scaling = False  # else Lightning fears it for bf16, too
        schedule = linear_schedule(optimizer, self.hparams["warmup"], self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _answer(self, logits: Tensor) -> Tensor:
        """Return what counts, of shape (batch, 2), of logits that may be those of both orders."""
        if logits.dim() == 2:
            return logits
        return logits.float().softmax(dim=-1).mean(dim=0).log() if self.hparams["symmetric"] else logits[0]

    def _step(self, batch: dict[str, Tensor], stage: str) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        labels = batch["labels"]
        every = self(**inputs)
        logits = self._answer(every)
        loss = cross_entropy(logits, labels)
        # Classes, not logits: torchmetrics guesses from their range whether logits still need a sigmoid.
        predictions = logits.argmax(dim=-1)
        metrics = self.metrics[f"{stage}_metrics"]
        assert isinstance(metrics, MetricCollection)
        metrics.update(predictions, labels)
        mean_loss = self.losses[f"{stage}_loss"]
        assert isinstance(mean_loss, MeanMetric)
        mean_loss.update(loss.detach().expand(len(labels)))  # torchmetrics 1.9 loses weights where NaN is let through
        if stage != "train":
            self.counts[stage].update(predictions, labels)  # type: ignore[operator]  # ModuleDict forgets the type
        return loss, every

    def _reset_figures(self, stage: str) -> None:
        for metric in (self.metrics[f"{stage}_metrics"], self.losses[f"{stage}_loss"], *self.counts.values()):
            assert isinstance(metric, MetricCollection | Metric)
            metric.reset()

    def figures(self, stage: str) -> dict[str, Tensor]:
        """Compute loss, accuracy and F1 of the pairs that an epoch has had so far, on all processes.

        Args:
            stage: "train", "val" or "test".
        """
        metrics, mean_loss = self.metrics[f"{stage}_metrics"], self.losses[f"{stage}_loss"]
        assert isinstance(metrics, MetricCollection) and isinstance(mean_loss, MeanMetric)
        return {f"{stage}_loss": mean_loss.compute(), **metrics.compute()}

    def _log_figures(self, stage: str) -> None:
        # Once an epoch: to log a metric costs more than to update it.
        self.log_dict(self.figures(stage), sync_dist=True)
        if stage != "train":
            counts = self.counts[stage]
            assert isinstance(counts, BinaryStatScores)
            named = dict(zip((f"{stage}_{name}" for name in COUNTS), counts.compute()[:4].float(), strict=True))
            self.log_dict(named, logger=False, sync_dist=True)
        self._reset_figures(stage)


@torch.inference_mode()
def answer(model: ParaphraseClassifier, pairs: Sequence[tuple[str, str]], batch_size: int) -> list[Prediction]:
    """Prediction pairs; see `ParaphraseClassifier.predict`."""
    if model.tokenizer is None:
        raise InputError("no tokenizer: load the model with Predictor.from_run")
    for number, pair in enumerate(pairs, 1):
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"pair {number}: give a list of pairs, each of two sentences")
        for side, sentence in enumerate(pair, 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise InputError(f"pair {number}: sentence{side} is empty or no text ({sentence!r})")
    names, symmetric, training = model.hparams["label_names"], model.hparams["symmetric"], model.training
    # Alike in length: less padding.
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]) + len(pairs[row][1]))
    found: dict[int, Prediction] = {}
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        first, second = ([pairs[row][side] for row in rows] for side in (0, 1))
        if symmetric:
            first, second = first + second, second + first
        tokens = model.tokenizer(
            first, second, truncation=True, max_length=model.max_length, padding=True, return_tensors="pt"
        )
        inputs = {
            name: tensor.unflatten(0, (2, -1)) if symmetric else tensor
            for name, tensor in tokens.to(model.device).items()
        }
        with torch.autocast(model.device.type, model.autocast_dtype, enabled=model.autocast_dtype is not None):
            found_shares = model.predict_step(inputs, 0)
            shares = (found_shares.mean(dim=1) if symmetric else found_shares).tolist()
        for row, pair in zip(rows, shares, strict=True):
            found[row] = Prediction(names[int(pair[1] > pair[0])], dict(zip(names, pair, strict=True)))
    model.train(training)
    return [found[row] for row in range(len(pairs))]
