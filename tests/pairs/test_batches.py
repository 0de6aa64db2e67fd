import random
from collections import Counter
from typing import Any

import pytest
from torch.utils.data import DataLoader

from mrpc_lightning.pairs.batches import WINDOW, EvaluationBatches, TrainingBatches, counts

# Like MRPC's: 3,668 pairs of 19 to 103 tokens, 53 on average, whose standard deviation is 13.
LENGTHS = [min(max(round(random.Random(i).gauss(53, 13)), 19), 103) for i in range(3668)]
Batches = list[list[int]]


def epoch(number: int = 0, lengths: list[int] = LENGTHS, **options: Any) -> Batches:
    size, seed, window = options.pop("pairs_per_step", 16), options.pop("seed", 42), options.pop("window", WINDOW)
    batches = TrainingBatches(lengths, size, seed, window, **options)
    batches.set_epoch(number)
    made = list(batches)
    assert len(made) == len(batches)
    return made


def evaluation(lengths: list[int], batch_size: int = 64, **options: Any) -> Batches:
    batches = EvaluationBatches(lengths, batch_size, **options)
    assert len(list(batches)) == len(batches)
    return list(batches)


def padding(batches: Batches) -> float:
    """Share of all tokens that are padding."""
    width = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    return 1 - sum(LENGTHS[row] for batch in batches for row in batch) / width


@pytest.mark.parametrize("window", [0, WINDOW])
def test_the_order_follows_from_seed_and_epoch(window: int) -> None:
    first = epoch(window=window)
    assert Counter(row for batch in first for row in batch) == Counter(range(3668))
    assert len(first) == 230 and Counter(map(len, first)) == {16: 229, 4: 1}
    assert first == epoch(window=window)
    assert first != epoch(1, window=window)
    assert first != epoch(seed=43, window=window)
    assert epoch(1, window=window) != epoch(seed=43, window=window), "seeds share no epoch's order"


def test_bucketing_saves_padding_and_still_shuffles() -> None:
    assert padding(epoch(window=0)) > 0.25
    assert padding(epoch()) < 0.03
    assert padding(evaluation(LENGTHS)) < 0.01
    assert padding(evaluation(LENGTHS[:408])) < 0.04, "as many pairs as MRPC has to validate"
    widths = [max(LENGTHS[row] for row in batch) for batch in epoch()]
    assert widths[1:] != sorted(widths[1:]) and 16 * WINDOW < 3668
    neighbours = [set(batch) for batch in epoch(1)]
    assert not any(set(batch) in neighbours for batch in epoch()), "pairs meet others in each epoch"


@pytest.mark.parametrize("number", range(3))
def test_the_largest_batch_comes_first(number: int) -> None:
    sizes = [max(LENGTHS[row] for row in batch) * len(batch) for batch in epoch(number)]
    assert sizes[0] == max(sizes)


def test_the_first_batches_of_an_evaluation_are_not_all_short_or_all_long() -> None:
    widths = [max(LENGTHS[row] for row in batch) for batch in evaluation(LENGTHS)]
    assert widths not in (sorted(widths), sorted(widths, reverse=True))
    assert max(widths[:10]) - min(widths[:10]) > 20


@pytest.mark.parametrize("done", [1, 100, 229, 230])
def test_an_epoch_can_be_entered_at_any_batch_and_the_next_one_is_whole(done: int) -> None:
    batches = TrainingBatches(LENGTHS, 16, 42, WINDOW, epoch=2, steps_done=done)
    batches.set_epoch(2)
    assert list(batches) == epoch(2)[done:]
    assert len(batches) == 230, "Lightning counts whole epochs"
    batches.set_epoch(3)
    assert list(batches) == epoch(3)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("pairs", [3, 4, 48, 49, 50, 51, 408, 3668])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_each_pair_is_evaluated_on_one_process(pairs: int, processes: int, batch_size: int) -> None:
    lengths = LENGTHS[:pairs]
    alone = evaluation(lengths, batch_size)
    samplers = [EvaluationBatches(lengths, batch_size, processes, rank) for rank in range(processes)]
    taken: list[Any] = [[] for _ in alone]
    again = []
    for rank, sampler in enumerate(samplers):
        batches = [*sampler]
        assert len(batches) == len(sampler) == len(samplers[0]), "with fewer batches a process leaves others waiting"
        for number, batch in enumerate(batches):
            if counts(number, DataLoader(lengths, batch_size=None, sampler=sampler)):
                taken[number * processes + rank] = batch
            else:
                again.append(batch)
    assert taken == alone, "whole batches, as on one process"
    assert Counter(row for batch in alone for row in batch) == Counter(range(pairs))
    assert len(again) < processes and all(len(batch) == 1 for batch in again)


