import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import TINY, differences, fails, make_rows, read_curves, read_predictions, write_csv, write_mrpc
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrpc_lightning import main
from mrpc_lightning.nn.precision import bf16_instructions, choose_precision

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("**/*.yaml"))


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
    fitted = main(["fit", *arguments, "--trainer.precision=32-true"])
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
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, ["fit", *TINY, "--ckpt_path=last"])
    assert re.search("has trained for 1 epochs?; raise --trainer.max_epochs", message)
    assert main(["fit", *TINY, "--ckpt_path=last", "--trainer.max_epochs=2"]).trainer.global_step == 2 * 8


def test_early_stopping_ends_a_run_that_no_longer_improves(project: Path, arguments: list[str]) -> None:
    # A learning rate of 0 never improves: the first epoch is the best, and two more are waited for.
    fitted = main(["fit", *arguments, "--trainer.max_epochs=9", "--model.learning_rate=0"])
    assert fitted.trainer.current_epoch == 3


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
    assert "no metric means anything" in capsys.readouterr().out
    assert sorted(path.name for path in project.iterdir()) == ["train.csv", "validation.csv"]


def test_a_packaged_config_has_a_name(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def name_of_the_run(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["fit", *words, "--print_config"])
        return str(yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]["init_args"]["name"])

    for words in (["--config", "demo"], ["--config=demo"], ["-c", "demo"]):
        assert name_of_the_run(*words) == "demo"
    Path("demo").write_text("trainer:\n  logger:\n    init_args:\n      name: own\n")
    assert name_of_the_run("--config", "demo") == "own", "a file of that name goes first"


def test_a_flag_goes_before_a_checkpoint_and_a_checkpoint_before_a_config_file(trained: Path) -> None:
    Path("other.yaml").write_text("data:\n  eval_batch_size: 3\n  max_length: 10\n")
    words = ["test", "--trainer.accelerator=cpu", "--data.eval_batch_size=5", "--config=other.yaml"]
    tested = main([*words, "--ckpt_path=tb_logs/mrpc/version_0/checkpoints/last.ckpt"])
    assert tested.datamodule.hparams["eval_batch_size"] == 5
    assert tested.datamodule.hparams["max_length"] == 48


@pytest.mark.parametrize(
    ("accelerator", "card", "cpu", "precision", "reason"),
    [
        ("auto", "bf16", "", "bf16-mixed", "as a card computes in bf16"),
        ("gpu", "fp16", "AMX", "16-mixed", "as a card computes in fp16, not in bf16"),
        ("cpu", "bf16", "AMX", "bf16-mixed", "as this CPU computes in bf16 (AMX)"),
        ("auto", "", "AVX512-BF16", "bf16-mixed", "as this CPU computes in bf16 (AVX512-BF16)"),
        ("auto", "", "", "32-true", "as this CPU has no bf16 instructions"),
        ("tpu", "bf16", "AMX", "32-true", "the choice for accelerator tpu"),
    ],
)
def test_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, card: str, cpu: str, precision: str, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(card))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: card == "bf16")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("mrpc_lightning.nn.precision.bf16_instructions", lambda: cpu)
    assert choose_precision(None, accelerator) == (precision, reason)
    assert choose_precision("64-true", accelerator) == ("64-true", "as asked")


def test_bf16_is_chosen_just_where_the_cpu_says_that_it_has_it() -> None:
    if not Path("/proc/cpuinfo").is_file():
        pytest.skip("only Linux says what its CPU can do")
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert bool(bf16_instructions()) == bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})


def test_a_precision_that_was_set_stands(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.precision=bf16-mixed", "--trainer.max_epochs=1"])
    assert json.loads(Path("tb_logs/mrpc/version_0/metrics.json").read_text())["trainer_precision"] == "bf16-mixed"


def test_a_runs_config_given_back_to_fit_repeats_it(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--seed_everything=5"])
    main(["fit", "--config=tb_logs/mrpc/version_0/config.yaml", "--trainer.enable_progress_bar=true"])
    first, second = (json.loads(Path(f"tb_logs/mrpc/version_{n}/metrics.json").read_text()) for n in (0, 1))
    assert differences(first, second) == []
    main(["fit", *arguments, "--seed_everything=7"])
    assert json.loads(Path("tb_logs/mrpc/version_2/metrics.json").read_text())["loss"] != first["loss"]


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


QUICK_HELP = """
import contextlib, io, sys
from mrpc_lightning.__main__ import entry
for subcommand in sys.argv[1:]:
    sys.argv = ["mrpc_lightning", subcommand, "--help"]
    shown = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        entry()
    assert f"usage: python -m mrpc_lightning {subcommand}" in shown.getvalue(), shown.getvalue()
assert not {"torch", "lightning", "transformers", "datasets"} & {*sys.modules}
"""


def test_help_is_shown_before_anything_heavy_is_imported() -> None:
    words = ["fit", "validate", "test", "predict", "export", "study", "runs", "compare"]
    finished = subprocess.run([sys.executable, "-c", QUICK_HELP, *words], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(("word", "shown"), [("--version", "mrpc_lightning 0.1.0"), ("--help", "\\n  describe +say")])
def test_the_program_says_its_version_and_its_subcommands(
    word: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([word])
    assert not stopped.value.code and re.search(shown, capsys.readouterr().out)


@pytest.mark.parametrize("words", [["--help"], ["--trainer.max_epochs", "3", "-h"]])
def test_help_names_the_flags_that_matter_and_how_to_see_the_rest(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words])
    shown = capsys.readouterr().out
    assert not stopped.value.code and "--model.learning_rate" in shown and "--model.warmup" not in shown
    assert shown.endswith("All flags: python -m mrpc_lightning fit --help all\n")


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict", "export", "study"])
def test_help_begins_with_flags_that_there_are(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([subcommand, "--help", "all"])
    assert stopped.value.code == 0
    first, _, everything = capsys.readouterr().out.partition("All flags, in groups:")
    named = set(re.findall(r"^  --([\w.]+)", first, flags=re.MULTILINE))
    assert len(named) >= 3 and {"ckpt_path", "seeds"} & named
    for flag in named:
        assert re.search(rf"--{re.escape(flag)}\b", everything), flag


def test_one_batch_is_no_share_whatever_unions_a_library_asked_for_before() -> None:
    """`typing` returns the first of two unions of the same members: 1 batch would be read as 1.0, which is all."""
    before = "import typing; typing.Optional[typing.Union[float, int]]; from mrpc_lightning import main"
    script = f"{before}; main(['fit', '--trainer.limit_val_batches=1', '--print_config'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.search(r"^  limit_val_batches: 1$", done.stdout, re.MULTILINE)
