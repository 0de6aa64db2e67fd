"""What a person sees while a command runs."""

import logging
import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


def say(trainer: Trainer, text: str) -> None:
    """Print on one process."""
    if trainer.is_global_zero:
        print(text, flush=True)


def quieten() -> None:
    """Silence what a person can do nothing about; warnings that name something to do stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    for message in (
        ".*LeafSpec.*is deprecated",  # Lightning's own business
        ".*smaller than the logging interval",  # each epoch has its point all the same
        ".*does not have many workers",  # pairs are tokenized beforehand: workers would only cost time
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory .* exists and is not empty",  # CSVLogger's table was put aside
        "Couldn't infer the batch indices",  # the batches' sampler knows them
        ".*your dataloader is not resumable",  # it is, by the data module's state
    ):
        warnings.filterwarnings("ignore", message)


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

    def init_test_tqdm(self) -> Tqdm:
        """Make the bar of scoring."""
        bar = super().init_test_tqdm()
        bar.leave = False
        return bar
