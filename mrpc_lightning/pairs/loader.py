"""Batches as tensors: the tokens of some pairs, padded to one width."""

import signal
from functools import partial
from typing import Any

import numpy
import pyarrow
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from mrpc_lightning.pairs.batches import EvaluationBatches, TrainingBatches


class Orders(Dataset[Any]):
    """Tokens of pairs in one or both orders of their sentences.

    Args:
        orders: The tokens of the same pairs in each order, with as many rows.
    """

    def __init__(self, *orders: Any) -> None:
        self.orders = [order.with_format("arrow") for order in orders]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.orders[0])

    def __getitem__(self, rows: list[int]) -> pyarrow.Table:
        """Return some rows, first all in the one order, then all in the other."""
        return pyarrow.concat_tables([order[rows] for order in self.orders])

    __getitems__ = __getitem__  # where PyTorch batches the rows itself


def make_loader(
    tokens: Any,
    tokenizer: PreTrainedTokenizerBase,
    batches: TrainingBatches | EvaluationBatches | int,
    swapped: Any = None,
    width: int | None = None,
    pad_to_multiple_of: int | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Make the loader of all batches that there are: which rows share one, or pairs a batch in the order of their rows.

    With `swapped`, tokens of the same pairs with their sentences swapped, each pair comes in both orders. With `width`,
    each is padded to so many tokens, else to the longest of its batch.

    Returns:
        Batches as dictionaries: tokens of shape (batch, tokens), or (batch, 2 orders, tokens), and, where there are
        labels, `labels` of shape (batch,).
    """
    return DataLoader(
        Orders(tokens) if swapped is None else Orders(tokens, swapped),
        batch_size=batches if isinstance(batches, int) else None,
        sampler=None if isinstance(batches, int) else batches,
        collate_fn=partial(_collate, tokenizer, swapped is not None, width, pad_to_multiple_of or 1),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # making an iterator draws a number: not from the one that dropout uses
        pin_memory=pin_memory,
    )


def _collate(
    tokenizer: PreTrainedTokenizerBase, both_orders: bool, width: int | None, multiple: int, rows: pyarrow.Table
) -> dict[str, torch.Tensor]:
    # As transformers' DataCollatorWithPadding does, which takes twice as long over lists of Python's numbers.
    fillers = {"token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0, "special_tokens_mask": 1}
    batch: dict[str, torch.Tensor] = {}
    for name in rows.column_names:
        column = rows.column(name).combine_chunks()
        if name in ("labels", "soft_labels"):
            batch[name] = torch.tensor(column.to_pylist())
            continue
        lengths = column.value_lengths().to_numpy()[:, None]
        places = numpy.arange(-(-(width or lengths.max()) // multiple) * multiple)
        is_token = places < lengths if tokenizer.padding_side == "right" else places >= len(places) - lengths
        padded = numpy.full(is_token.shape, fillers.get(name, tokenizer.pad_token_id), dtype=numpy.int64)
        padded[is_token] = column.flatten().to_numpy()
        batch[name] = torch.from_numpy(padded)
    if both_orders:
        batch = {name: tensor.view(2, -1, *tensor.shape[1:]).transpose(0, 1) for name, tensor in batch.items()}
        batch |= {"labels": batch["labels"][:, 0]} if "labels" in batch else {}
    return batch


def ignore_signals(worker: int) -> None:
    """Leave signals to the process that a worker makes batches for: Ctrl-C and SLURM's go to all of them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
