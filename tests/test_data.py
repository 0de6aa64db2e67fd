import inspect
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import torch
from datasets import Dataset
from helpers import make_rows, write_csv
from lightning.pytorch import Trainer

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, Predictor
from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.sources import digest


def make_data(encoder: str, **options: Any) -> MRPCDataModule:
    data = MRPCDataModule(encoder, **{"max_length": 48, "global_batch_size": 8, "eval_batch_size": 7, **options})
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


def test_batches_padded_to_max_length_are_of_one_width_and_say_the_same(project: Path, encoder: str) -> None:
    files = {"train_file": "train.csv", "validation_file": "validation.csv"}
    data, short = (make_data(encoder, **files, padding=padding) for padding in ("max_length", "longest"))
    shapes = [
        Counter(batch["input_ids"].shape for batch in loader)
        for loader in (data.train_dataloader(), data.val_dataloader())
    ]
    assert shapes == [{(8, 48): 7, (4, 48): 1}, {(7, 48): 3, (4, 48): 1}]
    model = ParaphraseClassifier(encoder)
    model.setup("predict")
    model.eval()
    found = []
    for module in (data, short):
        loader = module.val_dataloader()
        rows = [row for batch in loader.sampler for row in batch]
        scored = torch.cat([model.predict_step(batch, 0) for batch in loader])
        found.append(scored[torch.tensor(rows).argsort()])
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


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
    with pytest.raises(InputError, match=r"data.max_length 65: .* takes 64 tokens at most; set data.max_length 64"):
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
        ({"global_batch_size": 0}, "data.global_batch_size 0"),
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


def test_pairs_to_predict_are_read_when_they_are_asked_for_by_a_trainer_that_did_something_else_before(
    project: Path, encoder: str
) -> None:
    data = make_data(encoder, predict_file="train.csv", **FILES)
    data.setup("predict")
    assert "predict" not in data.pairs
    assert sum(len(batch["input_ids"]) for batch in data.predict_dataloader()) == 60


def test_a_folder_without_training_pairs_says_so(project: Path, encoder: str) -> None:
    (project / "test.tsv").write_text("index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA .\tB .\n")
    with pytest.raises(InputError, match=r"has no train split, only test: .*data.train_file"):
        make_data(encoder, data_dir=".")


def test_workers_give_the_same_batches(project: Path, encoder: str) -> None:
    files = {"train_file": "train.csv", "validation_file": "validation.csv"}
    alone, helped = (make_data(encoder, num_workers=workers, **files).val_dataloader() for workers in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)


FILES = {"train_file": "train.csv", "validation_file": "validation.csv"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_batches_are_plain_dictionaries_and_both_orders_come_where_they_are_asked_for(
    symmetric: bool, workers: int, project: Path, encoder: str
) -> None:
    data = make_data(encoder, symmetric=symmetric, num_workers=workers, **FILES)
    rows = make_rows(25, seed=1)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.scoring_dataloader("validation")):
        seen = []
        for batch, numbers in zip(loader, loader.sampler, strict=True):
            assert type(batch) is dict and batch["labels"].tolist() == [rows[row][2] for row in numbers]
            assert batch["input_ids"].shape[:-1] == ((len(numbers), 2) if symmetric else (len(numbers),))
            for tokens, row in zip(batch["input_ids"], numbers, strict=True):
                for order, ids in enumerate(tokens if symmetric else [tokens]):
                    expected = data.load_tokenizer()(*rows[row][:2][:: -1 if order else 1])["input_ids"]
                    assert ids[: len(expected)].tolist() == expected and not ids[len(expected) :].any()
            seen += numbers
        assert sorted(seen) == [*range(25)]
    assert next(iter(data.train_dataloader()))["input_ids"].dim() == 2


def test_splits_whose_pairs_are_not_those_of_the_run_are_named(project: Path, encoder: str) -> None:
    first = make_data(encoder, **FILES)
    digests = {split: digest(first.pairs[split]) for split in ("train", "validation")}
    assert first.other_pairs({"digests": digests}) == []
    write_csv(project / "validation.csv", make_rows(24, seed=1))
    changed = make_data(encoder, **FILES)
    assert changed.other_pairs({"digests": digests}) == ["validation"]
    with pytest.raises(InputError, match="^validation.csv: not the validation pairs that the run was started with"):
        changed.load_state_dict({"digests": digests, "position": {"parts": 1}})
    with pytest.raises(InputError, match="of an older version, whose optimizer steps saw other pairs"):
        first.load_state_dict({"digests": digests, "position": {"batches_done": 2}})
    tested = MRPCDataModule(encoder, max_length=48, test_file="validation.csv", **FILES)
    tested.setup("test")
    assert tested.other_pairs({"digests": digests}) == [], "pairs of their own are not the run's"


