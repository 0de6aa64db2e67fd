"""This project, as its command line runs it."""

from mrpc_lightning.__main__ import import_main
from mrpc_lightning.cli.instant import keep_memory

keep_memory()  # as `python -m mrpc_lightning` begins
main = import_main()

import os  # noqa: E402
from typing import Any  # noqa: E402

from clock import Clock, options  # noqa: E402
from lightning.pytorch import Callback  # noqa: E402


class StepClock(Callback):
    """The clock that all contestants have."""

    def on_train_start(self, *_: Any) -> None:
        """Make it."""
        self.clock = Clock()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Let it run."""
        self.clock.resume()

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; at the last batch stop, before validation."""
        self.clock.step(batch["attention_mask"])
        if trainer.is_last_batch:
            self.clock.pause()

    def on_validation_end(self, trainer: Any, model: Any) -> None:
        """Keep the figures of the last epoch's weights: the project itself reports the best epoch's."""
        if not trainer.sanity_checking:
            self.figures = {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    asked = options()
    words = [
        "fit",
        f"--config={os.environ['CONFIG']}",
        f"--seed_everything={asked.seed}",
        f"--model.model_name={asked.folder / 'encoder'}",
        f"--model.learning_rate={asked.learning_rate}",
        f"--data.train_file={asked.folder / 'train.jsonl'}",
        f"--data.validation_file={asked.folder / 'validation.jsonl'}",
        f"--data.global_batch_size={asked.batch_size}",
        f"--data.max_length={asked.max_length}",
        f"--trainer.max_epochs={asked.epochs}",
        "--early_stopping.patience=1000",
        "--trainer.callbacks=ours.StepClock",
        f"--trainer.logger.save_dir={asked.out.parent}",
    ]
    trainer = main(words).trainer
    clock = next(callback for callback in trainer.callbacks if type(callback).__name__ == "StepClock")
    clock.clock.write(asked.out, clock.figures["val_accuracy"], clock.figures["val_f1"])
