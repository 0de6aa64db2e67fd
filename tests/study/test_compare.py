"""`runs` and `compare`: what they list, and what they say of runs' differences."""

import csv
import io
import json
import shutil
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from filelock import FileLock
from helpers import Forked, command, copy_to, fails, read_predictions, train
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar

from mrpc_lightning import main
from mrpc_lightning.study import compare as comparing
from mrpc_lightning.study.compare import Side, over_pairs

SLOW, FAST = (Path(f"tb_logs/{name}") for name in ("slow", "fast"))


@pytest.fixture(scope="module")
def all_runs(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two settings of two seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        for name, rate in (("slow", "1e-5"), ("fast", "3e-3")):
            words = [f"--seed_everything={seed}", f"--model.learning_rate={rate}", f"--trainer.logger.name={name}"]
            train(folder, encoder, *words, f"--trainer.logger.version=seed_{seed}")
    return folder


@pytest.fixture
def runs(all_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, to work in."""
    return copy_to(all_runs, tmp_path / "project", monkeypatch)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    main([*words])
    return capsys.readouterr().out


def positive(run: Path) -> Any:
    return numpy.array([float(row["probability_equivalent"]) for row in read_predictions(run)])


def table(run: Path) -> Path:
    return run / "validation_predictions.csv"


def change(metrics: Path, **values: Any) -> None:
    metrics.write_text(json.dumps({**json.loads(metrics.read_text(encoding="utf-8")), **values}), encoding="utf-8")


# runs


def test_runs_are_listed_with_their_metrics_and_what_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer(capsys, "runs", "--format=json"))
    assert [one["folder"] for one in found] == [
        str(FAST / "seed_2"),
        str(SLOW / "seed_2"),
        str(FAST / "seed_1"),
        str(SLOW / "seed_1"),
    ]
    for one in found:
        metrics = json.loads((Path(one["folder"]) / "metrics.json").read_text())
        assert (one["f1"], one["accuracy"], one["loss"]) == (metrics["f1"], metrics["accuracy"], metrics["loss"])
        assert one["intervals"]["f1"] == metrics["intervals"]["f1"] and one["state"] == "finished"
        assert one["settings"] == {"model.learning_rate": 1e-5 if "slow" in one["folder"] else 3e-3}
    recipe = yaml.safe_load((FAST / "seed_1/config.yaml").read_text())
    recipe["trainer"]["limit_test_batches"] = 7
    (FAST / "seed_1/config.yaml").write_text(yaml.safe_dump(recipe))
    text = answer(capsys, "runs")
    assert text.count("limit_test_batches 7") == text.count("limit_test_batches") == 1, "a null says nothing"
    assert len([line for line in text.splitlines() if "tb_logs/" in line]) == 4 and "learning_rate 0.003" in text


@pytest.mark.parametrize(("by", "sign"), [("f1", -1), ("accuracy", -1), ("loss", 1)])
def test_the_best_run_comes_first_where_asked(
    runs: Path, capsys: pytest.CaptureFixture[str], by: str, sign: int
) -> None:
    values = [
        float(row[by]) for row in csv.DictReader(io.StringIO(answer(capsys, "runs", "--format=csv", f"--sort={by}")))
    ]
    assert len(values) == 4 and values == sorted(values, key=lambda value: sign * value)


def test_a_run_says_whether_it_has_finished(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (SLOW / "seed_1/metrics.json").unlink()
    (FAST / "seed_1/metrics.json").unlink()
    (FAST / "seed_1/checkpoints/last.ckpt").unlink(missing_ok=True)
    (SLOW / "seed_1/checkpoints/last.ckpt").touch()
    with FileLock(SLOW / "seed_2/.lock"):
        found = json.loads(answer(capsys, "runs", "--format=json", "--sort=f1"))
    states = {one["folder"]: one["state"] for one in found}
    assert states == {
        str(FAST / "seed_2"): "finished",
        str(SLOW / "seed_2"): "training",
        str(FAST / "seed_1"): "not finished",
        str(SLOW / "seed_1"): "stopped",
    }


def test_what_is_no_run_is_not_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (SLOW / "seed_1/config.yaml").write_text("model: [")
    (SLOW / "seed_2/config.yaml").write_text("a: list")
    assert len(json.loads(answer(capsys, "runs", "tb_logs", "--format=json"))) == 2
    assert "nothing: is not there" in fails(capsys, ["runs", "nothing"])


def test_a_run_that_was_named_by_a_stranger_does_not_steer_the_terminal(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(SLOW, "tb_logs/\x1b[2J")
    assert "\x1b" not in answer(capsys, "runs") + answer(capsys, "compare", "tb_logs/\x1b[2J", str(FAST))


# compare: one run a side


def test_two_runs_are_compared_pair_by_pair(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [str(SLOW / "seed_1"), str(FAST / "seed_1")]
    found = json.loads(answer(capsys, "compare", *sides, "--format=json"))
    one, two = (positive(table(Path(side))) > 0.5 for side in sides)
    labels = numpy.array([row["label"] == "equivalent" for row in read_predictions(table(Path(sides[0])))])
    assert found["pairs"] == len(labels) == 25
    for name, score in (("f1", f1_score), ("accuracy", accuracy_score)):
        row = next(row for row in found["comparisons"] if row["metric"] == name)
        assert row["mean"] == pytest.approx(score(labels, two) - score(labels, one), abs=1e-12)
    row = next(row for row in found["comparisons"] if row["metric"] == "accuracy")
    square = [[sum(a & b) for b in (two == labels, two != labels)] for a in (one == labels, one != labels)]
    assert [row["only_first"], row["only_other"]] == [square[0][1], square[1][0]]
    assert row["p"] == pytest.approx(mcnemar(square, exact=True).pvalue, abs=1e-12)
    differing = found["differing"][sides[1]]
    assert len(differing) == sum(one != two)
    assert all(each["right"] in sides for each in differing)


def random_sides(generator: Any, pairs: int, shift: float) -> tuple[Any, list[Side]]:
    labels = generator.integers(0, 2, pairs)
    skill = 1 / (1 + numpy.exp(-(labels * 2 - 1) - generator.normal(size=(2, pairs))))
    skill[1] = numpy.clip(skill[1] + shift * (labels - 0.5), 0, 1)
    return labels, [Side(name, [], each[None]) for name, each in zip("ab", skill, strict=True)]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_accuracy_is_compared_by_mcnemars_exact_test_and_f1_by_a_paired_bootstrap(shift: float) -> None:
    labels, sides = random_sides(numpy.random.default_rng(5), 400, shift)
    by_f1, by_accuracy = sorted(over_pairs(sides, labels), key=lambda row: row["metric"], reverse=True)
    one, two = ((side.positive[0] > 0.5) for side in sides)
    square = [[sum(a & b) for b in (two == labels, two != labels)] for a in (one == labels, one != labels)]
    assert by_accuracy["p"] == pytest.approx(mcnemar(square, exact=True).pvalue, abs=1e-12)
    reference = stats.bootstrap(
        (labels, one, two),
        lambda y, a, b: f1_score(y, b) - f1_score(y, a),
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=numpy.random.default_rng(1),
    ).confidence_interval
    assert by_f1["interval"] == pytest.approx(reference, abs=0.008), "two draws of a bootstrap"
    expected = "better" if shift else "no difference shown"
    assert (by_f1["verdict"], by_accuracy["verdict"]) == (expected, expected)
    mirrored = over_pairs(sides[::-1], labels)
    assert {row["verdict"] for row in mirrored} == {"worse" if shift else "no difference shown"}


def test_equal_models_are_called_different_no_more_often_than_one_in_twenty() -> None:
    generator, called = numpy.random.default_rng(0), {"f1": 0, "accuracy": 0}
    for _ in range(100):
        labels, sides = random_sides(generator, 200, 0.0)
        for row in over_pairs(sides, labels):
            called[row["metric"]] += row["verdict"] != "no difference shown"
    # 11 of 100 and more come up once in a hundred times where one in twenty is true.
    assert called["accuracy"] <= 11 and called["f1"] <= 11


def test_two_seeds_of_one_setting_show_no_difference(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "compare", str(SLOW / "seed_1"), str(SLOW / "seed_2"))
    assert text.count("no difference shown") == 2 and "another seed may turn this round" in text
    shutil.copytree(FAST / "seed_1", "copy")
    same = answer(capsys, "compare", str(FAST / "seed_1"), "copy")
    assert "copy predicts another class than the first: 0 pairs\n" in same and same.count("no difference shown") == 2


# compare: several runs a side


def test_folders_of_runs_are_compared_seed_by_seed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer(capsys, "compare", str(SLOW), str(FAST), "--format=json"))
    scores = {
        folder: [json.loads((folder / f"seed_{n}/metrics.json").read_text())["f1"] for n in (1, 2)]
        for folder in (SLOW, FAST)
    }
    row = next(row for row in found["comparisons"] if row["metric"] == "f1")
    assert row["mean"] == pytest.approx(numpy.mean(scores[FAST]) - numpy.mean(scores[SLOW]), abs=1e-12)
    assert row["seeds"] == 2 and row["verdict"] == "too few seeds to tell"
    assert [side["f1"]["mean"] for side in found["sides"]] == pytest.approx(list(map(numpy.mean, scores.values())))
    assert f"{FAST} against {SLOW}: too few seeds to tell; " in answer(capsys, "compare", str(SLOW), str(FAST))


# compare: what does not fit


def test_only_pairs_that_all_have_scored_count(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(FAST / "seed_1").read_text(encoding="utf-8").splitlines(keepends=True)
    table(FAST / "seed_1").write_text("".join([lines[0], *reversed(lines[6:])]), encoding="utf-8")
    sides = [str(FAST / "seed_2"), str(FAST / "seed_1")]
    found = json.loads(answer(capsys, "compare", *sides, "--format=json"))
    first, second = (read_predictions(table(Path(side))) for side in sides)
    right = {(row["sentence1"], row["sentence2"]): row["prediction"] == row["label"] for row in second}
    common = [row for row in first if (row["sentence1"], row["sentence2"]) in right]
    assert 20 <= len(common) < 25 and found["pairs"] == len(common)
    assert f"{len(common)} pairs were scored by all; some scored up to 25" in found["warnings"]
    one = [row["prediction"] == row["label"] for row in common]
    two = [right[row["sentence1"], row["sentence2"]] for row in common]
    row = next(row for row in found["comparisons"] if row["metric"] == "accuracy")
    assert row["mean"] == pytest.approx(numpy.mean(two) - numpy.mean(one), abs=1e-12)


def test_a_run_that_collapsed_to_one_class_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, positive in ((1, [0.75]), (2, [0.75, 0.25])):
        rows = read_predictions(table(FAST / f"seed_{seed}"))
        for row, probability in zip(rows, cycle(positive), strict=False):
            row |= {"prediction": str(round(probability)), "probability_equivalent": str(probability)}
        with table(FAST / f"seed_{seed}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
    said = answer(capsys, "compare", str(FAST), str(SLOW))
    assert f"{FAST}: 1 of its 2 runs gives every pair the same answer: collapsed to one class" in said
    said = answer(capsys, "compare", str(FAST / "seed_1"), str(FAST / "seed_2"))
    assert f"{FAST}/seed_1: gives every pair the same answer" in said and f"{FAST}/seed_2: gives" not in said


def test_what_cannot_be_compared_is_refused_in_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = str(SLOW / "seed_1"), str(FAST / "seed_1")
    assert "give two runs, or more" in fails(capsys, ["compare", one])
    assert "nowhere" in fails(capsys, ["compare", one, "nowhere"])
    Path("empty").mkdir()
    assert "empty: is no run, and holds none" in fails(capsys, ["compare", one, "empty"])
    assert f"holds folders of runs; give these: {FAST} {SLOW}" in fails(capsys, ["compare", one, "tb_logs"])
    assert "best.ckpt: is a file" in fails(capsys, ["compare", one, f"{two}/checkpoints/best.ckpt"])
    assert "the same folder is given twice" in fails(capsys, ["compare", one, f"{one}/"])
    assert "run `test`, or give another --split" in fails(capsys, ["compare", one, two, "--split=test"])
    assert f"{two}: is one run, and another side has several" in fails(capsys, ["compare", str(SLOW), two])
    assert f"{two}: is one run, and another side has several" in fails(capsys, ["compare", two, str(SLOW)])
    change(FAST / "seed_2/metrics.json", seed=1)
    twice = f"{FAST}/seed_1 and {FAST}/seed_2 have the same seed"
    assert twice in fails(capsys, ["compare", str(SLOW), str(FAST)])
    lines = table(FAST / "seed_1").read_text(encoding="utf-8").splitlines(keepends=True)
    table(FAST / "seed_1").write_text(lines[0] + lines[1].replace("Rents", "Prices"), encoding="utf-8")
    assert "no pair was scored by all" in fails(capsys, ["compare", one, two])
    table(FAST / "seed_1").write_text("rubbish\n1\n", encoding="utf-8")
    assert "validation_predictions.csv: is not as a run writes it" in fails(capsys, ["compare", one, two])


def test_a_run_in_tb_logs_is_named_as_the_flag_run_names_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [str(folder / "seed_1") for folder in (SLOW, FAST)]
    short = [name.removeprefix("tb_logs/") for name in whole]
    found, expected = (json.loads(answer(capsys, "compare", *names, "--format=json")) for names in (short, whole))
    assert [one["mean"] for one in found["comparisons"]] == [one["mean"] for one in expected["comparisons"]]


def test_what_the_machine_changed_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(FAST / "seed_1/metrics.json", device="one of another kind")
    text = answer(capsys, "compare", str(SLOW / "seed_1"), str(FAST / "seed_1"))
    assert "warning: the runs differ in device: " in text and "one of another kind" in text


def test_both_are_commands_with_their_own_help(runs: Path) -> None:
    for name in ("runs", "compare"):
        shown, refused = (Forked([name, word]) for word in ("--help", "--nonsense"))
        printed, errors = shown.communicate(60)
        assert shown.returncode == 0 and "--format" in printed and errors == ""
        _, errors = refused.communicate(60)
        assert refused.returncode == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    narrow = command(["compare", str(SLOW), str(FAST)], PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert narrow.returncode == 0 and "\\xb1" in narrow.stdout and narrow.stderr == ""
    assert comparing.SHOWN < 25
