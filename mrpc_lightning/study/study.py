"""One study, from its settings to its tables."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mrpc_lightning.errors import InputError, Stopped
from mrpc_lightning.report.metrics import number
from mrpc_lightning.run.run import Run, flatten
from mrpc_lightning.study import results
from mrpc_lightning.study.plan import Setting, Unit, units
from mrpc_lightning.study.work import work
from mrpc_lightning.text import count, duration

RECIPE = "study.yaml"  # what all runs share


def run(
    folder: Path, recipes: Mapping[Setting, Mapping[str, Any]], words: Sequence[str], seeds: int, workers: int
) -> dict[str, Any]:
    """Do what is left of a study, and write its tables.

    Args:
        folder: The study's folder.
        recipes: The settings, the one that others are compared with first, and the recipe of each.
        words: The flags of `fit` that all settings share.
        seeds: Seeds of each setting, in total.
        workers: Runs at a time.

    Returns:
        What study.json holds.

    Raises:
        InputError: If the folder holds a study of another recipe, or no run can be trained.
        Stopped: If a signal asks for it; the message says what the same command will do.
    """
    own = Run(folder)
    check_same(folder / RECIPE, recipes)
    shared = common(recipes.values())
    own.write(RECIPE, yaml.safe_dump(shared, sort_keys=False, allow_unicode=True))
    planned = units(folder, list(recipes), seeds)
    done = sum(bool(unit.run.metrics) for unit in planned)
    what = f"{count(len(planned), 'run')}: {count(len(recipes), 'setting')} x {count(seeds, 'seed')}"
    print(f"study     {folder}, {what}{f'; {done:,} are done' if done else ''}", flush=True)
    bar = Tqdm(total=len(planned), initial=done, unit=" runs", disable=not sys.stdout.isatty(), leave=False)
    began, finished = time.monotonic(), 0

    def report(unit: Unit, failed: str | None) -> None:
        nonlocal finished
        finished += 1
        bar.update()
        metrics = unit.run.metrics
        scored = f"failed: {failed}"
        if not failed:
            scored = f"accuracy {number(metrics['accuracy'])}  F1 {number(metrics['f1'])}"
        left = len(planned) - done - finished
        rest = (
            f"; about {duration((time.monotonic() - began) / finished * left)} left"
            if left and finished >= workers
            else ""
        )
        bar.write(f"{done + finished:>3}/{len(planned)}  {unit.setting.name}  seed {unit.seed}  {scored}{rest}")
        sys.stdout.flush()

    try:
        failed = work(planned, words, workers, report)
    except Stopped as stopped:
        so_far = sum(bool(unit.run.metrics) for unit in planned)
        how = f"stopped; {so_far:,} of {count(len(planned), 'run')} are done, and the same command continues there"
        raise Stopped(stopped.signum, how) from stopped
    finally:
        bar.close()
    if failed and len(failed) == len(planned):
        raise InputError(f"no run could be trained: {next(iter(failed.values())).removeprefix('error: ')}")
    found = results.collect(planned, failed)
    for setting, recipe in recipes.items():
        if setting.name == found["best"]:
            own.write("best.yaml", yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
    table = results.markdown(found)
    own.write("study.md", table)
    own.write("study.html", results.page(found, f"{folder.name}: {count(len(recipes), 'setting')}"))
    own.write("study.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
    print(
        f"\n{table}\nreport {folder / 'study.html'}\nbest   {folder / 'best.yaml'}, a config file for fit", flush=True
    )
    return found


def common(recipes: Any) -> dict[str, Any]:
    """Return the values by key that all recipes share."""
    first, *others = (flatten(recipe) for recipe in recipes)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def check_same(path: Path, recipes: Mapping[Setting, Mapping[str, Any]]) -> None:
    """Check that a study that is continued is of the same recipe, but for the keys that it varies.

    Raises:
        InputError: If it is not.
    """
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    for recipe in map(flatten, recipes.values()):
        for key, value in before.items():
            varied = any(key == name for setting in recipes for name, _ in setting.values)
            if not varied and recipe.get(key) != value:
                raise InputError(
                    f"{path.parent}: is a study with {key} {json.dumps(value)}, not {json.dumps(recipe.get(key))}; "
                    "give this one another --name"
                )
