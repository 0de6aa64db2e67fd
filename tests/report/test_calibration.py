"""A threshold and a temperature from out of fold: what they change, and where they are used."""

import json
from pathlib import Path

import numpy
import pytest
from helpers import LAST, RUN, fails, read_predictions, rewrite
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score

from mrpc_lightning import main
from mrpc_lightning.deploy.predictor import Predictor
from mrpc_lightning.errors import InputError
from mrpc_lightning.report.calibration import Calibration

THRESHOLD, TEMPERATURE = 0.7, 2.0


@pytest.fixture
def exact(trained: Path) -> Path:
    """A project whose run computes in fp32: in bf16 an answer depends on the batch's padding."""
    for path in (LAST, LAST.with_name("best.ckpt")):
        rewrite(path, lambda content: content["made_with"].update(trainer_precision="32-true"))
    return trained


@pytest.fixture
def calibrated(exact: Path) -> Path:
    """The same, and the run has a calibration."""
    (RUN / "calibration.json").write_text(json.dumps({"threshold": THRESHOLD, "temperature": TEMPERATURE, "pairs": 9}))
    return exact


def expected(positive: numpy.ndarray) -> numpy.ndarray:
    """The positive class's probability with the temperature, by its definition."""
    return 1 / (1 + ((1 - positive) / positive) ** (1 / TEMPERATURE))


def test_predict_uses_them_where_it_is_asked_to(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--data.predict_file=validation.csv"]
    main([*words, "--output=plain.csv"])
    main([*words, "--output=calibrated.csv", "--calibrated"])
    plain, found = (read_predictions(Path(name)) for name in ("plain.csv", "calibrated.csv"))
    positive, scaled = (numpy.array([float(row["probability_equivalent"]) for row in rows]) for rows in (plain, found))
    assert scaled == pytest.approx(expected(positive), abs=2e-6)
    assert [row["prediction"] == "equivalent" for row in found] == (scaled > THRESHOLD).tolist()
    assert [row["prediction"] for row in found] != [row["prediction"] for row in plain], "the test shows nothing"
    main(["export", "--to=model"])
    pairs = [(row["sentence1"], row["sentence2"]) for row in plain]
    for place in (str(RUN), "model"):
        answers = Predictor.from_run(place, calibrated=True).predict(pairs)
        assert [one.label for one in answers] == [row["prediction"] for row in found]
        assert [one.probabilities["equivalent"] for one in answers] == pytest.approx(scaled.tolist(), abs=2e-6)
    capsys.readouterr()
    main(["predict", "--calibrated", "--pair", *pairs[0]])
    label, share = capsys.readouterr().out.split("\t")
    assert label == found[0]["prediction"] and float(share) == pytest.approx(scaled[0], abs=2e-6)


def test_test_reports_both(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test"])
    printed, found = capsys.readouterr().out, json.loads((RUN / "test_metrics.json").read_text())
    rows = read_predictions(RUN / "test_predictions.csv")
    labels = numpy.array([row["label"] == "equivalent" for row in rows])
    positive = numpy.array([float(row["probability_equivalent"]) for row in rows])
    scaled = expected(positive)
    assert found["f1"] == pytest.approx(f1_score(labels, positive > 0.5))
    assert found["calibrated"] == {
        "accuracy": pytest.approx(accuracy_score(labels, scaled > THRESHOLD)),
        "f1": pytest.approx(f1_score(labels, scaled > THRESHOLD)),
        "precision": None if not (scaled > THRESHOLD).any() else precision_score(labels, scaled > THRESHOLD),
        "recall": pytest.approx(recall_score(labels, scaled > THRESHOLD)),
        "loss": pytest.approx(log_loss(labels, scaled), abs=1e-6),
        "threshold": THRESHOLD,
        "temperature": TEMPERATURE,
    }
    values = f"accuracy {found['calibrated']['accuracy']:.4f}"
    assert f"with threshold 0.700 and temperature 2.00, all above with 0.5: {values}" in printed


def test_a_threshold_can_be_given(exact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "--data.predict_file=validation.csv", "--output=plain.csv"])
    positive = [float(row["probability_equivalent"]) for row in read_predictions(Path("plain.csv"))]
    threshold = float(numpy.median(positive)) + 1e-4
    main(["predict", "--data.predict_file=validation.csv", "--output=found.csv", f"--threshold={threshold}"])
    found = read_predictions(Path("found.csv"))
    assert [float(row["probability_equivalent"]) for row in found] == pytest.approx(positive, abs=2e-6)
    assert [row["prediction"] == "equivalent" for row in found] == [share > threshold for share in positive]
    pairs = [(row["sentence1"], row["sentence2"]) for row in found]
    in_code = Predictor.from_run(threshold=threshold).predict(pairs)
    assert [one.label for one in in_code] == [row["prediction"] for row in found]
    assert 5 < sum(share > threshold for share in positive) < 20, "else the test shows nothing"
    main(["test", f"--threshold={threshold}"])
    printed, content = capsys.readouterr().out, json.loads((RUN / "test_metrics.json").read_text())
    labels = [row["label"] == "equivalent" for row in read_predictions(RUN / "test_predictions.csv")]
    chosen = [share > threshold for share in positive]
    assert content["at_threshold"]["precision"] == pytest.approx(precision_score(labels, chosen))
    assert content["at_threshold"]["f1"] == pytest.approx(f1_score(labels, chosen)) != pytest.approx(content["f1"])
    values = f"accuracy {content['at_threshold']['accuracy']:.4f}"
    assert f"with threshold {threshold:.3f}, all above with 0.5: {values}" in printed
    for word in ("0", "1", "-2"):
        assert "give a probability between 0 and 1" in fails(capsys, ["test", f"--threshold={word}"])
    assert "leave one of them out" in fails(capsys, ["predict", "--calibrated", "--threshold=0.4", "--pair", "a", "b"])


def test_they_are_of_the_best_checkpoint_alone_and_go_when_the_run_is_resumed(
    calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--data.predict_file=validation.csv", "--calibrated", "--ckpt_path", str(LAST)]
    assert "last.ckpt has no calibration.json" in fails(capsys, words)
    main(["fit", "--ckpt_path", str(RUN), "--trainer.max_epochs=2"])
    assert not (RUN / "calibration.json").exists()


def test_probabilities_of_0_and_1_stay() -> None:
    scaled = Calibration(0.5, 2.0).scale(numpy.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]))
    assert scaled.tolist() == [[0, 1], [1, 0], [0.5, 0.5]]


def test_a_run_without_them_or_with_damaged_ones_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--data.predict_file=validation.csv", "--calibrated"]
    assert "has no calibration.json; a study with --folds leaves one for its runs' best" in fails(capsys, words)
    for text in ("{", "{}", '{"threshold": 0.5, "temperature": 0.0}', '{"threshold": "a", "temperature": 1.0}'):
        (RUN / "calibration.json").write_text(text)
        assert "calibration.json: damaged" in fails(capsys, words)
    with pytest.raises(InputError, match="damaged"):
        Predictor.from_run(RUN, calibrated=True)
