"""What a run prints and records while it trains."""

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.model import METRICS, ParaphraseClassifier
from mrpc_lightning.nn.optim import warmup_steps
from mrpc_lightning.origin import describe
from mrpc_lightning.run.run import Run
from mrpc_lightning.text import count, printable

# TensorBoard's "custom scalars" page: training and validation in one chart.
CHARTS = {
    "training and validation": {
        name: ["Multiline", [f"train_{name}$", f"val_{name}$"]] for name in ("loss", "accuracy", "f1")
    }
}
PRINTED = ("train_loss", "val_loss", "val_accuracy", "val_f1")  # of each epoch


def say(trainer: Trainer, text: str) -> None:
    """Print on one process."""
    if trainer.is_global_zero:
        print(text, flush=True)


def log_hyperparameters(
    trainer: Trainer, model: LightningModule, config: Any, metrics: Mapping[str, float | int]
) -> None:
    """Log what people compare runs by beside the best checkpoint's metrics: TensorBoard has a page of these.

    Args:
        trainer: The Trainer, after its last evaluation.
        model: The model, for its hyper-parameters.
        config: The configuration of `fit`.
        metrics: The best checkpoint's accuracy, F1 and loss.
    """
    chosen = {
        "seed": config.seed_everything,
        "max_epochs": trainer.max_epochs,
        "precision": str(trainer.precision),
        "pairs_per_step": config.data.global_batch_size,
        "max_length": config.data.max_length,
        **{name: value for name, value in model.hparams.items() if isinstance(value, str | float | bool)},
    }
    final = {f"best_{name}": metrics[name] for name in ("accuracy", "f1", "loss") if metrics[name] is not None}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(chosen, final, trainer.global_step)
        else:
            logger.log_metrics(final, trainer.global_step)
        logger.finalize("success")  # the Trainer did so before these last metrics


class RunRecorder(Callback):
    """Print what a run is about to do and how it goes, and record what its report needs.

    Args:
        run: The run; None for a trial that leaves nothing behind.
        recipe: The text of config.yaml.
        reason: Why the run computes in the precision that it does.
        resumed_step: Optimizer steps that a resumed run has done; None for a new run.
    """

    def __init__(self, run: Run | None, recipe: str, reason: str, resumed_step: int | None) -> None:
        self.run = run
        self.config = recipe
        self.reason = reason if resumed_step is None else "as the run began"
        self.resumed_step = resumed_step
        self.wall_seconds = 0.0
        self.epochs: list[dict[str, float]] = []  # the metrics of each
        self.validation: dict[str, float] = {}  # those of the latest validation, and its epoch, from 0
        self.starts = 1
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run continues to count."""
        seconds = self.wall_seconds + time.perf_counter() - self._start
        return {"wall_seconds": seconds, "starts": self.starts, "epochs": self.epochs, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count."""
        self.wall_seconds, self.starts = state_dict["wall_seconds"], state_dict["starts"] + 1
        self.epochs, self.validation = state_dict["epochs"], state_dict["validation"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what follows from the configuration, write recipe and tokenizer, lay out TensorBoard's charts."""
        self._start = time.perf_counter()
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ParaphraseClassifier)
        data: MRPCDataModule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        steps, hparams = int(trainer.estimated_stepping_batches), pl_module.hparams
        sizes = {split: f"{len(pairs):,}" for split, pairs in data.pairs.items()}
        sources = dict.fromkeys(data.source(split) for split in ("train", "validation"))
        weights = "" if hparams["pretrained"] else " with random weights"
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        max_epochs = trainer.max_epochs or 0
        epochs = f"{count(max_epochs, 'epoch')}, " if max_epochs > 0 else ""
        both = ", in both orders" * data.hparams["both_orders"]
        print(f"pairs     {sizes['train']} to train{both}, {sizes['validation']} to validate: {' and '.join(sources)}")
        print(f"encoder   {hparams['model_name']}{weights}, {parameters / 1e6:.1f} M parameters")
        for ancestor in data.ancestors:
            print(printable(f"ancestor  {describe(ancestor)}"))
        print(f"precision {trainer.precision}, {self.reason}")
        if trainer.world_size > 1:
            print(f"devices   {trainer.world_size} processes, each with its part of every optimizer step")
        print(
            f"schedule  {epochs}{count(steps, 'optimizer step')}, "
            f"{warmup_steps(hparams['warmup'], steps):,} of them warmup; learning rate {hparams['learning_rate']:g}, "
            f"{hparams['schedule']} after the warmup"
        )
        if self.run is None:
            return
        print(f"run       {self.run.folder}\n", flush=True)
        self.run.write("config.yaml", self.config)
        assert data.tokenizer is not None
        if self.resumed_step is None:
            data.tokenizer.save_pretrained(self.run.path("tokenizer"))
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            if self.resumed_step is None:
                logger.experiment.add_custom_scalars(CHARTS)
            else:  # TensorBoard drops the points that the run made after its last checkpoint: they come again
                start = Event(session_log=SessionLog(status=SessionLog.START))
                logger.experiment.file_writer.add_event(start, self.resumed_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metrics of an epoch's last validation."""
        if not trainer.sanity_checking:
            logged: Any = trainer.callback_metrics
            found = {name: float(logged[name]) for name in METRICS if name.startswith("val_") and name in logged}
            self.validation = {"epoch": trainer.current_epoch, **found}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record and print the epoch's metrics."""
        assert isinstance(pl_module, ParaphraseClassifier)
        # The model logs its training loss after this. The latest validation may be of an earlier epoch.
        logged = self.validation if self.validation.get("epoch") == trainer.current_epoch else {}
        found: dict[str, Any] = {**logged, **pl_module.train_metrics.compute()}
        epoch = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        self.epochs.append({**epoch, **{name: float(found[name]) for name in METRICS if name in found}})
        line = f"epoch {epoch['epoch']}  " + "  ".join(f"{name} {found[name]:.4f}" for name in PRINTED if name in found)
        # The bar prints above itself; a plain print would break it.
        progress_bar = trainer.progress_bar_callback
        if progress_bar is not None:
            progress_bar.print(line)
        else:
            say(trainer, line)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the run."""
        self.wall_seconds += time.perf_counter() - self._start


class EpochBar(TQDMProgressBar):
    """A bar that leaves nothing behind: the lines that stay are the epochs' metrics. Epochs count from 1, as there."""

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Name the epoch."""
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what the bar shows: the loss, not the run's number."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items

    def init_train_tqdm(self) -> Tqdm:
        """Make the bar of training."""
        return self._fleeting(super().init_train_tqdm())

    def init_predict_tqdm(self) -> Tqdm:
        """Make the bar of scoring."""
        bar = self._fleeting(super().init_predict_tqdm())
        bar.set_description("scoring")
        return bar

    @staticmethod
    def _fleeting(bar: Tqdm) -> Tqdm:
        bar.leave = False
        if (bar.nrows or 0) < 0:  # a terminal that does not say its size: tqdm would show nothing
            bar.dynamic_ncols, bar.ncols, bar.nrows = None, 80, 24
        return bar
