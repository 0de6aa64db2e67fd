from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_rows, write_csv

from mrpc_lightning import MRPCDataModule
from mrpc_lightning.errors import InputError


def make_data(encoder: str, **options: Any) -> MRPCDataModule:
    data = MRPCDataModule(encoder, **{"max_length": 48, "batch_size": 8, "eval_batch_size": 7, **options})
    data.setup("fit")
    return data


def test_batches_are_padded_to_their_longest_pair_and_no_further(project: Path, encoder: str) -> None:
    data = make_data(encoder, train_file="train.csv", validation_file="validation.csv")
    widths = set()
    for batch in data.train_dataloader():
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape[1] == lengths.max()
        widths.add(int(lengths.max()))
    assert len(widths) > 1


def test_both_sentences_are_encoded_as_one_pair(project: Path, encoder: str) -> None:
    data = make_data(encoder, train_file="train.csv", validation_file="validation.csv")
    batches = data.val_dataloader()
    batch, row = next(iter(batches)), next(iter(batches.sampler))[0]
    assert data.tokenizer is not None
    first, second, label = make_rows(25, seed=1)[row]
    ids = batch["input_ids"][0][batch["attention_mask"][0].bool()]
    assert data.tokenizer.decode(ids).replace(" ", "") == f"[CLS]{first}[SEP]{second}[SEP]".replace(
        " ", ""
    ).lower().replace("[cls]", "[CLS]").replace("[sep]", "[SEP]")
    split = int((batch["input_ids"][0] == data.tokenizer.sep_token_id).nonzero()[0])
    assert batch["token_type_ids"][0][: split + 1].sum() == 0
    assert batch["token_type_ids"][0][split + 1 : len(ids)].min() == 1
    assert batch["labels"][0] == label


def test_training_pairs_come_once_an_epoch_in_a_new_order_and_validation_pairs_in_the_same(
    project: Path, encoder: str
) -> None:
    data = make_data(encoder, train_file="train.csv", validation_file="validation.csv")

    def rows(loader: Any) -> list[tuple[int, ...]]:
        return [
            tuple(ids[mask.bool()].tolist())
            for batch in loader
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]

    loader = data.train_dataloader()
    first = rows(loader)
    loader.sampler.set_epoch(1)
    second = rows(loader)
    assert Counter(first) == Counter(second) == Counter(map(tuple, data.tokens["train"]["input_ids"]))
    assert first != second
    loader = data.val_dataloader()
    first = rows(loader)
    loader.sampler.set_epoch(1)
    assert first == rows(loader)
    assert Counter(first) == Counter(map(tuple, data.tokens["validation"]["input_ids"]))


def test_a_long_pair_is_cut_to_max_length(project: Path, encoder: str) -> None:
    write_csv(project / "long.csv", [(f"rents {n} " * 90, "rents", n % 2) for n in range(24)])
    data = make_data(encoder, train_file="long.csv", max_length=20)
    assert max(map(len, data.tokens["train"]["input_ids"])) == 20
    with pytest.raises(InputError, match=r"data.max_length 65: .* takes 64 tokens at most"):
        make_data(encoder, train_file="long.csv", max_length=65)


def test_without_a_validation_file_a_share_of_each_class_is_held_out_by_seed(project: Path, encoder: str) -> None:
    write_csv(project / "all.csv", [(f"{first} {n}", second, y) for n, (first, second, y) in enumerate(make_rows(120))])

    def validation(seed: int) -> list[int]:
        data = make_data(encoder, train_file="all.csv", validation_share=0.25, split_seed=seed)
        train, held_out = data.pairs["train"]["idx"], data.pairs["validation"]["idx"]
        assert sorted([*train, *held_out]) == list(range(120))
        assert Counter(data.pairs["validation"]["label"]) == {1: 20, 0: 10}  # a quarter of 80 and 40
        return list(held_out)

    assert validation(1) == validation(1) != validation(2)
    write_csv(project / "few.csv", make_rows(3))
    with pytest.raises(InputError, match="few.csv: 3 pairs are too few to hold out"):
        make_data(encoder, train_file="few.csv")


def test_test_scores_the_test_file_if_there_is_one_and_the_validation_split_if_not(project: Path, encoder: str) -> None:
    files = {"train_file": "train.csv", "validation_file": "validation.csv"}
    assert MRPCDataModule(encoder, **files).test_split == "validation"
    data = MRPCDataModule(encoder, **files, test_file="train.csv", max_length=48)
    assert data.test_split == "test"
    data.setup("test")
    assert len(data.pairs["test"]) == 60
    assert MRPCDataModule(encoder, **files, test_file="train.csv", test_split="train").test_split == "train"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size 0"),
        ({"max_length": 3}, "data.max_length 3: must be at least 8"),
        ({"num_workers": -1}, "data.num_workers -1"),
        ({"validation_share": 1.0}, "data.validation_share 1"),
        ({"train_file": "train.csv", "data_dir": "."}, "data.data_dir and data.train_file"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MRPCDataModule("demo", **options)


def test_a_split_that_is_not_there_is_named_with_the_flag_that_gives_it(project: Path, encoder: str) -> None:
    data = MRPCDataModule(encoder, train_file="train.csv", test_split="test", max_length=48)
    with pytest.raises(InputError, match="train.csv has no test split, only train: .*data.test_file"):
        data.setup("test")
    demo = MRPCDataModule("demo", dataset_name="demo", max_length=64)
    with pytest.raises(InputError, match=r"no test split, only train, validation.*data.predict_file"):
        demo.setup("predict")


def test_training_pairs_of_one_class_teach_nothing(project: Path, encoder: str) -> None:
    write_csv(project / "one.csv", [(a, b, 1) for a, b, _ in make_rows(30)])
    with pytest.raises(InputError, match="one.csv: every training pair has the same label"):
        make_data(encoder, train_file="one.csv", validation_file="validation.csv")


def test_without_a_predict_file_the_test_pairs_are_predicted(project: Path, encoder: str) -> None:
    data = MRPCDataModule(encoder, train_file="train.csv", test_file="validation.csv", max_length=48)
    data.setup("predict")
    assert len(data.pairs["predict"]) == 25 and "labels" not in data.tokens["predict"].column_names


def test_a_folder_without_training_pairs_says_so(project: Path, encoder: str) -> None:
    (project / "test.tsv").write_text("index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA .\tB .\n")
    with pytest.raises(InputError, match=r"has no train split, only test: .*data.train_file"):
        make_data(encoder, data_dir=".")


def test_workers_give_the_same_batches(project: Path, encoder: str) -> None:
    files = {"train_file": "train.csv", "validation_file": "validation.csv"}
    alone, helped = (make_data(encoder, num_workers=workers, **files).val_dataloader() for workers in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)
