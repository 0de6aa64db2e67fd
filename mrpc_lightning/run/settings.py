"""What a run is set to where nothing else is said, what is refused before it starts, and where its loggers write."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ProgressBar,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_warn

from mrpc_lightning.errors import InputError
from mrpc_lightning.model import METRICS
from mrpc_lightning.nn.precision import choose_precision
from mrpc_lightning.nn.sharding import ShardedStrategy
from mrpc_lightning.run.recorder import EpochBar
from mrpc_lightning.run.run import LOGS, Run

TRAINER_DEFAULTS = {
    "max_epochs": 5,
    "precision": None,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(LOGS), "name": "mrpc", "default_hp_metric": False},
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
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}


def check_settings(config: Any) -> None:
    """Refuse what would keep the wrong checkpoint, or would fail after the first epoch.

    Args:
        config: The configuration of a command.

    Raises:
        InputError: If there is such a setting.
    """
    for key in ("early_stopping", "model_checkpoint"):
        monitor, mode = config[key].monitor, config[key].mode
        if monitor not in METRICS:
            raise InputError(f"{key}.monitor {monitor}: there is no such metric, only {', '.join(METRICS)}")
        if mode != ("min" if monitor.endswith("loss") else "max"):
            raise InputError(f"{key}.mode {mode}: would keep the worst {monitor}, not the best")
    kept, trainer = config.model_checkpoint, config.trainer
    if kept.save_top_k < 1:
        raise InputError(f"model_checkpoint.save_top_k {kept.save_top_k}: 1, the best, or more, which are averaged")
    if kept.filename == "last" or (kept.filename and re.search(r"[/\\]|\.\.", kept.filename)):
        raise InputError(
            f"model_checkpoint.filename {kept.filename}: a file's name in the run's folder, other than last"
        )
    if kept.save_last:
        raise InputError("model_checkpoint.save_last: last.ckpt is written anyway, with all that resuming needs")
    if not kept.save_weights_only:
        raise InputError("model_checkpoint.save_weights_only false: last.ckpt has what resuming needs; leave it true")
    if kept.dirpath:
        raise InputError("model_checkpoint.dirpath: checkpoints lie in the run's folder; move that with the logger")
    for logger in loggers(trainer):
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(f"trainer.logger {name}: needs {PACKAGES[name]}: python -m pip install {PACKAGES[name]}")
        if getattr(getattr(logger, "init_args", None), "sub_dir", None):
            raise InputError("trainer.logger.sub_dir: a run has one folder; use the logger's name or version")
    if trainer.accelerator == "tpu":
        raise InputError("trainer.accelerator tpu: TPUs are not supported; nobody has run this on one")
    if re.search("spawn|fork|notebook|xla|deepspeed|offload|fsdpstrategy", str(trainer.strategy).lower()):
        raise InputError(f"trainer.strategy {trainer.strategy}: is not supported; use ddp or fsdp")
    if config.model.compile and is_fsdp(trainer):
        raise InputError("model.compile true: was not tried with trainer.strategy fsdp; leave one out")
    launched = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
    if trainer.num_nodes > 1 and not launched:
        raise InputError(f"trainer.num_nodes {trainer.num_nodes}: start the processes with torchrun or SLURM")
    devices, cores = str(trainer.devices), os.cpu_count() or 1
    on_cpu = trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and devices.isdigit() and int(devices) > cores:
        rank_zero_warn(f"trainer.devices {devices}: this machine has {cores} cores, which the processes share")
    if config.get("checkpoint_every") is not None and config.checkpoint_every < 1:
        raise InputError(f"--checkpoint_every {config.checkpoint_every}: at least 1 optimizer step, or null")
    if config.model.compile and not config.data.pad_to_multiple_of and config.data.padding == "longest":
        raise InputError(
            "model.compile true: needs data.pad_to_multiple_of, 32 say: each width of a batch is compiled once"
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] == 0:
            raise InputError(f"trainer.{name} 0: at least 1")
    if trainer.accumulate_grad_batches < 1:
        raise InputError(f"trainer.accumulate_grad_batches {trainer.accumulate_grad_batches}: at least 1")


def check_batches(trainer: Any, data: Any) -> None:
    """Check that each epoch has batches to train on and to validate; once the pairs are known.

    Args:
        trainer: The Trainer.
        data: The data module, set up.

    Raises:
        InputError: If an epoch has none, or ends before its first validation.
    """
    counts = {}
    for name, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        limit = getattr(trainer, f"limit_{name}_batches")
        counts[name] = min(limit, len(loader)) if isinstance(limit, int) else int(len(loader) * limit)
        if not counts[name] and limit != 0:
            raise InputError(f"trainer.limit_{name}_batches {limit:g}: not one of the {len(loader)} batches is left")
    every = trainer.val_check_interval
    if isinstance(every, int) and every > counts["train"] and trainer.check_val_every_n_epoch is not None:
        raise InputError(
            f"trainer.val_check_interval {every}: an epoch has {counts['train']} batches, so that none would be "
            "validated; give at most that"
        )


def check_callbacks(callbacks: list[Any], trainer: Any, resumed: bool) -> None:
    """Refuse what would write over last.ckpt, and what cannot be resumed exactly.

    Args:
        callbacks: The user's callbacks.
        trainer: The Trainer's configuration.
        resumed: Whether the run is resumed.

    Raises:
        InputError: If there is such a thing.
    """
    if any(isinstance(callback, ModelCheckpoint) and callback.save_last for callback in callbacks):
        raise InputError("trainer.callbacks: ModelCheckpoint's save_last writes over last.ckpt; leave it out")
    averaging = (GradientAccumulationScheduler, StochasticWeightAveraging, WeightAveraging)
    names = [type(callback).__name__ for callback in callbacks if isinstance(callback, averaging)]
    names += ["overfit_batches"] * bool(trainer.overfit_batches)
    if resumed and names:
        raise InputError(f"--ckpt_path: a run with {', '.join(names)} cannot be resumed exactly where it stopped")


def choose_for_machine(trainer: Any, trained_in: str | None, resumed: bool) -> tuple[dict[str, Any], str]:
    """Choose the precision, and whether to show a progress bar, where nothing was said; and what fsdp means.

    Args:
        trainer: The Trainer's configuration, with its callbacks made.
        trained_in: The precision of the run that is used or resumed: its metrics are those of that precision.
        resumed: Whether the run is resumed, which another precision would not do exactly.

    Returns:
        Arguments of the Trainer, and why it is this precision.

    Raises:
        InputError: If the hardware does not compute in that precision.
    """
    if trained_in == "16-mixed" and not torch.cuda.is_available() and not resumed:
        trained_in = None  # a CPU does not compute in it
    precision, reason = choose_precision(trainer.precision or trained_in, trainer.accelerator)
    if not trainer.precision and trained_in:
        reason = "as the run was trained"
    if precision == "16-mixed" and (trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        raise InputError("trainer.precision 16-mixed: a CPU does not compute in fp16; give bf16-mixed or 32-true")
    if precision in ("bf16-true", "16-true"):
        rank_zero_warn(
            f"--trainer.precision {precision} keeps the weights themselves in 16 bits: bf16 has steps of 0.4 % of a "
            "weight, and most updates of fine-tuning are smaller and round away; bf16-mixed costs little more"
        )
    if precision == "32-true":
        torch.set_float32_matmul_precision("high")  # TF32, on cards that have it; nothing on a CPU
        reason += ", matrix products in TF32" * torch.cuda.is_available()
    chosen: dict[str, Any] = {} if trainer.plugins else {"precision": precision}
    callbacks = (
        trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks] * bool(trainer.callbacks)
    )
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        shown = sys.stdout.isatty() if trainer.enable_progress_bar is None else trainer.enable_progress_bar
        chosen["enable_progress_bar"] = shown
        callbacks = [*callbacks, EpochBar()] if shown else callbacks
    if is_fsdp(trainer):
        chosen["strategy"] = ShardedStrategy()
    return {**chosen, "callbacks": [*callbacks]}, "as the plugin has it" if trainer.plugins else reason


def is_fsdp(trainer: Any) -> bool:
    """Say whether the Trainer's configuration asks for a sharded model."""
    return str(trainer.strategy).lower() == "fsdp"


