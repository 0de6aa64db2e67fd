"""What a study has found: read from the folders of its runs, never from a process's memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mrpc_lightning.pairs.files import read_file
from mrpc_lightning.report import plots
from mrpc_lightning.study import statistics
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.text import printable

METRICS = {"f1": "F1", "accuracy": "accuracy"}
SUMMARIZED = ("f1", "accuracy", "last_f1", "seconds")


def collect(units: Sequence[Unit], failed: Mapping[Unit, str]) -> dict[str, Any]:
    """Return what study.json holds.

    Args:
        units: The units of the study.
        failed: Those that failed, with their errors.

    Returns:
        `settings`, in their order: name, values, runs, summaries over seeds, and how many runs collapsed or failed;
        `comparisons` of each other setting with the first; `best`, the name of the setting with the best mean F1 among
        those of which no run failed and which beats the baseline; and `warnings` of runs that cannot be compared.
    """
    found = []
    for setting in dict.fromkeys(unit.setting for unit in units):
        own = [unit for unit in units if unit.setting == setting]
        runs = [read(unit) for unit in own if unit.run.metrics]
        values = {name: [run[name] for run in runs if run[name] is not None] for name in SUMMARIZED}
        found.append(
            {
                "name": printable(setting.name),
                "values": dict(setting.values),
                "runs": runs,
                "collapsed": sum(run["collapsed"] for run in runs),
                "failed": {unit.seed: failed[unit] for unit in own if unit in failed},
                **{name: statistics.summarize(values[name]) if values[name] else None for name in SUMMARIZED},
            }
        )
    whole = [setting for setting in found if setting["f1"] and not setting["failed"] and beats_baseline(setting)]
    best = max(whole, key=lambda setting: setting["f1"]["mean"])["name"] if whole else None
    comparisons, warnings = compare(found)
    warnings += [
        f"{setting['name']}: {setting['collapsed']} of {len(setting['runs'])} runs collapsed to one class"
        for setting in found
        if setting["collapsed"]
    ]
    return {"settings": found, "comparisons": comparisons, "best": best, "warnings": warnings}


def beats_baseline(setting: Mapping[str, Any]) -> bool:
    """Say whether a setting's mean F1 is above that of the same prediction for every pair."""
    return bool(setting["f1"]["mean"] > setting["runs"][0]["baseline_f1"])


def read(unit: Unit) -> dict[str, Any]:
    """Return what a finished run contributes: the best epoch's metrics, and the last one's F1."""
    run, metrics = unit.run, unit.run.metrics
    return {
        "seed": unit.seed,
        "folder": str(run.folder),
        **{name: metrics.get(name) for name in ("f1", "accuracy", "baseline_f1", "trainer_precision", "device")},
        "last_f1": (metrics.get("epochs") or [{}])[-1].get("val_f1"),
        "collapsed": str(metrics.get("diagnosis", "")).startswith("Collapsed"),
        "seconds": metrics.get("wall_seconds"),
    }


