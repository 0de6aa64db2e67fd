import csv
from pathlib import Path

import pytest
import torch
from helpers import make_rows

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, Predictor, main
from mrpc_lightning.errors import InputError

RUN = Path("tb_logs/mrpc/version_0")


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_run_answers_in_code_as_on_the_command_line(
    symmetric: bool, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.precision=32-true", f"--model.symmetric={symmetric}".lower()])
    main(["predict", "--trainer.accelerator=cpu", "--data.predict_file=validation.csv"])
    with (RUN / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [(first, second) for first, second, _ in make_rows(25, seed=1)]
    for path in ("best", RUN, RUN / "checkpoints/best.ckpt"):
        answers = Predictor.from_run(path).predict(pairs, batch_size=7)
        assert [answer.label for answer in answers] == [row["prediction"] for row in rows]
        for answer, row in zip(answers, rows, strict=True):
            assert list(answer.probabilities) == ["not_equivalent", "equivalent"]
            assert answer.probabilities["equivalent"] == pytest.approx(float(row["probability_equivalent"]), abs=2e-6)
    turned = Predictor.from_run("best").predict([(second, first) for first, second in pairs])
    same = [a.probabilities == pytest.approx(b.probabilities, abs=1e-5) for a, b in zip(answers, turned, strict=True)]
    assert all(same) == symmetric
    capsys.readouterr()
    main(["predict", "--trainer.accelerator=cpu", "--pair", *pairs[0]])
    printed = capsys.readouterr()
    label, share = printed.out.split("\t")
    assert label == answers[0].label and float(share) == pytest.approx(answers[0].probabilities["equivalent"], abs=0.02)
    assert "loaded" in printed.err


def test_no_pairs_no_answers_and_no_tokenizer_no_predictions(encoder: str, project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=1"])
    model = Predictor.from_run("best").model
    assert model.predict([]) == [] and not model.training
    for wrong, reason in (
        (("a b", "c d"), "pair 1: give a list of pairs"),
        ([("a", "b"), ("a",)], "pair 2: give a list of pairs"),
        ([("a", None)], "pair 1: sentence2 is empty or no text"),
        ([(" ", "b")], "pair 1: sentence1 is empty or no text"),
    ):
        with pytest.raises(InputError, match=reason):
            model.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="from_run"):
        ParaphraseClassifier(encoder).predict([("a", "b")])


def test_the_mean_of_both_orders_is_that_of_two_passes(project: Path, encoder: str) -> None:
    flags = {"train_file": "train.csv", "validation_file": "validation.csv", "max_length": 20, "eval_batch_size": 7}
    turned = Path("turned.csv")
    rows = list(csv.reader(Path("validation.csv").open(newline="")))
    with turned.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([second, first, label] for first, second, label in rows[1:])])
    torch.manual_seed(0)
    model = ParaphraseClassifier(encoder, symmetric=True)
    model.setup("fit")
    model.eval()
    shares: list[dict[int, list[float]]] = []
    for flag in (flags, {**flags, "validation_file": str(turned)}):
        data = MRPCDataModule(encoder, **flag)
        data.setup("fit")
        found: dict[int, list[float]] = {}
        for both in (True, False):
            loader = data.scoring_dataloader("validation") if both else data.val_dataloader()
            for batch, numbers in zip(loader, loader.sampler, strict=True):
                labels = batch.pop("labels")
                assert labels.shape == (len(numbers),) and batch["input_ids"].dim() == 2 + both
                for number, share in zip(numbers, model.predict_step(batch, 0)[:, 1].tolist(), strict=True):
                    found.setdefault(number, []).append(share)
        shares.append(found)
    for number in range(25):
        plain = [found[number][1] for found in shares]
        assert plain[0] != plain[1]
        for found in shares:
            assert found[number][0] == pytest.approx(sum(plain) / 2, abs=1e-5)


def test_swapped_training_pairs_are_half_of_them_and_others_each_epoch(project: Path, encoder: str) -> None:
    orders = {}
    for swap in (False, True):
        files = {"train_file": "train.csv", "validation_file": "validation.csv"}
        data = MRPCDataModule(encoder, **files, max_length=48, swap_pairs=swap)
        data.setup("fit")
        loader = data.train_dataloader()
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            orders[swap, epoch] = list(loader.sampler)
            plain = [[row % 60 for row in batch] for batch in orders[swap, epoch]]
            assert plain == orders[False, epoch]
        given = data.tokens["train"]
        turned = 0
        for batch, rows in zip(loader, loader.sampler, strict=True):
            for tokens, label, row in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), rows, strict=True):
                own = given[row % 60]
                assert label == own["labels"] and sorted(filter(None, tokens)) == sorted(filter(None, own["input_ids"]))
                same = tokens[: len(own["input_ids"])] == own["input_ids"]
                assert same == (row < 60)
                turned += not same
        assert (15 < turned < 45) if swap else turned == 0
    assert orders[True, 0] != orders[True, 1]
