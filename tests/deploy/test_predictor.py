import csv
from pathlib import Path

import pytest
from helpers import make_rows

from mrpc_lightning import ParaphraseClassifier, Predictor, main
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
