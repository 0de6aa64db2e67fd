"""What a study has found: read from the folders of its runs, never from a process's memory."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mrpc_lightning.report import plots
from mrpc_lightning.study import statistics
from mrpc_lightning.study.plan import Unit

METRICS = {"f1": "F1", "accuracy": "accuracy"}


def collect(units: Sequence[Unit], failed: Mapping[Unit, str]) -> dict[str, Any]:
    """Return what study.json holds.

    Args:
        units: The units of the study.
        failed: Those that failed, with their errors.

    Returns:
        `settings`, in their order: name, values, runs, summaries of the best and of the last epoch's metrics over
        seeds, and how many runs collapsed or failed; `comparisons` of each other setting with the first; and `best`,
        the name of the setting with the best mean F1.
    """
    found = []
    for setting in dict.fromkeys(unit.setting for unit in units):
        own = [unit for unit in units if unit.setting == setting]
        runs = [read(unit) for unit in own if unit.run.metrics]
        names = ("f1", "accuracy", "loss", "last_f1", "last_accuracy", "seconds")
        values = {name: [run[name] for run in runs if run[name] is not None] for name in names}
        found.append(
            {
                "name": setting.name,
                "values": dict(setting.values),
                "runs": runs,
                "collapsed": sum(run["collapsed"] for run in runs),
                "failed": {unit.seed: failed[unit] for unit in own if unit in failed},
                **{name: statistics.summarize(values[name]) if values[name] else None for name in names},
            }
        )
    scored = [setting for setting in found if setting["f1"]]
    best = max(scored, key=lambda setting: setting["f1"]["mean"])["name"] if scored else None
    return {"settings": found, "comparisons": comparisons(found), "best": best}


def read(unit: Unit) -> dict[str, Any]:
    """Return what a finished run contributes: the best epoch's metrics, and the last one's."""
    run = unit.run
    metrics, last = run.metrics, (run.metrics.get("epochs") or [{}])[-1]
    return {
        "seed": unit.seed,
        "folder": str(run.folder),
        **{name: metrics.get(name) for name in ("f1", "accuracy", "loss", "epoch")},
        "last_f1": last.get("val_f1"),
        "last_accuracy": last.get("val_accuracy"),
        "collapsed": str(metrics.get("diagnosis", "")).startswith("Collapsed"),
        "seconds": metrics.get("wall_seconds"),
    }


def comparisons(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare each setting with the first one, on the seeds that both have, with p-values corrected over settings."""
    rows = []
    for metric in METRICS:
        found = []
        for first, other in itertools.product(settings[:1], settings[1:]):
            ours, theirs = ({run["seed"]: run for run in one["runs"]} for one in (other, first))
            seeds = sorted(ours.keys() & theirs.keys())
            if len(seeds) < 2:
                continue
            one, two = (numpy.array([runs[seed][metric] or 0.0 for seed in seeds]) for runs in (ours, theirs))
            folders = [[Path(runs[seed]["folder"]) for seed in seeds] for runs in (ours, theirs)]
            over_pairs = interval_over_pairs(folders[0], folders[1], metric)
            found.append((other["name"], first["name"], statistics.compare(one, two, over_pairs)))
        corrected = statistics.holm([difference.p for _, _, difference in found])
        for (name, against, difference), p in zip(found, corrected, strict=True):
            fair = replace(difference, p=p)
            rows.append(
                {"metric": metric, "setting": name, "against": against, "verdict": fair.verdict, **asdict(fair)}
            )
    return rows


def interval_over_pairs(ours: Sequence[Path], theirs: Sequence[Path], metric: str) -> tuple[float, float] | None:
    """Return the interval over seeds and pairs of two settings' runs; None where they scored other pairs."""
    tables = [[predictions(folder) for folder in folders] for folders in (ours, theirs)]
    pairs = tables[0][0][0]
    if not len(pairs) or any(
        len(one) != len(pairs) or (one != pairs).any() for setting in tables for one, *_ in setting
    ):
        return None
    positive = [numpy.stack([probabilities for *_, probabilities in setting]) for setting in tables]
    return statistics.over_seeds_and_pairs(tables[0][0][1], positive[0], positive[1], metric)


def predictions(folder: Path) -> tuple[Any, Any, Any]:
    """Return a run's scored pairs: their numbers, labels and probabilities of the positive class."""
    with (folder / "validation_predictions.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    place = [name for name in header if name.startswith("probability_")]
    positive = header.index(place[1])
    name = place[1].removeprefix("probability_")
    numbers = numpy.array([row[0] for row in rows])
    labels = numpy.array([int(row[3] == name) for row in rows])
    return numbers, labels, numpy.array([float(row[positive]) for row in rows])


def answers(study: Mapping[str, Any]) -> list[str]:
    """Return what the study says of each comparison, in a sentence."""
    lines = []
    for one in study["comparisons"]:
        if one["metric"] != "f1":
            continue
        what = f"{one['setting']} against {one['against']}: {one['verdict']}"
        mean = f"F1 {points(one['mean'], '{:+.2f}')} points over {one['seeds']} seeds"
        sure = f", 95 % interval {bounds(one['interval'])}, p {one['p']:.3f}" if one["interval"] else ""
        few = f"; about {one['needed']} seeds would show a difference of one point"
        lines.append(f"{what} ({mean}{sure}{few})")
    return lines


def markdown(study: Mapping[str, Any]) -> str:
    """Return the tables as Markdown, which the terminal shows as well."""
    rows = [["setting", "runs", "F1", "accuracy", "F1, last epoch", "collapsed", "failed", "seconds a run"]]
    for one in study["settings"]:
        counts = [str(one["collapsed"]), str(len(one["failed"]))]
        seconds = f"{one['seconds']['mean']:.0f}" if one["seconds"] else "-"
        scores = [spread(one[name]) for name in ("f1", "accuracy", "last_f1")]
        rows.append([one["name"], str(len(one["runs"])), *scores, *counts, seconds])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join([*lines, "", *(f"- {line}" for line in answers(study))]) + "\n"


def page(study: Mapping[str, Any], title: str) -> str:
    """Return study.html."""
    package = [PackageLoader("mrpc_lightning", folder) for folder in ("study", "report")]
    environment = Environment(
        loader=ChoiceLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"points": points, "bounds": bounds, "spread": spread}
    scores = [(one["name"], [run["f1"] for run in one["runs"] if run["f1"] is not None]) for one in study["settings"]]
    pictures = {"runs": plots.svg(plots.points(scores))}
    compared = [one for one in study["comparisons"] if one["metric"] == "f1" and one["interval"]]
    if compared:
        rows = [(one["setting"], one["mean"], one["interval"], one["over_pairs"]) for one in compared]
        pictures["differences"] = plots.svg(plots.differences(rows))
    seeds = max(len(one["runs"]) for one in study["settings"])
    return environment.get_template("study.html.jinja").render(
        study=study, title=title, seeds=seeds, answers=answers(study), pictures=pictures, metrics=METRICS
    )


def points(value: float | None, form: str = "{:.2f}") -> str:
    """Write a share in points, of which there are a hundred."""
    return "-" if value is None else form.format(100 * value)


def bounds(interval: Sequence[float] | None) -> str:
    """Write an interval in points."""
    return "-" if interval is None else f"[{points(interval[0], '{:+.2f}')}, {points(interval[1], '{:+.2f}')}]"


def spread(summary: Mapping[str, float | None] | None) -> str:
    """Write mean and standard deviation in points."""
    if summary is None:
        return "-"
    return points(summary["mean"]) + ("" if summary["sd"] is None else f" ± {points(summary['sd'])}")
