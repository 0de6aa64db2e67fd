"""What fit, test and validate end with: weights are scored, everything is written, and then the metrics are printed."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.pairs.large import positives
from mrpc_lightning.report import caveats, metrics, overlap, page, plots, probes
from mrpc_lightning.report.calibration import FILE, Calibration
from mrpc_lightning.report.curves import diagnose
from mrpc_lightning.run import provenance
from mrpc_lightning.run.recorder import RunRecorder, log_hyperparameters, say
from mrpc_lightning.run.run import Run
from mrpc_lightning.run.scoring import score
from mrpc_lightning.run.throughput import Throughput
from mrpc_lightning.text import count, duration, printable

# The Trainer's limit of the pairs that a command scores.
LIMITS = {"test": "limit_test_batches", "validate": "limit_val_batches"}


def fit(trainer: Trainer, model: ParaphraseClassifier, data: MRPCDataModule, run: Run, config: Any, best: str) -> None:
    """Score the best checkpoint on the whole validation split; write metrics and report into the run; print the table.

    Every process must call this function.

    Args:
        trainer: The Trainer, after training.
        model: The model.
        data: The data.
        run: The run.
        config: The configuration of `fit`.
        best: The best checkpoint; empty if there was no validation.
    """
    folder = shlex.quote(str(run.folder))
    if not best:
        why = "training ended before a validation; --trainer.val_check_interval says when one comes"
        say(trainer, f"\nnot scored: {why}\n\nrun    {folder}")
        return
    epochs, steps, total_steps = trainer.current_epoch, trainer.global_step, int(trainer.estimated_stepping_batches)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    recorder = next(callback for callback in callbacks if isinstance(callback, RunRecorder))
    speed = next(callback for callback in callbacks if isinstance(callback, Throughput)).values()
    stopped = steps < total_steps and trainer.should_stop
    early = stopped and any(one.wait_count >= one.patience for one in callbacks if isinstance(one, EarlyStopping))
    peak, last_rate = model.hparams["learning_rate"], trainer.optimizers[0].param_groups[0]["lr"]
    if trainer.is_global_zero:
        for name in ("metrics.json", FILE):  # of an earlier end: the first says that the run is finished
            run.path(name).unlink(missing_ok=True)
    trainer.limit_predict_batches = 1.0
    loader = data.scoring_dataloader("validation")
    scored = page.join(data.pairs["validation"], *score(trainer, model, loader, checkpoint=best))
    probed = probes.run(trainer, model, data, scored)
    if not trainer.is_global_zero:
        return
    saved = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
    training = data.pairs["train"]
    about = {
        "epochs": recorder.epochs,
        "monitor": config.model_checkpoint.monitor,
        "training_pairs": len(training),
        "training_positives": positives(training) / len(training),
        "training_source": data.source("train"),
        "checkpoint": os.path.relpath(best, run.folder),
        # An average is of no epoch. Its optimizer step is that of the best of those that it was made of.
        **({"averaged": saved["averaged"]} if "averaged" in saved else {"epoch": saved["epoch"] + 1}),
        "optimizer_step": saved["global_step"],
        "epochs_trained": epochs,
        "seed": config.seed_everything,
        "starts": recorder.starts,
        "wall_seconds": round(recorder.wall_seconds, 1),
        **{f"training_{name}": float(f"{value:.4g}") for name, value in speed.items()},
        **overlap.score(scored, overlap.fit(training)),
    }
    # Early stopping did what it is for; and the kept weights are of an earlier step, whose rate was not 0 either way.
    schedule = model.hparams["schedule"]
    warnings = [] if early else caveats.of_schedule(steps, total_steps, last_rate, peak, schedule)
    title = f"mean of {count(len(saved['averaged']), 'checkpoint')}" if "averaged" in saved else ""
    title = title or f"best checkpoint (epoch {about['epoch']})"
    content = write(trainer, model, data, run, scored, probed, "validation", title, about, warnings, early=early)
    log_hyperparameters(trainer, model, config, content)
    show(model, content, title)
    ended = f", stopped early at optimizer step {steps:,} of {total_steps:,}" * stopped
    has_curves = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
    curves = f"tensorboard --logdir {folder}\n       " * has_curves
    say(
        trainer,
        f"curves: {content['diagnosis']}\n{duration(recorder.wall_seconds)} for {count(epochs, 'epoch')}"
        f"{ended}; while training {describe_speed(speed)}\n\n"
        f"run    {folder}\nreport {run.folder / 'report.html'}\n"
        f"next   {curves}python -m mrpc_lightning predict --ckpt_path {folder} --data.predict_file new_pairs.csv",
    )


def evaluate(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    run: Run,
    name: str,
    split: str,
    weights: str,
    warnings: list[str],
    threshold: Calibration | None = None,
) -> None:
    """Score a model as it is; write metrics, and for `test` a report, into a folder; print the table.

    Every process must call this function.

    Args:
        trainer: The Trainer.
        model: The model, with its weights.
        data: The data, set up.
        run: The folder to write into.
        name: "test" or "validate".
        split: The split to score.
        weights: What is scored: a checkpoint, or an encoder's name.
        warnings: What the caller warns of.
        threshold: Also score the answers that it makes.

    Raises:
        InputError: If the Trainer is limited to no batch.
    """
    limit = getattr(trainer, LIMITS[name])
    if not limit:
        raise InputError(f"trainer.{LIMITS[name]} {limit}: leaves no pair to score")
    calibration = Calibration.of(Path(weights))  # damaged, it is said before pairs are scored
    trainer.limit_predict_batches = limit
    data.trainer = trainer  # a process scores its share of the pairs
    scored = page.join(data.pairs[split], *score(trainer, model, data.scoring_dataloader(split)))
    probed = probes.run(trainer, model, data, scored) if name == "test" else {}
    if not trainer.is_global_zero:
        return
    title, prefix = "this checkpoint", f"{name}_"
    about: dict[str, Any] = {"checkpoint": weights, **overlap.score(scored, run.metrics.get("overlap_threshold"))}
    others = {"calibrated": calibration, "at_threshold": threshold}
    for key, other in others.items():
        if other is not None:
            about[key] = other.score(scored.labels, scored.probabilities)
    content = write(trainer, model, data, run, scored, probed, split, title, about, warnings, prefix)
    say(trainer, printable(f"{split} split of {content['source']}, {len(data.pairs[split]):,} pairs"))
    show(model, content, title)
    for key, how in others.items():
        if how is not None:
            kept = {name: value for name, value in content[key].items() if name not in Calibration._fields}
            values = "  ".join(f"{name} {metrics.number(value)}" for name, value in kept.items())
            say(trainer, f"with {how}, all above with 0.5: {values}")
    report = f"\nreport  {run.folder / 'test_report.html'}" if name == "test" else ""
    say(trainer, f"also in {run.folder / f'{name}_metrics.json'}{report}")


def write(
    trainer: Trainer,
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    run: Run,
    scored: metrics.Scored,
    probed: Mapping[str, Mapping[str, Any]],
    split: str,
    title: str,
    about: Mapping[str, Any],
    warnings: list[str],
    prefix: str = "",
    early: bool = False,
) -> dict[str, Any]:
    """Compute the metrics of scored pairs, write them and what belongs to them into a run, and return them.

    The metrics' file is written last: `metrics.json` says that a run is finished.
    """
    names = [printable(name) for name in model.hparams["label_names"]]
    found, details = caveats.of_pairs(data)
    before, known = caveats.of_ancestors(data, split)
    content = {**metrics.collect(scored, names), "split": split, "source": data.source(split), **about}
    content |= {**details, **known}
    if prefix != "validate_":
        content["probes"] = {name: {key: one[key] for key in ("pairs", "expected")} for name, one in probed.items()}
    content |= provenance.describe(trainer)
    content["warnings"] = [*caveats.of_metrics(content, names, len(data.pairs[split])), *warnings, *found, *before]
    diagnosis, config = None, ""
    if not prefix:
        diagnosis = diagnose(content["epochs"], content, names, model.hparams["learning_rate"], early)
        content["diagnosis"] = str(diagnosis)
        recipe = run.path("config.yaml")
        config = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    if prefix != "validate_":
        pictures = plots.draw(scored, content.get("epochs", []), content.get("epoch"), names)
        run.write(f"{prefix or 'validation_'}predictions.csv", page.predictions(scored, model.hparams["label_names"]))
        for old in run.path(f"{prefix}pictures/*").parent.glob("*.png"):
            old.unlink()  # another model may have had others
        for name, picture in pictures.items():
            drawn = run.write(f"{prefix}pictures/{name}.png", plots.png(picture))
            for logger in (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)):
                pixels = numpy.asarray(Image.open(drawn).convert("RGB"))
                logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
        title = f"{model.hparams['model_name']}, {title}"
        made = page.render(scored, content, names, title, pictures, diagnosis, config, probed)
        run.write(f"{prefix}report.html", made)
    run.write(f"{prefix}metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def show(model: ParaphraseClassifier, content: Mapping[str, Any], title: str) -> None:
    """Print the table and the warnings."""
    lines = ["", metrics.table(content, title, printable(model.hparams["label_names"][1]))]
    lines += [probes.line(content["probes"])] if "probes" in content else []
    lines += [printable(f"warning: {warning}") for warning in content["warnings"]]
    print("\n".join(lines), flush=True)


def describe_speed(speed: Mapping[str, float]) -> str:
    """Write what `Throughput` measured."""
    parts = [f"{speed.get('pairs_per_second', 0):,.0f} pairs/s", f"{speed['padding']:.1%} padding"]
    if "model_flops_utilization" in speed:
        parts.append(f"{speed['model_flops_utilization']:.0%} of this machine's peak for matrix products (MFU)")
    if speed["peak_memory_gigabytes"]:
        parts.append(f"{speed['peak_memory_gigabytes']:.1f} GB of memory at most")
    return ", ".join(parts)
