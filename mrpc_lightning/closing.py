"""What a command ends with: scores, warnings, files, and what to do next."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from mrpc_lightning import checks, provenance, results, runs
from mrpc_lightning.callbacks import RunRecorder, log_hyperparameters
from mrpc_lightning.console import say
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.throughput import Throughput


def report(
    trainer: Trainer,
    model: ParaphraseClassifier,
    stage: str,
    title: str,
    path: Path,
    pairs: int,
    warnings: list[str],
    **about: Any,
) -> dict[str, float | int]:
    """Print the final table with its warnings, and write the same as JSON.

    Args:
        trainer: The Trainer, after its evaluation.
        model: The model.
        stage: "val" or "test": what the logged names start with.
        title: What was scored.
        path: The JSON file.
        pairs: Pairs of the whole split.
        warnings: What to warn of beside what the figures themselves show.
        about: What else goes into the file.

    Returns:
        The figures.
    """
    figures = results.collect(trainer.callback_metrics, stage)
    names = model.hparams["label_names"]
    warnings = [*checks.of_figures(figures, names, pairs), *warnings]
    if trainer.is_global_zero:
        results.write(path, {**figures, **about, "warnings": warnings})
    say(trainer, "\n" + results.table(figures, title, names[1]))
    for warning in warnings:
        say(trainer, f"warning: {warning}")
    return figures


def fit(trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, best: str, config: Any) -> None:
    """Score the best checkpoint on the validation split, and close with a table.

    Args:
        trainer: The Trainer, after training.
        model: The model.
        data: The data.
        best: The best checkpoint; empty if there was no validation.
        config: The configuration of `fit`.
    """
    folder = runs.run_dir(trainer)
    if not best:
        say(trainer, f"\nnot scored: training ended before a validation\n\nrun    {folder}")
        return
    epochs, steps, total_steps = trainer.current_epoch, trainer.global_step, trainer.estimated_stepping_batches
    stopped = epochs < (trainer.max_epochs or 0) and trainer.should_stop
    peak, last_rate = model.hparams["learning_rate"], trainer.optimizers[0].param_groups[0]["lr"]
    trainer.limit_test_batches = 1.0  # the final figures are of the whole split
    loggers, trainer.loggers = trainer.loggers, []  # they get the figures once, with the hyper-parameters
    trainer.test(model, data.val_dataloader(), ckpt_path=best, verbose=False, weights_only=True)
    trainer.loggers = loggers
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    recorder = next(callback for callback in callbacks if isinstance(callback, RunRecorder))
    speed = next(callback for callback in callbacks if isinstance(callback, Throughput)).figures()
    saved = runs.read_checkpoint(Path(best))
    epoch = saved["epoch"] + 1
    warnings, details = checks.of_pairs(data)
    warnings += checks.of_schedule(steps, int(total_steps), last_rate, peak)
    figures = report(
        trainer,
        model,
        "test",
        f"best checkpoint (epoch {epoch})",
        folder / "metrics.json",
        len(data.pairs["validation"]),
        warnings,
        split="validation",
        source=data.source("validation"),
        checkpoint=os.path.relpath(best, folder),
        epoch=epoch,
        optimizer_step=saved["global_step"],
        epochs_trained=epochs,
        seed=config.seed_everything,
        **details,
        **provenance.describe(trainer),
        starts=recorder.starts,
        wall_seconds=round(recorder.wall_seconds, 1),
        **{f"training_{name}": float(f"{value:.4g}") for name, value in speed.items()},
    )
    log_hyperparameters(trainer, model, config, figures)
    has_curves = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
    curves = f"tensorboard --logdir {folder}\n       " if has_curves else ""
    say(
        trainer,
        f"{results.duration(recorder.wall_seconds)} for {results.count(epochs, 'epoch')}"
        f"{', stopped early' * stopped}; while training {results.speed(speed)}\n\n"
        f"run    {folder}\n"
        f"next   {curves}python -m mrpc_lightning predict --ckpt_path {folder} --data.predict_file new_pairs.csv",
    )


def evaluation(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    stage: str,
    split: str,
    weights: str,
    path: Path,
) -> None:
    """Close an evaluation with a table.

    Args:
        trainer: The Trainer, after its evaluation.
        model: The model.
        data: The data.
        stage: "val" or "test": what the logged names start with.
        split: The split that was scored.
        weights: What was scored: a checkpoint, or an encoder's name.
        path: The JSON file.
    """
    source = data.source(split)
    say(trainer, f"\n{split} split of {source}, {len(data.pairs[split]):,} pairs")
    warnings, details = checks.of_pairs(data)
    about = {"split": split, "source": source, "checkpoint": weights, **details, **provenance.describe(trainer)}
    report(trainer, model, stage, "this checkpoint", path, len(data.pairs[split]), warnings, **about)
    say(trainer, f"also in {path}")