def test_batches_before_setup_are_refused_with_advice(project: Path, encoder: str) -> None:
    data = MRPCDataModule(encoder, max_length=48, **FILES)
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(InputError, match=r"no \w+ pairs yet: call setup\('fit'\)"):
            loader()
    data.setup("validate")
    with pytest.raises(InputError, match=r"no train pairs yet: call setup\('fit'\)"):
        data.train_dataloader()
    data = MRPCDataModule(encoder, max_length=48, **FILES)
    with pytest.raises(InputError, match=r"no predict pairs yet: call setup\('predict'\)"):
        data.predict_dataloader()


@pytest.mark.parametrize("name", ["train_file", "predict_file", "data_dir"])
def test_a_table_in_memory_is_refused_in_plain_words(name: str, project: Path) -> None:
    with pytest.raises(InputError, match=f"data.{name}: a DataFrame is no path(; rows in memory go into \\w+=...)?$"):
        MRPCDataModule("demo", **{name: pandas.read_csv("train.csv")})


def test_paths_may_be_path_objects(project: Path, encoder: str) -> None:
    data = make_data(encoder, train_file=project / "train.csv", validation_file=project / "validation.csv")
    assert len(data.pairs["train"]) == 60 and data.hparams["train_file"] == str(project / "train.csv")


def test_pairs_that_processes_cannot_share_are_refused_once_these_are_known(project: Path, encoder: str) -> None:
    data = make_data(encoder, **FILES)
    trainer: Any = SimpleNamespace(world_size=26, accumulate_grad_batches=2)  # what it asks for
    data.trainer = trainer
    with pytest.raises(InputError, match="global_batch_size 8: cannot be shared among 26 processes of 2 .*; give 52$"):
        data.setup("fit")


def test_a_length_that_nobody_gave_is_said_to_be_the_default(project: Path) -> None:
    advice = "set data.max_length 64 and model.pretrained false"
    with pytest.raises(InputError, match=f"data.max_length 128, the default: demo takes 64 tokens at most; {advice}"):
        MRPCDataModule("demo", **FILES).setup("fit")


def test_the_help_of_the_constructor_is_the_classs() -> None:
    assert "train_file: A CSV" in (inspect.getdoc(MRPCDataModule.__init__) or "")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_may_have_each_pair_in_both_orders(workers: int, project: Path, encoder: str) -> None:
    data = make_data(encoder, both_orders=True, num_workers=workers, **FILES)
    assert len(data.pairs["train"]) == len(data.tokens["train"]) == 60
    loader = data.train_dataloader()
    seen = [
        (tuple(ids[mask.bool()].tolist()), label)
        for batch in loader
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"].tolist(), strict=True)
    ]
    encode = data.load_tokenizer()
    both = [((a, b), label) for one, two, label in make_rows(60) for a, b in ((one, two), (two, one))]
    assert Counter(seen) == Counter((tuple(encode(*pair)["input_ids"]), label) for pair, label in both)
    assert len(loader) == 2 * len(make_data(encoder, **FILES).train_dataloader())
    assert sum(len(batch["labels"]) for batch in data.val_dataloader()) == 25


def test_soft_labels_come_with_training_pairs_alone(project: Path, encoder: str) -> None:
    rows: list[Any] = [(f"{a} {n}", b, y, n / 100) for n, (a, b, y) in enumerate(make_rows(60))]
    write_csv(project / "soft.csv", rows, ("sentence1", "sentence2", "label", "p"))
    for files in ({"validation_file": "validation.csv"}, {}):
        data = make_data(encoder, train_file="soft.csv", soft_label_column="p", both_orders=True, **files)
        assert "soft_label" not in data.pairs["validation"].column_names
        assert all("soft_labels" not in batch for batch in data.val_dataloader())
        expected = sorted(2 * [row / 100 for row in data.pairs["train"]["idx"]])
        found = torch.cat([batch["soft_labels"] for batch in data.train_dataloader()])
        assert found.shape == (len(expected), 2) and sorted(found[:, 1].tolist()) == pytest.approx(expected)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))
    again = make_data(encoder, train_file="soft.csv", soft_label_column="p")  # its tokens come from the cache
    write_csv(project / "soft.csv", [(*row[:3], 0.5) for row in rows], ("sentence1", "sentence2", "label", "p"))
    changed = make_data(encoder, train_file="soft.csv", soft_label_column="p")
    assert {share for _, share in changed.tokens["train"]["soft_labels"]} == {0.5}
    digests = {split: digest(again.pairs[split]) for split in ("train", "validation")}
    assert changed.other_pairs({"digests": digests}) == ["train"]


