"""Which pairs share a batch, and in which order batches come.

Pairs of similar length share a batch, which saves padding. On several processes each pair is on one of them, and all
have as many batches. An optimizer step sees the same pairs on any number of processes, and in however many batches.
Both samplers are DistributedSamplers, so that Lightning tells them the epoch and puts none of its own around them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler

from mrpc_lightning.errors import InputError

# Optimizer steps whose pairs are sorted by length together. Wider windows pad less and shuffle less: the table is in
# benchmarks/README.md.
WINDOW = 25
# Share of an evaluation batch that may be padding, before it ends with the next full group of pairs; over all of MRPC's
# validation batches it comes to 3.2 %.
PADDING = 0.02
MOST_PADDING = 0.3  # at which a batch ends at once: the next pair is far longer
# Pairs. Batches of all sizes would have matrices of many shapes, for each of which a CPU's library compiles.
GROUP = 16

Rows = NDArray[Any]  # whole numbers


class TrainingBatches(DistributedSampler[list[int]]):
    """Batches of row numbers, shuffled by seed and epoch.

    Which pairs an optimizer step sees follows from seed and epoch alone, so that an epoch can be entered at any step,
    and by another number of processes.

    Args:
        lengths: Tokens of each row.
        pairs_per_step: Pairs of an optimizer step, over all processes and batches.
        seed: Seed of the order.
        window: Shuffled pairs are sorted by length in windows of this many steps, and cut into steps; these are
            shuffled, the largest one first: a shortage of memory shows at once. 0: nothing is sorted.
        num_replicas: Number of processes.
        rank: This process.
        parts: Batches of a process in each optimizer step. Where an epoch's last step has too few pairs for all of
            them, some come again, and weigh nothing.
        epoch: The epoch to begin with.
        steps_done: Optimizer steps of that epoch to leave out, as they were trained on before.
        both_orders: The second half of the rows are the pairs of the first half with their sentences swapped. No step
            has a pair in both orders.

    Memory is 6 bytes a row: a length takes two, and a row's number four.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Rows,
        pairs_per_step: int,
        seed: int,
        window: int,
        num_replicas: int = 1,
        rank: int = 0,
        parts: int = 1,
        epoch: int = 0,
        steps_done: int = 0,
        both_orders: bool = False,
    ) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]  # it only asks for the length
        self.lengths = numpy.asarray(lengths)
        self.orders = 1 + both_orders
        self.pairs = len(lengths) // self.orders
        self.pairs_per_step = pairs_per_step
        self.parts = parts
        self.window = window
        self.epoch = epoch
        self._start = (epoch, steps_done)
        self._steps: Rows = numpy.empty(0, dtype=numpy.int64)  # of the epoch, in the order in which they come

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._starts()) * self.orders * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        """Return this process's batches of the epoch."""
        rows, self._steps = self._shuffled()
        epoch, steps_done = self._start
        left = self._steps[steps_done * (self.epoch == epoch) :]
        batches = (part for step in left for part in numpy.array_split(rows[self._place(step)], self.parts))
        return (batch[self.rank :: self.num_replicas].tolist() or [0] for batch in batches)

    def weight(self, batch: int, accumulated: int, batches: int) -> float:
        """Return by what a batch's mean loss is multiplied, so that all pairs of an optimizer step weigh the same.

        The Trainer divides the sum of an optimizer step's losses by processes and accumulated batches, also where the
        last step of an epoch has fewer of these, or of pairs.

        Args:
            batch: The batch's number in the epoch.
            accumulated: Batches of a process that the Trainer accumulates.
            batches: Batches of a process in the epoch.
        """
        own = len(range(self.rank, self._size(batch), self.num_replicas))
        first = batch // accumulated * accumulated
        of_step = sum(map(self._size, range(first, min(first + accumulated, batches))))
        return own * self.num_replicas * accumulated / of_step if own else 0.0

    def _size(self, batch: int) -> int:
        """Return the pairs of a batch of the epoch, over all processes."""
        step, part = divmod(batch, self.parts)
        place = self._place(self._steps[step])
        return len(range(place.start + part, place.stop, self.parts))  # as numpy.array_split has it

    def _shuffled(self) -> tuple[Rows, Rows]:
        """Return the rows of all optimizer steps, one step after the other, and the numbers of the steps, shuffled."""
        generator = numpy.random.default_rng([self.seed, self.epoch])
        pairs = numpy.arange(self.pairs, dtype=numpy.uint32)
        passes = [generator.permutation(pairs)]
        if self.orders == 2:  # each pair in one order, drawn at random, and then each in the other
            swapped = generator.integers(2, size=self.pairs).astype(numpy.uint32)
            again = generator.permutation(pairs)
            passes = [passes[0] + self.pairs * swapped[passes[0]], again + self.pairs * (1 - swapped[again])]
        steps = numpy.arange(len(self._starts()) * self.orders)
        if not self.window:
            return numpy.concatenate(passes), steps
        widest = []
        for order in passes:
            for start in range(0, self.pairs, self.pairs_per_step * self.window):
                window = order[start : start + self.pairs_per_step * self.window]
                window[:] = window[self.lengths[window].argsort(kind="stable")]
            widest.append(numpy.maximum.reduceat(self.lengths[order], self._starts()))
        steps = generator.permutation(steps)
        sizes = numpy.minimum(self.pairs - steps % len(self._starts()) * self.pairs_per_step, self.pairs_per_step)
        largest = int((sizes * numpy.concatenate(widest)[steps]).argmax())
        steps[: largest + 1] = numpy.roll(steps[: largest + 1], 1)
        return numpy.concatenate(passes), steps

    def _place(self, step: int) -> slice:
        """Return where the rows of an optimizer step are: of one pass after the other, and in it step after step."""
        done, number = divmod(int(step), len(self._starts()))
        start = number * self.pairs_per_step
        return slice(done * self.pairs + start, done * self.pairs + min(start + self.pairs_per_step, self.pairs))

    def _starts(self) -> range:
        return range(0, self.pairs, self.pairs_per_step)


