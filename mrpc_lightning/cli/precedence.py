"""Which value wins, where a command line, config files and a checkpoint all have one."""

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from mrpc_lightning.cli.parser import split_config_files
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.run.runs_old import flatten

# The data takes these from the model.
LINKED = ("model_name", "revision", "label_names", "symmetric")
# What a flag may change when a run is resumed. All else shapes the training, and comes from the run.
MAY_CHANGE = {
    "trainer.max_epochs": "where training ends; the schedule is stretched or shortened to it",
    "trainer.max_steps": "the same, in optimizer steps",
    "trainer.max_time": "where training ends at the latest",
    "early_stopping.patience": "validations without an improvement before training ends",
    "checkpoint_every": "optimizer steps between two writes of last.ckpt",
    "data.eval_batch_size": "pairs a process and step in validation: no figure depends on it",
    "data.num_workers": "processes that make batches: their order does not depend on it",
    "data.train_file": "where the training pairs lie; they must be the same",
    "data.validation_file": "where the validation pairs lie; they must be the same",
    "data.data_dir": "where both lie; they must be the same",
    "trainer.devices": "which devices are used; their number stays",
    "trainer.logger": "where curves go; the run's folder stays",
    "trainer.log_every_n_steps": "optimizer steps between two points of a curve",
    "trainer.enable_progress_bar": "what is shown",
    "trainer.enable_model_summary": "what is shown",
    "trainer.profiler": "what is measured",
}
# Of one command, not of a run.
NOT_OF_A_RUN = ("config", "ckpt_path", "run", "debug", "trainer.default_root_dir", "trainer.fast_dev_run")
# Keys of older checkpoints, "model.key" or "data.key", and what they are called now.
RENAMED: dict[str, str] = {}
# What a recipe consists of, and the Trainer's values that jsonargparse makes into objects.
SECTIONS = ("trainer", "model", "data", "early_stopping", "model_checkpoint")
PLAIN = ("seed_everything", "checkpoint_every")
MADE_INTO_OBJECTS = ("accelerator", "strategy", "logger", "callbacks", "plugins", "profiler")
KNOWN_LOGGERS = ("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.CSVLogger")


class Precedence:
    """Parses one command line again, with a checkpoint's values among the others.

    Args:
        parser: The parser of the whole command line.
        words: The command line.
        subcommand: The subcommand among the words.
    """

    def __init__(self, parser: LightningArgumentParser, words: Sequence[str], subcommand: str) -> None:
        self.parser = parser
        position = list(words).index(subcommand) + 1
        self.head = list(words[:position])
        self.subcommand = subcommand
        self.files, self.flags = split_config_files(list(words[position:]))
        self.notes: list[str] = []

    def evaluate(self, saved: dict[str, dict[str, Any]], checkpoint: Path) -> Any:
        """Let flags go before a checkpoint's values, and these before config files.

        Raises:
            InputError: If a flag contradicts what the weights are.
        """
        config = self._parse(self.files, saved, self.flags)
        for key, value in saved["model"].items():
            if key != "symmetric" and config[self.subcommand]["model"][key] != value:
                raise InputError(f"--model.{key}: {checkpoint} was trained with {value!r}; leave the flag out")
        self._note_passed_over(flatten(saved), "checkpoint")
        return config

    def resume(self, recipe: dict[str, Any], folder: Path) -> Any:
        """Let a run's recipe go before config files, and before all flags but those that may change.

        Args:
            recipe: The configuration of `fit` that the checkpoint holds.
            folder: The run's folder.

        Raises:
            InputError: If a flag would change what shapes the training, or the recipe names code: it is not run on a
                checkpoint's word.
        """
        recipe, untrusted = trusted_part(recipe)
        in_files = set_by_files(self.files)
        for key, name in untrusted.items():
            if not any(found == key or found.startswith(f"{key}.") for found in in_files):
                raise InputError(
                    f"the run used {name} for {key}, which no checkpoint may decide; give the run's own file: "
                    f"--config {folder / 'config.yaml'}"
                )
        base = flatten(self._parse([], recipe, [])[self.subcommand].as_dict())
        flags = flatten(self._parse([], recipe, self.flags)[self.subcommand].as_dict())
        for key in sorted(flags.keys() | base.keys()):
            old, new = base.get(key), flags.get(key)
            if old == new or key in NOT_OF_A_RUN or key in untrusted:
                continue
            if not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
                raise InputError(
                    f"--{key} {show(new)}: the run was started with {show(old)}, which shapes its training; "
                    "leave the flag out, or start a new run without --ckpt_path"
                )
            note = "; the run's folder stays" if key == "trainer.logger" else ""
            self.notes.append(f"changed   {key} {show(old)} -> {show(new)}{note}")
        self._note_passed_over({**base, **dict.fromkeys(untrusted)}, "run", skip=untrusted)
        return self._parse(self.files, recipe, self.flags)

    def _parse(self, files: list[str], values: dict[str, Any], flags: list[str]) -> Any:
        return self.parser.parse_args([*self.head, *files, "--config", json.dumps(values), *flags])

    def _note_passed_over(self, kept: dict[str, Any], owner: str, skip: Iterable[str] = ()) -> None:
        keys = {
            key: next((k for k in kept if key == k or key.startswith(f"{k}.")), None)
            for key in set_by_files(self.files)
        }
        named = {found for found in keys.values() if found is not None} - set(skip) - set(NOT_OF_A_RUN)
        if not named:
            return
        given = flatten(self.parser.parse_args([*self.head, *self.files])[self.subcommand].as_dict())
        different = [
            f"{key} {show(given.get(key))} ({owner}: {show(kept[key])})"
            for key in sorted(named)
            if given.get(key) != kept[key] and key != "trainer.logger"
        ]
        if different:
            self.notes.append(f"config    passed over, as the {owner} says otherwise: {', '.join(different)}")


