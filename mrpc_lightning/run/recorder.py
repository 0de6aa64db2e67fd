import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import METRICS, ParaphraseClassifier
from mrpc_lightning.nn.optim import warmup_steps
from mrpc_lightning.run.runs_old import run_dir, write_text
from mrpc_lightning.text import count

# TensorBoard's "custom scalars" page: training and validation in one chart.
CHARTS = {
    "training and validation": {
        name: ["Multiline", [f"train_{name}$", f"val_{name}$"]] for name in ("loss", "accuracy", "f1")
    }
}
EPOCH_FIGURES = ("train_loss", "val_loss", "val_accuracy", "val_f1")


def log_hyperparameters(
    trainer: Trainer, model: LightningModule, config: Any, figures: Mapping[str, float | int]
) -> None:
    """Put what people compare runs by beside the final figures, on TensorBoard's page of hyper-parameters.

    Args:
        trainer: The Trainer, after its last evaluation.
        model: The model, for its hyper-parameters.
        config: The configuration of `fit`.
        figures: What `results.collect` returned.
    """
    chosen = {
        "seed": config.seed_everything,
        "max_epochs": trainer.max_epochs,
        "precision": str(trainer.precision),
        "pairs_per_step": config.data.batch_size * trainer.accumulate_grad_batches * trainer.world_size,
        "max_length": config.data.max_length,
        **{name: value for name, value in model.hparams.items() if isinstance(value, str | float | bool)},
    }
    final = {f"test_{name}": figures[name] for name in ("accuracy", "f1", "loss") if figures[name] is not None}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(chosen, final, trainer.global_step)
        else:
            logger.log_metrics(final, trainer.global_step)
        logger.finalize("success")  # the Trainer did, before these last figures


def say(trainer: Trainer, text: str) -> None:
    """Print on one process."""
    if trainer.is_global_zero:
        print(text, flush=True)


