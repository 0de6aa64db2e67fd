from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, overload

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.encoder import checkpoint_gradients, load_encoder, restore_encoder
from mrpc_lightning.nn.metrics import COUNTS, METRICS, EpochMetrics
from mrpc_lightning.nn.optim import Schedule, make_optimizer, make_schedule
from mrpc_lightning.nn.sharding import distribute
from mrpc_lightning.nn.speedups import make_fast, predicting
from mrpc_lightning.nn.values import check_values, is_plain
from mrpc_lightning.pairs.batches import counts, weight_of
from mrpc_lightning.pairs.tables import Prediction, fill, is_table
from mrpc_lightning.pairs.tokens import loader_of, to_dataset, unpack

__all__ = ["COUNTS", "METRICS", "ParaphraseClassifier", "Prediction"]
ENCODER = ("model_name", "revision", "pretrained", "label_names")
SHARED = ("model_name", "revision", "label_names", "symmetric")  # with the data module
TARGETS = ("labels", "soft_labels")  # what a batch holds besides the encoder's inputs


class ParaphraseClassifier(LightningModule):
    """A BERT-like encoder with a head that says whether two sentences mean the same.

    A batch is a dictionary: `input_ids` and `attention_mask`, and `token_type_ids` where the encoder has them, of
    shape (batch, tokens), `labels` of shape (batch,), and in training maybe `soft_labels` of shape (batch, 2). Where
    pairs are scored in both orders of their sentences, the tokens are of shape (batch, 2 orders, tokens).

    Args:
        model_name: An encoder on the Hugging Face Hub, a local folder or a run: any that
            `AutoModelForSequenceClassification` loads; or "demo". A trained head for two classes is kept.
        revision: Branch, tag or commit of the encoder on the Hub.
        pretrained: Start from pretrained weights; false starts from random ones, of the same shape.
        label_names: Names of the negative and of the positive class, in this order. F1 is the positive class's.
        learning_rate: Peak of the schedule. 2e-5 is among the values that the BERT paper recommends.
        weight_decay: AdamW's, for all weights but biases and normalization. 0.01 as in BERT's own optimizer.
        warmup: Below 1 a share of all optimizer steps; from 1 on, optimizer steps. 0.1 as in BERT's own optimizer.
        schedule: The learning rate after the warmup: "linear" or "cosine", to 0 at the last step, or "constant".
        layer_decay: Each encoder layer's learning rate is that of the layer above it times this; the embeddings' is the
            lowest, the head's and the pooler's is `learning_rate`. ELECTRA takes 0.8 (base) and 0.9 (large).
        reinit_layers: Give the head, the pooler and so many of the top layers fresh random weights.
        label_smoothing: Share of each training label that is spread over both classes (Szegedy et al. 2016).
        class_weights: Weights of the negative and of the positive class in the training loss.
        hidden_dropout: Share of each layer's outputs that training drops. Unset: the encoder's own, BERT's is 0.1.
        attention_dropout: Share of attention weights that training drops. Unset: the encoder's own, BERT's is 0.1.
        freeze_embeddings: Leave the word embeddings as they are pretrained.
        gradient_checkpointing: Compute each layer again in the backward pass instead of keeping what it computed: less
            memory, and about a third more time.
        symmetric: Score each pair in both orders of its sentences, and average the probabilities: the prediction does
            not depend on the order, and takes twice as long. Training is the same.
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
        schedule: Schedule = "linear",
        layer_decay: float = 1.0,
        reinit_layers: int | None = None,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
        freeze_embeddings: bool = False,
        gradient_checkpointing: bool = False,
        symmetric: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_values(self.hparams)
        self.model: PreTrainedModel | None = None
        self.train_metrics, self.val_metrics, self.test_metrics = map(EpochMetrics, ("train", "val", "test"))
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", torch.tensor(class_weights) if class_weights else None, persistent=False)
        self._step_loss: Any = 0.0  # of the optimizer step so far
        self.saved_metrics: dict[str, float] = {}  # the latest of validation and training
        self.tokenizer: PreTrainedTokenizerBase | None = None  # this and the next three are for `predict` alone
        self.max_length, self.columns = 128, ["sentence1", "sentence2"]
        self.autocast_dtype: torch.dtype | None = None

    __init__.__doc__ = __doc__  # help(ParaphraseClassifier.__init__) would show Lightning's

    @classmethod
    def restore(cls, content: Mapping[str, Any], **values: Any) -> "ParaphraseClassifier":
        """Make a model with the weights of a checkpoint, without a network and without running code from it.

        Args:
            content: What the checkpoint holds, as `torch.load` with `weights_only` returns it.
            values: Hyper-parameters that go before the checkpoint's.

        Raises:
            InputError: If the checkpoint's values are of another kind, or its weights do not fit them.
        """
        try:
            for name, value in content["hyper_parameters"].items():
                if name not in signature(cls).parameters or not is_plain(value):
                    raise InputError(f"its model.{name} is nothing that this model takes")
            model = cls(**{**content["hyper_parameters"], **values})
            model.on_load_checkpoint(content)
            model.load_state_dict(content["state_dict"])
        except InputError:
            raise
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = str(error).strip().split("\n")[-1].strip()
            raise InputError(f"its weights do not fit its own configuration: {reason}") from error
        return model

    @overload
    def predict(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> list[Prediction]: ...

    @overload
    def predict(self, pairs: Any, batch_size: int = 64) -> Any: ...

    def predict(self, pairs: Any, batch_size: int = 64) -> Any:
        """Say of pairs of sentences whether they mean the same, in the precision of the run's training.

        Args:
            pairs: A list of pairs of sentences; or a pandas DataFrame or a `datasets.Dataset` with the columns that the
                model was trained on.
            batch_size: Pairs that are computed together at most.

        Returns:
            A list of a `Prediction` for each pair, in their order; or the table with new columns: `pairs.tables.fill`.

        Raises:
            InputError: If there is no tokenizer, something is no pair of sentences, or a column is missing.
        """
        if self.tokenizer is None or self.model is None:
            raise InputError("no tokenizer: load the model with Predictor.from_run, or train it first")
        if is_table(pairs):
            return fill(pairs, self.columns, self.hparams["label_names"], lambda some: self.predict(some, batch_size))
        if not (table := to_dataset(pairs)):
            return []
        loader: Any = loader_of(table, self.tokenizer, self.max_length, batch_size, self.hparams["symmetric"])
        dtype, found = self.autocast_dtype, torch.empty(len(table), 2)
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with predicting(self.model, self.device, len(table)), torch.inference_mode(), autocast:
            for rows, batch in zip(loader.sampler, loader, strict=True):
                batch = self.transfer_batch_to_device(batch, self.device, 0)
                found[rows] = self.predict_step(batch, 0).cpu().view(len(rows), -1, 2).mean(dim=1)
        names = self.hparams["label_names"]
        return [Prediction(names[int(b > a)], dict(zip(names, (a, b), strict=True))) for a, b in found.tolist()]

    def setup(self, stage: str) -> None:
        """Load the encoder, unless a checkpoint has already made it.

        Raises:
            InputError: If there is none, or the Trainer's data module is set up for another.
        """
        values, data = self.hparams, getattr(self._trainer, "datamodule", None)
        if self._trainer is not None and data is not None:
            for name in SHARED:
                if (other := data.hparams.get(name, values[name])) != values[name]:
                    raise InputError(f"data.{name} {other}: the model's is {values[name]}; give both the same")
            self.tokenizer = getattr(data, "tokenizer", self.tokenizer)
            self.max_length = data.hparams.get("max_length", self.max_length)
            self.columns = [data.hparams.get(f"{name}_column", name) for name in ("sentence1", "sentence2")]
            self.autocast_dtype = torch.bfloat16 if self._trainer.precision == "bf16-mixed" else None
        if self.model is None:
            names = (*ENCODER, "reinit_layers", "hidden_dropout", "attention_dropout")
            self.model = load_encoder(**{name: values[name] for name in names})
        if values["freeze_embeddings"]:
            self.model.get_input_embeddings().requires_grad_(False)
        if values["gradient_checkpointing"]:
            checkpoint_gradients(self.model)
        for metrics in (self.train_metrics, self.val_metrics, self.test_metrics):
            metrics.reset()  # an epoch that was broken off has left a part

    def configure_model(self) -> None:
        """Make the encoder fast on the Trainer's device, and prepare it for several processes."""
        if self.model is not None and self._trainer is not None:  # load_from_checkpoint calls this before either
            device, compiled = self.trainer.strategy.root_device, self.hparams["compile"] and self.trainer.training
            make_fast(self.model, device, compiled)
            distribute(self.model, self.trainer.strategy)

    def load_finetuned(self) -> None:
        """Load an encoder that was fine-tuned elsewhere, to score it as it is.

        Raises:
            InputError: If it has no head for two classes, or its classes are others.
        """
        values = {name: self.hparams[name] for name in ENCODER}
        self.model = load_encoder(**{**values, "pretrained": True}, head=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder's configuration, label names included, and the latest metrics beside the weights."""
        assert self.model is not None
        checkpoint["encoder_config"] = self.model.config.to_dict()
        logged = self.trainer.callback_metrics
        self.saved_metrics |= {name: float(logged[name]) for name in METRICS if name in logged}
        checkpoint["metrics"] = dict(self.saved_metrics)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Make the encoder from the checkpoint's configuration, and keep what `predict` needs."""
        self.saved_metrics = dict(checkpoint.get("metrics", {}))
        if self.model is None:
            self.model = restore_encoder(checkpoint["encoder_config"])
        files = checkpoint.get("MRPCDataModule", {}).get("tokenizer")
        if self.tokenizer is None and files:
            self.tokenizer = unpack(files)
            data = checkpoint["datamodule_hyper_parameters"]
            self.max_length = int(data["max_length"])
            self.columns = [str(data.get(f"{name}_column", name)) for name in ("sentence1", "sentence2")]
            is_bf16 = checkpoint.get("made_with", {}).get("trainer_precision") == "bf16-mixed"
            self.autocast_dtype = torch.bfloat16 if is_bf16 else None

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits: (batch, 2) of tokens (batch, tokens), (batch, 2 orders, 2) of both orders of pairs."""
        assert self.model is not None
        inputs = {name: tensor for name, tensor in inputs.items() if name not in TARGETS}
        if inputs["input_ids"].dim() == 3:
            both: Tensor = self(**{name: tensor.flatten(0, 1) for name, tensor in inputs.items()})
            return both.view(-1, 2, both.shape[-1])
        # Only training is compiled: its batches have few shapes.
        call = self.model.forward if self.hparams["compile"] and not self.training else self.model
        logits: Tensor = call(**inputs).logits
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch: cross-entropy, maybe smoothed, weighted, and against `soft_labels`.

        It is multiplied so that all pairs of an optimizer step weigh the same; the mean of these pairs is logged as
        `train_loss_step`. The epoch's `train_loss` is the plain cross-entropy, as `val_loss` is.
        """
        weight, accumulated = weight_of(batch_idx, self.trainer), self.trainer.accumulate_grad_batches
        metrics = self.train_metrics if weight else None  # of a pair that comes again, to keep a process busy
        options = {"weight": self.class_weights, "label_smoothing": self.hparams["label_smoothing"]}
        loss = weight * self._step(batch, metrics, target=batch.get("soft_labels", batch["labels"]), **options)
        self._step_loss = loss.detach() / accumulated + (self._step_loss if batch_idx % accumulated else 0.0)
        if (batch_idx + 1) % accumulated == 0 or batch_idx + 1 == self.trainer.num_training_batches:
            whole = self._step_loss.clone()
            if self.trainer.world_size > 1:  # Lightning's `sync_dist` would bring all processes to a halt before it
                torch.distributed.all_reduce(whole)
            self.log("train_loss_step", whole / self.trainer.world_size, prog_bar=True)
        scheduler: Any = self.lr_schedulers()
        self.log("learning_rate", scheduler.get_last_lr()[0])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._step(batch, self.val_metrics if counts(batch_idx, self.trainer.val_dataloaders) else None)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._step(batch, self.test_metrics if counts(batch_idx, self.trainer.test_dataloaders) else None)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the probabilities of both classes, in float32: of shape (batch, 2), or (batch, 2 orders, 2)."""
        probabilities: Tensor = self(**batch).float().softmax(dim=-1)
        return probabilities

    def _step(self, batch: dict[str, Tensor], metrics: EpochMetrics | None, **objective: Any) -> Tensor:
        logits: Tensor = self(**batch)
        if logits.dim() == 3:  # the logarithm of the mean probability of both orders, but for a constant
            logits = logits.float().log_softmax(dim=-1).logsumexp(dim=1)
        loss = cross_entropy(logits, batch["labels"])
        if metrics is not None:
            metrics.update(loss, logits, batch["labels"])
        # Divided by pairs, not by the sum of their weights, which other processes' pairs are not in.
        return cross_entropy(logits, **objective, reduction="sum") / len(logits) if objective else loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's metrics. Once an epoch: to log a metric costs more than to update it."""
        self.log_dict(self.train_metrics.compute(), sync_dist=True)
        self.train_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and the counts behind them."""
        self._log(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the metrics and the counts behind them."""
        self._log(self.test_metrics)

    def _log(self, metrics: EpochMetrics) -> None:
        self.log_dict(metrics.compute(), sync_dist=True)
        self.log_dict(metrics.counts(), logger=False, sync_dist=True)
        metrics.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW and its schedule, which advances with each optimizer step."""
        values, device, steps = self.hparams, self.trainer.strategy.root_device, self.trainer.estimated_stepping_batches
        options = {name: values[name] for name in ("weight_decay", "learning_rate", "layer_decay")}
        optimizer = make_optimizer(self.model, device, self.trainer.precision == "16-mixed", **options)
        schedule = make_schedule(optimizer, values["warmup"], steps, values["schedule"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
