"""A run's folder: `checkpoints/best.ckpt` and `last.ckpt`, `config.yaml`, `metrics.json`, `tokenizer/`, the curves."""

import contextlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mrpc_lightning.errors import InputError

Model = TypeVar("Model", bound=LightningModule)
TRAIN_HINT = "python -m mrpc_lightning fit --config configs/mrpc.yaml trains one"


def run_dir(trainer: Trainer) -> Path:
    """Return the folder of the run that a Trainer makes. All processes must ask: they agree on it."""
    # What other loggers call their folder holds all runs, or none.
    log_dir = trainer.log_dir if isinstance(trainer.logger, TensorBoardLogger | CSVLogger) else None
    return Path(log_dir or trainer.default_root_dir)


def choose_checkpoint(subcommand: str, config: Any, logs: Path, slurm: tuple[str | None, list[str]]) -> Path | None:
    """Choose the checkpoint that a command needs.

    Args:
        subcommand: "fit", which needs one only where it is told to go on; or another, which needs the best.
        config: The subcommand's configuration.
        logs: The folder in which runs are searched.
        slurm: The SLURM job that this is, if it is one, and the command line.

    Returns:
        The file; None where there is nothing to load.

    Raises:
        InputError: If there is none, or it makes no sense to load one.
    """
    wanted, trial = config.ckpt_path, bool(config.trainer.fast_dev_run)
    if wanted == "none":
        if config.run is not None:
            raise InputError("--run: --ckpt_path none means no run")
        return None
    kind = "last" if subcommand == "fit" else "best"
    if wanted is None and config.run is not None:
        wanted = kind
    if wanted is None and subcommand == "fit":
        wanted = requeued(logs, slurm)
    if wanted is None and not trial and subcommand != "fit":
        wanted = kind
    if wanted is None:
        return None
    if subcommand == "fit" and trial:
        raise InputError("--trainer.fast_dev_run: tries a new run, and --ckpt_path goes on with one; leave one out")
    return find_checkpoint(wanted, logs, config.run, kind)


def find_checkpoint(ckpt_path: str, logs: Path, name: str | None = None, kind: str = "best") -> Path:
    """Find the checkpoint file that a person means.

    Args:
        ckpt_path: "best" or "last", of the newest run that has one; a run's folder; or a checkpoint file.
        logs: The folder in which runs are searched, at any depth.
        name: The end of the path of the run's folder, such as "version_3", where the newest is not meant.
        kind: Which checkpoint of a run's folder is meant: "best" or "last".

    Raises:
        InputError: If there is none, or several runs have that name.
    """
    if ckpt_path in ("best", "last"):
        found = list(newest(logs, ckpt_path))
        if name is not None:
            wanted = Path(name).parts
            found = [path for path in found if run_folder(path).parts[-len(wanted) :] == wanted]
            if len(found) > 1:
                names = ", ".join(sorted(str(run_folder(path)) for path in found))
                raise InputError(f"--run {name}: several runs have that name: {names}; give more of the path")
            if not found:
                names = ", ".join(sorted({str(run_folder(path).relative_to(logs)) for path in newest(logs, ckpt_path)}))
                raise InputError(
                    f"--run {name}: no such run in {logs}" + (f", only {names}" if names else f"; {TRAIN_HINT}")
                )
        if not found:
            raise InputError(f"--ckpt_path {ckpt_path}: no run in {logs} has one; {TRAIN_HINT}")
        return found[0]
    if name is not None:
        raise InputError(f"--run {name}: goes with --ckpt_path best or last, not with {ckpt_path}")
    path = Path(ckpt_path)
    if path.is_dir():
        metrics = path / "metrics.json"  # says which one is the best, should it have another name
        best = "checkpoints/best.ckpt"
        if metrics.is_file():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                best = str(json.loads(metrics.read_text(encoding="utf-8"))["checkpoint"])
        path = path / (best if kind == "best" else "checkpoints/last.ckpt")
    if not path.is_file():
        raise InputError(f"--ckpt_path {ckpt_path}: no {path}; give best, last, a run's folder or a checkpoint file")
    return path


