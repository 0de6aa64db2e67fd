"""Which value wins, where a command line, config files and a checkpoint or a run all have one."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrpc_lightning.cli.parser import Parser, flags_given, keys_of_files, split_config_files
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import SHARED
from mrpc_lightning.run.resume import NOT_OF_A_RUN, changes, check_secrets, read_recipe, show
from mrpc_lightning.run.run import Run, flatten

SOURCES = ("train_file", "validation_file", "data_dir", "dataset_name", "dataset_config")


class Merge:
    """Parse one command line again, with the values of a checkpoint or of a run among the others.

    Attributes:
        notes: What the person should know of values that were changed or passed over.

    Args:
        parser: The parser of the subcommand.
        words: The command line after the subcommand.
    """

    def __init__(self, parser: Parser, words: list[str]) -> None:
        self.parser = parser
        self.files, self.flags = split_config_files(words)
        self.in_files = keys_of_files(self.files)
        self.notes: list[str] = []

    def evaluate(self, content: Mapping[str, Any], checkpoint: Path) -> Any:
        """Let flags win over a checkpoint's values, and these over config files.

        Raises:
            InputError: If a flag contradicts what the weights are.
        """
        saved = {"model": dict(content["hyper_parameters"]), "data": dict(content["datamodule_hyper_parameters"])}
        known = inspect.signature(MRPCDataModule).parameters
        keys = {key for key, _, _ in flags_given(self.flags)}
        others = [name for name in SOURCES if f"data.{name}" in keys]
        saved["data"] = {
            name: None if others and name in SOURCES and SOURCES.index(name) < SOURCES.index(others[0]) else value
            for name, value in saved["data"].items()
            if name in known
            and name not in (*SHARED, "predict_file")
            and (value is not None or name not in ("test_file", "test_split"))
        }
        config = self._parse(self.files, saved, self.flags)
        for name, value in saved["model"].items():
            if name != "symmetric" and config.model[name] != value:
                raise InputError(f"model.{name}: {checkpoint} was trained with {value!r}; leave the flag out")
        self._note_passed_over(flatten(saved), "checkpoint")
        return config

    def resume(self, run: Run) -> Any:
        """Let a run's recipe win over config files, and over all flags but those that may change.

        Raises:
            InputError: If a flag changes what shapes the training, or the run's folder decides on code.
        """
        own = run.folder / "config.yaml"
        recipe = read_recipe(
            run, any(Path(name).is_file() and own.is_file() and own.samefile(name) for name in self.files)
        )
        base, config = self._parse([], recipe, []), self._parse([], recipe, self.flags)
        self.notes += changes(flatten(base.as_dict()), flatten(config.as_dict()))
        self._note_passed_over(flatten(base.as_dict()), "run")
        check_secrets(flatten(config.as_dict()))
        return self._parse(self.files, recipe, self.flags)

    def _parse(self, files: list[str], values: Mapping[str, Any], flags: list[str]) -> Any:
        configs = [f"--config={name}" for name in (*files, json.dumps(values, ensure_ascii=False))]
        return self.parser.parse_args([*configs, *flags])

    def _note_passed_over(self, kept: Mapping[str, Any], owner: str) -> None:
        different = {
            key: f"{key} {show(value)} ({owner}: {show(kept[key])})"
            for key, value, _ in self.in_files
            if key in kept and not is_same(value, kept[key]) and key not in (*NOT_OF_A_RUN, "trainer.logger")
        }
        if different:
            listed = ", ".join(text for _, text in sorted(different.items()))
            self.notes.append(f"config    passed over, as the {owner} says otherwise: {listed}")


def is_same(given: Any, kept: Any) -> bool:
    """Say whether a config file's value is the one that is kept; 2e-5 is a text for YAML, and a number here."""
    if isinstance(given, str) and isinstance(kept, float) and re.fullmatch(r"[-+.\de]+", given):
        given = float(given)
    return bool(given == kept)