@pytest.mark.parametrize("window", [0, WINDOW])
@pytest.mark.parametrize("pairs", [6, 7, 48, 49, 53, 54, 59, 408, 3668])
@pytest.mark.parametrize("processes,parts", [(1, 1), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)])
@pytest.mark.parametrize("per_step", [6, 48])
def test_a_step_sees_the_same_pairs_on_any_number_of_processes_and_in_any_number_of_batches(
    pairs: int, processes: int, parts: int, window: int, per_step: int
) -> None:
    alone = epoch(1, LENGTHS[:pairs], pairs_per_step=per_step, window=window)
    shares = [
        epoch(
            1, LENGTHS[:pairs], pairs_per_step=per_step, window=window, num_replicas=processes, rank=rank, parts=parts
        )
        for rank in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1, "a process with fewer batches leaves the others waiting"
    batches = [*zip(*shares, strict=True)]
    steps = [batches[start : start + parts] for start in range(0, len(batches), parts)]
    assert all(len(rows) >= 1 for batch in batches for rows in batch), "a process without a pair makes the others wait"
    for batch in batches:
        assert max(map(len, batch)) - min(map(len, batch)) <= 1
    for step, expected in zip(steps, alone, strict=True):
        rows = [row for batch in step for rows in batch for row in rows]
        again = max(processes * parts - len(expected), 0)
        assert Counter(rows) == Counter(expected) + Counter({0: again})


@pytest.mark.parametrize("pairs", [48, 49, 53, 59, 408])
@pytest.mark.parametrize("processes,parts", [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("batches_left_out", [0, 1])
def test_each_pair_of_an_optimizer_step_weighs_the_same(
    pairs: int, processes: int, parts: int, batches_left_out: int
) -> None:
    samplers = [TrainingBatches(LENGTHS[:pairs], 12, 42, WINDOW, processes, rank, parts) for rank in range(processes)]
    batches = [*zip(*samplers, strict=True)]
    count = len(batches) - batches_left_out * (parts > 1)  # trainer.limit_train_batches may cut a step
    for start in range(0, count, parts):
        # What the Trainer makes of losses that count pairs: DDP's mean over processes, its own over all batches.
        total = sum(
            sampler.weight(number, parts, count) / processes / parts
            for number in range(start, min(start + parts, count))
            for sampler in samplers
        )
        assert total == pytest.approx(1, abs=1e-12)
        each = [
            (sampler.weight(number, parts, count) / len(rows), rows)
            for number in range(start, min(start + parts, count))
            for sampler, rows in zip(samplers, batches[number], strict=True)
        ]
        assert len({round(weight, 12) for weight, _ in each if weight}) == 1
        assert all(weight or rows == [0] for weight, rows in each), "what comes again weighs nothing"


@pytest.mark.parametrize("window", [0, WINDOW])
@pytest.mark.parametrize("replicas", [1, 3])
def test_both_orders_of_a_pair_come_once_an_epoch_and_never_in_one_batch(window: int, replicas: int) -> None:
    parts = [
        epoch(lengths=LENGTHS * 2, window=window, both_orders=True, num_replicas=replicas, rank=rank)
        for rank in range(replicas)
    ]
    batches = [[row for part in step for row in part] for step in zip(*parts, strict=True)]
    assert sorted(row for batch in batches for row in batch) == [*range(2 * 3668)]
    assert all(len({row % 3668 for row in batch}) == len(batch) for batch in batches)
    assert len(batches) == 2 * len(epoch(num_replicas=replicas, rank=0)), "twice the steps"
    mixed = [batch for batch in batches if {row < 3668 for row in batch} == {True, False}]
    assert len(mixed) > 0.9 * len(batches), "which order comes first is drawn for each pair"
    entered = TrainingBatches(LENGTHS * 2, 16, 42, window, replicas, 0, steps_done=100, both_orders=True)
    assert list(entered) == parts[0][100:]
