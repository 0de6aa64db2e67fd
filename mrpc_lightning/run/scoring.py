"""What a model says of the pairs of a split or a file, on any number of processes: the one way to score pairs."""

from itertools import chain
from typing import Any

import numpy
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.nn.speedups import make_fast, packed

Array = NDArray[numpy.float64]


def score(
    trainer: Trainer, model: ParaphraseClassifier, loader: DataLoader[Any], checkpoint: str | None = None
) -> tuple[NDArray[numpy.int64], Array]:
    """Return the rows that were scored, in ascending order, and the probabilities of each row's two classes.

    Args:
        trainer: The Trainer. Every process must call this function.
        model: The model.
        loader: One of the data module's loaders: its sampler knows which rows are in which batch.
        checkpoint: A checkpoint whose weights are loaded first.

    Returns:
        Row numbers, of shape (pairs,); and probabilities, of shape (pairs, 2), or (pairs, 2 orders, 2 classes) where
        the loader gives pairs in both orders of their sentences. The same on every process.
    """
    # The loader is ready: a data module of a fit that came before need not be set up for prediction.
    owner: Any = trainer
    data, owner.datamodule = owner.datamodule, None
    assert model.model is not None
    device = trainer.strategy.root_device
    make_fast(model.model, device)  # as the Trainer will; it computes a little, for which no weights need be packed
    options: dict[str, Any] = {"return_predictions": True, "ckpt_path": checkpoint, "weights_only": True}
    try:
        with packed(model.model, device):
            outputs: Any = trainer.predict(model, loader, **options)
    finally:
        owner.datamodule = data
    found: Array = torch.cat(outputs).cpu().double().numpy()
    sampler: Any = loader.sampler
    rows = numpy.array([*chain.from_iterable(sampler.own)], dtype=numpy.int64)[: len(found)]
    found = found[: len(rows)]  # without a pair that came again
    if trainer.world_size > 1:
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, (rows, found))
        rows, found = (numpy.concatenate(values) for values in zip(*parts, strict=True))
    order = numpy.argsort(rows)
    return rows[order], found[order]
