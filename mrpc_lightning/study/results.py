"""What a study has found: read from the folders of its runs, never from a process's memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from mrpc_lightning.report.metrics import both, intervals, measure, plain
from mrpc_lightning.study import out_of_fold, statistics
from mrpc_lightning.study.plan import Setting, Unit
from mrpc_lightning.study.predictions import Predictions
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
        failed and which beats the baseline; and `warnings`: of runs that cannot be compared, and those of all runs.
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
    whole = [one for one in found if one["f1"] and not one["failed"] and not one["pruned"]]
    whole = [one for one in whole if one["f1"]["mean"] > one["runs"][0]["baseline_f1"]]
    best = max(whole, key=rank)["name"] if whole else None
    content: dict[str, Any] = {"settings": found, "comparisons": [], "best_of": {}, "best": best}
    alike, content["warnings"] = check_alike(found, scored)
    for one in found:
        name = one["name"]
        if one["collapsed"]:
            collapsed = f"{one['collapsed']} of {len(one['runs'])} runs"
            content["warnings"].append(f"{name}: {collapsed} collapsed to one class")
        if leaked := max((run["from_ancestors"] for run in one["runs"]), default=0):
            content["warnings"].append(f"{name}: {leaked:,} scored pairs are training pairs of an ancestor")
    everything = [run["warnings"] for one in found for run in one["runs"]]
    for warning in everything[0] if everything else []:
        if all(warning in own for own in everything):
            content["warnings"].append(f"all runs: {warning}")
    if not alike:
        content["best"] = None
    if content["best"] is None:
        content["warnings"].append("no setting is called best: in each, runs failed or F1 is not above the baseline")
    if alike and pruned:
        means = [rank(setting) for setting in found if setting["f1"]]
        sizes = sorted({2**power for power in range(len(means).bit_length())} | {len(means)})
        content["best_of"] = {size: statistics.expected_best(means, size) for size in sizes if size <= len(means)}
    elif alike:
        content["comparisons"] = compare(found, scored)
        content["warnings"] += [
            f"{one['name']}: is not compared, as runs failed or there are fewer than two seeds"
            for one in found[1:]
            if one["name"] not in {row["setting"] for row in content["comparisons"]}
        ]
    return content


def rank(setting: Mapping[str, Any]) -> float:
    """Return what settings are chosen by: the mean F1; with folds that out of fold, and validation chooses nothing."""
    return float(setting["out_of_fold"]["f1"] if "out_of_fold" in setting else setting["f1"]["mean"])


def read(unit: Unit) -> dict[str, Any]:
    """Return what a finished run contributes: the best epoch's metrics, and the last one's F1.

    With a fold, on which the epoch was chosen, the metrics are those of the validation split.
    """
    run, metrics, scores = unit.run, unit.run.metrics, unit.scores
    last = (metrics.get("epochs") or [{}])[-1].get("val_f1")
    is_part = run.config["trainer"].get("limit_val_batches") not in (None, 1.0)  # what was validated in training
    return {
        "seed": unit.seed,
        "folder": str(run.folder),
        "split": unit.scored_on,
        **{name: scores.get(name) for name in ("f1", "accuracy", *ABOUT)},
        "last_f1": None if unit.fold or is_part else last,
        "from_ancestors": metrics.get("pairs_in_ancestors", 0)
        + (scores.get("pairs_in_ancestors", 0) if unit.fold else 0),
        "collapsed": str(metrics.get("diagnosis", "")).startswith("Collapsed"),
        "seconds": metrics.get("wall_seconds"),
        "warnings": metrics.get("warnings", []),
    }


def ensemble(runs: Sequence[Predictions]) -> dict[str, Any]:
    """Score the mean of the probabilities of several runs, on the same pairs.

    Returns:
        `runs`, and what `beside` returns.
    """
    mean = numpy.mean([one.positive for one in runs], axis=0)
    return {"runs": len(runs), **beside(Predictions(runs[0].pairs, runs[0].labels, mean), runs)}


def beside(one: Predictions, runs: Sequence[Predictions]) -> dict[str, Any]:
    """Score a model that was made of several runs beside these, on the same pairs.

    Returns:
        Accuracy and F1, each with its `intervals` over pairs; and `gains`, for each the mean difference from the single
        runs with an interval over pairs and these runs. The model itself is one draw of what other runs would give.
    """
    single, names = numpy.stack([run.positive for run in runs]), [*METRICS]
    ours = numpy.broadcast_to(one.positive, single.shape)
    spans = statistics.over_seeds_and_pairs(one.labels, ours, single, names)
    found = plain(measure(one.labels, both(one.positive)))
    theirs = [plain(measure(one.labels, both(run))) for run in single]
    means = {name: float(numpy.mean([score[name] or 0 for score in theirs])) for name in names}
    return {
        **{name: found[name] for name in names},
        "intervals": intervals(one.labels, both(one.positive), names),
        "gains": {name: [(found[name] or 0) - means[name], *spans[name]] for name in names if name in spans},
    }


def check_alike(settings: Sequence[Mapping[str, Any]], scored: Mapping[str, Predictions]) -> tuple[bool, list[str]]:
    """Say whether all runs can be compared, and warn of what they differ in.

    Args:
        settings: The settings, as study.json has them.
        scored: What each run, by its folder, was scored on.
    """
    warnings = name_differences([run for setting in settings for run in setting["runs"]])
    if warnings and "precision" in warnings[0]:
        return False, [f"{warnings[0]}; nothing is compared: give trainer.precision", *warnings[1:]]
    if len({one.pairs for one in scored.values()}) > 1:
        return False, [*warnings, "the runs were scored on different pairs; nothing is compared"]
    return True, warnings


def name_differences(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in which of number format and hardware runs differ, from their metrics."""
    warnings = []
    for name in ("trainer_precision", "device"):
        if len(kinds := sorted({str(run.get(name)) for run in runs})) > 1:
            warnings.append(f"the runs differ in {name.replace('_', ' ')}: {', '.join(kinds)}")
    return warnings


def compare(settings: Sequence[Mapping[str, Any]], scored: Mapping[str, Predictions]) -> list[dict[str, Any]]:
    """Compare each setting with the first one, on the seeds that both have; p-values are corrected for each metric.

    A setting of which runs failed, or that shares fewer than two seeds with the first, is left out. See `check_alike`.
    """
    found: list[tuple[str, str, statistics.Difference, Any]] = []
    for other in settings[1:]:
        ours, theirs = ({run["seed"]: run for run in one["runs"]} for one in (other, settings[0]))
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < 2 or other["failed"] or settings[0]["failed"]:
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
    return rows