def loggers(trainer: Any) -> list[Any]:
    """Return the configurations of the loggers, as a list."""
    logger = trainer.logger
    return [] if not logger or logger is True else logger if isinstance(logger, list) else [logger]


def makes_folder(logger: Any) -> bool:
    """Say whether a logger, as it is configured, makes a folder for each run and writes into it."""
    return str(getattr(logger, "class_path", "")).rpartition(".")[2] in ("TensorBoardLogger", "CSVLogger")


def logs_folder(config: Any) -> Path:
    """Return the folder in which runs are searched: that of a config file's name, if it has runs, else of all runs."""
    first = next(iter(loggers(config.trainer)), None)
    settings = getattr(first, "init_args", {})
    folder = Path(settings.get("save_dir") or LOGS)
    named = folder / (settings.get("name") or "")
    return named if config.config and named.is_dir() else folder


def new_run(config: Any) -> Run:
    """Make the folder of a new run, where its first logger wants it."""
    first = next(iter(loggers(config.trainer)), None)
    if first is None or not makes_folder(first):  # W&B's, MLflow's and their like keep things elsewhere
        return Run.new(LOGS / ("runs" if first else "unlogged"))
    values = first.init_args
    version = values.get("version")
    name = f"version_{version}" if isinstance(version, int) else version
    return Run.new(Path(values.get("save_dir") or ".") / (values.get("name") or ""), name)


def point_loggers(config: Any, run: Run, step: int | None) -> None:
    """Let everything that a run writes go into its folder.

    Args:
        config: The configuration of `fit`; it is changed.
        run: The run.
        step: Optimizer steps that a resumed run has done; None for a new run.
    """
    config.trainer.default_root_dir = str(run.folder)
    kept = config.model_checkpoint
    kept.dirpath = str(run.checkpoints)
    if kept.save_top_k > 1:  # a file each; best.ckpt is their average
        kept.filename, kept.auto_insert_metric_name = f"{kept.filename or 'best'}-{{step}}", False
    for number, logger in enumerate(loggers(config.trainer)):
        if not makes_folder(logger):
            if "save_dir" in logger.get("init_args", {}) and logger.init_args.save_dir in (None, "."):
                logger.init_args.save_dir = str(run.folder)
            continue
        values = logger.init_args
        if number:
            values["save_dir"], values["name"], values["version"] = str(run.folder), "", f"logger_{number}"
        else:
            values["save_dir"], values["name"], values["version"] = str(run.folder.parent), "", run.folder.name
        table = Path(values["save_dir"]) / values["version"] / "metrics.csv"
        if step is not None and table.is_file():  # CSVLogger deletes what it finds; what came later comes again
            kept = table.with_name(f"metrics_until_step_{step}.csv")
            table.replace(kept) if not kept.exists() else None
