"""What a model starts from: where `model.model_name` leads, and which runs have trained those weights before.

Nothing in the files is run, whoever made them.
"""

import contextlib
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from mrpc_lightning.errors import InputError

# What is known of a run that a model descends from: facts, and what `pairs.hashes` makes of its training pairs.
Ancestor = dict[str, Any]
FACTS = {
    "folder": str,
    "encoder": str,
    "training_source": str,
    "training_digest": str,
    "training_pairs": int,
    "validation_f1": float,
}
HASHES = ("pair_hashes", "sentence_hashes")
FILE = "ancestors.safetensors"  # of a folder that `export` wrote


def best_checkpoint(folder: Path) -> Path:
    """Return where the checkpoint of a run's best epoch lies, whatever it is called."""
    names = []
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        names.append(str(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["checkpoint"]))
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        names.append(f"{config['model_checkpoint']['filename'] or 'best'}.ckpt")
    paths = [folder / "checkpoints" / Path(name).name for name in (*names, "best.ckpt")]
    return next((path for path in paths if path.is_file()), paths[0])


def folder_of(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's run; of a file that was moved elsewhere, the folder it lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def read_checkpoint(checkpoint: Path, key: str = "ckpt_path") -> dict[str, Any]:
    """Read a checkpoint without running code from it; tensors stay on disk until they are used.

    Args:
        checkpoint: The file.
        key: What named it, for the message.

    Raises:
        InputError: If the file is no checkpoint of this project.
    """
    import torch  # here, so that a list of runs comes without it: it takes a second

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{key} {checkpoint}: holds something other than weights and plain values; nothing of it was run"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{key} {checkpoint}: no such file") from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{key} {checkpoint}: not a readable checkpoint; it is damaged or cut short") from error
    needed = ("encoder_config", "hyper_parameters", "datamodule_hyper_parameters", "MRPCDataModule", "loops")
    if not isinstance(content, dict) or not all(name in content for name in needed):
        raise InputError(f"{key} {checkpoint}: not a checkpoint of mrpc_lightning")
    return content


def find_run(model_name: str) -> Path | None:
    """Return the checkpoint that a name leads to: a file's, or the best of a run's folder; None if it names no run."""
    path = Path(model_name)
    if (path / "checkpoints").is_dir() and not (path / "config.json").is_file():
        return best_checkpoint(path)
    return path if path.is_file() else None


def read_run(model_name: str) -> dict[str, Any]:
    """Return what the checkpoint holds that a name leads to, its weights on the CPU; nothing if it names no run.

    Raises:
        InputError: If the run has no best checkpoint, or it is damaged.
    """
    checkpoint = find_run(model_name)
    if checkpoint is not None and not checkpoint.is_file():
        raise InputError(f"model.model_name {model_name}: the run has no {checkpoint.name} yet; name a checkpoint file")
    return {} if checkpoint is None else read_checkpoint(checkpoint, "model.model_name")


def ancestors_of(model_name: str) -> list[Ancestor]:
    """Return what is known of the runs that trained the weights that a name leads to, the last one first.

    That is nothing for a name on the Hub, or where an earlier version of this project wrote the files.

    Raises:
        InputError: If a run or an exported folder is damaged.
    """
    if (checkpoint := find_run(model_name)) is not None:
        return lineage(read_run(model_name), folder_of(checkpoint))
    path = Path(model_name) / FILE
    if not path.is_file():
        return []
    try:
        with safe_open(path, "pt") as file:
            known = json.loads(file.metadata()["ancestors"])
            tensors = ({name: file.get_tensor(f"{number}.{name}") for name in HASHES} for number in range(len(known)))
            return [_checked({**one, **own}) for one, own in zip(known, tensors, strict=True)]
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged; delete it, and nothing is known of the runs before") from error


def lineage(content: Mapping[str, Any], folder: Path) -> list[Ancestor]:
    """Return what a checkpoint says of its own run, and of those that this one started from, the last one first.

    Args:
        content: What the checkpoint holds.
        folder: The run's folder.

    Raises:
        InputError: If it is damaged.
    """
    try:
        data, f1 = content["MRPCDataModule"], content.get("metrics", {}).get("val_f1")
        if "trained_on" not in data:
            return []
        own = {"folder": folder, "encoder": content["hyper_parameters"]["model_name"], "validation_f1": f1}
        return list(map(_checked, [{**own, **data["trained_on"]}, *data["ancestors"]]))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"{folder}: what its checkpoint says of its training is damaged") from error


def save(ancestors: Sequence[Ancestor], folder: Path) -> None:
    """Write what is known of the runs behind a model into its folder."""
    from safetensors.torch import save_file  # it imports PyTorch

    tensors = {f"{number}.{name}": one[name] for number, one in enumerate(ancestors) for name in HASHES}
    save_file(tensors, folder / FILE, metadata={"ancestors": json.dumps(list(map(facts, ancestors)))})


def facts(ancestor: Ancestor) -> dict[str, Any]:
    """Return what people and programs read of an ancestor."""
    return {name: ancestor[name] for name in FACTS}


def describe(ancestor: Mapping[str, Any]) -> str:
    """Say in a line what an ancestor is."""
    f1 = ancestor["validation_f1"]
    pairs = f"{ancestor['training_pairs']:,} pairs of {ancestor['training_source']}"
    scored = "" if f1 is None else f", validation F1 {f1:.4f}"
    return f"{ancestor['folder']}: {ancestor['encoder']}, trained on {pairs}{scored}"


def _checked(found: Mapping[str, Any]) -> Ancestor:
    """Return an ancestor with values of the right kinds, and with copies of tensors, as their file may go."""
    known = {name: None if found[name] is None else kind(found[name]) for name, kind in FACTS.items()}
    return known | {name: found[name].long().clone() for name in HASHES}
