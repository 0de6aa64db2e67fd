"""Results that look like results and are none: what to warn of, in the final table and in metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.pairs.sources import pair_key
from mrpc_lightning.report.metrics import TITLES, number
from mrpc_lightning.text import printable, shorten

EXAMPLES = 3


def of_metrics(metrics: Mapping[str, Any], label_names: Sequence[str], pairs: int) -> list[str]:
    """Warn of a model that has learned nothing, and of metrics of a part of the pairs.

    A warning states a fact. What to try is said by `curves.diagnose` alone, so that no two lines contradict each other.

    Args:
        metrics: What `metrics.collect` returned.
        label_names: Names of the negative and of the positive class.
        pairs: Pairs of the whole split.
    """
    negative, positive = label_names
    predicted = metrics["true_positives"] + metrics["false_positives"]
    labelled = metrics["true_positives"] + metrics["false_negatives"]
    warnings = []
    if labelled in (0, metrics["pairs"]):
        name = positive if labelled else negative
        warnings.append(f'every pair is labelled "{name}": the metrics say nothing of the other class')
    else:
        if predicted in (0, metrics["pairs"]):
            name = positive if predicted else negative
            warnings.append(f'every pair was predicted "{name}": the model has collapsed to one class')
        for name, always in (("accuracy", metrics["baseline_accuracy_class"]), ("f1", positive)):
            value, baseline = metrics[name], metrics[f"baseline_{name}"]
            if value < baseline:
                line = f"{TITLES[name]} {number(value)} is below the baseline, {number(baseline)} of always"
                warnings.append(f'{line} "{always}"')
        if all(metrics[name] == metrics[f"baseline_{name}"] for name in ("accuracy", "f1")):
            warnings.append(f'accuracy and F1 are the baseline\'s, those of always "{positive}"')
    if metrics["pairs"] < pairs:
        warnings.append(f"only {metrics['pairs']:,} of {pairs:,} pairs were scored, as trainer.limit_* says")
    return warnings


def of_pairs(data: MRPCDataModule) -> tuple[list[str], dict[str, Any]]:
    """Warn of validation pairs that were trained on, and of pairs that were cut.

    Args:
        data: The data, set up.

    Returns:
        The warnings, and what they count, for programs.
    """
    warnings: list[str] = []
    details: dict[str, Any] = {}
    if {"train", "validation"} <= data.pairs.keys():
        train, validation = (
            list(zip(data.pairs[split]["sentence1"][:], data.pairs[split]["sentence2"][:], strict=True))
            for split in ("train", "validation")
        )
        trained = {pair_key(*sentences) for sentences in train}
        shared = [f"{first} | {second}" for first, second in validation if pair_key(first, second) in trained]
        details["validation_pairs_in_training"] = len(shared)
        if shared:
            details["examples_in_training"] = shared[:EXAMPLES]
            examples = "; ".join(f'"{shorten(printable(example))}"' for example in shared[:EXAMPLES])
            warnings.append(
                f"{len(shared):,} of {len(validation):,} validation pairs were trained on, so the metrics flatter: "
                f"{examples}"
            )
    details["pairs_cut"] = dict(data.cut)
    cut = [f"{count:,} of {len(data.pairs[split]):,} {split} pairs" for split, count in data.cut.items() if count]
    if cut:
        warnings.append(
            f"{' and '.join(cut)} are longer than data.max_length {data.hparams['max_length']} and were cut"
        )
    return warnings, details


def of_schedule(step: int, total_steps: int, learning_rate: float, peak: float, schedule: str = "linear") -> list[str]:
    """Warn of a learning rate that did not come down to 0, where training ended before the schedule's last step."""
    if step >= total_steps or schedule == "constant":
        return []
    return [
        f"training ended at optimizer step {step:,} of the {total_steps:,} that the schedule is sized for: the "
        f"learning rate did not come down to 0, it was still {learning_rate:.2g} of {peak:.2g}"
    ]
