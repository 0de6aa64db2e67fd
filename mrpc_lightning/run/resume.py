"""What a resumed run may change, and what keeps it from being resumed."""

import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrpc_lightning.errors import InputError
from mrpc_lightning.run.run import Run, flatten

# What a flag may change when a run is resumed; docs/resume.md says of each why. Everything else shapes the training.
MAY_CHANGE = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "early_stopping.patience", "checkpoint_every"),
    *("data.train_file", "data.validation_file", "data.data_dir"),  # the pairs must be the same
    *("data.eval_batch_size", "data.num_workers"),
    *("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accumulate_grad_batches"),  # the same steps
    *("trainer.logger", "trainer.log_every_n_steps"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler"),
)
# Of one command, not of a run.
NOT_OF_A_RUN = ("config", "ckpt_path", "run", "debug", "trainer.default_root_dir", "trainer.fast_dev_run")
# The Trainer's values that jsonargparse makes into objects, and what uploads a model.
OBJECTS = ("accelerator", "strategy", "logger", "callbacks", "plugins", "profiler", "model_registry")
NAMES = ("accelerator", "strategy", "profiler")  # those that a word may choose among Lightning's own
KNOWN_LOGGERS = ("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.CSVLogger")
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")  # how often the job was started again
PLAIN = (bool, int, float, str, type(None))
HIDDEN = "***"  # stands in config.yaml for a secret
SECRET = re.compile(r"api_?key|token|secret|passw", re.IGNORECASE)
USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of an address, with a password or a token


def read_recipe(run: Run, trusted: bool) -> dict[str, Any]:
    """Return a run's recipe.

    Args:
        run: The run.
        trusted: The user named the run's config.yaml. Otherwise the folder may come from a stranger, and what names
            code is refused.

    Raises:
        InputError: If the recipe is missing or damaged, or names code.
    """
    recipe = {key: value for key, value in run.config.items() if key not in NOT_OF_A_RUN}
    path = run.folder / "config.yaml"
    for key, value in flatten(recipe).items():
        section, _, name = key.partition(".")
        if not name and key not in ("seed_everything", "checkpoint_every"):
            raise InputError(f"{path}: damaged: {key} is not a section of keys")
        if not re.fullmatch(r"[\w.]+", str(key)):  # jsonargparse appends to a key that ends in +
            raise InputError(f"{path}: damaged: {key} is no key")
        if not trusted and not is_plain(section, name, value):
            raise InputError(
                f"the run used {class_path(value)} for {key}, which a run's folder may not decide; give the run's own "
                f"file: --config {path}"
            )
    return recipe


def is_plain(section: str, name: str, value: Any) -> bool:
    """Say whether a recipe's value cannot name code, nor a place outside the run's folder.

    jsonargparse makes objects of some of the Trainer's values, and imports what they name: in a mapping, in a text that
    holds YAML, and in the arguments.
    """
    if section != "trainer" or name.split(".")[0] not in OBJECTS:
        return all(isinstance(item, PLAIN) for item in (value if isinstance(value, list) else [value]))
    if isinstance(value, str):
        return name in NAMES and re.fullmatch(r"\w*", value) is not None
    if isinstance(value, Mapping) and value.get("class_path") in KNOWN_LOGGERS and name == "logger":
        arguments = value.get("init_args") or {}
        plain = all(isinstance(item, PLAIN) for item in arguments.values())
        return set(value) <= {"class_path", "init_args"} and plain and not arguments.get("sub_dir")
    return value is None or isinstance(value, bool)


