"""What learning curves say, in words."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Epoch = Mapping[str, float]

# Of the loss of guessing by the share of positives: a training loss above it has learned next to nothing.
UNLEARNED = 0.9
# A rise of a loss by this share of that of guessing is no noise: of validation's above its lowest it is overfitting.
RISE = 0.1
# And a fall of validation's by this share of it in the last epoch is still learning.
FALL = 0.01


@dataclass(frozen=True)
class Diagnosis:
    """What learning curves say.

    Attributes:
        kind: "collapsed", "underfitting", "erratic", "overfitting", "still learning", "settled" or "too short".
        evidence: The numbers behind it, in a sentence.
        advice: What to try.
    """

    kind: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind.capitalize()}: {self.evidence}. {self.advice}"


def diagnose(epochs: Sequence[Epoch], figures: Mapping[str, float | int], label_names: Sequence[str]) -> Diagnosis:
    """Say what learning curves show: the first that holds of the kinds of `Diagnosis`, in their order.

    Args:
        epochs: For each epoch `epoch`, and loss, accuracy and F1 of training and validation by their logged names.
        figures: The kept checkpoint's, as `results.collect` returned them; and `training_positives`, the share of
            positive pairs among those of training.
        label_names: Names of the negative and of the positive class.
    """
    epochs = [epoch for epoch in epochs if "val_loss" in epoch]  # not every epoch must be validated
    pairs = figures["pairs"]
    answered = figures["true_positives"] + figures["false_positives"]
    share = (figures["true_positives"] + figures["false_negatives"]) / pairs
    # Of the training pairs, whose loss is beside it; the two splits may be mixed otherwise.
    trained = figures.get("training_positives", share)
    guessing = -sum(part * math.log(part) for part in (trained, 1 - trained) if part)
    learned = [epoch["train_loss"] <= UNLEARNED * guessing for epoch in epochs]
    if epochs and answered in (0, pairs) and 0 < share < 1 and not learned[-1]:
        return Diagnosis(
            "collapsed",
            f'the kept checkpoint answers "{label_names[int(answered > 0)]}" to all of {pairs:,} pairs, and training '
            f"loss ended at {epochs[-1]['train_loss']:.3f}, where guessing by the share of classes has {guessing:.3f}",
            "Try a lower model.learning_rate, another seed_everything, or more epochs.",
        )
    if len(epochs) < 2:
        return Diagnosis("too short", "one validated epoch makes no curve", "Raise trainer.max_epochs.")
    first, last = epochs[0], epochs[-1]
    training = (
        f"training loss {first['train_loss']:.3f} in epoch {first['epoch']}, {last['train_loss']:.3f} in epoch "
        f"{last['epoch']}"
    )
    if not any(learned) and guessing:
        return Diagnosis(
            "underfitting",
            f"{training}, where guessing by the share of classes has {guessing:.3f}",
            "Try a larger model.learning_rate or more epochs; look whether labels and sentences belong together.",
        )
    if swings := _swings(epochs, pairs, RISE * guessing):
        return Diagnosis(
            "erratic",
            f"from one epoch to the next, {swings}",
            "Steps are too large, or validation pairs too few: try a smaller model.learning_rate, a larger "
            "data.batch_size, or more warmup.",
        )
    lowest = min(epochs, key=lambda epoch: epoch["val_loss"])
    if last["val_loss"] > lowest["val_loss"] + RISE * guessing and last["train_loss"] < lowest["train_loss"]:
        return Diagnosis(
            f"overfitting since epoch {lowest['epoch'] + 1}",
            f"validation loss rose from {lowest['val_loss']:.3f} in epoch {lowest['epoch']} to {last['val_loss']:.3f} "
            f"in epoch {last['epoch']}, while training loss fell from {lowest['train_loss']:.3f} to "
            f"{last['train_loss']:.3f}",
            "The best epoch is kept. To overfit less: fewer epochs, a smaller model.learning_rate, more pairs.",
        )
    before = epochs[-2]
    if (
        lowest is last
        and last["val_loss"] < before["val_loss"] - FALL * guessing
        and last["val_f1"] >= before["val_f1"]
    ):
        return Diagnosis(
            "still learning",
            f"in the last epoch validation loss fell from {before['val_loss']:.3f} to {last['val_loss']:.3f}, and F1 "
            f"went from {before['val_f1']:.3f} to {last['val_f1']:.3f}",
            "Try more trainer.max_epochs.",
        )
    return Diagnosis(
        "settled",
        f"in the last two epochs validation loss was {before['val_loss']:.3f} and {last['val_loss']:.3f}, F1 "
        f"{before['val_f1']:.3f} and {last['val_f1']:.3f}; {training}",
        "More epochs promise little; another encoder or more pairs may.",
    )


def _swings(epochs: Sequence[Epoch], pairs: float, rise: float) -> str:
    """Name what went the wrong way by more than chance, at least twice and in a quarter of the epochs."""
    steps = list(itertools.pairwise(epochs))
    enough = max(2, math.ceil(len(steps) / 4))
    rises = [after for before, after in steps if after["train_loss"] > before["train_loss"] + rise]
    if len(rises) >= enough:
        return f"training loss rose by more than {rise:.2f} {len(rises)} times"
    falls = [
        (before["val_accuracy"], after["val_accuracy"])
        for before, after in steps
        if before["val_accuracy"] - after["val_accuracy"] > 2 * _standard_error(before["val_accuracy"], pairs)
    ]
    if len(falls) >= enough:
        before, after = max(falls, key=lambda fall: fall[0] - fall[1])
        return (
            f"validation accuracy fell by more than two standard errors {len(falls)} times, at most from {before:.3f} "
            f"to {after:.3f}"
        )
    return ""


def _standard_error(share: float, pairs: float) -> float:
    return math.sqrt(share * (1 - share) / pairs)
