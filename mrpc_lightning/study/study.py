"""One study, from its settings to its tables."""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from filelock import FileLock
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.report.calibration import FILE, Calibration
from mrpc_lightning.report.metrics import number
from mrpc_lightning.run.run import Run, flatten
from mrpc_lightning.run.signals import requeue
from mrpc_lightning.study import models, results, tables
from mrpc_lightning.study.plan import Grid, Setting, Unit
from mrpc_lightning.study.search import Search
from mrpc_lightning.study.work import Work, last_line
from mrpc_lightning.text import count, duration, printable

# What runs of one recipe may differ in.
OF_A_RUN = ("seed_everything", "checkpoint_every", "trainer.logger", "trainer.enable_progress_bar", "data.fold")


class Study:
    """A study in its folder.

    Args:
        plan: What is to be run.
        recipe_of: Returns the recipe of a setting.
        words: The flags of `fit` that all settings share.
        workers: Runs at a time.
    """

    def __init__(
        self, plan: Grid | Search, recipe_of: Callable[[Setting], dict[str, Any]], words: Sequence[str], workers: int
    ) -> None:
        self.plan, self.folder, self.words, self.workers = plan, plan.study, words, workers
        self.recipe_of = functools.cache(recipe_of)

    def run(self, soup: bool, distill: bool) -> None:
        """Do what is left, and write the tables.

        Args:
            soup: Whether to average the weights of the best setting's runs.
            distill: Whether to train a model on their probabilities.

        Raises:
            InputError: If a run in the folder is of another recipe, or no run can be trained.
            Stopped: If a signal asks for it; the message says what the same command will do.
        """
        try:
            self._run(soup, distill)
        except Stopped as stopped:
            done = count(sum(bool(unit.scores) for unit in self.plan.units()), "run")
            how = f"stopped; {done} finished, and the same command continues there{requeue(stopped.signum)}"
            raise Stopped(stopped.signum, how) from stopped

    def _run(self, soup: bool, distill: bool) -> None:
        self.check_recipes()
        work = self.work(self.plan)
        if work.failed and not work.finished:
            raise InputError(f"no run could be trained: {next(iter(work.failed.values()))}")
        with FileLock(self.folder / ".lock"):  # workers elsewhere end at the same time
            self.check_recipes()
            planned = self.plan.units()
            found = {**results.collect(planned, work.failed, self.plan.pruned()), "models": []}
            known = {unit.setting.folder for unit in planned}
            others = sorted({path.parent.name for path in self.folder.glob("*/seed_*")} - known)
            if others := [name for name in others if not name.startswith("distilled-")]:
                found["warnings"].append(f"in this folder, but not in this table: the runs of {', '.join(others)}")
            own = [unit for unit in planned if printable(unit.setting.name) == found["best"] and unit.scores]
            best = next((unit.setting for unit in own), planned[0].setting)
            self.write(found, best)  # before hours of what may fail
            if (soup or distill) and not own:
                found["warnings"].append("--soup and --distill: were left out, as no setting is called the best")
            if own and soup:
                found["models"].append(models.soup(self.folder, own, self.command))
            if own and distill:
                found["models"].append(self.distill(own))
            self.write(found, best)
            self.show(found)

    def work(self, plan: Grid | Search) -> Work:
        """Run the units that are not finished, with a line for each and a bar."""

        def report(unit: Unit, failed: str | None) -> None:
            left, metrics = len(work.left()) + plan.to_come(), unit.scores
            bar.n, bar.total = len(work.finished) + len(work.failed), left + len(work.finished) + len(work.failed)
            scored = f"failed: {failed}"
            if not failed:
                scored = f"accuracy {number(metrics['accuracy'])}  F1 {number(metrics['f1'])}"
            done = bar.n - already
            rest = f"; about {duration((time.monotonic() - began) / max(done, 1) * left)} left" * (left > 0)
            rest *= done >= workers
            name = f"{bar.n:>3}/{bar.total}  {unit.setting.name}  seed {unit.seed}"
            bar.write(printable(f"{name}  {scored}{rest}"))
            sys.stdout.flush()

        workers = min(self.workers, plan.size * plan.seeds)  # a single run has all cores
        work = Work(plan.units, plan.more, self.words, workers, report)
        left = len(work.left()) + plan.to_come()
        already = len(work.finished)
        done = f"; {already:,} are done" if already else ""
        what = f"{count(plan.size, 'setting')} x {count(plan.seeds, 'seed')}"
        print(f"study     {self.folder}, {count(left + already, 'run')}: {what}{done}", flush=True)
        bar = Tqdm(total=left + already, initial=already, unit=" runs", disable=not sys.stdout.isatty(), leave=False)
        began = time.monotonic()
        try:
            work.run()
        finally:
            bar.close()
        return work

    def check_recipes(self) -> None:
        """Check that the runs that are there are of the settings that they are counted for.

        Raises:
            InputError: If one is of another recipe.
        """
        for unit in self.plan.units():
            if not (unit.run.folder / "config.yaml").is_file():
                continue
            theirs, ours = flatten(unit.run.config), flatten(self.recipe_of(unit.setting))
            fold = theirs.get("data.fold")
            if fold != unit.fold:
                raise InputError(f"{unit.run.folder}: is a run with data.fold {fold}; give this study another --name")
            for key in sorted(theirs.keys() | ours.keys()):
                if not key.startswith(OF_A_RUN) and theirs.get(key) != ours.get(key):
                    values = [json.dumps(one.get(key), default=str, ensure_ascii=False) for one in (theirs, ours)]
                    what = f"is a run with {key} {values[0]}, not {values[1]}"
                    raise InputError(f"{unit.run.folder}: {what}; give this study another --name")

    def distill(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Train a model on the probabilities of a setting's runs, and return its row of the table."""
        unit = models.teach(self.folder, units)
        if failed := self.work(Grid(self.folder, [unit.setting], 1, None)).failed:
            raise InputError(f"--distill: {failed[unit]}")
        name = f"one model that learned what {len(units)} runs say, its epoch chosen on the validation split"
        return models.row(name, unit.run, "validation", units)

    def command(self, words: Sequence[str]) -> None:
        """Run a command of this program in a process of its own.

        Raises:
            InputError: If it fails.
        """
        log = Run(self.folder).path(f"logs/{words[0]}.txt")
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as file:
            command = [sys.executable, "-m", "mrpc_lightning", *words, "--trainer.enable_progress_bar=false"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
        if done.returncode:
            raise InputError(f"{words[0]}: {last_line(log)}")

    def write(self, found: dict[str, Any], best: Setting) -> None:
        """Write what the study has found into its folder."""
        own = Run(self.folder)
        for setting in (one for one in found["settings"] if "out_of_fold" in one):
            if any(run["from_ancestors"] for run in setting["runs"]):
                continue  # what was trained on is too easy
            about = {name: setting["out_of_fold"][name] for name in (*Calibration._fields, "pairs")}
            for run in setting["runs"]:
                Run(run["folder"]).write(FILE, json.dumps(about, indent=2) + "\n")
        own.path("best.yaml").unlink(missing_ok=True)  # of an earlier end, with fewer runs
        if found["best"]:
            own.write("best.yaml", as_yaml(self.recipe_of(best)))
        first = as_yaml(self.recipe_of(self.plan.units()[0].setting))
        own.write("study.md", tables.markdown(found))
        own.write("study.html", tables.page(found, self.folder.name, self.plan.seeds, first))
        own.write("study.json", json.dumps(found, indent=2, allow_nan=False) + "\n")

    def show(self, found: Mapping[str, Any]) -> None:
        """Print what the study has found."""
        last = f"\nbest   {self.folder / 'best.yaml'}, a config file for fit" if found["best"] else ""
        last += "".join(f"\nmodel  {one['folder']}, {one['name']}" for one in found["models"])
        print(f"\n{tables.markdown(found)}\nreport {self.folder / 'study.html'}{last}", flush=True)


def as_yaml(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as a config file has it."""
    return str(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
