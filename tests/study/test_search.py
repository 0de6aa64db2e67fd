"""`study --search`: what Optuna chooses is kept, and a setting that is worse than the best one is stopped."""

import json
from pathlib import Path

import pytest
from helpers import fails
from scipy.stats import wilcoxon

from mrpc_lightning import main
from mrpc_lightning.errors import InputError
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.study.search import Search, ends, space

STUDY = Path("tb_logs/study")
RANGES = ["model.learning_rate=1e-4..1e-2:log", "data.global_batch_size=4..8", "model.symmetric=false,true"]


def finish(unit: Unit, f1: float) -> None:
    """Leave what a finished run leaves, as far as a search reads it."""
    unit.run.folder.mkdir(parents=True)
    (unit.run.folder / "metrics.json").write_text(json.dumps({"f1": f1}))


def test_a_search_chooses_within_its_ranges_and_keeps_what_it_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(1, 6):
        search = Search(STUDY, RANGES, trials=5, seeds=2, folds=None)  # each command has one of its own
        assert search.more()
        assert len(search.units()) == 2 * number and search.to_come() == 2 * (5 - number)
    assert not search.more()
    found = [dict(setting.values) for setting in search.pruned()]
    assert len({one["model.learning_rate"] for one in found}) == 5, "no value is drawn anew by another command"
    for one in found:
        assert 1e-4 <= float(one["model.learning_rate"]) <= 1e-2
        assert one["data.global_batch_size"] in ("4", "5", "6", "7", "8") and one["model.symmetric"] in (
            "false",
            "true",
        )
    assert {unit.seed for unit in search.units()} == {1, 2}
    with pytest.raises(InputError, match="is a search of model.learning_rate=1e-4..1e-2:log .*; give another --name"):
        Search(STUDY, RANGES[:1], trials=5, seeds=2, folds=None).units()


def test_a_setting_is_stopped_as_soon_as_it_is_worse_than_the_best_by_the_paired_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search = Search(STUDY, RANGES[:1], trials=2, seeds=8, folds=None)
    search.more()
    for unit in search.units():
        finish(unit, 0.80 + 0.01 * unit.seed)
    assert list(search.pruned().values()) == [False]
    search.more()
    first, second = (list(dict.fromkeys(unit.setting for unit in search.units()))[number] for number in (0, 1))
    worse = []
    while not search.pruned()[second]:
        left = [unit for unit in search.units() if not unit.scores]
        assert left, "it was not stopped"
        finish(left[0], 0.80 + 0.01 * left[0].seed - 0.02 - 0.001 * left[0].seed)
        worse.append(-0.02 - 0.001 * left[0].seed)
        search.units()
    assert wilcoxon(worse, alternative="less").pvalue < 0.1 <= wilcoxon(worse[:-1], alternative="less").pvalue
    assert [unit.setting for unit in search.units()].count(second) == len(worse), "what is finished counts"
    assert [unit.setting for unit in search.units()].count(first) == 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model.learning_rate", "write it as in"),
        ("model.learning_rate=1e-4..x", "leaves nothing to choose"),
        ("model.learning_rate=1e-4..1e-5", "the lower bound first, as in --search=model"),
        ("model.learning_rate=0..1:log", "makes no range"),
        ("model.learning_rate=1e-5..1e-5", "leaves nothing to choose"),
        ("model.schedule=linear", "leaves nothing to choose"),
        ("seed_everything=1..5", "every setting sees the same seeds"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        space([text])


def test_both_ends_of_a_range_are_tried_before_anything_runs(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [dict(one.values) for one in ends(RANGES)] == [
        {"model.learning_rate": "0.0001", "data.global_batch_size": "4", "model.symmetric": "false"},
        {"model.learning_rate": "0.01", "data.global_batch_size": "8", "model.symmetric": "true"},
    ]
    words = ["study", *arguments, "--search"]
    assert "--model.learning_rate 5: at most 1" in fails(capsys, [*words, "model.learning_rate=1..5"])
    assert "model.learning_rate" in fails(capsys, [*words, "model.learning_rat=1e-4..1e-3"])
    assert "leave --grid out" in fails(capsys, [*words, RANGES[0], "--grid", "data.global_batch_size=4,8"])
    assert "--trials: goes with --search" in fails(capsys, ["study", *arguments, "--trials=3"])
    assert not Path("tb_logs").exists()


def test_the_table_of_a_search_has_the_expected_best_and_no_verdicts(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(STUDY, RANGES[:1], trials=2, seeds=1, folds=None)
    while search.more():
        pass
    for unit in search.units():
        main(["fit", *unit.words(arguments)])
    capsys.readouterr()
    main(["study", *arguments, "--search", RANGES[0], "--trials=2", "--seeds=1"])
    printed = capsys.readouterr().out
    assert "2 runs: 2 settings x 1 seed; 2 are done" in printed and "expected best F1" in printed
    found = json.loads((STUDY / "study.json").read_text())
    low, high = sorted(setting["f1"]["mean"] for setting in found["settings"])
    assert found["best_of"] == {"1": pytest.approx((low + high) / 2), "2": pytest.approx(low / 4 + high * 3 / 4)}
    assert found["comparisons"] == []


def test_a_journal_whose_writer_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search, journal = Search(STUDY, RANGES, trials=3, seeds=1, folds=None), STUDY / "optuna.journal"
    search.more()
    whole = journal.read_bytes()
    search.more()
    added = journal.read_bytes()[len(whole) :]
    for length in range(1, len(added)):  # wherever it was cut
        journal.write_bytes(whole + added[:length])
        assert len(search.units()) in (1, 2)
        assert search.more()
        assert len(search.units()) in (2, 3)


def test_settings_that_would_share_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search = Search(STUDY, ["model.model_name=x/a,x-a"], trials=9, seeds=1, folds=None)
    while search.more():
        pass
    with pytest.raises(InputError, match="a setting's folder is named after its values"):
        search.units()


def test_commas_within_brackets_and_dots_of_paths_are_values() -> None:
    found = space(["model.class_weights=[2.0,1.0],[1.0,1.0]", "data.train_file=../a.csv,../b.csv"])
    assert found["model.class_weights"].choices == ("[2.0,1.0]", "[1.0,1.0]")
    assert found["data.train_file"].choices == ("../a.csv", "../b.csv")
