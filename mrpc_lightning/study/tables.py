"""A study's tables, sentences and page, from what `results.collect` returned."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrpc_lightning.report import plots
from mrpc_lightning.report.page import fill
from mrpc_lightning.study.results import METRICS
from mrpc_lightning.text import as_markdown

Rows = list[list[str]]
BASELINES = {"baseline_f1": "the same prediction for every pair", "overlap_f1": "word overlap"}


def tables(study: Mapping[str, Any]) -> list[Rows]:
    """Return the tables in points, each with its header: settings; differences; several models as one; folds."""
    found = [of_settings(study), of_differences(study["comparisons"]), of_several(study), of_folds(study)]
    return [rows for rows in found if len(rows) > 1]


def of_settings(study: Mapping[str, Any]) -> Rows:
    """Return the table of the settings."""
    rows = ["setting|runs|F1|median|range|F1, last epoch|accuracy|collapsed|failed|s of training".split("|")]
    for one in study["settings"]:
        f1, seconds = one["f1"], one["seconds"]
        middle = [points(f1["median"]), f"{points(f1['min'])} to {points(f1['max'])}"] if f1 else ["-", "-"]
        name = one["name"] + " (highest F1)" * (one["name"] == study["best"] and len(study["settings"]) > 1)
        counts = [str(one["collapsed"]), str(len(one["failed"])), f"{seconds['mean']:.0f}" if seconds else "-"]
        scores = [spread(f1), *middle, spread(one["last_f1"]), spread(one["accuracy"])]
        rows.append([name + " (pruned)" * one["pruned"], str(len(one["runs"])), *scores, *counts])
    return rows


def of_differences(comparisons: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the table of the differences from the first setting."""
    header = "against the first||difference|over seeds|over seeds and pairs|p, Holm|seeds won|seeds for 1 point|verdict"
    rows = [header.split("|")]
    for one in comparisons:
        numbers = [points(one["mean"], "{:+.2f}"), bounds(one["interval"]), bounds(one["over_pairs"])]
        last = [f"{one['p']:.3f}", f"{100 * one['better']:.0f} %", str(one["needed"] or "-"), one["verdict"]]
        rows.append([one["setting"], METRICS[one["metric"]], *numbers, *last])
    return rows


def of_several(study: Mapping[str, Any]) -> Rows:
    """Return the table of several models that make one prediction, beside the single runs."""
    rows = ["several models as one|F1|accuracy|F1, minus the mean of these runs".split("|")]
    for one in study["settings"]:
        if one["ensemble"] and one["ensemble"]["runs"] > 1:
            rows.append(several(f"{one['name']}: mean probability of {one['ensemble']['runs']} runs", one["ensemble"]))
    return [*rows, *(several(one["name"], one) for one in study.get("models", []))]


def several(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return a row of that table."""
    scores = [f"{points(found[metric])} {bounds(found['intervals'][metric], '{:.2f}')}" for metric in METRICS]
    gain = found["gains"].get("f1")
    return [name, *scores, f"{points(gain[0], '{:+.2f}')} {bounds(gain[1:])}" if gain else "-"]


def of_folds(study: Mapping[str, Any]) -> Rows:
    """Return the table of what was scored by runs that had not seen it."""
    rows = ["out of fold|pairs|F1|accuracy|temperature|threshold|F1 with both|accuracy with both".split("|")]
    for one in study["settings"]:
        if found := one.get("out_of_fold"):
            scores = [f"{points(found[metric])} {bounds(found['intervals'][metric], '{:.2f}')}" for metric in METRICS]
            tuned = [points(found["tuned"][metric]) for metric in METRICS]
            last = [f"{found['temperature']:.2f}", f"{found['threshold']:.3f}", *tuned]
            rows.append([one["name"], f"{found['pairs']:,}", *scores, *last])
    return rows


def verdicts(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what comparisons say of each other setting's F1, in a sentence."""
    lines = []
    for one in (one for one in comparisons if one["metric"] == "f1"):
        low, high = one["interval"] or (0, 0)
        why = ", as p is not below 0.05" * (low > 0 or high < 0) or ", as the interval holds 0" * bool(one["interval"])
        verdict = one["verdict"] + why * (one["verdict"] == "no difference shown")
        if one["verdict"] in ("improved", "worse") and (wide := one["over_pairs"]) and wide[0] <= 0 <= wide[1]:
            verdict += f" on these pairs; on others not shown: over seeds and pairs the interval is {bounds(wide)}"
        if one["verdict"].startswith("too few") and one["differ"] < one["seeds"]:
            verdict += f", as the two differ on {one['differ']} of {one['seeds']} seeds"
        found = f"{points(one['mean'], '{:+.2f}')} points of F1 over {one['seeds']} seeds"
        sure = f", 95 % interval {bounds(one['interval'])}, p {one['p']:.3f}" if one["interval"] else ""
        lines.append(f"{one['setting']} against {one['against']}: {verdict}; {found}{sure}")
    return lines


def answers(study: Mapping[str, Any]) -> list[str]:
    """Return what the study says of each other setting's F1, in a sentence, and its warnings."""
    lines = verdicts(study["comparisons"])
    if study["best_of"]:
        sizes = ", ".join(f"{points(value)} of {size}" for size, value in study["best_of"].items())
        lines.append(
            f"expected best F1 of so many of these settings, drawn at random: {sizes}. The best of many looks better "
            "than it is: repeat it beside the setting that you had before, in a study of its own"
        )
    for one in (one for one in study["settings"] if one["f1"]):
        run = one["runs"][0]
        below = [text for name, text in BASELINES.items() if one["f1"]["mean"] <= (run[name] or 0)]
        if below:
            lines.append(f"warning: {one['name']}: the mean F1 is not above that of {' and '.join(below)}")
    return [*lines, *(f"warning: {warning}" for warning in study["warnings"])]


def markdown(study: Mapping[str, Any]) -> str:
    """Return the tables as Markdown, which the terminal shows as well."""
    return "\n".join([*map(as_markdown, tables(study)), *(f"- {line}" for line in answers(study))]) + "\n"


def page(study: Mapping[str, Any], title: str, seeds: int, recipe: str) -> str:
    """Return study.html; with the recipe of the first setting, as YAML."""
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
    shown = next((one for one in study["settings"] if one["name"] == study["best"]), study["settings"][0])
    return fill(
        "study.html.jinja",
        "study",
        title=title,
        answers=answers(study),
        pictures=pictures,
        recipe=recipe,
        settings=of_settings(study),
        differences=of_differences(study["comparisons"]),
        several=of_several(study),
        folds=of_folds(study),
        against=study["settings"][0]["name"],
        doubtful=shown.get("doubtful", []),
        shown=shown["name"],
    )


def points(value: float | None, form: str = "{:.2f}") -> str:
    """Write a share in points, of which there are a hundred."""
    return "-" if value is None else form.format(100 * value)


def bounds(interval: Sequence[float] | None, form: str = "{:+.2f}") -> str:
    """Write an interval in points."""
    return "-" if interval is None else f"[{points(interval[0], form)}, {points(interval[1], form)}]"


def spread(summary: Mapping[str, float | None] | None) -> str:
    """Write mean and standard deviation in points."""
    if summary is None:
        return "-"
    return points(summary["mean"]) + ("" if summary["sd"] is None else f" ± {points(summary['sd'])}")
