"""Settings that Optuna chooses, one after the other; a trial is a setting.

Its journal, in the study's folder, holds what was chosen. The scores are read from the folders of the runs each time:
any number of workers on any number of machines, and those that come after a killed one, see the same.
"""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from mrpc_lightning.errors import InputError
from mrpc_lightning.run.run import Run
from mrpc_lightning.study.plan import EXAMPLES, Setting, Unit, check_folders, choices, parts, units

JOURNAL = "optuna.journal"
NUMBER = r"[-+]?\d[\d.]*(?:[eE][-+]?\d+)?"


class Search:
    """The settings of a search.

    Args:
        study: The study's folder.
        ranges: What is searched, as `space` takes it.
        trials: How many settings, in total.
        seeds: Seeds of each setting; fewer of one that is pruned.
        folds: Folds of the training pairs, where there are any.

    Raises:
        InputError: If a range makes no sense, or the folder holds the search of another space.
    """

    def __init__(self, study: Path, ranges: Sequence[str], trials: int, seeds: int, folds: int | None) -> None:
        self.study, self.ranges, self.size, self.seeds, self.folds = study, ranges, trials, seeds, folds
        self.space = space(ranges)
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def units(self) -> list[Unit]:
        """Return the units of all settings so far; of one that was pruned those that are finished."""
        found: list[Unit] = []
        with self._locked():
            study = self._load()
            for trial in self._trials(study):
                if trial.state == TrialState.RUNNING:
                    self._settle(study, trial)
            for trial in self._trials(study):
                own = self._units(trial)
                found += [unit for unit in own if trial.state != TrialState.PRUNED or unit.scores]
        found = list(dict.fromkeys(found))  # Optuna may choose the same values again
        check_folders("search", list(dict.fromkeys(unit.setting for unit in found)))
        return found

    def more(self) -> bool:
        """Let Optuna choose another setting; return false if there are enough."""
        with self._locked():
            study = self._load()
            if len(self._trials(study)) >= self.size:
                return False
            study.ask(self.space)
            return True

    def to_come(self) -> int:
        """Return how many units are still to be added, if none of the settings to come is pruned."""
        with self._locked():
            return max(0, self.size - len(self._trials(self._load()))) * self.seeds

    def pruned(self) -> dict[Setting, bool]:
        """Return all settings so far, and whether each was pruned."""
        with self._locked():
            return {self.setting(one): one.state == TrialState.PRUNED for one in self._trials(self._load())}

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """Return the trials that are whole: a command that is killed may leave one without some of its values."""
        return [trial for trial in study.trials if trial.params.keys() == self.space.keys()]

    def _units(self, trial: FrozenTrial) -> list[Unit]:
        return units(self.study, [self.setting(trial)], self.seeds, self.folds)

    def setting(self, trial: FrozenTrial) -> Setting:
        """Return a trial's setting."""
        values = {name: f"{v:.3g}" if isinstance(v, float) else str(v) for name, v in trial.params.items()}
        return Setting(tuple((key, values[key]) for key in self.space))

    def _locked(self) -> FileLock:
        self.study.mkdir(parents=True, exist_ok=True)
        return FileLock(self.study / ".search")

    def _load(self) -> optuna.Study:
        journal = Run(self.study).path(JOURNAL)
        if journal.is_file() and not (content := journal.read_bytes()).endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)  # a command was killed while it wrote
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
        # A sampler that began anew after each command would draw the same values again.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
        if study.user_attrs.setdefault("space", None) is None:
            study.set_user_attr("space", [*self.ranges])
        elif study.user_attrs["space"] != [*self.ranges]:
            raise InputError(f"{self.study}: is a search of {' '.join(study.user_attrs['space'])}; give another --name")
        return study

    def _settle(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell Optuna of a setting that has all its seeds; and stop one that is worse than the best."""
        scores = self._scores(trial)
        if len(scores) == self.seeds:
            study.tell(trial.number, sum(scores.values()) / len(scores))
            return
        # The pruner wants the score of each seed, which the journal does not have.
        known = optuna.create_study(direction="maximize")
        finished = study.get_trials(states=(TrialState.COMPLETE,))
        known.add_trials([create_trial(value=one.value, intermediate_values=self._scores(one)) for one in finished])
        begun = create_trial(state=TrialState.RUNNING, intermediate_values=scores)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner = optuna.pruners.WilcoxonPruner()
        if pruner.prune(known, begun):
            study.tell(trial.number, state=TrialState.PRUNED)

    def _scores(self, trial: FrozenTrial) -> dict[int, float]:
        found = {unit.seed: unit.run.metrics.get("f1") for unit in self._units(trial) if unit.scores}
        return {seed: float(score) for seed, score in found.items() if score is not None}


def space(ranges: Sequence[str]) -> dict[str, BaseDistribution]:
    """Return what is searched.

    Args:
        ranges: For each key "key=low..high", of whole numbers where both are whole; with ":log" at its end it is
            searched on a logarithmic scale; or "key=value,value,...".

    Raises:
        InputError: If one is written otherwise, or a key comes twice.
    """
    found: dict[str, BaseDistribution] = {}
    for key, values, text in parts("search", ranges):
        if key in found:
            raise InputError(f"--search={text}: the same key twice")
        bounds = re.fullmatch(rf"({NUMBER})\.\.({NUMBER})(:log)?", values)
        try:
            if bounds is None:
                found[key] = CategoricalDistribution(choices(values))
            elif all(re.fullmatch(r"\d+", bound) for bound in bounds.groups()[:2]):
                found[key] = IntDistribution(int(bounds[1]), int(bounds[2]), log=bool(bounds[3]))
            else:
                found[key] = FloatDistribution(float(bounds[1]), float(bounds[2]), log=bool(bounds[3]))
        except ValueError as error:
            example = f"the lower bound first, as in {EXAMPLES['search']}"
            raise InputError(f"--search={text}: makes no range; {example}") from error
        if found[key].single():
            raise InputError(f"--search={text}: leaves nothing to choose")
    return found


def ends(ranges: Sequence[str]) -> list[Setting]:
    """Return the settings at both ends of every range, to be tried before anything is trained."""
    found: dict[str, Any] = dict(space(ranges))
    both = [(key, getattr(one, "choices", ()) or (one.low, one.high)) for key, one in found.items()]
    return [Setting(tuple((key, str(values[place])) for key, values in both)) for place in (0, -1)]
