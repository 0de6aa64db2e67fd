"""Lightning's Trainer, with what this project adds to it."""

import sys
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.precision import choose_precision
from mrpc_lightning.run import provenance
from mrpc_lightning.run.checkpoint import AtomicCheckpointIO
from mrpc_lightning.run.recorder import EpochBar
from mrpc_lightning.run.signals import slurm_job


class Trainer(LightningTrainer):
    """Lightning's Trainer: how, how long and on what to compute."""

    callbacks: list[Any]  # Lightning sets it where a type checker does not look

    def export(self, model: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None) -> None:
        """Do nothing: a subcommand is a method here, and `cli` has what an export needs."""


def chosen_by_machine(config: Any, trained_in: str | None) -> tuple[dict[str, Any], str]:
    """Choose the precision and whether to show a progress bar, where nothing was said.

    Args:
        config: The Trainer's configuration, with its callbacks made.
        trained_in: The precision of the run that is evaluated, whose figures come again in that one alone.

    Returns:
        Arguments of the Trainer, and why it is this precision.
    """
    precision, reason = choose_precision(config.precision or trained_in, config.accelerator)
    if not config.precision and trained_in:
        reason = "as the run was trained"
    if precision == "16-mixed" and (config.accelerator == "cpu" or not torch.cuda.is_available()):
        raise InputError("--trainer.precision 16-mixed: a CPU does not compute in fp16; give bf16-mixed or 32-true")
    if precision in ("bf16-true", "16-true"):
        rank_zero_warn(
            f"--trainer.precision {precision} keeps the weights themselves in 16 bits: bf16 has steps of 0.4 % of a "
            "weight, and most updates of fine-tuning are smaller and round away; bf16-mixed costs little more"
        )
    if precision == "32-true":
        torch.set_float32_matmul_precision("high")  # TF32, on cards that have it; nothing on a CPU
        reason += ", matrix products in TF32" * torch.cuda.is_available()
    chosen: dict[str, Any] = {} if config.plugins else {"precision": precision}
    callbacks = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks] * bool(config.callbacks)
    bar = config.enable_progress_bar
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        chosen["enable_progress_bar"] = bar = sys.stdout.isatty() if bar is None else bar
        callbacks = [*callbacks, EpochBar()] if bar else callbacks
    return {**chosen, "callbacks": [*callbacks]}, "as the plugin has it" if config.plugins else reason


def keep_recipe(trainer: Trainer, recipe: dict[str, Any], words: list[str]) -> str:
    """Have a run's recipe written into its checkpoints.

    Args:
        trainer: The run's Trainer.
        recipe: The configuration of `fit`.
        words: The command line, by which a requeued SLURM job knows its run.

    Returns:
        The text of config.yaml: the recipe, and what the run is made with.
    """
    about = provenance.describe(trainer)
    # The precision that was chosen is the run's, wherever it goes on; config.yaml leaves it to the machine.
    resolved = {**recipe, "trainer": {**recipe["trainer"], "precision": about["trainer_precision"]}}
    trainer.strategy.checkpoint_io = AtomicCheckpointIO(
        {
            "recipe": resolved,
            "made_with": about,
            "world_size": trainer.world_size,
            "slurm_job": (slurm_job(), words) if slurm_job() else None,
        }
    )
    header = "".join(f"# {name}: {value}\n" for name, value in about.items())
    return f"{header}{yaml.safe_dump(recipe, sort_keys=False)}"
