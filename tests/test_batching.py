import random
from collections import Counter
from typing import Any

import pytest

from mrpc_lightning.batching import WINDOW, TrainingBatches

LENGTHS = random.Random(0).choices(range(10, 100), k=1003)


def epoch(number: int = 0, **options: Any) -> list[list[int]]:
    batches = TrainingBatches(LENGTHS, 16, options.pop("seed", 42), **options)
    batches.set_epoch(number)
    return list(batches)


def padding(batches: list[list[int]]) -> float:
    """Share of all tokens that are padding."""
    width = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    return 1 - sum(LENGTHS[row] for batch in batches for row in batch) / width


@pytest.mark.parametrize("bucketing", [True, False])
def test_each_pair_comes_once_an_epoch_in_an_order_of_seed_and_epoch(bucketing: bool) -> None:
    first = epoch(bucketing=bucketing)
    assert Counter(row for batch in first for row in batch) == Counter(range(1003))
    assert len(first) == len(TrainingBatches(LENGTHS, 16, 42)) == 63
    assert first == epoch(bucketing=bucketing)
    assert first != epoch(1, bucketing=bucketing)
    assert first != epoch(seed=43, bucketing=bucketing)
    assert epoch(1, bucketing=bucketing) != epoch(seed=43, bucketing=bucketing), "seeds share no epoch's order"


def test_bucketing_saves_most_of_the_padding_and_still_shuffles() -> None:
    assert padding(epoch(bucketing=False)) > 0.3
    assert padding(epoch()) < 0.05
    widths = [max(LENGTHS[row] for row in batch) for batch in epoch()]
    assert widths != sorted(widths)
    assert 16 * WINDOW < 1003, "several windows are shuffled here"


@pytest.mark.parametrize("done", [1, 30, 62, 63])
def test_an_epoch_can_be_entered_at_any_batch_and_the_next_one_is_whole(done: int) -> None:
    batches = TrainingBatches(LENGTHS, 16, 42, epoch=2, batches_done=done)
    batches.set_epoch(2)
    assert list(batches) == epoch(2)[done:]
    assert len(batches) == 63, "Lightning counts whole epochs"
    batches.set_epoch(3)
    assert list(batches) == epoch(3)


def test_processes_share_the_pairs_in_as_many_steps() -> None:
    shares = [epoch(num_replicas=4, rank=rank) for rank in range(4)]
    assert {len(share) for share in shares} == {16}
    rows = Counter(row for share in shares for batch in share for row in batch)
    assert set(rows) == set(range(1003)) and sum(rows.values()) == 1004
    for step in zip(*shares, strict=True):
        assert len({len(batch) for batch in step}) == 1
