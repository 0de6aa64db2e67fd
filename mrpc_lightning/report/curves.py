"""What learning curves say, in words."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Epoch = Mapping[str, float]

# Shares of the loss of guessing by the share of positives. A loss above this has learned next to nothing;
UNLEARNED = 0.9
# a rise by this much is no noise: of validation's loss above its lowest it is overfitting;
RISE = 0.1
# one of training's above this is worse than knowing nothing;
DIVERGED = 1.5
# and a fall of validation's by this much in the last epoch is still learning.
FALL = 0.01
# A gain of accuracy or F1 counts from a tenth of a point on, and from half a pair.
GAIN = 0.001
ERRATIC = (
    "Steps are too large, or validation pairs too few: try a smaller model.learning_rate, a larger "
    "data.global_batch_size, or more warmup."
)
# BERT-like encoders are fine-tuned with 1e-5 and more: below it, steps are likely too small.
SMALL_RATE = 1e-5


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


def diagnose(
    epochs: Sequence[Epoch],
    metrics: Mapping[str, Any],
    label_names: Sequence[str],
    learning_rate: float | None = None,
    stopped_early: bool = False,
) -> Diagnosis:
    """Say what learning curves show: the first that holds of the kinds of `Diagnosis`, in their order.

    Training's loss alone decides nothing: it is the mean of an epoch in which weights still move, with dropout on.

    Args:
        epochs: For each epoch `epoch`, and loss, accuracy and F1 of training and validation by their logged names.
        metrics: The kept checkpoint's, as `metrics.collect` returned them; and `training_positives`, the share of
            positive pairs among those of training.
        label_names: Names of the negative and of the positive class.
        learning_rate: The schedule's peak, if it is known.
        stopped_early: Whether early stopping ended the run, and not its number of epochs.
    """
    epochs = [epoch for epoch in epochs if "val_loss" in epoch]  # not every epoch must be validated
    pairs = metrics["pairs"]
    predicted = metrics["true_positives"] + metrics["false_positives"]
    share = (metrics["true_positives"] + metrics["false_negatives"]) / pairs
    # The two splits may be mixed differently.
    shares = {"train": metrics.get("training_positives", share), "val": share}
    guessing = {split: -sum(p * math.log(p) for p in (one, 1 - one) if p) for split, one in shares.items()}
    scale = max(guessing.values())
    more = "a larger early_stopping.patience" if stopped_early else "more trainer.max_epochs"

    def has_learned(epoch: Epoch) -> bool:
        better = epoch["val_accuracy"] > max(share, 1 - share) + 2 * _standard_error(share, pairs)
        low = any(epoch[f"{split}_loss"] <= UNLEARNED * guessing[split] for split in guessing)
        return low or (better and epoch["val_loss"] <= (1 - FALL) * guessing["val"])

    # Where the steps tore the weights apart, more of them do not help.
    diverged = bool(epochs) and epochs[-1]["train_loss"] > DIVERGED * guessing["train"]
    rate = _other_rate(learning_rate, diverged)
    known = f"guessing by the share of classes has {guessing['train']:.3f}"
    if epochs and predicted in (0, pairs) and 0 < share < 1 and not has_learned(epochs[-1]):
        return Diagnosis(
            "collapsed",
            f'the kept checkpoint predicts "{label_names[predicted > 0]}" for all of {pairs:,} pairs, and training '
            f"loss ended at {epochs[-1]['train_loss']:.3f}, where {known}",
            f"Try {rate} or another seed_everything."
            if diverged
            else f"Try {rate}, another seed_everything, or {more}.",
        )
    if len(epochs) < 2:
        return Diagnosis("too short", "one validated epoch makes no curve", f"Try {rate if diverged else more}.")
    first, before, last = epochs[0], epochs[-2], epochs[-1]
    training = f"training loss went from {first['train_loss']:.3f} to {last['train_loss']:.3f}"
    if not any(map(has_learned, epochs)):
        return Diagnosis(
            "underfitting",
            f"{training}, where {known}; validation loss ended at {last['val_loss']:.3f}",
            f"Try {rate if diverged else f'{rate}, or {more}'}; look whether labels and sentences belong together.",
        )
    if swings := _swings(epochs, pairs, RISE * scale):
        return Diagnosis("erratic", f"from one epoch to the next, {swings}", ERRATIC)
    # The kept epoch is chosen by F1: while F1 or accuracy reaches new heights there is something to gain.
    gain = max(GAIN, 0.5 / pairs)
    rising = any(last[name] >= max(epoch[name] for epoch in epochs[:-1]) + gain for name in ("val_f1", "val_accuracy"))
    lowest = min(epochs, key=lambda epoch: epoch["val_loss"])
    if last["val_loss"] > lowest["val_loss"] + RISE * scale and not rising:
        since, until = f"in epoch {lowest['epoch']}", f"in epoch {last['epoch']}"
        rose = f"validation loss rose from {lowest['val_loss']:.3f} {since} to {last['val_loss']:.3f} {until}"
        change = f"from {lowest['train_loss']:.3f} to {last['train_loss']:.3f}"
        if last["train_loss"] > lowest["train_loss"] + RISE * guessing["train"]:
            return Diagnosis("erratic", f"{rose}, and training loss with it, {change}", ERRATIC)
        return Diagnosis(
            f"overfitting since epoch {lowest['epoch'] + 1}",
            f"{rose}, while training loss {'fell' if last['train_loss'] < lowest['train_loss'] else 'went'} {change}",
            "The best epoch is kept. To overfit less: fewer epochs, a smaller model.learning_rate, more pairs.",
        )
    names = {"val_loss": "validation loss went", "val_accuracy": "accuracy", "val_f1": "F1"}
    steps = ", ".join(f"{title} from {before[name]:.3f} to {last[name]:.3f}" for name, title in names.items())
    if rising or (lowest is last and last["val_loss"] < before["val_loss"] - FALL * scale):
        why = "accuracy or F1 is the highest so far" if rising else "validation loss still falls"
        return Diagnosis("still learning", f"in the last epoch {steps}: {why}", f"Try {more}.")
    return Diagnosis(
        "settled",
        f"in the last epoch {steps}; in all of them {training}",
        "More epochs promise little; another encoder or more pairs may help.",
    )


def _other_rate(learning_rate: float | None, diverged: bool) -> str:
    """Say which way to change a learning rate with which nothing was learned."""
    if diverged:
        return "a lower model.learning_rate"
    if learning_rate is not None and learning_rate < SMALL_RATE:
        return "a higher model.learning_rate"
    return "another model.learning_rate, lower or higher"


def _swings(epochs: Sequence[Epoch], pairs: float, rise: float) -> str:
    """Name what went the wrong way by more than chance, at least twice and in a quarter of the epochs."""
    steps = list(itertools.pairwise(epochs))
    enough = max(2, math.ceil(len(steps) / 4))
    rises = sum(after["train_loss"] > before["train_loss"] + rise for before, after in steps)
    if rises >= enough:
        return f"training loss rose by more than {rise:.2f} {rises} times"
    accuracies = [(before["val_accuracy"], after["val_accuracy"]) for before, after in steps]
    falls = [(high, low) for high, low in accuracies if high - low > 2 * _standard_error(high, pairs)]
    if len(falls) < enough:
        return ""
    high, low = max(falls, key=lambda fall: fall[0] - fall[1])
    return (
        f"validation accuracy fell by more than two standard errors {len(falls)} times, at most from {high:.3f} to "
        f"{low:.3f}"
    )


def _standard_error(share: float, pairs: float) -> float:
    return math.sqrt(share * (1 - share) / pairs)
