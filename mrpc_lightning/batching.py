from collections.abc import Iterator, Sequence

import numpy
from torch.utils.data.distributed import DistributedSampler

# Batches whose pairs are sorted by length together. Wider windows pad less and shuffle less.
WINDOW = 50


class TrainingBatches(DistributedSampler[list[int]]):
    """Batches of row numbers: shuffled by seed and epoch, and with `bucketing` of pairs of similar length.

    Each epoch's order follows from seed and epoch alone, so that an epoch can be entered at any batch. Every pair
    comes once an epoch; on several processes the last ones fill up with a pair each to keep in step.

    A DistributedSampler, so that Lightning tells it the epoch and does not put one of its own around it.

    Args:
        lengths: Tokens of each pair.
        batch_size: Pairs a process and step.
        seed: Seed of the order.
        bucketing: Whether pairs of similar length share a batch: shuffled pairs are sorted by length in windows of
            `WINDOW` batches, cut into batches, and the batches are shuffled.
        num_replicas: Number of processes.
        rank: This process.
        epoch: The epoch to begin with.
        batches_done: Batches of that epoch to leave out, as they were trained on before.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        bucketing: bool = True,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        batches_done: int = 0,
    ) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]  # it only asks for the length
        self.lengths = numpy.asarray(lengths)
        self.batch_size = batch_size
        self.bucketing = bucketing
        self.epoch = epoch
        self._start = (epoch, batches_done)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Return this process's batches of the epoch."""
        epoch, batches_done = self._start
        return iter(self._epoch_batches()[batches_done * (self.epoch == epoch) :])

    def _epoch_batches(self) -> list[list[int]]:
        generator = numpy.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        order = numpy.resize(order, self.total_size)  # fills up from the front
        step = self.batch_size * self.num_replicas
        if self.bucketing:
            windows = [order[i : i + step * WINDOW] for i in range(0, len(order), step * WINDOW)]
            order = numpy.concatenate([window[self.lengths[window].argsort(kind="stable")] for window in windows])
        batches = [order[i : i + step] for i in range(0, len(order), step)]
        if self.bucketing:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return [batch[self.rank :: self.num_replicas].tolist() for batch in batches]