def compare(settings: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare each setting with the first one, on the seeds that both have; p-values are corrected for each metric.

    Returns:
        The comparisons; and warnings, of which one takes the place of what cannot be compared.
    """
    everything = [run for setting in settings for run in setting["runs"]]
    warnings = []
    for name in ("trainer_precision", "device"):
        if len(kinds := sorted({str(run[name]) for run in everything})) > 1:
            warnings.append(f"the runs differ in {name.replace('_', ' ')}: {', '.join(kinds)}")
    if warnings and "precision" in warnings[0]:
        return [], [f"{warnings[0]}; nothing is compared: give trainer.precision", *warnings[1:]]
    scored = {run["folder"]: predictions(Path(run["folder"])) for run in everything}
    if len({pairs for pairs, _, _ in scored.values()}) > 1:
        return [], [*warnings, "the runs were scored on different pairs; nothing is compared"]
    found: list[tuple[str, str, statistics.Difference, Any]] = []
    for other in settings[1:]:
        ours, theirs = ({run["seed"]: run for run in one["runs"]} for one in (other, settings[0]))
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < 2 or other["failed"] or settings[0]["failed"]:
            warnings.append(f"{other['name']}: is not compared, as runs failed or there are fewer than two seeds")
            continue
        one, two = (numpy.stack([scored[runs[seed]["folder"]][2] for seed in seeds]) for runs in (ours, theirs))
        labels = scored[ours[seeds[0]]["folder"]][1]
        over_pairs = statistics.over_seeds_and_pairs(labels, one, two, tuple(METRICS))
        for metric in METRICS:
            values = [[runs[seed][metric] for seed in seeds] for runs in (ours, theirs)]
            if None not in values[0] + values[1]:
                difference = statistics.compare(numpy.array(values[0]), numpy.array(values[1]))
                found.append((metric, other["name"], difference, over_pairs.get(metric)))
    rows = []
    for metric in METRICS:
        own = [row for row in found if row[0] == metric]
        for (_, name, _, pairs), fair in zip(own, statistics.correct([row[2] for row in own]), strict=True):
            named = {"metric": metric, "setting": name, "against": settings[0]["name"], "verdict": fair.verdict}
            rows.append({**named, **vars(fair), "needed": fair.needed, "over_pairs": pairs})
    return rows, warnings


def predictions(folder: Path) -> tuple[int, Any, Any]:
    """Return a run's scored pairs: a hash of pairs and labels, the labels, and the positive class's probabilities."""
    table = read_file(folder / "validation_predictions.csv", "validation_file").columns
    positive = [name for name in table if name.startswith("probability_")][1]
    labels = numpy.array([f"probability_{label}" == positive for label in table["label"]], dtype=numpy.int64)
    pairs = hash(tuple(zip(*(table[name] for name in ("sentence1", "sentence2", "label")), strict=True)))
    return pairs, labels, numpy.array(table[positive], dtype=numpy.float64)


def tables(study: Mapping[str, Any]) -> list[list[list[str]]]:
    """Return the table of the settings and that of the differences, in points, each with its header."""
    rows = ["setting|runs|F1|median|range|F1, last epoch|accuracy|collapsed|failed|s a run".split("|")]
    for one in study["settings"]:
        f1, seconds = one["f1"], one["seconds"]
        middle = [points(f1["median"]), f"{points(f1['min'])} to {points(f1['max'])}"] if f1 else ["-", "-"]
        name = one["name"] + " (best mean F1)" * (one["name"] == study["best"] and len(study["settings"]) > 1)
        counts = [str(one["collapsed"]), str(len(one["failed"])), f"{seconds['mean']:.0f}" if seconds else "-"]
        scores = [spread(f1), *middle, spread(one["last_f1"]), spread(one["accuracy"])]
        rows.append([name, str(len(one["runs"])), *scores, *counts])
    second = ["against the first||difference|over seeds|over seeds and pairs|p|seeds needed|verdict".split("|")]
    for one in study["comparisons"]:
        numbers = [points(one["mean"], "{:+.2f}"), bounds(one["interval"]), bounds(one["over_pairs"])]
        last = [f"{one['p']:.3f}", str(one["needed"] or "-"), one["verdict"]]
        second.append([one["setting"], METRICS[one["metric"]], *numbers, *last])
    return [rows, second] if study["comparisons"] else [rows]


def answers(study: Mapping[str, Any]) -> list[str]:
    """Return what the study says of each other setting's F1, in a sentence, and its warnings."""
    lines = []
    for one in (one for one in study["comparisons"] if one["metric"] == "f1"):
        low, high = one["interval"] or (0, 0)
        why = ", as p is not below 0.05" * (low > 0 or high < 0) or ", as the interval holds 0" * bool(one["interval"])
        verdict = one["verdict"] + why * (one["verdict"] == "no difference shown")
        found = f"{points(one['mean'], '{:+.2f}')} points of F1 over {one['seeds']} seeds"
        sure = f", 95 % interval {bounds(one['interval'])}, p {one['p']:.3f}" if one["interval"] else ""
        lines.append(f"{one['setting']} against {one['against']}: {verdict}; {found}{sure}")
    return [*lines, *(f"warning: {warning}" for warning in study["warnings"])]


def markdown(study: Mapping[str, Any]) -> str:
    """Return the tables as Markdown, which the terminal shows as well."""
    lines = []
    for rows in tables(study):
        cells = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        cells.insert(1, ["-" * width for width in widths])
        lines += ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells] + [""]
    return "\n".join([*lines, *(f"- {line}" for line in answers(study))]) + "\n"


def page(study: Mapping[str, Any], title: str, seeds: int, recipe: str) -> str:
    """Return study.html; with the recipe of the first setting, as YAML."""
    folders = [PackageLoader("mrpc_lightning", folder) for folder in ("study", "report")]
    environment = Environment(
        loader=ChoiceLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    scores, baseline = [], None
    for one in study["settings"]:
        runs = {run["seed"]: run for run in one["runs"]}
        scores.append((one["name"], [(runs.get(seed) or {}).get("f1") for seed in range(1, seeds + 1)]))
        baseline = next((run["baseline_f1"] for run in one["runs"]), baseline)
    pictures = [plots.svg(plots.points(scores, baseline))]
    compared = [one for one in study["comparisons"] if one["metric"] == "f1" and one["interval"]]
    if compared:
        rows = [(one["setting"], one["mean"], one["interval"], one["over_pairs"]) for one in compared]
        pictures.append(plots.svg(plots.differences(rows)))
    return environment.get_template("study.html.jinja").render(
        title=title,
        answers=answers(study),
        pictures=pictures,
        recipe=recipe,
        tables=tables(study),
        against=study["settings"][0]["name"],
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