class RunRecorder(Callback):
    """Say what a run is about to do, keep what it needs later, and tell how it went.

    Args:
        resumed_step: Optimizer steps that a resumed run has done; None for a new run.
        reason: Why it computes in the precision that it does.
    """

    def __init__(self, resumed_step: int | None, reason: str) -> None:
        self.resumed_step = resumed_step
        self.reason = reason if resumed_step is None else "as the run began"
        self.config = ""  # the text of config.yaml
        self.wall_seconds = 0.0
        self.epochs: list[dict[str, float]] = []  # the figures of each
        self.validation: dict[str, float] = {}  # those of the latest validation, and its epoch, from 0
        self.starts = 1
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on counting."""
        seconds = self.wall_seconds + time.perf_counter() - self._start
        return {"wall_seconds": seconds, "starts": self.starts, "epochs": self.epochs, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.wall_seconds, self.starts = state_dict["wall_seconds"], state_dict["starts"] + 1
        self.epochs, self.validation = state_dict.get("epochs", []), state_dict.get("validation", {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what follows from the configuration, keep configuration and tokenizer, lay out TensorBoard's charts.

        Raises:
            InputError: If the folder of a new run holds one already.
        """
        self._start = time.perf_counter()
        assert isinstance(pl_module, ParaphraseClassifier)
        data: MRPCDataModule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        folder = run_dir(trainer)  # the processes agree on it: all must ask
        steps = int(trainer.estimated_stepping_batches)
        if self.resumed_step is None and not trainer.fast_dev_run and (folder / "checkpoints").is_dir():  # type: ignore[attr-defined]  # Lightning sets it
            raise InputError(
                f"{folder}: holds a run already; --ckpt_path {folder} goes on with it; for a new one give the logger "
                "another version"
            )
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        hparams = pl_module.hparams
        sizes = {split: f"{len(pairs):,}" for split, pairs in data.pairs.items()}
        sources = [data.source("train"), data.source("validation")]
        source = sources[0] if sources[0] == sources[1] else " and ".join(sources)
        weights = "" if hparams["pretrained"] else " with random weights"
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        print(f"pairs     {sizes['train']} to train, {sizes['validation']} to validate: {source}")
        print(f"encoder   {hparams['model_name']}{weights}, {parameters / 1e6:.1f} M parameters")
        print(f"precision {trainer.precision}, {self.reason}")
        max_epochs = trainer.max_epochs or 0
        epochs = f"{count(max_epochs, 'epoch')}, " if max_epochs > 0 else ""
        print(
            f"schedule  {epochs}{count(steps, 'optimizer step')}, "
            f"{warmup_steps(hparams['warmup'], steps):,} of them warmup; learning rate {hparams['learning_rate']:g}"
        )
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            return
        print(f"run       {folder}\n", flush=True)
        write_text(folder / "config.yaml", self.config)
        assert data.tokenizer is not None
        if self.resumed_step is None:
            data.tokenizer.save_pretrained(folder / "tokenizer")
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            if self.resumed_step is None:
                logger.experiment.add_custom_scalars(CHARTS)
            else:  # TensorBoard drops the points that the run made after its last checkpoint: they come again
                start = Event(session_log=SessionLog(status=SessionLog.START))
                logger.experiment.file_writer.add_event(start, self.resumed_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the figures of an epoch's last validation."""
        if not trainer.sanity_checking:
            logged: Any = trainer.callback_metrics
            found = {name: float(logged[name]) for name in METRICS if name.startswith("val_") and name in logged}
            self.validation = {"epoch": trainer.current_epoch, **found}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        assert isinstance(pl_module, ParaphraseClassifier)
        # The model logs its training loss after this.
        # What callback_metrics has of validation may be of an earlier epoch.
        logged = self.validation if self.validation.get("epoch") == trainer.current_epoch else {}
        found: dict[str, Any] = {**logged, **pl_module.train_metrics.compute()}
        self.epochs.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                **{name: float(found[name]) for name in METRICS if name in found},
            }
        )
        figures = "  ".join(f"{name} {found[name]:.4f}" for name in EPOCH_FIGURES if name in found)
        line = f"epoch {trainer.current_epoch + 1}  {figures}"
        # The bar prints above itself; a plain print would break it.
        progress_bar = trainer.progress_bar_callback
        if progress_bar is not None:
            progress_bar.print(line)
        elif trainer.is_global_zero:
            print(line, flush=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the run."""
        self.wall_seconds += time.perf_counter() - self._start


class Answers(Callback):
    """Keeps the probabilities that `test` computes, of both orders, for the report."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store this batch's probabilities."""
        assert isinstance(pl_module, ParaphraseClassifier)
        self._parts.append(pl_module.predict_step(batch, batch_idx).cpu())

    def collect(self, trainer: Trainer) -> dict[int, list[list[float]]]:
        """Return, of all processes, the probabilities of each row that was scored: two orders, two classes."""
        assert trainer.test_dataloaders is not None
        found = torch.cat(self._parts)
        both = found if found.dim() == 3 else torch.stack([found, found], dim=1)
        return gather(trainer, trainer.test_dataloaders.sampler, both)


def gather(trainer: Trainer, batches: Any, values: torch.Tensor) -> dict[int, Any]:
    """Bring together what all processes computed, by row.

    Args:
        trainer: The Trainer.
        batches: This process's batches of rows, in the order in which they came.
        values: What it computed, row for row.
    """
    rows = [row for batch in batches for row in batch][: len(values)]
    found = dict(zip(rows, values.tolist(), strict=True))
    if trainer.world_size > 1:
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, found)
        found = {row: value for part in parts for row, value in part.items()}
    return dict(sorted(found.items()))


class EpochBar(TQDMProgressBar):
    """A bar that leaves nothing behind: the lines that stay are the epochs' figures. Epochs count from 1, as there."""

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
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def init_predict_tqdm(self) -> Tqdm:
        """Make the bar of scoring."""
        bar = super().init_predict_tqdm()
        bar.leave = False
        return bar