def newest(logs: Path, kind: str) -> Iterator[Path]:
    """Yield all runs' checkpoints of a kind, the newest first."""
    yield from sorted(logs.glob(f"**/checkpoints/{kind}.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)


def passed_over(checkpoint: Path, logs: Path) -> list[str]:
    """Say which runs are newer than the one that is meant, but have no such checkpoint."""
    newer = [
        config.parent
        for config in sorted(logs.glob("**/config.yaml"))
        if config.stat().st_mtime > checkpoint.stat().st_mtime
        and not (config.parent / "checkpoints" / checkpoint.name).is_file()
    ]
    return [f"skipped   {folder}: newer, but holds no {checkpoint.name}" for folder in newer]


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
    except pickle.UnpicklingError as error:
        raise InputError(
            f"--ckpt_path {checkpoint}: holds something other than weights and plain values; nothing of it was run"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"--ckpt_path {checkpoint}: not a readable checkpoint; it is damaged or cut short") from error
    if not isinstance(content, dict) or "encoder_config" not in content:
        raise InputError(f"--ckpt_path {checkpoint}: not a checkpoint of mrpc_lightning")
    return content


def load(model_class: type[Model], checkpoint: Path, **values: Any) -> Model:
    """Make a model with a checkpoint's weights.

    Args:
        model_class: The model's class.
        checkpoint: The file.
        values: Hyper-parameters that go before the checkpoint's.

    Raises:
        InputError: If the weights are not those of the model that the checkpoint says it is of.
    """
    content = read_checkpoint(checkpoint)
    try:
        model: Model = model_class.restore(content, **values)  # type: ignore[attr-defined]
    except InputError as error:
        raise InputError(f"--ckpt_path {checkpoint}: {error}") from error
    return model


def recipe_to_resume(checkpoint: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of the run that a checkpoint is of.

    Raises:
        InputError: If the checkpoint does not hold all that resuming needs.
    """
    if "optimizer_states" not in content:
        raise InputError(
            f"--ckpt_path {checkpoint}: holds weights alone, to be scored and used; last.ckpt is the one to go on from"
        )
    if "recipe" not in content or "processes" not in content:
        raise InputError(
            f"--ckpt_path {checkpoint}: not written to go on from, as last.ckpt is, or of an older version; "
            "it can be scored"
        )
    if checkpoint.parent.name != "checkpoints":
        raise InputError(
            f"--ckpt_path {checkpoint}: a run goes on in its own folder: put the file back as RUN/checkpoints/last.ckpt"
        )
    recipe: dict[str, Any] = content["recipe"]
    return recipe


def check_unfinished(checkpoint: Path, content: Mapping[str, Any], config: Any) -> None:
    """See to it that there is something left to train.

    Args:
        checkpoint: The checkpoint's file, for the message.
        content: The checkpoint.
        config: The configuration of `fit`.

    Raises:
        InputError: If the run has come to its end.
    """
    if not (run_folder(checkpoint) / "metrics.json").is_file():
        return  # nothing may be left to train, but it was not scored yet
    progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]
    epochs, steps = progress["completed"], content["global_step"]
    max_epochs, max_steps = config.trainer.max_epochs, config.trainer.max_steps
    if max_epochs is not None and 0 <= max_epochs <= epochs:
        raise InputError(
            f"{checkpoint}: has trained for {max_epochs} epochs or more; raise --trainer.max_epochs to go on"
        )
    if 0 <= max_steps <= steps:
        raise InputError(f"{checkpoint}: has trained for {steps} optimizer steps; raise --trainer.max_steps to go on")
    waits = [state["wait_count"] for name, state in content["callbacks"].items() if name.startswith("EarlyStopping")]
    if epochs == progress["started"] and waits and waits[0] >= config.early_stopping.patience:
        raise InputError(
            f"{checkpoint}: stopped early after {epochs} epochs; raise --early_stopping.patience from "
            f"{config.early_stopping.patience} to go on"
        )


def check_processes(content: Mapping[str, Any], trainer: Trainer) -> None:
    """See to it that a run goes on with as many processes as it began with.

    Raises:
        InputError: If it does not.
    """
    if content["world_size"] != trainer.world_size:
        raise InputError(
            f"--trainer.devices: the run is on {content['world_size']} processes and these are {trainer.world_size}; "
            "its order of batches needs the same number"
        )


def requeued(logs: Path, slurm: tuple[str | None, list[str]]) -> str | None:
    """Return the checkpoint that the same command left behind before its SLURM job was put back into the queue."""
    if slurm[0] is None or not int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return None
    for path in newest(logs, "last"):
        with contextlib.suppress(InputError):  # another's, or damaged: not the one that is looked for
            if read_checkpoint(path).get("slurm_job") == slurm:
                return str(path)
    return None


def how_to_resume(what: str, folder: Path) -> str:
    """Say how to go on with a run."""
    return f"{what}; go on with:\n  python -m mrpc_lightning fit --ckpt_path {folder}"


def describe(checkpoint: Path, content: Mapping[str, Any]) -> str:
    """Say which checkpoint was read, of when, and what it scored when it was saved."""
    epoch, step = content["loops"]["fit_loop"]["epoch_progress"]["current"]["started"], content["global_step"]
    figures = {name: value for name, value in content.get("metrics", {}).items() if name.startswith("val_")}
    scored = "  ".join(f"{name} {value:.4f}" for name, value in figures.items()) or "no validation yet"
    return f"{checkpoint}, epoch {epoch}, optimizer step {step:,}; when it was saved: {scored}"


def metrics_of(checkpoint: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the final figures of a checkpoint; empty if its run was not scored, or scored another checkpoint."""
    folder = run_folder(checkpoint)
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        # The run may have gone on since, and have written another one under the same name.
        same = metrics["optimizer_step"] == content["global_step"]
        return dict(metrics) if same and (folder / metrics["checkpoint"]).samefile(checkpoint) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def precision(content: dict[str, Any]) -> str | None:
    """Return the precision in which a run was trained, so that its figures come again; None where it cannot be had."""
    recipe = content.get("recipe")
    trainer = recipe.get("trainer") if isinstance(recipe, dict) else None
    found = trainer.get("precision") if isinstance(trainer, dict) else None
    return found if isinstance(found, str) and (found != "16-mixed" or torch.cuda.is_available()) else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key; a class with its arguments is one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and "class_path" not in value and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
