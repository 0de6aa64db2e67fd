from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, BinaryStatScores

METRICS = [f"{stage}_{name}" for stage in ("val", "train") for name in ("loss", "accuracy", "f1")]
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")


class EpochMetrics(nn.Module):
    """Loss, accuracy and F1, the means over the pairs of an epoch, on any number of processes.

    Args:
        stage: "train", "val" or "test": the prefix of the metrics' names.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.mean_loss = MeanMetric(nan_strategy="disable")
        # Labels were checked when they were read, and predictions are classes.
        kinds = {"accuracy": BinaryAccuracy, "f1": BinaryF1Score, "counts": BinaryStatScores}
        self.scores = MetricCollection({name: kind(validate_args=False) for name, kind in kinds.items()})

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, logits of shape (batch, 2), labels of shape (batch,)."""
        # torchmetrics 1.9 loses `weight` where NaN is let through; so the loss comes once for each pair.
        self.mean_loss.update(loss.detach().expand(len(labels)))
        # Classes, not logits: torchmetrics guesses from their range whether logits still need a sigmoid.
        self.scores.update(logits.argmax(dim=-1), labels)

    def compute(self) -> dict[str, Tensor]:
        """Return loss, accuracy and F1 so far, by name."""
        scores = self.scores.compute()
        values = {"loss": self.mean_loss.compute(), "accuracy": scores["accuracy"], "f1": scores["f1"]}
        return {f"{self.stage}_{name}": value for name, value in values.items()}

    def counts(self) -> dict[str, Tensor]:
        """Return the four counts behind them, by name."""
        values = self.scores.compute()["counts"][:4].float()
        return {f"{self.stage}_{name}": value for name, value in zip(COUNTS, values, strict=True)}

    def reset(self) -> None:
        """Forget all batches."""
        self.mean_loss.reset()
        self.scores.reset()
