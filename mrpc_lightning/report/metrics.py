"""The final figures: the table that a person reads and the JSON that a program reads."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrpc_lightning.errors import InputError
from mrpc_lightning.model import COUNTS


def collect(logged: Mapping[str, Any], stage: str) -> dict[str, float | int]:
    """Take the figures of one evaluation out of all that the Trainer logged.

    Args:
        logged: `Trainer.callback_metrics`.
        stage: "val" or "test": what the names start with.

    Returns:
        `accuracy`, `f1` and `loss`, the counts behind them, `pairs`, and the baseline's accuracy and F1.

    Raises:
        InputError: If the loss is no number.
    """
    figures: dict[str, float | int] = {name: float(logged[f"{stage}_{name}"]) for name in ("accuracy", "f1", "loss")}
    if not math.isfinite(figures["loss"]):
        raise InputError(f"the loss is {figures['loss']}: training diverged, or the checkpoint is damaged")
    counts = {name: round(float(logged[f"{stage}_{name}"])) for name in COUNTS}
    pairs = sum(counts.values())
    positives = counts["true_positives"] + counts["false_negatives"]
    baseline_accuracy, baseline_f1 = baseline(positives, pairs)
    return {
        **figures,
        **counts,
        "pairs": pairs,
        "baseline_accuracy": baseline_accuracy,
        "baseline_f1": baseline_f1,
    }


def baseline(positives: int, pairs: int) -> tuple[float, float]:
    """Return accuracy and F1 of answering "positive" to every pair: precision is the share of positives, recall 1."""
    return positives / pairs, 2 * positives / (pairs + positives)


def table(
    figures: Mapping[str, float | int],
    title: str,
    positive: str,
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
) -> str:
    """Write figures beside the baseline's, as lines for the terminal.

    Args:
        figures: What `collect` returned.
        title: What was scored.
        positive: Name of the positive class.
        intervals: The 95 % interval of each figure, if they were computed.
    """
    name = f'always "{positive}"'
    width = max(len(title), len(name)) + 2
    counts = ", ".join(f"{figures[count]} {count.replace('_', ' ')}" for count in COUNTS)
    cells = []
    for figure in ("accuracy", "f1", "loss"):
        bounds = intervals[figure] if intervals else None
        cells.append(f"{figures[figure]:.4f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else ""))
    rows = [
        ("", "accuracy", "F1", "loss"),
        (title, *cells),
        (name, f"{figures['baseline_accuracy']:.4f}", f"{figures['baseline_f1']:.4f}", ""),
    ]
    column = max(map(len, cells)) + 2
    lines = [f"{row[0]:{width}}" + "".join(f"{cell:{column}}" for cell in row[1:]).rstrip() for row in rows]
    note = ["in brackets: 95 % intervals, over resampled pairs"] if intervals else []
    return "\n".join([*lines, f"{figures['pairs']:,} pairs: {counts}", *note])


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def speed(figures: Mapping[str, float]) -> str:
    """Write what `Throughput.figures` returned."""
    parts = [f"{figures.get('pairs_per_second', 0):,.0f} pairs/s", f"{figures['padding']:.1%} padding"]
    if "model_flops_utilization" in figures:
        parts.append(f"{figures['model_flops_utilization']:.0%} of the machine's matrix rate")
    if figures["peak_memory_gigabytes"]:
        parts.append(f"{figures['peak_memory_gigabytes']:.1f} GB at most")
    return ", ".join(parts)
