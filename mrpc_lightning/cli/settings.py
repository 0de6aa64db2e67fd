"""What a run is set to where nothing else is said, what a machine decides, and which settings are refused."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from mrpc_lightning.errors import InputError
from mrpc_lightning.model import METRICS

LOGS, RUN_NAME = "tb_logs", "mrpc"
TRAINER_DEFAULTS = {
    "max_epochs": 5,
    "precision": None,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": LOGS, "name": RUN_NAME, "default_hp_metric": False},
    },
}
EARLY_STOPPING_DEFAULTS = {
    "monitor": "val_f1",
    "mode": "max",
    "patience": 2,
    "strict": False,
    "check_on_train_epoch_end": False,  # patience counts validations, not ends of epochs
}
CHECKPOINT_DEFAULTS = {
    "monitor": "val_f1",
    "mode": "max",
    "filename": "best",
    "save_weights_only": True,
    "enable_version_counter": False,
}


def check_settings(config: Any) -> None:
    """Refuse what would keep the wrong checkpoint, or would fail after the first epoch.

    Raises:
        InputError: If a callback watches a figure that there is not, or watches it in the wrong direction.
    """
    for key in ("early_stopping", "model_checkpoint"):
        monitor, mode = config[key].monitor, config[key].mode
        if monitor not in METRICS:
            raise InputError(f"--{key}.monitor {monitor}: there is no such figure, only {', '.join(METRICS)}")
        if mode != ("min" if monitor.endswith("loss") else "max"):
            raise InputError(f"--{key}.mode {mode}: would keep the worst {monitor}, not the best")
    if config.model_checkpoint.save_top_k != 1:
        raise InputError(
            "--model_checkpoint.save_top_k: must be 1, the best; for more add a ModelCheckpoint of your own"
        )
    filename = config.model_checkpoint.filename
    if filename == "last" or (filename and re.search(r"[/\\]|\.\.", filename)):
        raise InputError(f"--model_checkpoint.filename {filename}: a file's name in the run's folder, other than last")
    if config.model_checkpoint.save_last:
        raise InputError("--model_checkpoint.save_last: last.ckpt is written anyway, with all that resuming needs")
    for logger in config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]:
        if getattr(getattr(logger, "init_args", None), "sub_dir", None):
            raise InputError("--trainer.logger.sub_dir: a run has one folder; use the logger's name or version")
    if config.model_checkpoint.dirpath and not config.trainer.fast_dev_run:
        raise InputError("--model_checkpoint.dirpath: checkpoints lie in the run's folder; move that with the logger")
    devices, cores = str(config.trainer.devices), os.cpu_count() or 1
    on_cpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and devices.isdigit() and int(devices) > cores:
        raise InputError(f"--trainer.devices {devices}: this machine has {cores} cores, and a process needs one")
    if config.checkpoint_every is not None and config.checkpoint_every < 1:
        raise InputError(f"--checkpoint_every {config.checkpoint_every}: at least 1 optimizer step, or null")
    if config.model.compile and not config.data.pad_to_multiple_of:
        raise InputError(
            "--model.compile true: needs --data.pad_to_multiple_of, 32 say: each width of a batch is compiled once"
        )
    if config.trainer.max_epochs == 0:
        raise InputError("--trainer.max_epochs 0: at least 1")
    if config.trainer.accumulate_grad_batches < 1:
        raise InputError(f"--trainer.accumulate_grad_batches {config.trainer.accumulate_grad_batches}: at least 1")


def check_callbacks(callbacks: list[Any], trainer: Any, resumed: bool) -> None:
    """Refuse what would write over last.ckpt, and what cannot be resumed exactly.

    Args:
        callbacks: The user's callbacks.
        trainer: The Trainer's configuration.
        resumed: Whether the run goes on.

    Raises:
        InputError: If there is such a thing.
    """
    if any(isinstance(callback, ModelCheckpoint) and callback.save_last for callback in callbacks):
        raise InputError("--trainer.callbacks: ModelCheckpoint's save_last writes over last.ckpt; leave it out")
    averaging = (GradientAccumulationScheduler, StochasticWeightAveraging, WeightAveraging)
    names = [type(callback).__name__ for callback in callbacks if isinstance(callback, averaging)]
    names += ["overfit_batches"] * bool(trainer.overfit_batches)
    if resumed and names:
        raise InputError(f"--ckpt_path: a run with {', '.join(names)} cannot go on exactly where it stopped")


def logs_folder(config: Any) -> Path:
    """Return the folder in which runs are searched: that of a config file's name, if it has runs, else of all runs."""
    logger = config.trainer.logger
    settings = getattr(logger[0] if isinstance(logger, list) and logger else logger, "init_args", {})
    folder = Path(settings.get("save_dir") or LOGS)
    named = folder / (settings.get("name") or "")
    return named if config.config and named.is_dir() else folder


def is_file_logger(logger: Any) -> bool:
    """Say whether a logger, as it is configured, makes a folder for each run and writes into it."""
    return str(getattr(logger, "class_path", "")).rpartition(".")[2] in ("TensorBoardLogger", "CSVLogger")


def makes_folder(config: Any) -> bool:
    """Say whether the first logger makes the run's folder; W&B's, MLflow's and their like keep things elsewhere."""
    logger = config.trainer.logger
    return is_file_logger(logger[0] if isinstance(logger, list) and logger else logger)


def give_folder(config: Any, folder: Path) -> None:
    """Have a run's files written into a folder that no logger makes."""
    config.trainer.default_root_dir = str(folder)
    if config.model_checkpoint.dirpath is None:
        config.model_checkpoint.dirpath = str(folder / "checkpoints")


def pin_logger(config: Any, folder: Path, step: int) -> None:
    """Let loggers go on in a run's folder.

    Args:
        config: The configuration of a subcommand.
        folder: The run's folder.
        step: Optimizer steps done when the checkpoint was written.
    """
    logger = config.trainer.logger
    if not makes_folder(config):
        give_folder(config, folder)
    for number, one in enumerate(logger if isinstance(logger, list) else [logger] if logger else []):
        if not is_file_logger(one):
            continue
        place = {"save_dir": str(folder.parent.parent), "name": folder.parent.name} if number == 0 else {}
        for name, value in {**place, "version": folder.name}.items():
            if name in one.init_args:
                one.init_args[name] = value
        values = one.init_args
        own = Path(values.get("save_dir") or ".") / (values.get("name") or "") / folder.name
        table, kept = own / "metrics.csv", own / f"metrics_until_step_{step}.csv"
        if table.is_file() and not kept.exists():  # CSVLogger deletes what it finds; what came later comes again
            table.rename(kept)