def checkpoint_values(
    content: Mapping[str, Any], renamed: Mapping[str, str] = RENAMED
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Take the hyper-parameters of model and data out of a checkpoint.

    Args:
        content: The checkpoint.
        renamed: What older keys are called now.

    Returns:
        The values of keys that there are, by section; and the keys that there are no longer.
    """
    values: dict[str, dict[str, Any]] = {"model": {}, "data": {}}
    dropped = []
    for section, key, owner in (
        ("model", "hyper_parameters", ParaphraseClassifier),
        ("data", "datamodule_hyper_parameters", MRPCDataModule),
    ):
        known = inspect.signature(owner).parameters
        for name, value in content.get(key, {}).items():
            new = renamed.get(f"{section}.{name}", f"{section}.{name}").partition(".")[2]
            if new not in known:
                dropped.append(f"{section}.{name}")
            elif section == "model" or (
                new not in (*LINKED, "predict_file") and (value is not None or new not in ("test_file", "test_split"))
            ):
                values[section][new] = value
    return values, dropped


def set_by_files(words: Sequence[str]) -> set[str]:
    """Return the dotted keys that config files set. They were read before, so they can be read."""
    keys: set[str] = set()
    names = [word.partition("=")[2] if "=" in word else word for word in words if word not in ("--config", "-c")]
    for name in names:
        text = Path(name).read_text(encoding="utf-8") if Path(name).is_file() else name
        content = yaml.safe_load(text)
        keys |= flatten(content).keys() if isinstance(content, dict) else set()
    return keys


def trusted_part(recipe: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Take from a recipe what cannot name code, nor a place outside the run's folder.

    jsonargparse makes objects of some of the Trainer's values, and imports what they name: in a mapping, in a text that
    holds YAML, and in the arguments. A checkpoint that came from a stranger may hold anything.

    Args:
        recipe: What the checkpoint holds.

    Returns:
        The trusted part; and what the rest names, by key.

    Raises:
        InputError: If it is no recipe of this project.
    """
    if not isinstance(recipe, dict) or not all(isinstance(recipe.get(name), dict) for name in SECTIONS):
        raise InputError("--ckpt_path: the checkpoint's recipe is damaged")
    trusted: dict[str, Any] = {name: recipe[name] for name in PLAIN if is_plain(recipe.get(name))}
    untrusted = {}
    for section in SECTIONS:
        trusted[section] = {}
        for name, value in recipe[section].items():
            key = f"{section}.{name}"
            if key in NOT_OF_A_RUN:
                continue
            if section != "trainer" or name not in MADE_INTO_OBJECTS:
                known = "." not in name and (is_plain(value) or (isinstance(value, list) and all(map(is_plain, value))))
            elif isinstance(value, str):
                known = re.fullmatch(r"\w*", value) is not None and name not in ("logger", "callbacks", "plugins")
            else:
                known = value is None or isinstance(value, bool) or is_known_logger(value)
            if known:
                trusted[section][name] = value
            else:
                untrusted[key] = next(iter(class_paths(value)), show(value))
    return trusted, untrusted


def is_plain(value: Any) -> bool:
    """Say whether a value is a number, a text, true, false or null."""
    return value is None or isinstance(value, bool | int | float | str)


def is_known_logger(value: Any) -> bool:
    """Say whether a value is one of the loggers that write into the run's folder and nowhere else."""
    if not isinstance(value, dict) or not set(value) <= {"class_path", "init_args"}:
        return False
    arguments = value.get("init_args", {})
    plain = isinstance(arguments, dict) and all(map(is_plain, arguments.values()))
    return value.get("class_path") in KNOWN_LOGGERS and plain and not arguments.get("sub_dir")


def class_paths(value: Any) -> list[str]:
    """Return the names of all classes in a value, at any depth."""
    if isinstance(value, dict):
        own = [str(value["class_path"])] if "class_path" in value else []
        return own + [name for item in value.values() for name in class_paths(item)]
    return [name for item in value for name in class_paths(item)] if isinstance(value, list) else []


def show(value: Any) -> str:
    """Write a value as a config file has it."""
    return json.dumps(value, default=str)
