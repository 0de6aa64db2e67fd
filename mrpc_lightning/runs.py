"""A run's folder: `checkpoints/best.ckpt` and `last.ckpt`, `config.yaml`, `metrics.json`, `tokenizer/`, the curves."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from mrpc_lightning.errors import InputError

TRAIN_HINT = "python -m mrpc_lightning fit --config configs/mrpc.yaml trains one"


def find_checkpoint(ckpt_path: str, logs: Path) -> Path:
    """Find the checkpoint file that a person means.

    Args:
        ckpt_path: "best" or "last", of the newest run; a run's folder, for its best; or a checkpoint file.
        logs: The folder in which runs are searched, at any depth.

    Raises:
        InputError: If there is none.
    """
    if ckpt_path in ("best", "last"):
        found = sorted(logs.glob(f"**/checkpoints/{ckpt_path}.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(f"--ckpt_path {ckpt_path}: no run in {logs} has one; {TRAIN_HINT}")
        return found[-1]
    path = Path(ckpt_path)
    if path.is_dir():
        metrics = path / "metrics.json"  # says which one, should it have another name
        name = json.loads(metrics.read_text())["checkpoint"] if metrics.is_file() else "checkpoints/best.ckpt"
        path = path / name
    if not path.is_file():
        raise InputError(f"--ckpt_path {ckpt_path}: no {path}; give best, last, a run's folder or a checkpoint file")
    return path


def next_folder(parent: Path) -> Path:
    """Return the next run's folder, version_N, as TensorBoardLogger counts them."""
    versions = [int(path.name[8:]) for path in parent.glob("version_*") if path.name[8:].isdigit()]
    return parent / f"version_{max(versions, default=-1) + 1}"


def run_folder(checkpoint: Path) -> Path:
    """Return the run's folder that a checkpoint lies in; the checkpoint's own folder, if it was moved elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it; tensors stay on disk until they are used.

    Raises:
        InputError: If the file is no checkpoint of this project.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"--ckpt_path {checkpoint}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or "encoder_config" not in content:
        raise InputError(f"--ckpt_path {checkpoint}: not a checkpoint of mrpc_lightning")
    return content