def class_path(value: Any) -> str:
    """Return the first class that a value names; else the value itself."""
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"])
    inner = [class_path(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
    return inner[0] if inner else show(value)


def show(value: Any) -> str:
    """Write a value as a config file has it."""
    return json.dumps(value, default=str, ensure_ascii=False)


def check_secrets(values: Mapping[str, Any]) -> None:
    """Check that no secret is still hidden.

    Raises:
        InputError: If one is.
    """
    for key, value in values.items():
        if HIDDEN in str(value):
            raise InputError(f"{key}: the run's config.yaml hides the secret in it; give the flag again")


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that flags change in a resumed run.

    Args:
        before: The run's values by dotted key.
        after: The same with the flags.

    Raises:
        InputError: If a flag changes what shapes the training.
    """
    notes = []
    for key in sorted(before.keys() | after.keys()):
        old, new = (without_secrets(values.get(key), key) for values in (before, after))
        if old == new or key in NOT_OF_A_RUN:
            continue
        if not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
            raise InputError(
                f"--{key} {show(new)}: the run was started with {show(old)}, which shapes its training; leave the flag "
                "out, or start a new run without --ckpt_path"
            )
        note = "; the run's folder stays" if key == "trainer.logger" else ""
        notes.append(f"changed   {key} {show(old)} -> {show(new)}{note}")
    return notes


def check_resumable(checkpoint: Path, content: Mapping[str, Any]) -> None:
    """Check that a checkpoint holds everything needed to resume.

    Raises:
        InputError: If it does not, or does not lie in its run's folder.
    """
    if "optimizer_states" not in content:
        raise InputError(
            f"--ckpt_path {checkpoint}: holds weights alone, to be scored and used; last.ckpt is the one to resume from"
        )
    if "processes" not in content:
        raise InputError(f"--ckpt_path {checkpoint}: not written to be resumed, as last.ckpt is; it can be scored")
    if "parts" not in content["MRPCDataModule"]["position"]:
        raise InputError(
            f"--ckpt_path {checkpoint}: of an older version, whose optimizer steps saw other pairs; it can be scored, "
            "but not resumed"
        )


def check_steps(content: Mapping[str, Any], config: Any) -> None:
    """Check that settings that count batches go with the number of accumulated batches, where that has changed.

    Raises:
        InputError: If they do not.
    """
    before, now = content["MRPCDataModule"]["position"]["parts"], config.trainer.accumulate_grad_batches
    for name in ("limit_train_batches", "val_check_interval"):
        if before != now and config.trainer[name] not in (None, 1.0):
            raise InputError(
                f"trainer.accumulate_grad_batches {now}: the run was started with {before}, and its trainer.{name} "
                f"{config.trainer[name]:g} counts batches; leave the flag out"
            )


def check_place(checkpoint: Path) -> None:
    """Check that a checkpoint to resume from is a plain file in its run's folder.

    Raises:
        InputError: If it is not.
    """
    if checkpoint.parent.name != "checkpoints":
        raise InputError(
            f"--ckpt_path {checkpoint}: a run is resumed in its own folder: put the file back as "
            "RUN/checkpoints/last.ckpt"
        )
    if checkpoint.is_symlink() or checkpoint.parent.is_symlink():
        raise InputError(f"--ckpt_path {checkpoint}: is a link; a run's checkpoints are files in its own folder")


def check_unfinished(checkpoint: Path, content: Mapping[str, Any], config: Any) -> None:
    """Check that there is something left to train.

    Args:
        checkpoint: The checkpoint's file, for the message.
        content: The checkpoint.
        config: The configuration of `fit`.

    Raises:
        InputError: If the run has come to its end.
    """
    metrics = Run.of(checkpoint).metrics
    progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]
    epochs, steps = progress["completed"], content["global_step"]
    if not metrics or metrics.get("epochs_trained", epochs) < epochs:
        return  # nothing may be left to train, but it was not scored yet
    max_epochs, max_steps = config.trainer.max_epochs, config.trainer.max_steps
    if max_epochs is not None and 0 <= max_epochs <= epochs:
        raise InputError(f"{checkpoint}: has trained for {epochs} epochs; raise --trainer.max_epochs to train on")
    if 0 <= max_steps <= steps:
        raise InputError(
            f"{checkpoint}: has trained for {steps} optimizer steps; raise --trainer.max_steps to train on"
        )
    waits = [state["wait_count"] for name, state in content["callbacks"].items() if name.startswith("EarlyStopping")]
    if epochs == progress["started"] and waits and waits[0] >= config.early_stopping.patience:
        raise InputError(
            f"{checkpoint}: stopped early after {epochs} epochs; raise --early_stopping.patience from "
            f"{config.early_stopping.patience} to train on"
        )


def job_key(job: str | None, words: list[str]) -> str | None:
    """Return what a job's run is known by: a hash, as the command line may hold secrets; None without a job."""
    return job and hashlib.sha256("\n".join([job, *words]).encode()).hexdigest()


def requeued(last: list[Path], job: str | None, read: Any) -> Path | None:
    """Return the checkpoint that the same command left behind before SLURM or torchrun started it again.

    Args:
        last: The checkpoints to look through, the newest first.
        job: What `job_key` returned.
        read: Reads a checkpoint.
    """
    if job is None or not any(int(os.environ.get(name) or 0) for name in RESTARTS):
        return None
    for path in last:
        with contextlib.suppress(InputError):  # another's, or damaged: not the one that is looked for
            if read(path).get("job") == job:
                return path
    return None


def how_to_resume(what: str, folder: Path) -> str:
    """Return the lines that say how to resume a run."""
    return f"{what}; resume with:\n  python -m mrpc_lightning fit --ckpt_path {shlex.quote(str(folder))}"


def without_secrets(values: Any, key: str = "") -> Any:
    """Return the Trainer's values with the keys, tokens and passwords hidden that its loggers are given."""
    if isinstance(values, dict):
        return {name: without_secrets(value, str(name)) for name, value in values.items()}
    if isinstance(values, list):
        return [without_secrets(value, key) for value in values]
    if isinstance(values, str):
        return HIDDEN if SECRET.search(key) else USER.sub(HIDDEN, values)
    return values
