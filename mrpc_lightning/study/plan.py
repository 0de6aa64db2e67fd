"""What a study runs: settings crossed with seeds, each an ordinary run in a folder of its own."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrpc_lightning.errors import InputError
from mrpc_lightning.run.run import Run

# Of the whole study; nor may `trainer.logger`, which says where a run's folder is, be varied.
NOT_VARIED = ("seed_everything", "ckpt_path", "run", "config", "debug", "seeds", "grid", "workers", "name")
LONGEST = 120  # letters of a folder's name


@dataclass(frozen=True)
class Setting:
    """Values of some keys, as the command line has them.

    Attributes:
        values: Keys with their values, such as ("model.learning_rate", "2e-5"); empty where nothing is varied.
    """

    values: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What people read: the last parts of keys, with their values."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.values) or "as configured"

    @property
    def folder(self) -> str:
        """The name of the folder of the setting's runs."""
        text = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values) or "runs"
        return re.sub(r"[^\w.,=+-]", "-", text)

    @property
    def flags(self) -> list[str]:
        """The flags of `fit` that set these values."""
        return [f"--{key}={value}" for key, value in self.values]


@dataclass(frozen=True)
class Unit:
    """One setting with one seed: the unit of work."""

    study: Path
    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        """A name for files that belong to it."""
        return f"{self.setting.folder}.seed_{self.seed}"

    @property
    def run(self) -> Run:
        """Its run, as its folder is at this moment."""
        return Run(self.study / self.setting.folder / f"seed_{self.seed}")

    @property
    def flags(self) -> list[str]:
        """The flags of `fit` that make a new run of it."""
        logger = {"save_dir": self.study, "name": self.setting.folder, "version": f"seed_{self.seed}"}
        places = [f"--trainer.logger.{name}={value}" for name, value in logger.items()]
        return [*self.setting.flags, f"--seed_everything={self.seed}", *places]


def settings(grid: Sequence[str]) -> list[Setting]:
    """Return every combination of the values of a grid, the first values first.

    Args:
        grid: For each key "key=value,value"; commas within brackets are the value's own.

    Raises:
        InputError: If one is written otherwise, a key or a value comes twice, or a key is the study's own.
    """
    axes: dict[str, list[str]] = {}
    for text in grid:
        key, equals, values = text.partition("=")
        key, parts = key.removeprefix("--"), re.split(r",(?![^\[]*\])", values)
        if not equals or not all(parts):
            raise InputError(f"--grid={text}: give key=value,value, such as model.learning_rate=2e-5,5e-5")
        if key in NOT_VARIED or re.match(r"trainer\.(logger|fast_dev_run)", key):
            raise InputError(f"--grid={key}: is the same for all runs of a study; every setting sees the same seeds")
        if key in axes or len(set(parts)) < len(parts):
            raise InputError(f"--grid={text}: the same {'key' if key in axes else 'value'} twice")
        axes[key] = parts
    found = [Setting(tuple(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    folders = [setting.folder.casefold() for setting in found]
    if len(set(folders)) < len(found) or max(map(len, folders)) > LONGEST:
        raise InputError("--grid: a setting's folder is named after its values: give others, or shorter ones")
    return found


def units(study: Path, chosen: Sequence[Setting], seeds: int) -> list[Unit]:
    """Return the units of a study: all settings of the first seed, then those of the second, and so on."""
    return [Unit(study, setting, seed) for seed in range(1, seeds + 1) for setting in chosen]
