"""Results that look like results and are none: what to warn of, in the final table and in metrics.json."""

from collections.abc import Mapping
from typing import Any

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.text import shorten

EXAMPLES = 3


def of_figures(figures: Mapping[str, float | int], label_names: list[str], pairs: int) -> list[str]:
    """Warn of a model that has learned nothing, and of figures of a part of the pairs.

    Args:
        figures: What `results.collect` returned.
        label_names: Names of the negative and of the positive class.
        pairs: Pairs of the whole split.
    """
    predicted = (
        figures["true_negatives"] + figures["false_negatives"],
        figures["true_positives"] + figures["false_positives"],
    )
    warnings = []
    labelled = (
        figures["true_negatives"] + figures["false_positives"],
        figures["true_positives"] + figures["false_negatives"],
    )
    if 0 in labelled:
        name = label_names[int(labelled[0] == 0)]
        warnings.append(f'every pair is labelled "{name}": the figures say nothing of the other class')
    elif 0 in predicted:
        name = label_names[int(predicted[0] == 0)]
        warnings.append(
            f'every pair was predicted "{name}": a collapsed run; try another --seed_everything, a lower '
            "--model.learning_rate or more epochs"
        )
    if 0 not in labelled and all(
        abs(figures[name] - figures[f"baseline_{name}"]) < 1e-6 for name in ("accuracy", "f1")
    ):
        warnings.append(f'the figures are the baseline\'s, those of always answering "{label_names[1]}"')
    if figures["pairs"] < pairs:
        warnings.append(f"only {figures['pairs']:,} of {pairs:,} pairs were scored, as --trainer.limit_* says")
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
    if "train" in data.pairs and "validation" in data.pairs:
        trained = {pair_key(*sentences) for sentences in both_sentences(data, "train")}
        shared = [sentences for sentences in both_sentences(data, "validation") if pair_key(*sentences) in trained]
        details["validation_pairs_in_training"] = len(shared)
        if shared:
            examples = [f"{first} | {second}" for first, second in shared[:EXAMPLES]]
            details["examples_in_training"] = examples
            warnings.append(
                f"{len(shared):,} of {len(data.pairs['validation']):,} validation pairs were trained on, so the "
                "figures flatter: " + "; ".join(f'"{shorten(example)}"' for example in examples)
            )
    details["pairs_cut"] = dict(data.cut)
    cut = [f"{count:,} of {len(data.pairs[split]):,} {split} pairs" for split, count in data.cut.items() if count]
    if cut:
        warnings.append(
            f"{' and '.join(cut)} are longer than --data.max_length {data.hparams['max_length']} and were cut"
        )
    return warnings, details


def of_schedule(step: int, total_steps: int, learning_rate: float, peak: float) -> list[str]:
    """Warn of a learning rate that did not come down to 0.

    Args:
        step: Optimizer steps done.
        total_steps: Optimizer steps that the schedule was sized for.
        learning_rate: The learning rate of the last step.
        peak: The schedule's peak.
    """
    if step >= total_steps:
        return []
    return [
        f"training ended at optimizer step {step:,} of the {total_steps:,} that the schedule is sized for: the "
        f"learning rate was still {learning_rate:.2g} of {peak:.2g}; fewer --trainer.max_epochs would bring it to 0"
    ]


def both_sentences(data: MRPCDataModule, split: str) -> list[tuple[str, str]]:
    """Return a split's sentences, pair by pair."""
    pairs = data.pairs[split]
    return list(zip(pairs["sentence1"][:], pairs["sentence2"][:], strict=True))


def pair_key(first: str, second: str) -> frozenset[str]:
    """Return what two pairs have in common that differ in order, case or spaces alone."""
    return frozenset(" ".join(sentence.casefold().split()) for sentence in (first, second))
