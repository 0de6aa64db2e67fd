"""Shim."""

import json
import os
from pathlib import Path

import numpy

from mrpc_lightning.run.checkpoint import read_checkpoint
from mrpc_lightning.run.recorder import *
from mrpc_lightning.run.scoring import score


def _score(trainer, model, data, split, best=None):
    rows, p = score(trainer, model, data.scoring_dataloader(split), best)
    y = numpy.array(data.pairs[split]["label"][:])[rows]
    pred = p[:, 1] > p[:, 0]
    tp = int((pred & (y == 1)).sum())
    fp = int((pred & (y == 0)).sum())
    fn = int((~pred & (y == 1)).sum())
    tn = int((~pred & (y == 0)).sum())
    loss = float(-numpy.log(p[numpy.arange(len(y)), y]).mean())
    n = len(y)
    return dict(
        accuracy=(tp + tn) / n,
        f1=2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        loss=loss,
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
        pairs=n,
        baseline_accuracy=1.0,
        baseline_f1=1.0,
    )


def fit(trainer, model, data, run, best, config):
    if not best:
        say(trainer, f"\nnot scored: training ended before a validation\n\nrun    {run.folder}")
        return
    recorder = next(c for c in trainer.callbacks if isinstance(c, RunRecorder))
    m = _score(trainer, model, data, "validation", best)
    saved = read_checkpoint(Path(best))
    if trainer.is_global_zero:
        run.write(
            "metrics.json",
            json.dumps(
                {
                    **m,
                    "checkpoint": os.path.relpath(best, run.folder),
                    "epochs": recorder.epochs,
                    "starts": recorder.starts,
                    "wall_seconds": recorder.wall_seconds,
                    "epoch": saved["epoch"] + 1,
                    "optimizer_step": saved["global_step"],
                    "epochs_trained": trainer.current_epoch,
                    "seed": config.seed_everything,
                    "warnings": [],
                }
            ),
        )
    log_hyperparameters(trainer, model, config, m)
    say(trainer, f"best checkpoint (epoch {saved['epoch'] + 1}) {m}\nrun {run.folder}")


def evaluate(trainer, model, data, run, name, split, weights, warnings):
    m = _score(trainer, model, data, split)
    if trainer.is_global_zero:
        run.write(f"{name}_metrics.json", json.dumps({**m, "warnings": warnings}))
    say(trainer, f"{m} {warnings}")
