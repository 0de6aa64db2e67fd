"""A checkpoint's file: written whole or not at all; `origin.read_checkpoint` reads it."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_utilities.core.apply_func import apply_to_collection

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.origin import read_checkpoint
from mrpc_lightning.run.provenance import describe as describe_run
from mrpc_lightning.run.run import Run, replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole or not at all, with facts about its run.

    Args:
        about: What each checkpoint says of its run.
        several_machines: Whether the processes are on several machines.
    """

    def __init__(self, about: Mapping[str, Any], several_machines: bool = False) -> None:
        super().__init__()
        self.about = about
        self.several_machines = several_machines
        self.hold = False  # keep a copy of the next checkpoint in memory instead of writing it
        self.held: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file beside the final one, and move it there once it is on the disk.

        Raises:
            InputError: If it cannot be written; the file that was there is intact.
        """
        final = Path(path)
        if self.hold:
            self.held = copied(checkpoint)
            return
        try:
            with replacing(final) as temporary, temporary.open("wb") as file:
                torch.save({**checkpoint, **self.about}, file)
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, Stopped):  # a signal came while it was written
                raise error.__context__ from error
            kept = "; the previous one is intact" if final.exists() else ""
            cause = error if isinstance(error, OSError) else error.__context__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).split("\n")[0]
            raise InputError(f"{final}: the checkpoint cannot be written: {reason}{kept}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file; on several machines the first process does, for all: their disks may be others."""
        if not self.several_machines:
            return super().load_checkpoint(path, map_location, weights_only)
        content: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            try:
                content = [super().load_checkpoint(path, map_location, weights_only)]
            except OSError as error:
                content = [error]
        torch.distributed.broadcast_object_list(content)
        if isinstance(content[0], OSError):
            raise content[0]
        return dict(content[0])


def record_facts(trainer: Trainer, recipe: str, job: str | None) -> str:
    """Let each checkpoint of a run say what it was made with.

    Args:
        trainer: The run's Trainer.
        recipe: The run's recipe as YAML.
        job: What a SLURM job or torchrun, started again, knows its run by; None without one.

    Returns:
        The text of config.yaml: the recipe under the same facts.
    """
    about = describe_run(trainer)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a plugin of the user's own stays
        facts = {"made_with": about, "world_size": trainer.world_size, "job": job}
        trainer.strategy.checkpoint_io = AtomicCheckpointIO(facts, trainer.num_nodes > 1)
    return "".join(f"# {name}: {value}\n" for name, value in about.items()) + recipe


def fingerprint(checkpoint: Path) -> int:
    """Return what tells a checkpoint's file from another: a checksum of its end, which lists those of all its parts."""
    with checkpoint.open("rb") as file:
        file.seek(max(checkpoint.stat().st_size - 2**20, 0))
        return zlib.crc32(file.read())


def best_of(trainer: Trainer, kept: ModelCheckpoint, run: Run) -> str:
    """Return the checkpoint to score: the best one; where several are kept best.ckpt, with the mean of their weights.

    Every process must call this function.

    Returns:
        The checkpoint's path; empty if there was no validation.
    """
    if kept.save_top_k == 1 or not kept.best_model_path:
        return kept.best_model_path
    best = run.path("checkpoints/best.ckpt")
    if trainer.is_global_zero:
        # A run that was killed and resumed with other settings may have deleted one of them.
        others = [Path(name) for name in kept.best_k_models if name != kept.best_model_path and Path(name).is_file()]
        content = average([Path(kept.best_model_path), *others])
        trainer.strategy.checkpoint_io.save_checkpoint(content, best)
    trainer.strategy.barrier()
    return str(best)


def average(checkpoints: list[Path]) -> dict[str, Any]:
    """Return what the first of several checkpoints of a run holds, but for the mean of the weights of all of them.

    `averaged` are their optimizer steps. Averaged weights of one training are often better than the best of them
    (Izmailov et al. 2018); the metrics of none of them are the average's.
    """
    contents = [read_checkpoint(path) for path in checkpoints]
    weights = mean([content["state_dict"] for content in contents])
    steps = sorted(content["global_step"] for content in contents)
    return {**contents[0], "state_dict": weights, "metrics": {}, "averaged": steps}


def mean(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of several models' weights; of whole numbers the first one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if tensor.is_floating_point() else tensor
        for name, tensor in states[0].items()
    }


def copied(content: Any) -> Any:
    """Return values with a copy of each tensor, on the CPU."""
    return apply_to_collection(content, torch.Tensor, lambda tensor: tensor.detach().cpu().clone())


def without_weights(content: Mapping[str, Any]) -> Any:
    """Return a checkpoint without its weights, and with copies of other tensors, so that its file can be replaced."""
    return copied({**content, "state_dict": {}, "optimizer_states": []})


def describe(checkpoint: Path, content: Mapping[str, Any]) -> str:
    """Say which checkpoint was read, of which epoch, and its validation metrics when it was saved."""
    epoch, step = content["loops"]["fit_loop"]["epoch_progress"]["current"]["started"], content["global_step"]
    metrics = {name: value for name, value in content.get("metrics", {}).items() if name.startswith("val_")}
    scored = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "no validation yet"
    if seeds := content.get("seeds"):
        return f"{checkpoint}, the mean of the weights of seeds {', '.join(map(str, seeds))}"
    if steps := content.get("averaged"):
        return f"{checkpoint}, the mean of the weights after optimizer steps {', '.join(map(str, steps))}"
    return f"{checkpoint}, epoch {epoch}, optimizer step {step:,}; when it was saved: {scored}"