def test_soft_labels_need_a_file_with_their_column(project: Path, encoder: str) -> None:
    with pytest.raises(InputError, match="train.csv: no column 'p'; it has .*data.soft_label_column"):
        make_data(encoder, soft_label_column="p", **FILES)
    with pytest.raises(InputError, match="no column 'p'; it has .*data.soft_label_column"):
        MRPCDataModule("demo", dataset_name="demo", soft_label_column="p", max_length=64).setup("fit")
    with pytest.raises(InputError, match="data.soft_label_column label: 4 columns, and two of them are the same"):
        MRPCDataModule("demo", soft_label_column="label")
    data = MRPCDataModule(encoder, max_length=48, soft_label_column="p", validation_file="validation.csv")
    data.setup("validate")  # who only scores needs no training file


def test_rows_in_memory_are_trained_on_and_predicted_as_those_of_files_are(project: Path, encoder: str) -> None:
    names = ("question1", "question2", "same")
    frames = {
        "train": pandas.DataFrame(make_rows(60), columns=names),
        "validation": pandas.DataFrame(make_rows(25, seed=1), columns=names),
    }
    columns = dict(zip(("sentence1_column", "sentence2_column", "label_column"), names, strict=True))
    data = make_data(encoder, **frames, **columns)
    files = make_data(encoder, train_file="train.csv", validation_file="validation.csv")
    assert {split: digest(pairs) for split, pairs in data.pairs.items()} == {
        split: digest(pairs) for split, pairs in files.pairs.items()
    }
    assert data.source("train") == "train, in memory" and data.source("validation") == "validation, in memory"
    model = ParaphraseClassifier(encoder, learning_rate=1e-3)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(model, data)
    # A table comes back with its own columns, index and order; a row without text has no prediction.
    frame = frames["validation"].drop(columns="same").assign(id=[f"T-{n}" for n in range(25)])
    frame.index = range(100, 125)
    frame.loc[103, "question2"] = None
    found = model.predict(frame)
    added = ["prediction", "probability_not_equivalent", "probability_equivalent"]
    assert [*found.columns] == [*frame.columns, *added, "problem"] and [*found.index] == [*range(100, 125)]
    assert found[[*frame.columns]].equals(frame)
    assert pandas.isna(found.loc[103, "prediction"]) and "question2 is empty or no text" in found.loc[103, "problem"]
    good = frame.drop(index=103)
    expected = model.predict([*zip(good["question1"], good["question2"], strict=True)])
    assert [*found["prediction"].drop(index=103)] == [one.label for one in expected]
    assert [*found["probability_equivalent"].drop(index=103)] == [one.probabilities["equivalent"] for one in expected]
    table = model.predict(Dataset.from_pandas(good, preserve_index=False))
    assert table["prediction"][:] == [one.label for one in expected] and table.column_names == [*good.columns, *added]
    with pytest.raises(InputError, match="^the table: has a column prediction already"):
        model.predict(table)
    with pytest.raises(InputError, match="^the table: no column 'question1'"):
        model.predict(frame.drop(columns="question1"))
    # So does what was saved, which holds no rows.
    trainer.save_checkpoint("model.ckpt")
    hparams = torch.load("model.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert not {"train", "validation", "test", "predict"} & {*hparams} and hparams["label_column"] == "same"
    for again in (ParaphraseClassifier.load_from_checkpoint("model.ckpt"), Predictor.from_run("model.ckpt")):
        pandas.testing.assert_frame_equal(again.predict(good), model.predict(good))


def test_without_validation_rows_a_share_of_the_rows_in_memory_is_held_out(project: Path, encoder: str) -> None:
    rows = make_rows(60)
    data = make_data(encoder, train=rows, validation_share=0.2)
    files = make_data(encoder, train_file="train.csv", validation_share=0.2)
    for split in ("train", "validation"):
        assert digest(data.pairs[split]) == digest(files.pairs[split]) and data.source(split) == "train, in memory"
    data = MRPCDataModule(encoder, train=[*rows, ("", "x", 1)], skip_bad_rows=True, max_length=48)
    with pytest.warns(UserWarning, match="train, in memory: 1 row left out"):
        data.setup("fit")
    assert data.reader.left_out["train"] == 1 and sum(map(len, data.pairs.values())) == 60
