"""Results that look like results and are none: what to warn of, in the final table and in metrics.json."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mrpc_lightning import origin
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.pairs import hashes
from mrpc_lightning.pairs.sources import pair_key, pieces
from mrpc_lightning.report.metrics import TITLES, number
from mrpc_lightning.text import count, printable, shorten

EXAMPLES = 3
# Of fewer pairs, a model that errs on one in ten gets all right in one split of 20 (0.9^29 = 0.047): the bootstrap then
# has nothing wrong to draw, and an interval of width 0, where the rule of three has 10 points (3 / 30).
FEW = 30
# Encoders that were tuned on STS-B say so in their names. So many of MRPC's pairs by split, as GLUE has both, are pairs
# of STS-B's training split too, and of how many: computed on GLUE's files, in letters and digits alone.
STSB = re.compile(r"(?<![a-z])sts[-_]?b(enchmark)?(?![a-z])", re.IGNORECASE)
MRPC_IN_STSB = {"validation": (48, 408), "test": (499, 1725)}


def of_metrics(metrics: Mapping[str, Any], label_names: Sequence[str], pairs: int) -> list[str]:
    """Warn of a model that has learned nothing, of too few pairs, and of metrics of a part of the pairs.

    A warning states a fact. What to try is said by `curves.diagnose` alone, so that no two lines contradict each other.

    Args:
        metrics: What `metrics.collect` and `overlap.score` returned.
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
        collapsed = predicted in (0, metrics["pairs"])
        if collapsed:
            name = positive if predicted else negative
            warnings.append(f'every pair was predicted "{name}": the model tells no pair from another')
        for name, always in (("accuracy", metrics["baseline_accuracy_class"]), ("f1", positive)):
            value, baseline = metrics[name], metrics[f"baseline_{name}"]
            if value < baseline:
                line = f"{TITLES[name]} {number(value)} is below the baseline, {number(baseline)} of always"
                warnings.append(f'{line} "{always}"')
            elif not collapsed and value <= metrics.get(f"overlap_{name}", -1):
                line = f"{TITLES[name]} {number(value)} is not above that of word overlap"
                overlap = number(metrics[f"overlap_{name}"])
                warnings.append(f"{line}, {overlap} (a threshold on the share of common words)")
            elif not collapsed and (margin := metrics.get("overlap_margins", {}).get(name)) and margin[0] < 0:
                line = f"{TITLES[name]} {number(value)} is not shown to be above that of word overlap"
                between = f"the difference is between {margin[0]:+.3f} and {margin[1]:+.3f} (95 %)"
                warnings.append(f"{line}, {number(metrics[f'overlap_{name}'])}: {between}")
        if all(metrics[name] == metrics[f"baseline_{name}"] for name in ("accuracy", "f1")):
            warnings.append(f'accuracy and F1 are the baseline\'s, those of always "{positive}"')
    if metrics["pairs"] < FEW:
        few = f"the intervals are of {count(metrics['pairs'], 'pair')}"
        warnings.append(f"{few}: below {FEW} they are too narrow, of no width where all is right")
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
        validation = data.pairs["validation"]
        keys = list(map(pair_key, validation["sentence1"][:], validation["sentence2"][:]))
        trained, scored = set[frozenset[str]](), {*keys}
        for piece in pieces(data.pairs["train"]):
            trained |= scored.intersection(map(pair_key, piece["sentence1"][:], piece["sentence2"][:]))
        known = (validation[row] for row, key in enumerate(keys) if key in trained)
        shared = [f"{pair['sentence1']} | {pair['sentence2']}" for pair in known]
        details["validation_pairs_in_training"] = len(shared)
        if shared:
            details["examples_in_training"] = shared[:EXAMPLES]
            examples = "; ".join(f'"{shorten(printable(example))}"' for example in shared[:EXAMPLES])
            warnings.append(
                f"{len(shared):,} of {len(validation):,} validation pairs are training pairs too, so the metrics "
                f"flatter: {examples}"
            )
    details["rows_left_out"] = {split: left_out for split, left_out in data.reader.left_out.items() if left_out}
    for split, left_out in details["rows_left_out"].items():
        rows = f"{count(left_out, 'row')} of {data.source(split)}"
        warnings.append(f"{rows} left out, as data.skip_bad_rows says: a sentence is empty, or the label missing")
    details["pairs_cut"] = dict(data.cut)
    cut = [f"{pairs:,} of {len(data.pairs[split]):,} {split} pairs" for split, pairs in data.cut.items() if pairs]
    if cut:
        warnings.append(f"{' and '.join(cut)} are longer than data.max_length {data.hparams['max_length']} and are cut")
    return warnings, details


def of_ancestors(data: MRPCDataModule, split: str) -> tuple[list[str], dict[str, Any]]:
    """Warn of scored pairs that the model's weights were trained on before the run began.

    Args:
        data: The data, set up.
        split: The split that is scored.

    Returns:
        The warnings, and for programs what they count, with the `ancestors`, the last one first.
    """
    pairs, ancestors, warnings = data.pairs[split], data.ancestors, []
    details: dict[str, Any] = {"ancestors": list(map(origin.facts, ancestors))}
    if ancestors:
        same, sharing = hashes.count(pairs, ancestors)
        details |= {"pairs_in_ancestors": same, "pairs_sharing_a_sentence_with_ancestors": sharing}
        if unknown := [one for one in ancestors if one["training_pairs"] and not len(one["pair_hashes"])]:
            many = f"{unknown[0]['training_pairs']:,} training pairs of an ancestor of this model"
            warnings.append(f"whether {split} pairs are among the {many} is not known: they are too many to keep")
        of, theirs = f"of {len(pairs):,} {split} pairs", "of an ancestor of this model"
        if same:
            warnings.append(f"{same:,} {of} are training pairs {theirs}: the metrics flatter")
        if sharing:
            warnings.append(f"{sharing:,} {of} share a sentence with other training pairs {theirs}")
    encoder = ancestors[-1]["encoder"] if ancestors else data.hparams["model_name"]
    same, of_mrpc = MRPC_IN_STSB.get(data.reader.name_of(split), (0, 0))
    is_mrpc = data.source(split) in ("nyu-mll/glue mrpc", data.hparams["data_dir"]) and len(pairs) == of_mrpc
    if is_mrpc and STSB.search(encoder):
        warnings.append(
            f"the encoder was tuned on STS-B, by its name, whose training split holds {same} of MRPC's {of_mrpc:,} "
            f"{split} pairs: the metrics may flatter"
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
