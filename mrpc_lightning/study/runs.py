"""The runs that there are, one a row: what they were set to, how far they came, and what they scored."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrpc_lightning.errors import InputError
from mrpc_lightning.report.metrics import number, with_interval
from mrpc_lightning.run.resume import show
from mrpc_lightning.run.run import Run, flatten
from mrpc_lightning.text import as_markdown

SORTS = {"newest": None, "f1": True, "accuracy": True, "loss": False}  # whether the highest comes first
# What has a column of its own, or says nothing of how a run was trained.
OWN = ("seed_everything", "model.model_name", "trainer.logger", "checkpoint_every", "trainer.enable_progress_bar")


def find(logs: Path, sort: str) -> list[dict[str, Any]]:
    """Return what is known of each run in a folder, at any depth, the newest or the best one first.

    Returns:
        For each run its `folder`; `state`: "finished", "training", "stopped" (it can be resumed) or "not finished";
        `encoder`, `seed`; `settings`, the values of the keys in which the runs differ; `epochs`, which it has trained;
        `epoch`, the kept one; accuracy, F1 and loss with `intervals`; `pairs` and `source`, what was scored.

    Raises:
        InputError: If there is none, or no such folder.
    """
    if not logs.is_dir():
        raise InputError(
            f"{logs}: {'is no folder' if logs.exists() else 'is not there'}; give a folder that holds runs"
        )
    recipes = {path.parent: path.stat().st_mtime for path in logs.glob("**/config.yaml") if not path.is_symlink()}
    newest = sorted(recipes, key=lambda folder: recipes[folder], reverse=True)
    runs = [run for run in map(Run, newest) if is_readable(run)]
    if not runs:
        raise InputError(f"{logs}: holds no run; give another folder")
    settings = {run.folder: flatten(run.config) for run in runs}
    keys = dict.fromkeys(key for values in settings.values() for key in values if not key.startswith(OWN))
    varied = [key for key in keys if len({show(values.get(key)) for values in settings.values()}) > 1]
    found = [describe(run, settings[run.folder], varied) for run in runs]
    if (highest := SORTS[sort]) is not None:
        found.sort(key=lambda one: (one[sort] is None, (one[sort] or 0) * (-1 if highest else 1)))
    return found


def is_readable(run: Run) -> bool:
    """Say whether a folder has the recipe of a run."""
    try:
        return "model" in run.config
    except InputError:
        return False


def describe(run: Run, values: dict[str, Any], varied: Sequence[str]) -> dict[str, Any]:
    """Return what is known of a run; see `find`."""
    metrics = run.metrics
    state = "training" if run.is_training else "finished" if metrics else "stopped" if run.last.is_file() else ""
    intervals = metrics.get("intervals") or {}
    return {
        "folder": str(run.folder),
        "state": state or "not finished",
        "encoder": values.get("model.model_name"),
        "seed": values.get("seed_everything"),
        "settings": {key: values.get(key) for key in varied},
        "epoch": metrics.get("epoch"),
        "epochs": metrics.get("epochs_trained"),
        **{name: metrics.get(name) for name in ("f1", "accuracy", "loss", "pairs", "source")},
        "intervals": {name: intervals.get(name) for name in ("f1", "accuracy", "loss")},
    }


def render(runs: Sequence[dict[str, Any]], kind: str) -> str:
    """Write the runs as "text", a Markdown table; as "json", with all that is known; or as "csv"."""
    if kind == "json":
        return json.dumps(runs, indent=2, default=str, ensure_ascii=False) + "\n"
    if kind == "csv":
        flat = [{**flatten({k: v for k, v in run.items() if k != "intervals"})} for run in runs]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(dict.fromkeys(name for one in flat for name in one)))
        writer.writeheader()
        writer.writerows(flat)
        return file.getvalue()
    encoders, sources = ({run[name] for run in runs if run[name]} for name in ("encoder", "source"))
    header = ["run", "seed", "differs in", "epochs", "F1", "accuracy", "loss", "state"]
    header += ["encoder"] * (len(encoders) > 1) + ["scored on"] * (len(sources) > 1)
    rows = [header]
    for run in runs:
        known = {key.rpartition(".")[2]: value for key, value in run["settings"].items() if value is not None}
        settings = ", ".join(f"{key} {show(value)}" for key, value in known.items())
        kept = f"{run['epoch']} of {run['epochs']}" if run["epoch"] else str(run["epochs"] or "-")
        scores = [with_interval(run[name], run["intervals"][name]) for name in ("f1", "accuracy")]
        scores.append(number(run["loss"]))
        row = [run["folder"], show(run["seed"]), settings or "-", kept, *scores, run["state"]]
        row += [str(run["encoder"])] * (len(encoders) > 1) + [str(run["source"] or "-")] * (len(sources) > 1)
        rows.append(row)
    notes = ["in brackets: 95 % intervals, over resampled pairs; another seed changes the metrics as well"]
    if len(sources) > 1:
        notes.append("not all were scored on the same pairs: compare only those that were")
    return as_markdown(rows) + "\n" + "".join(f"{note}\n" for note in notes)
