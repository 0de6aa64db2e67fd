"""What a process has that Lightning's checkpoint does not hold, and paths in a checkpoint that was moved."""

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from mrpc_lightning.errors import InputError


def process_state(module: LightningModule) -> dict[str, Any]:
    """Return this process's random state, and its metrics of the epoch so far, as tensors on the CPU."""
    version, key, gauss = random.getstate()
    name, words, *rest = numpy.random.get_state()
    device = module.device
    return {
        "random": {
            "python": [version, list(key), gauss],
            "numpy": [name, [int(word) for word in words], *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
        },
        "metrics": {
            name: {key: value.cpu().clone() for key, value in metric.metric_state.items() if isinstance(value, Tensor)}
            for name, metric in module.named_modules()
            if isinstance(metric, Metric)
        },
    }


def shared_out(states: Sequence[Mapping[str, Any]], rank: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the state of a process where a run goes on with another number of them.

    The first process takes over what all of them counted. Each one draws random numbers of its own.

    Args:
        states: What `process_state` returned on each process.
        rank: The process.
        seeds: What its random numbers depend on besides.
    """
    metrics = {
        name: {key: sum(state["metrics"][name][key] for state in states) * (rank == 0) for key in values}
        for name, values in states[0]["metrics"].items()
    }
    seed = int(numpy.random.SeedSequence([rank, *seeds]).generate_state(1)[0])
    return {"metrics": metrics, "random": {"seed": seed}}


def restore_process(module: LightningModule, state: Mapping[str, Any]) -> None:
    """Set what `process_state` or `shared_out` returned."""
    saved, device = state["random"], module.device
    metrics = dict(module.named_modules())
    for name, values in state["metrics"].items():
        for key, value in values.items():
            setattr(metrics[name], key, value.to(device))
    if "seed" in saved:
        torch.manual_seed(saved["seed"])
        return
    version, key, gauss = saved["python"]
    random.setstate((version, tuple(key), gauss))
    name, words, *rest = saved["numpy"]
    numpy.random.set_state((name, numpy.array(words, dtype=numpy.uint32), *rest))
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"].cpu(), device)
    if saved["mps"] is not None and device.type == "mps":
        torch.mps.set_rng_state(saved["mps"].cpu())


def check_paths(state: Mapping[str, Any]) -> None:
    """Check that a ModelCheckpoint's state names plain files of its own folder alone: it may delete them.

    Raises:
        InputError: If it names others, or links.
    """
    folder = Path(state["dirpath"])
    names = [state["best_model_path"], state["kth_best_model_path"], state["last_model_path"], *state["best_k_models"]]
    for path in (Path(name) for name in names if name):
        if path.parent != folder or path.name == ".." or path.is_dir():
            raise InputError(f"the checkpoint names {path} as its run's, which is not in {folder}")
        if path.is_symlink():
            raise InputError(f"{path}: is a link; a run's checkpoints are files in its own folder")


def moved(state: Any, old: str, new: str) -> Any:
    """Replace a folder at the start of every path in a callback's state."""
    if isinstance(state, dict):
        return {moved(key, old, new): moved(value, old, new) for key, value in state.items()}
    if isinstance(state, str) and (state == old or state.startswith(old + os.sep)):
        return new + state[len(old) :]
    return state
