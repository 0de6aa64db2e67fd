"""What a study has found: read from the folders of its runs, never from a process's memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from mrpc_lightning.report.metrics import intervals, measure, plain
from mrpc_lightning.study import out_of_fold, statistics
from mrpc_lightning.study.plan import Setting, Unit
from mrpc_lightning.study.predictions import Predictions, both
from mrpc_lightning.text import printable

METRICS = {"f1": "F1", "accuracy": "accuracy"}
SUMMARIZED = ("f1", "accuracy", "last_f1", "seconds")
ABOUT = ("trainer_precision", "device", "baseline_f1", "overlap_f1")


def collect(units: Sequence[Unit], failed: Mapping[Unit, str], pruned: Mapping[Setting, bool]) -> dict[str, Any]:
    """Return what study.json holds.

    Args:
        units: The units of the study.
        failed: Those that failed, with their errors.
        pruned: Of a search its settings, and whether each was pruned before it had all seeds; else nothing.

    Returns:
        `settings`, in their order: name, values, runs, summaries over seeds, how many runs collapsed or failed, whether
        it was pruned, the `ensemble` of its runs, and with folds what `out_of_fold.collect` returns; `comparisons` of
        each other setting with the first, which a search has none of; instead `best_of`, the expected best F1 of a
        search of 1, 2, 4, ... settings; `best`, the name of the best setting by `rank` among those of which no run
        failed and which beats the baseline; and `warnings` of runs that cannot be compared.
    """
    found, scored = [], {}
    for setting in dict.fromkeys(unit.setting for unit in units):
        own = [unit for unit in units if unit.setting == setting]
        runs = [read(unit) for unit in own if unit.scores]
        for run in runs:
            scored[run["folder"]] = Predictions.read(Path(run["folder"]), run["split"])
        values = {name: [run[name] for run in runs if run[name] is not None] for name in SUMMARIZED}
        predictions = [scored[run["folder"]] for run in runs]
        found.append(
            {
                "name": printable(setting.name),
                "values": dict(setting.values),
                "runs": runs,
                "collapsed": sum(run["collapsed"] for run in runs),
                "failed": {unit.seed: failed[unit] for unit in own if unit in failed},
                "pruned": pruned.get(setting, False),
                **{name: statistics.summarize(values[name]) if values[name] else None for name in SUMMARIZED},
                "ensemble": ensemble(predictions) if len({one.pairs for one in predictions}) == 1 else None,
                **(out_of_fold.collect([unit for unit in own if unit.scores]) if own[0].fold else {}),
            }
        )
    whole = [one for one in found if one["f1"] and not one["failed"] and not one["pruned"] and beats_baseline(one)]
    best = max(whole, key=rank)["name"] if whole else None
    content: dict[str, Any] = {"settings": found, "comparisons": [], "best_of": {}, "best": best}
    content["warnings"] = [
        f"{setting['name']}: {setting['collapsed']} of {len(setting['runs'])} runs collapsed to one class"
        for setting in found
        if setting["collapsed"]
    ]
    if pruned:
        means = [rank(setting) for setting in found if setting["f1"]]
        sizes = sorted({2**power for power in range(len(means).bit_length())} | {len(means)})
        content["best_of"] = {size: statistics.expected_best(means, size) for size in sizes if size <= len(means)}
    else:
        content["comparisons"], warnings = compare(found, scored)
        content["warnings"] = [*warnings, *content["warnings"]]
    return content


def rank(setting: Mapping[str, Any]) -> float:
    """Return what settings are chosen by: the mean F1; with folds that out of fold, and validation chooses nothing."""
    return float(setting["out_of_fold"]["f1"] if "out_of_fold" in setting else setting["f1"]["mean"])


def beats_baseline(setting: Mapping[str, Any]) -> bool:
    """Say whether a setting's mean F1 is above that of the same prediction for every pair."""
    return bool(setting["f1"]["mean"] > setting["runs"][0]["baseline_f1"])


def read(unit: Unit) -> dict[str, Any]:
    """Return what a finished run contributes: the best epoch's metrics, and the last one's F1.

    With a fold, on which the epoch was chosen, the metrics are those of the validation split.
    """
    run, metrics, scores = unit.run, unit.run.metrics, unit.scores
    last = (metrics.get("epochs") or [{}])[-1].get("val_f1")
    return {
        "seed": unit.seed,
        "folder": str(run.folder),
        "split": unit.scored_on,
        **{name: scores.get(name) for name in ("f1", "accuracy", *ABOUT)},
        "last_f1": None if unit.fold else last,
        "collapsed": str(metrics.get("diagnosis", "")).startswith("Collapsed"),
        "seconds": metrics.get("wall_seconds"),
    }


def ensemble(runs: Sequence[Predictions]) -> dict[str, Any]:
    """Score the mean of the probabilities of several runs, on the same pairs.

    Returns:
        `runs`; accuracy and F1, each with its `intervals` over pairs; and `gains`, the mean differences from the single
        runs, with their intervals over seeds and pairs.
    """
    labels, single = runs[0].labels, numpy.stack([one.positive for one in runs])
    mean = single.mean(axis=0)
    over_pairs = statistics.over_seeds_and_pairs(labels, numpy.broadcast_to(mean, single.shape), single, [*METRICS])
    found = plain(measure(labels, both(mean)))
    return {
        "runs": len(runs),
        **{name: found[name] for name in METRICS},
        "intervals": intervals(labels, both(mean), [*METRICS]),
        "gains": over_pairs,
    }


def compare(
    settings: Sequence[Mapping[str, Any]], scored: Mapping[str, Predictions]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare each setting with the first one, on the seeds that both have; p-values are corrected for each metric.

    Args:
        settings: The settings, as study.json has them.
        scored: What each run, by its folder, was scored on.

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
    if len({one.pairs for one in scored.values()}) > 1:
        return [], [*warnings, "the runs were scored on different pairs; nothing is compared"]
    found: list[tuple[str, str, statistics.Difference, Any]] = []
    for other in settings[1:]:
        ours, theirs = ({run["seed"]: run for run in one["runs"]} for one in (other, settings[0]))
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < 2 or other["failed"] or settings[0]["failed"]:
            warnings.append(f"{other['name']}: is not compared, as runs failed or there are fewer than two seeds")
            continue
        one, two = (numpy.stack([scored[runs[seed]["folder"]].positive for seed in seeds]) for runs in (ours, theirs))
        labels = scored[ours[seeds[0]]["folder"]].labels
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
