"""What a command ends with: scores, warnings, files, and what to do next."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.report import caveats as checks
from mrpc_lightning.report import metrics as results
from mrpc_lightning.report import plots
from mrpc_lightning.report.page import Report, scored_pairs, write_answers
from mrpc_lightning.report.subsets import intervals, measure
from mrpc_lightning.run import provenance
from mrpc_lightning.run import runs_old as runs
from mrpc_lightning.run.recorder import Answers, RunRecorder, log_hyperparameters, say
from mrpc_lightning.run.throughput import Throughput
from mrpc_lightning.text import count, duration


@dataclass(frozen=True)
class Files:
    """What a command writes about the figures.

    Attributes:
        folder: The run's folder.
        name: What the files' names start with, where they are not those of `fit`.
    """

    folder: Path
    name: str = ""

    @property
    def metrics(self) -> Path:
        """The figures, for programs."""
        return self.folder / f"{self.name}metrics.json"

    @property
    def report(self) -> Path:
        """The figures, for people."""
        return self.folder / f"{self.name}report.html"

    @property
    def pictures(self) -> Path:
        """The folder of the report's pictures."""
        return self.folder / f"{self.name}pictures"

    @property
    def answers(self) -> Path:
        """Each scored pair with its answer."""
        return self.folder / f"{self.name or 'validation_'}predictions.csv"


def report(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    answers: Answers | None,
    split: str,
    title: str,
    files: Files,
    warnings: list[str],
    config: str = "",
    **about: Any,
) -> dict[str, float | int]:
    """Print the final table with its warnings, write the same as JSON, and the report.

    Args:
        trainer: The Trainer, after its evaluation.
        model: The model.
        data: The data.
        answers: What the evaluation answered; None: there is no report.
        split: The split that was scored.
        title: What was scored.
        files: The files to write.
        warnings: What to warn of beside what the figures themselves show.
        config: The run's configuration as YAML.
        about: What else goes into the file.

    Returns:
        The figures.
    """
    figures = results.collect(trainer.callback_metrics, "val" if answers is None else "test")
    names = model.hparams["label_names"]
    warnings = [*checks.of_figures(figures, names, len(data.pairs[split])), *warnings]
    found = None if answers is None else answers.collect(trainer)  # all processes must ask
    if not trainer.is_global_zero:
        return figures
    content: dict[str, Any] = {**figures, "split": split, "source": data.source(split), **about, "warnings": warnings}
    if found is None:
        print("\n" + results.table(figures, title, names[1]))
    else:
        scored = scored_pairs(data.pairs[split], found, model.hparams["symmetric"])
        content["intervals"] = intervals(scored.labels, scored.positive)
        if model.hparams["symmetric"]:  # what an exported model answers
            one_order = measure(scored.labels, scored.given)
            content["one_order"] = {name: float(one_order[name][0]) for name in ("accuracy", "f1")}
        print("\n" + results.table(figures, title, names[1], content["intervals"]))
    for warning in warnings:
        print(f"warning: {warning}")
    sys.stdout.flush()
    if found is None:
        results.write(files.metrics, content)
        return figures
    page = Report(scored, content, names, f"{model.hparams['model_name']}, {title}", config)
    if (diagnosis := page.diagnosis()) is not None:
        content["diagnosis"] = str(diagnosis)
        print(f"curves: {content['diagnosis']}")
    results.write(files.metrics, content)
    write_answers(files.answers, scored, names)
    pictures = page.draw()
    plots.write(pictures, files.pictures)
    page.write(files.report, pictures)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, picture in pictures.items():
                logger.experiment.add_image(name, plots.pixels(picture), trainer.global_step, dataformats="HWC")
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
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    callbacks.append(answers := Answers())
    trainer.test(model, data.scoring_dataloader("validation"), ckpt_path=best, verbose=False, weights_only=True)
    callbacks.remove(answers)
    trainer.loggers = loggers
    recorder = next(callback for callback in callbacks if isinstance(callback, RunRecorder))
    speed = next(callback for callback in callbacks if isinstance(callback, Throughput)).figures()
    saved = runs.read_checkpoint(Path(best))
    epoch = saved["epoch"] + 1
    warnings, details = checks.of_pairs(data)
    warnings += checks.of_schedule(steps, int(total_steps), last_rate, peak)
    files = Files(folder)
    figures = report(
        trainer,
        model,
        data,
        answers,
        "validation",
        f"best checkpoint (epoch {epoch})",
        files,
        warnings,
        recorder.config,
        epochs=recorder.epochs,
        monitor=config.model_checkpoint.monitor,
        training_pairs=len(data.pairs["train"]),
        training_positives=sum(data.pairs["train"]["label"][:]) / len(data.pairs["train"]),
        training_source=data.source("train"),
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
        f"{duration(recorder.wall_seconds)} for {count(epochs, 'epoch')}"
        f"{', stopped early' * stopped}; while training {results.speed(speed)}\n\n"
        f"run    {folder}\nreport {files.report}\n"
        f"next   {curves}python -m mrpc_lightning predict --ckpt_path {folder} --data.predict_file new_pairs.csv",
    )


def evaluation(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    answers: Answers | None,
    split: str,
    weights: str,
    files: Files,
) -> None:
    """Close an evaluation with a table.

    Args:
        trainer: The Trainer, after its evaluation.
        model: The model.
        data: The data.
        answers: What the evaluation answered; None for `validate`, which makes no report.
        split: The split that was scored.
        weights: What was scored: a checkpoint, or an encoder's name.
        files: The files to write.
    """
    say(trainer, f"\n{split} split of {data.source(split)}, {len(data.pairs[split]):,} pairs")
    warnings, details = checks.of_pairs(data)
    about = {"checkpoint": weights, **details, **provenance.describe(trainer)}
    report(trainer, model, data, answers, split, "this checkpoint", files, warnings, **about)
    say(trainer, f"also in {files.metrics}" + f"\nreport  {files.report}" * (answers is not None))