def share_out(pairs_per_step: int, processes: int, parts: int) -> int:
    """Check that the pairs of an optimizer step can be shared evenly; return how many each process has at a time.

    Raises:
        InputError: If they cannot.
    """
    pairs, left = divmod(pairs_per_step, shares := processes * parts)
    if left:
        among = [f"{processes} processes"] * (processes > 1) + [f"{parts} accumulated batches"] * (parts > 1)
        near = " or ".join(str(n * shares) for n in (pairs, pairs + 1) if n)
        what = f"data.global_batch_size {pairs_per_step}: cannot be shared among {' of '.join(among)}"
        raise InputError(f"{what}; give {near}")
    return pairs


def weight_of(batch: int, trainer: Any) -> float:
    """Return the `weight` of a batch of the Trainer's; 1 where its loader is another's."""
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    if not isinstance(sampler, TrainingBatches):
        return 1.0
    return sampler.weight(batch, trainer.accumulate_grad_batches, trainer.num_training_batches)


class EvaluationBatches(DistributedSampler[list[int]]):
    """Batches of row numbers, of pairs of nearly the same length; the same each time, and on any number of processes.

    They come in a shuffled order, so that the first few (`trainer.limit_val_batches`) are not of one length. Processes
    take them in turns, whole: what a model says of a pair depends in the last digit on what it shares a batch with.

    Args:
        lengths: Tokens of each pair.
        batch_size: Pairs a batch at most: it ends earlier where `PADDING` would be passed.
        num_replicas: Number of processes.
        rank: This process.

    Attributes:
        batches: The batches of all processes.
    """

    def __init__(self, lengths: Sequence[int] | Rows, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]  # it only asks for the length
        order = numpy.argsort(lengths, kind="stable")
        starts, tokens = [0], 0
        for place, length in enumerate(numpy.asarray(lengths)[order].tolist()):
            pairs = place - starts[-1]
            share = 1 - (tokens + length) / (length * (pairs + 1))  # of padding, with this pair
            padded = share > (PADDING if pairs % GROUP == 0 else MOST_PADDING)
            if pairs == batch_size or (pairs and padded):
                starts.append(place)
                tokens = 0
            tokens += length
        batches = numpy.split(order, starts[1:])
        shuffled = numpy.random.default_rng(0).permutation(len(batches))
        self.batches = [batches[i].tolist() for i in shuffled]

    @property
    def own(self) -> list[list[int]]:
        """This process's batches."""
        return self.batches[self.rank :: self.num_replicas]

    def __len__(self) -> int:
        """Return the number of batches of each process."""
        return -(-len(self.batches) // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        """Return this process's batches, and a pair that comes again where it has one fewer than others."""
        return iter([*self.own, self.batches[0][:1]][: len(self)])


def counts(batch: int, loader: Any) -> bool:
    """Say whether a batch of a process is one of its own, and no pair that comes again to keep it busy."""
    alone = loader[0] if isinstance(loader, list) and len(loader) == 1 else loader
    sampler = getattr(alone, "sampler", None)
    return not isinstance(sampler, EvaluationBatches) or batch < len(sampler.own)
