"""One study, from its settings to its tables."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.report.metrics import number
from mrpc_lightning.run.run import Run, flatten
from mrpc_lightning.run.signals import requeue
from mrpc_lightning.study import results
from mrpc_lightning.study.plan import Setting, Unit, units
from mrpc_lightning.study.work import Work
from mrpc_lightning.text import count, duration, printable

# What runs of one recipe may differ in.
OF_A_RUN = ("seed_everything", "checkpoint_every", "trainer.logger", "trainer.enable_progress_bar")


def run(
    folder: Path, recipes: Mapping[Setting, Mapping[str, Any]], words: Sequence[str], seeds: int, workers: int
) -> None:
    """Do what is left of a study, and write its tables.

    Args:
        folder: The study's folder.
        recipes: The settings, the one that others are compared with first, and the recipe of each.
        words: The flags of `fit` that all settings share.
        seeds: Seeds of each setting, in total.
        workers: Runs at a time.

    Raises:
        InputError: If a run in the folder is of another recipe, or no run can be trained.
        Stopped: If a signal asks for it; the message says what the same command will do.
    """
    planned = units(folder, list(recipes), seeds)
    check_recipes(planned, recipes)

    def report(unit: Unit, failed: str | None) -> None:
        left, metrics = len(work.left()), unit.run.metrics
        done = len(planned) - left
        scored = f"failed: {failed}"
        if not failed:
            scored = f"accuracy {number(metrics['accuracy'])}  F1 {number(metrics['f1'])}"
        pace = (time.monotonic() - began) / max(done - already, 1)
        rest = f"; about {duration(pace * left)} left" if left and done - already >= workers else ""
        bar.n = done
        bar.write(printable(f"{done:>3}/{len(planned)}  {unit.setting.name}  seed {unit.seed}  {scored}{rest}"))
        sys.stdout.flush()

    work = Work(planned, words, workers, report)
    work.left()
    already = len(work.finished)
    what = f"{count(len(planned), 'run')}: {count(len(recipes), 'setting')} x {count(seeds, 'seed')}"
    print(f"study     {folder}, {what}{f'; {already:,} are done' if already else ''}", flush=True)
    bar = Tqdm(total=len(planned), initial=already, unit=" runs", disable=not sys.stdout.isatty(), leave=False)
    began = time.monotonic()
    try:
        work.run()
    except Stopped as stopped:
        work.left()
        how = f"{len(work.finished):,} of {count(len(planned), 'run')} are done, and the same command continues there"
        raise Stopped(stopped.signum, f"stopped; {how}{requeue(stopped.signum)}") from stopped
    finally:
        bar.close()
    if len(work.failed) == len(planned):
        raise InputError(f"no run could be trained: {next(iter(work.failed.values()))}")
    with FileLock(folder / ".lock"):  # workers elsewhere end at the same time
        check_recipes(planned, recipes)
        write(folder, results.collect(planned, work.failed), recipes, seeds)


def write(folder: Path, found: dict[str, Any], recipes: Mapping[Setting, Mapping[str, Any]], seeds: int) -> None:
    """Write what a study has found into its folder, and print it."""
    own, table, first = Run(folder), results.markdown(found), next(iter(recipes.values()))
    own.path("best.yaml").unlink(missing_ok=True)  # of an earlier end, with fewer runs
    best = [recipe for setting, recipe in recipes.items() if printable(setting.name) == found["best"]]
    if best:
        own.write("best.yaml", yaml.safe_dump(dict(best[0]), sort_keys=False, allow_unicode=True))
    own.write("study.md", table)
    own.write("study.html", results.page(found, folder.name, seeds, yaml.safe_dump(dict(first), sort_keys=False)))
    own.write("study.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
    last = f"\nbest   {folder / 'best.yaml'}, a config file for fit" if best else ""
    print(f"\n{table}\nreport {folder / 'study.html'}{last}", flush=True)


def check_recipes(planned: Sequence[Unit], recipes: Mapping[Setting, Mapping[str, Any]]) -> None:
    """Check that the runs that are there are of the settings that they are counted for.

    Raises:
        InputError: If one is of another recipe.
    """
    for unit in planned:
        if not (unit.run.folder / "config.yaml").is_file():
            continue
        theirs, ours = flatten(unit.run.config), flatten(recipes[unit.setting])
        for key in sorted(theirs.keys() | ours.keys()):
            if not key.startswith(OF_A_RUN) and theirs.get(key) != ours.get(key):
                values = [json.dumps(one.get(key), default=str, ensure_ascii=False) for one in (theirs, ours)]
                what = f"is a run with {key} {values[0]}, not {values[1]}"
                raise InputError(f"{unit.run.folder}: {what}; give this study another --name")
