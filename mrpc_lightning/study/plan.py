"""What a study runs: settings crossed with seeds, each an ordinary run in a folder of its own."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import SHARED
from mrpc_lightning.run.run import Run

# Of the whole study; nor may `trainer.logger`, which says where a run's folder is, be varied.
NOT_VARIED = ("seed_everything", "ckpt_path", "run", "debug", "data.fold")
LONGEST = 120  # letters of a folder's name
EXAMPLES = {"grid": "--grid=model.learning_rate=2e-5,5e-5", "search": "--search=model.learning_rate=1e-5..1e-4:log"}


@dataclass(frozen=True)
class Setting:
    """Values of some keys, as the command line has them.

    Attributes:
        values: Keys with their values, such as ("model.learning_rate", "2e-5"); empty where nothing is varied.
        called: What it is called, where not after its values.
    """

    values: tuple[tuple[str, str], ...]
    called: str = ""

    @property
    def name(self) -> str:
        """What people read: the last parts of keys, with their values."""
        names = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.values)
        return self.called or names or "as configured"

    @property
    def folder(self) -> str:
        """The name of the folder of the setting's runs."""
        names = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values)
        return re.sub(r"[^\w.,=+-]", "-", self.called or names or "runs")

    def words(self, shared: Sequence[str]) -> list[str]:
        """Return the flags that all settings share with those of these values; flags go before any config file."""
        files = [f"--config={value}" for key, value in self.values if key == "config"]
        flags = [f"--{key}={value}" for key, value in self.values if key != "config"]
        last = max((place for place, word in enumerate(shared) if re.match(r"--?c(onfig)?(=|$)", word)), default=-1)
        begin = last + 1 + (last >= 0 and "=" not in shared[last])
        return [*shared[:begin], *files, *shared[begin:], *flags]


@dataclass(frozen=True)
class Unit:
    """One setting with one seed: the unit of work."""

    study: Path
    setting: Setting
    seed: int
    fold: str | None = None

    @property
    def name(self) -> str:
        """A name for files that belong to it."""
        return f"{self.setting.folder}.seed_{self.seed}"

    @property
    def run(self) -> Run:
        """Its run, as its folder is at this moment."""
        return Run(self.study / self.setting.folder / f"seed_{self.seed}")

    def words(self, shared: Sequence[str]) -> list[str]:
        """Return the flags of `fit` that make a new run of it."""
        fold = [f"--data.fold={self.fold}"] * (self.fold is not None)
        logger = {"save_dir": self.study, "name": self.setting.folder, "version": f"seed_{self.seed}"}
        places = [f"--trainer.logger.{name}={value}" for name, value in logger.items()]
        return [*self.setting.words(shared), f"--seed_everything={self.seed}", *fold, *places]

    @property
    def scored_on(self) -> str:
        """What its table of the validation split is called: with a fold, on which the epoch was chosen, "test"."""
        return "validation" if self.fold is None else "test"

    @property
    def data(self) -> MRPCDataModule:
        """The data module of its run."""
        return data_of(self.run.config)

    @property
    def validation_pairs(self) -> Dataset:
        """The validation split's pairs, also of a run that chose its epoch on a fold."""
        return self.data.read(self.scored_on)

    @property
    def scores(self) -> dict[str, Any]:
        """Its metrics on the validation split; nothing if it is not finished."""
        metrics = self.run.metrics
        if self.fold is None or not metrics:
            return metrics
        found = self.run.read("test_metrics.json")  # somebody may have scored other pairs since
        return found if found.get("source") == self.data.source("test") else {}


def data_of(recipe: Mapping[str, Any], **others: Any) -> MRPCDataModule:
    """Return the data module of a recipe, with other values of some of its keys."""
    shared = {name: recipe["model"][name] for name in SHARED}
    return MRPCDataModule(**{**recipe["data"], **shared, **others})


def settings(grid: Sequence[str]) -> list[Setting]:
    """Return every combination of the values of a grid, the first values first.

    Args:
        grid: For each key "key=value,value"; commas within brackets are the value's own.

    Raises:
        InputError: If one is written otherwise, a key or a value comes twice, or a key is the study's own.
    """
    axes: dict[str, list[str]] = {}
    for key, values, text in parts("grid", grid):
        several = choices(values)
        if not all(several):
            raise InputError(f"--grid={text}: write it as in {EXAMPLES['grid']}")
        if key in axes or len(set(several)) < len(several):
            raise InputError(f"--grid={text}: the same {'key' if key in axes else 'value'} twice")
        axes[key] = several
    found = [Setting(tuple(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    check_folders("grid", found)
    return found


def check_folders(flag: str, chosen: Sequence[Setting]) -> None:
    """Check that each of several different settings has a folder of its own.

    Raises:
        InputError: If two share one, or a name is too long.
    """
    folders = [setting.folder.casefold() for setting in chosen]
    if len(set(folders)) < len(folders) or max(map(len, folders), default=0) > LONGEST:
        raise InputError(f"--{flag}: a setting's folder is named after its values: give others, or shorter ones")


def choices(values: str) -> list[str]:
    """Return values with commas between them; commas within brackets are a value's own."""
    return re.split(r",(?![^\[]*\])", values)


def parts(flag: str, texts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the key and the values of each text "key=values", and the text.

    Raises:
        InputError: If one is written otherwise, or its key is the study's own.
    """
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.removeprefix("--")
        if not equals or not values:
            raise InputError(f"--{flag}={text}: write it as in {EXAMPLES[flag]}")
        if key in NOT_VARIED or re.match(r"trainer\.(logger|fast_dev_run)", key):
            raise InputError(f"--{flag}={key}: is the same for all runs of a study; every setting sees the same seeds")
        yield key, values, text


def units(study: Path, chosen: Sequence[Setting], seeds: int, folds: int | None = None) -> list[Unit]:
    """Return the units of a study: all settings of the first seed, then those of the second, and so on.

    With folds, seed 1 leaves out the first one, seed 2 the second one, and so on, and round again.
    """

    def fold(seed: int) -> str | None:
        return f"{(seed - 1) % folds + 1}/{folds}" if folds else None

    return [Unit(study, setting, seed, fold(seed)) for seed in range(1, seeds + 1) for setting in chosen]


@dataclass(frozen=True)
class Grid:
    """Settings that are known from the beginning.

    Attributes:
        study: The study's folder.
        settings: The settings, the one that others are compared with first.
        seeds: Seeds of each, in total.
        folds: Folds of the training pairs, where there are any.
    """

    study: Path
    settings: Sequence[Setting]
    seeds: int
    folds: int | None

    def units(self) -> list[Unit]:
        """Return the units."""
        return units(self.study, self.settings, self.seeds, self.folds)

    def more(self) -> bool:
        """Return whether there was another setting to add."""
        return False

    @property
    def size(self) -> int:
        """How many settings there are to be."""
        return len(self.settings)

    def to_come(self) -> int:
        """Return how many units are still to be added."""
        return 0

    def pruned(self) -> dict[Setting, bool]:
        """Return which settings of a search were pruned; this is none."""
        return {}
