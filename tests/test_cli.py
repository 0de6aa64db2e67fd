import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import fails, make_rows, write_csv
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_sources import write_mrpc

from mrpc_lightning import main
from mrpc_lightning.settings import choose_precision

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("**/*.yaml"))


def read_predictions(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_fit_then_test_then_predict(project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fitted = main(["fit", *arguments])
    run = Path("tb_logs/mrpc/version_0")
    closing = capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    for figure in ("accuracy", "f1", "loss"):
        assert f"{metrics[figure]:.4f}" in closing
    assert str(run) in closing and "tensorboard --logdir" in closing and "predict --ckpt_path" in closing
    assert metrics["epoch"] in (1, 2) and metrics["seed"] == 42 and metrics["pairs"] == 25
    assert metrics["training_pairs_per_second"] > 0 and metrics["wall_seconds"] > 0
    assert fitted.trainer.max_epochs == 2
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert files >= {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "metrics.json",
        "tokenizer/tokenizer.json",
    }

    # Nothing but the command's own flags says where data and encoder are: all else comes from the checkpoint.
    main(["test", "--trainer.accelerator=cpu"])
    tested = json.loads((run / "test_metrics.json").read_text())
    shared = tested.keys() & metrics.keys() - {
        "checkpoint",
        "warnings",
        "pairs_cut",
    }  # the last two know training pairs
    assert {key: tested[key] for key in shared} == {key: metrics[key] for key in shared}
    assert {"accuracy", "f1", "loss", "pairs"} <= shared
    main(["validate", "--trainer.accelerator=cpu", "--ckpt_path", str(run)])
    validated = json.loads((run / "validate_metrics.json").read_text())
    assert validated["f1"] == metrics["f1"] and validated["loss"] == metrics["loss"]

    # An independent second opinion, over the whole split, whose last batch is uneven (25 pairs in batches of 7).
    main(["predict", "--trainer.accelerator=cpu", "--data.predict_file=validation.csv"])
    predictions = read_predictions(run / "predictions.csv")
    rows = make_rows(25, seed=1)
    assert [(row["sentence1"], row["sentence2"]) for row in predictions] == [row[:2] for row in rows]
    labels = [row[2] for row in rows]
    predicted = [int(row["prediction"] == "equivalent") for row in predictions]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-6)
    assert metrics["f1"] == pytest.approx(f1_score(labels, predicted), abs=1e-6)
    (tn, fp), (fn, tp) = confusion_matrix(labels, predicted, labels=[0, 1])
    counts = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    assert [metrics[name] for name in counts] == [tn, fp, fn, tp]
    assert metrics["baseline_f1"] == pytest.approx(f1_score(labels, [1] * 25))
    assert metrics["baseline_accuracy"] == pytest.approx(accuracy_score(labels, [1] * 25))
    for row in predictions:
        probabilities = [float(row[f"probability_{name}"]) for name in ("not_equivalent", "equivalent")]
        assert sum(probabilities) == pytest.approx(1, abs=2e-6)
        assert (row["prediction"] == "equivalent") == (probabilities[1] > probabilities[0])

    assert [path.name for path in Path("tb_logs/mrpc").iterdir()] == ["version_0"], "evaluating starts no new run"
    assert sorted(path.name for path in project.iterdir()) == ["tb_logs", "train.csv", "validation.csv"]


def test_validation_loss_is_the_mean_over_pairs_not_over_batches(project: Path, arguments: list[str]) -> None:
    fitted = main(["fit", *arguments])
    model = fitted.model.eval()
    losses = []
    for batch in fitted.datamodule.val_dataloader():
        labels = batch.pop("labels")
        losses += torch.nn.functional.cross_entropy(model(**batch), labels, reduction="none").tolist()
    metrics = json.loads(Path("tb_logs/mrpc/version_0/metrics.json").read_text())
    assert metrics["loss"] == pytest.approx(sum(losses) / 25, rel=1e-5)


def test_the_best_checkpoint_is_the_epoch_with_the_highest_f1(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=6", "--early_stopping.patience=6"])
    run = Path("tb_logs/mrpc/version_0")
    curve = read_curves(run)["val_f1"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(curve) == 6
    assert metrics["f1"] == pytest.approx(max(curve))
    assert curve[metrics["epoch"] - 1] == pytest.approx(max(curve))


def test_the_last_checkpoint_is_of_the_last_epoch_though_another_was_best(project: Path, arguments: list[str]) -> None:
    fitted = main(["fit", *arguments, "--trainer.max_epochs=3", "--model.learning_rate=0"])
    folder = Path("tb_logs/mrpc/version_0/checkpoints")
    best, last = (torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (0, 3)  # finished epochs: the best is written in the midst of its own
    assert "optimizer_states" in last and "optimizer_states" not in best
    assert last["global_step"] == fitted.trainer.global_step
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_users_own_model_checkpoint_does_not_decide_what_is_best(project: Path, arguments: list[str]) -> None:
    Path("own.yaml").write_text(
        "trainer:\n  callbacks:\n    class_path: lightning.pytorch.callbacks.ModelCheckpoint\n"
        "    init_args: {every_n_epochs: 1, save_top_k: -1, filename: 'own-{epoch}', monitor: train_loss}\n"
    )
    main(["fit", "--config=own.yaml", *arguments, "--trainer.max_epochs=3", "--model.learning_rate=0"])
    run = Path("tb_logs/mrpc/version_0")
    assert json.loads((run / "metrics.json").read_text())["checkpoint"] == "checkpoints/best.ckpt"
    assert len(list(run.glob("checkpoints/own-*.ckpt"))) == 3


def test_a_run_without_validation_is_not_scored_and_keeps_its_last_checkpoint(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.limit_val_batches=0"])
    assert "not scored" in capsys.readouterr().out
    assert Path("tb_logs/mrpc/version_0/checkpoints/last.ckpt").is_file()


def test_a_finished_run_is_not_trained_again_without_more_epochs(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments])
    message = fails(capsys, ["fit", *arguments, "--ckpt_path=last"])
    assert "has trained for 2 epochs; raise --trainer.max_epochs" in message
    assert main(["fit", *arguments, "--ckpt_path=last", "--trainer.max_epochs=3"]).trainer.global_step == 3 * 8


def test_early_stopping_ends_a_run_that_no_longer_improves(project: Path, arguments: list[str]) -> None:
    # A learning rate of 0 never improves: the first epoch is the best, and two more are waited for.
    fitted = main(["fit", *arguments, "--trainer.max_epochs=9", "--model.learning_rate=0"])
    assert fitted.trainer.current_epoch == 3


def read_curves(run: Path) -> dict[str, list[float]]:
    curves: dict[str, list[float]] = {}
    for file in sorted(run.glob("events.out.tfevents*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            curves.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    return curves


def test_tensorboard_has_the_curves_and_one_chart_for_training_and_validation(
    project: Path, arguments: list[str]
) -> None:
    main(["fit", *arguments, "--trainer.log_every_n_steps=4"])
    run = Path("tb_logs/mrpc/version_0")
    curves = read_curves(run)
    assert len(curves["train_loss_step"]) == len(curves["learning_rate"]) == 2 * 8 // 4
    for name in ("loss", "accuracy", "f1"):
        assert len(curves[f"train_{name}"]) == len(curves[f"val_{name}"]) == 2
    plugins: set[str] = set()
    for file in run.glob("events.out.tfevents*"):
        events = EventAccumulator(str(file)).Reload()
        plugins |= set(events._plugin_to_tag_to_content)
    assert {"custom_scalars", "hparams"} <= plugins


def test_the_names_of_a_users_classes_come_back_in_predictions(project: Path, arguments: list[str]) -> None:
    names = {0: "different", 1: "same"}
    write_csv(project / "named.csv", [(a, b, names[y]) for a, b, y in make_rows(60)])
    words = [word for word in arguments if not word.startswith("--data.validation_file")]
    main(["fit", *words, "--data.train_file=named.csv", "--model.label_names=[different,same]"])
    main(["test", "--trainer.accelerator=cpu"])
    main(["predict", "--trainer.accelerator=cpu", "--data.predict_file=validation.csv"])
    predictions = read_predictions(Path("tb_logs/mrpc/version_0/predictions.csv"))
    assert {row["prediction"] for row in predictions} <= {"different", "same"}
    assert {"probability_different", "probability_same"} <= predictions[0].keys()


def test_the_same_seed_gives_the_same_figures(project: Path, arguments: list[str]) -> None:
    for _ in range(2):
        main(["fit", *arguments])
    main(["fit", *arguments, "--seed_everything=7"])
    figures = [json.loads(Path(f"tb_logs/mrpc/version_{n}/metrics.json").read_text()) for n in range(3)]
    assert figures[0]["loss"] == figures[1]["loss"] != figures[2]["loss"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore:.*MRPC's training split")
def test_every_shipped_config_fits(config: Path, project: Path, encoder: str) -> None:
    write_mrpc(project, microsoft=True, glue=True)
    words = ["fit", "--config", str(config), "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]
    if config.name != "demo.yaml":  # the Hub is for no test: its names give way to the tiny encoder and files
        words += [f"--model.model_name={encoder}", "--data.data_dir=.", "--data.max_length=48"]
    assert main(words).trainer.global_step == 1
    assert not Path("tb_logs").exists()


def test_there_are_shipped_configs() -> None:
    assert {path.name for path in CONFIGS} >= {"demo.yaml", "mrpc.yaml"}


def test_the_shipped_config_says_what_the_defaults_are(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(words: list[str]) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--print_config"])
        assert stopped.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    assert printed(["fit", "--config", str(ROOT / "configs" / "mrpc.yaml")]) == printed(["fit"])


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_fast_dev_run_works_for_every_subcommand_and_leaves_nothing(
    subcommand: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([subcommand, *arguments, "--trainer.fast_dev_run=true", "--data.predict_file=validation.csv"])
    assert "no figure means anything" in capsys.readouterr().out
    assert sorted(path.name for path in project.iterdir()) == ["train.csv", "validation.csv"]


def test_commands_in_the_readme_and_the_configs_parse(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *CONFIGS)]
    commands = {found.strip() for text in texts for found in re.findall(r"python -m mrpc_lightning (\w[^`#\n]*)", text)}
    assert len(commands) >= 5
    for command in sorted(commands):
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(command)]
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--print_config"])
        assert stopped.value.code == 0, f"{command}: {capsys.readouterr().err}"


def test_a_flag_goes_before_a_checkpoint_and_a_checkpoint_before_a_config_file(
    project: Path, arguments: list[str]
) -> None:
    main(["fit", *arguments])
    Path("other.yaml").write_text("data:\n  eval_batch_size: 3\n  max_length: 10\n")
    words = ["test", "--trainer.accelerator=cpu", "--data.eval_batch_size=5", "--config=other.yaml"]
    tested = main([*words, "--ckpt_path=tb_logs/mrpc/version_0/checkpoints/last.ckpt"])
    assert tested.datamodule.hparams["eval_batch_size"] == 5
    assert tested.datamodule.hparams["max_length"] == 48


BAD_WORDS = {
    "mistyped flag": (["fit", "--model.learning_rat=3"], "--model.learning_rat=3; did you mean --model.learning_rate?"),
    "shortened flag": (["fit", "--trainer.max_ep=3"], "did you mean --trainer.max_epochs?"),
    "mistyped subcommand": (["fti"], "did you mean fit?"),
    "no subcommand": ([], "say what to do: fit, validate, test, predict"),
    "no number": (["fit", "--model.learning_rate=fast"], "--model.learning_rate fast: expected float"),
    "no whole number": (["fit", "--data.batch_size=1.5"], "--data.batch_size 1.5: expected int"),
    "no split": (["fit", "--data.test_split=dev"], "--data.test_split dev: expected train, validation, test or null"),
    "no precision": (["fit", "--trainer.precision=8"], "--trainer.precision 8: expected .*bf16-mixed.* or null"),
    "linked flag": (["fit", "--data.model_name=x"], "must be given via .*model.model_name"),
    "missing config": (["fit", "--config=nope.yaml"], "nope.yaml"),
    "broken config": (["fit", "--config=broken.yaml"], "--config broken.yaml: not YAML: .*line 2"),
    "empty config": (["fit", "--config=empty.yaml"], "--config empty.yaml: holds no keys"),
    "config not UTF-8": (["fit", "--config", "latin.yaml"], "--config latin.yaml: not UTF-8"),
    "column twice": (
        ["fit", "--data.sentence1_column=label"],
        "--data.sentence1_column label.*two of them are the same",
    ),
    "no model in a folder": (["fit", "--model.model_name=."], "--model.model_name .: the folder holds no model"),
    "a file for a folder": (["fit", "--trainer.logger.save_dir=train.csv"], "train.csv/mrpc.*: Not a directory"),
    "mistyped key": (["fit", "--config=typo.yaml"], "model.learning_rat'; did you mean --model.learning_rate?"),
    "missing encoder": (["fit", "--model.model_name=./nope"], "--model.model_name ./nope: no such folder"),
    "missing data folder": (["fit", "--data.data_dir=nope"], "--data.data_dir nope: no such folder"),
    "missing file": (["fit", "--data.train_file=nope.csv"], "--data.train_file nope.csv: no such file"),
    "unreachable Hub": (
        ["fit", "--data.train_file", "null"],
        "--data.dataset_name nyu-mll/glue: not in the cache, and .* cannot be reached; .*local folder.*demo.yaml",
    ),
    "endless run": (["fit", "--trainer.max_epochs=-1"], "--trainer.max_epochs"),
    "long warmup": (["fit", "--model.warmup=1000"], "--model.warmup 1000: a run of 16 optimizer steps"),
    "no such figure": (["fit", "--early_stopping.monitor=val_fl"], "--early_stopping.monitor val_fl: .*val_f1"),
    "the worst is kept": (
        ["fit", "--model_checkpoint.monitor=val_loss"],
        "--model_checkpoint.mode max: would keep the worst",
    ),
    "no accumulation": (["fit", "--trainer.accumulate_grad_batches=0"], "--trainer.accumulate_grad_batches 0"),
    "no such strategy": (["fit", "--trainer.strategy=foo"], "trainer or callback value does not do: .*foo"),
    "no such device": (["fit", "--trainer.accelerator=foo"], "trainer or callback value does not do: .*foo"),
    "too long for the encoder": (["fit", "--data.max_length=65"], "--data.max_length 65: .* takes 64 tokens at most"),
    "nothing trained": (["test"], "--ckpt_path best: no run in tb_logs has one; python -m mrpc_lightning fit"),
    "no such checkpoint": (["test", "--ckpt_path=nope"], "--ckpt_path nope: no nope"),
    "not a checkpoint": (["test", "--ckpt_path=train.csv"], "--ckpt_path train.csv: not a readable checkpoint"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_input_is_one_line_with_exit_code_2(
    case: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.yaml").write_text("model: [\n")
    Path("empty.yaml").write_text("")
    Path("latin.yaml").write_bytes(b"# caf\xe9\nseed_everything: 1\n")
    Path("typo.yaml").write_text("model:\n  learning_rat: 3\n")
    words, message = BAD_WORDS[case]
    if words[:1] == ["fit"]:
        words = ["fit", *arguments, *words[1:]]
    if case == "missing data folder":
        words = [word for word in words if "train_file" not in word]
    assert re.search(message, fails(capsys, words))
    assert not Path("tb_logs").exists() or case in ("endless run", "long warmup")  # known once there is a Trainer


def test_an_encoder_other_than_the_checkpoints_is_refused(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments])
    message = fails(capsys, ["test", "--model.model_name=demo"])
    assert "--model.model_name" in message and "was trained with" in message


def test_hidden_labels_are_not_scored(project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(project / "hidden.csv", [(a, b, -1) for a, b, _ in make_rows(10)])
    main(["fit", *arguments])
    message = fails(capsys, ["test", "--trainer.accelerator=cpu", "--data.test_file=hidden.csv"])
    assert "hidden.csv, line 2: the label is -1, which means hidden" in message


@pytest.mark.parametrize(
    ("accelerator", "gpu", "bf16", "precision"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("gpu", True, False, "16-mixed"),
        ("cpu", True, True, "32-true"),
        ("auto", False, False, "32-true"),
    ],
)
def test_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpu: bool, bf16: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert choose_precision(accelerator) == precision


def test_a_precision_that_was_set_stands(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.precision=bf16-mixed", "--trainer.max_epochs=1"])
    assert json.loads(Path("tb_logs/mrpc/version_0/metrics.json").read_text())["precision"] == "bf16-mixed"


def test_a_runs_config_given_back_to_fit_repeats_it(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--seed_everything=5"])
    main(["fit", "--config=tb_logs/mrpc/version_0/config.yaml", "--trainer.enable_progress_bar=true"])
    first, second = (json.loads(Path(f"tb_logs/mrpc/version_{n}/metrics.json").read_text()) for n in (0, 1))
    timings = {"wall_seconds", "training_pairs_per_second"}
    assert {k: v for k, v in first.items() if k not in timings} == {k: v for k, v in second.items() if k not in timings}


@pytest.mark.parametrize("logger", ["false", "lightning.pytorch.loggers.CSVLogger"])
def test_other_loggers_and_none_do(project: Path, arguments: list[str], logger: str) -> None:
    words = [f"--trainer.logger={logger}"]
    if logger != "false":
        words.append("--trainer.logger.save_dir=csv_logs")
    Path("config.yaml").write_text("# a person's own file\n")
    for _ in range(2):
        main(["fit", *arguments, *words])
    folder = project / ("tb_logs/unlogged" if logger == "false" else "csv_logs/mrpc")
    for version in ("version_0", "version_1"):
        assert json.loads((folder / version / "metrics.json").read_text())["pairs"] == 25
        assert (folder / version / "checkpoints/best.ckpt").is_file() and (folder / version / "config.yaml").is_file()
    assert Path("config.yaml").read_text() == "# a person's own file\n"
    assert {path.name for path in project.iterdir()} == {
        "config.yaml",
        "train.csv",
        "validation.csv",
        folder.parent.name,
    }
