"""What a person gets wrong: each answered in one line, with exit code 2, and with every file as it was."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import fails, make_rows, write_csv
from transformers import BertConfig, BertForSequenceClassification, BertModel

RECIPE = Path("tb_logs/mrpc/version_0/config.yaml")
RESUME = ["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]
BEST, LAST = "tb_logs/mrpc/version_0/checkpoints/best.ckpt", "tb_logs/mrpc/version_0/checkpoints/last.ckpt"

# name: (the words after those of a good `fit`, or another command; what the line says)
BEFORE_A_RUN = {
    "mistyped flag": (
        ["fit", "--model.learning_rat=3"],
        "argument --model.learning_rat=3; did you mean --model.learning_rate?",
    ),
    "shortened flag": (["fit", "--trainer.max_ep=3"], "did you mean --trainer.max_epochs?"),
    "mistyped subcommand": (["fti"], "did you mean fit?"),
    "no subcommand": (
        [],
        "say what to do: fit, describe, validate, .*, study; for example: .*fit --config demo",
    ),
    "no number": (["fit", "--model.learning_rate=fast"], "--model.learning_rate fast: expected float"),
    "no whole number": (["fit", "--data.global_batch_size=1.5"], "--data.global_batch_size 1.5: expected int"),
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
    "mistyped key": (
        ["fit", "--config=typo.yaml"],
        "typo.yaml, line 2: model.learning_rat: .*did you mean --model.learning_rate?",
    ),
    "missing encoder": (["fit", "--model.model_name=./nope"], "--model.model_name ./nope: no such folder"),
    "missing data folder": (["fit", "--data.data_dir=nope"], "--data.data_dir nope: no such folder"),
    "missing file": (["fit", "--data.train_file=nope.csv"], "--data.train_file nope.csv: no such file"),
    "unreachable Hub": (
        ["fit", "--data.train_file", "null"],
        "--data.dataset_name nyu-mll/glue: not in the cache, and .* cannot be reached; .*local folder.*--config demo",
    ),
    "dropping everything": (
        ["fit", "--model.hidden_dropout=1"],
        "--model.hidden_dropout 1: a share, from 0 to below 1",
    ),
    "negative dropout": (["fit", "--model.attention_dropout=-0.1"], "--model.attention_dropout -0.1: a share"),
    "frozen random weights": (
        ["fit", "--model.freeze_embeddings=true", "--model.pretrained=false"],
        "--model.freeze_embeddings true: random embeddings",
    ),
    "compiling every width": (["fit", "--model.compile=true"], "needs --data.pad_to_multiple_of, 32 say"),
    "too wide a multiple": (
        ["fit", "--data.pad_to_multiple_of=100"],
        "--data.max_length 48, rounded up to 100 by --data.pad_to_multiple_of 100: the encoder takes 64 tokens",
    ),
    "fp16 on a CPU": (["fit", "--trainer.precision=16-mixed"], "--trainer.precision 16-mixed: a CPU does not"),
    "no multiple": (["fit", "--data.pad_to_multiple_of=0"], "--data.pad_to_multiple_of 0: must be at least 1"),
    "endless run": (["fit", "--trainer.max_epochs=-1"], "--trainer.max_epochs"),
    "long warmup": (["fit", "--model.warmup=1000"], "--model.warmup 1000: a run of 16 optimizer steps"),
    "no such figure": (["fit", "--early_stopping.monitor=val_fl"], "--early_stopping.monitor val_fl: .*val_f1"),
    "the worst is kept": (
        ["fit", "--model_checkpoint.monitor=val_loss"],
        "--model_checkpoint.mode max: would keep the worst",
    ),
    "no accumulation": (["fit", "--trainer.accumulate_grad_batches=0"], "--trainer.accumulate_grad_batches 0"),
    "no such strategy": (
        ["fit", "--trainer.strategy=foo"],
        "Lightning refuses a --trainer or callback value: .*foo",
    ),
    "no such device": (
        ["fit", "--trainer.accelerator=foo"],
        "Lightning refuses a --trainer or callback value: .*foo",
    ),
    "too long for the encoder": (["fit", "--data.max_length=65"], "--data.max_length 65: .* takes 64 tokens at most"),
    "unknown subcommand": (["train"], "train: no such subcommand; choose from fit, describe, validate"),
    "a word too many": (
        ["test", "tb_logs/x"],
        "argument tb_logs/x; pass a checkpoint or a run folder with --ckpt",
    ),
    "rows in memory": (["fit", "--data.train=train.csv"], "unexpected argument --data.train=train.csv"),
    "a list without quotes": (
        ["fit", "--model.class_weights", "[2.0,", "1.0]"],
        "unexpected argument 1.0]; put quotes around a list",
    ),
    "no such logger": (["fit", "--trainer.logger=Foo"], "--trainer.logger Foo: expected bool, null or a class path"),
    "no GPU": (
        ["fit", "--trainer.accelerator=gpu"],
        "callback value: No supported gpu backend found",
    ),
    "more processes than pairs": (["fit", "--trainer.devices=999"], "global_batch_size 8: cannot be .* 999 processes"),
    "a step too far": (["fit", "--model.learning_rate=1e40"], "--model.learning_rate 1e\\+40: at most 1"),
    "no epochs": (["fit", "--trainer.max_epochs=0"], "--trainer.max_epochs 0: at least 1"),
    "a config file in front": (["--config=typo.yaml", "fit"], "flags and --config go after fit|typo|learning_rat"),
    "no steps between writes": (["fit", "--checkpoint_every=0"], "--checkpoint_every 0: at least 1 optimizer step"),
    "loading that runs code": (["test", "--weights_only=false"], "unexpected argument --weights_only=false"),
    "no folder can be made": (["fit", "--trainer.logger.save_dir=/sys/x"], "/sys/x.*: (Operation not|Permission)"),
    "a bad configuration of a run": (["fit", "--model.label_names=[same]"], "--model.label_names .*give two names"),
    "resuming nothing": (
        ["fit", "--ckpt_path=last"],
        "--ckpt_path last: .*no run in tb_logs has one; python -m",
    ),
    "a run of no name": (["test", "--run=version_7"], "--run version_7: no such run in tb_logs; python -m"),
    "scoring a fresh head": (
        ["test", "--ckpt_path=none", "--model.model_name=headless", "--data.test_file=validation.csv"],
        "--model.model_name headless: has no trained head for two classes",
    ),
    "scoring a head for three": (
        ["test", "--ckpt_path=none", "--model.model_name=three", "--data.test_file=validation.csv"],
        "--model.label_names .*the head's classes are .*only heads for two classes",
    ),
    "nothing trained": (
        ["test"],
        "--ckpt_path best: .*no run in tb_logs has one; python -m",
    ),
    "no such checkpoint": (["test", "--ckpt_path=nope"], "--ckpt_path nope: no nope"),
    "not a checkpoint": (["test", "--ckpt_path=train.csv"], "--ckpt_path train.csv: not a readable checkpoint"),
    "a run and none": (["test", "--ckpt_path=none", "--run=version_1"], "--run: --ckpt_path none means no run"),
    "compiled and computed again": (
        ["fit", "--model.compile=true", "--data.pad_to_multiple_of=16", "--model.gradient_checkpointing=true"],
        "--model.compile true: was not tried with --model.gradient_checkpointing",
    ),
    "compiled and sharded": (
        ["fit", "--model.compile=true", "--data.pad_to_multiple_of=16", "--trainer.strategy=fsdp"],
        "--model.compile true: was not tried with --trainer.strategy fsdp",
    ),
    "two machines by hand": (["fit", "--trainer.num_nodes=2"], "num_nodes 2: start the processes with torchrun"),
    "checkpoints elsewhere": (["fit", "--model_checkpoint.dirpath=x"], "dirpath: checkpoints lie in the run's folder"),
    "a folder in a run's": (["fit", "--trainer.logger.sub_dir=x"], "--trainer.logger.sub_dir: a run has one folder"),
    "a second last.ckpt": (
        ["fit", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true"],
        "--trainer.callbacks: ModelCheckpoint's save_last writes over last.ckpt",
    ),
    "no runs": (["runs", "."], "error: .: holds no run; give another folder"),
    "no such order": (["runs", "--sort=worst"], "--sort: invalid choice: 'worst'"),
    "no such tokenizer": (["fit", "--model.model_name=unpadded"], "unpadded: its tokenizer has no padding token"),
}

# name: (what is done to a finished run's folder, the command, what the line says)
AFTER_A_RUN: dict[str, tuple[Callable[[], object], list[str], str]] = {
    "cut short": (lambda: cut(BEST), ["test"], "best.ckpt: not a readable checkpoint; it is damaged or cut short"),
    "empty": (lambda: Path(BEST).write_bytes(b""), ["test"], "best.ckpt: not a readable checkpoint"),
    "no checkpoint at all": (
        lambda: Path(BEST).write_text("hello"),
        ["predict"],
        "best.ckpt: holds something other than weights|not a readable",
    ),
    "another project's": (lambda: torch.save({"state_dict": {}}, BEST), ["test"], "not a checkpoint of mrpc_lightning"),
    "a bomb": (lambda: torch.save({"encoder_config": Bomb()}, BEST), ["test"], "nothing of it was run"),
    "a bomb to resume": (lambda: torch.save({"encoder_config": Bomb()}, LAST), ["fit", "--ckpt_path=last"], "nothing"),
    "cut short, to resume": (lambda: cut(LAST), ["fit", "--ckpt_path=last"], "last.ckpt: not a readable checkpoint"),
    "weights alone, to resume": (
        lambda: None,
        ["fit", f"--ckpt_path={BEST}"],
        "best.ckpt: holds weights alone.*last.ckpt is the one to resume from",
    ),
    "without its recipe": (
        lambda: RECIPE.unlink(),
        ["fit", "--ckpt_path=last"],
        "config.yaml: no such file; a run is resumed with its recipe",
    ),
    "weights of another shape": (lambda: reshape(), ["test"], "best.ckpt: its weights do not fit .*size mismatch"),
    "weights missing": (lambda: leave_out_weights(), ["test"], "best.ckpt: its weights do not fit .*Missing key"),
    "an encoder of no known kind": (
        lambda: change(BEST, lambda content: content["encoder_config"].update(model_type="foo")),
        ["test"],
        "best.ckpt: its weights do not fit .*foo",
    ),
    "a last.ckpt without its folder": (
        lambda: shutil.copy(LAST, "moved.ckpt"),
        ["fit", "--ckpt_path=moved.ckpt", "--trainer.max_epochs=2"],
        "a run is resumed in its own folder: put the file back as RUN/checkpoints/last.ckpt",
    ),
    "a link to another place": (
        lambda: (
            shutil.copy(LAST, "elsewhere.ckpt"),
            Path(LAST).unlink(),
            Path(LAST).symlink_to(Path("elsewhere.ckpt").absolute()),
        ),
        ["fit", f"--ckpt_path={LAST}", "--trainer.max_epochs=2"],
        "last.ckpt: is a link; a run's checkpoints are files in its own folder",
    ),
    "one that a user's own callback wrote": (
        lambda: change(LAST, lambda content: content.pop("processes")),
        RESUME,
        "last.ckpt: not written to be resumed, as last.ckpt is; it can be scored",
    ),
    "a key that appends": (
        lambda: edit_recipe(lambda recipe: recipe["model"].update({"label_names+": "x"})),
        RESUME,
        "config.yaml: damaged: --model.label_names\\+ is no key",
    ),
    "a trial of an export": (
        lambda: None,
        ["export", "--to=x", "--trainer.fast_dev_run=true"],
        "--trainer.fast_dev_run: export has nothing to try",
    ),
    "another run's name": (lambda: None, ["test", "--run=version_7"], "no such run in tb_logs, only mrpc/version_0"),
    "a name of two": (
        lambda: shutil.copytree("tb_logs/mrpc", "tb_logs/other"),
        ["test", "--run=version_0"],
        "several runs have that name: tb_logs/mrpc/version_0, tb_logs/other/version_0",
    ),
    "a name and a file": (
        lambda: None,
        ["test", "--run=version_0", f"--ckpt_path={BEST}"],
        "goes with --ckpt_path best",
    ),
    "a folder without": (
        lambda: Path("empty").mkdir(),
        ["test", "--ckpt_path=empty"],
        "no empty/checkpoints/best.ckpt",
    ),
    "another encoder": (lambda: None, ["test", "--model.model_name=demo"], "--model.model_name: .*was trained with"),
    "other labels": (lambda: None, ["test", "--model.label_names=[a,b]"], "--model.label_names: .*was trained with"),
    "a finished run": (
        lambda: None,
        ["fit", "--ckpt_path=last"],
        "has trained for 1 epochs; raise --trainer.max_epochs",
    ),
    "another seed": (
        lambda: None,
        [*RESUME, "--seed_everything=7"],
        "--seed_everything 7: the run was started with 42",
    ),
    "another learning rate": (
        lambda: None,
        [*RESUME, "--model.learning_rate=1e-5"],
        "--model.learning_rate 1e-05: the",
    ),
    "another batch size": (
        lambda: None,
        [*RESUME, "--data.global_batch_size=4"],
        "--data.global_batch_size 4: the run was .* with 8",
    ),
    "other pairs": (
        lambda: None,
        [*RESUME, "--data.train_file=validation.csv"],
        "validation.csv.*: not the train pairs",
    ),
    "another precision": (
        lambda: None,
        [*RESUME, "--trainer.precision=64-true"],
        '--trainer.precision "64-true"',
    ),
    "processes without equal shares": (
        lambda: None,
        [*RESUME, "--trainer.devices=3"],
        "data.global_batch_size 8: cannot be shared among 3 processes; give 6 or 9",
    ),
    "a trial of a resumed run": (
        lambda: None,
        [*RESUME, "--trainer.fast_dev_run=true"],
        "--trainer.fast_dev_run: tries",
    ),
    "pairs that went away": (lambda: Path("train.csv").unlink(), RESUME, "--data.train_file train.csv: no such file"),
    "pairs that were changed": (
        lambda: write_csv(Path("train.csv"), make_rows(59)),
        RESUME,
        "train.csv.*: not the train pairs that the run was started with",
    ),
    "a folder that is full": (
        lambda: None,
        RESUME,
        "last.ckpt: the checkpoint cannot be written: No space left",
    ),
    "exporting over files": (lambda: None, ["export", "--to=tb_logs"], "--to tb_logs: is there already and not empty"),
    "exporting onto a file": (lambda: None, ["export", "--to=train.csv"], "--to train.csv: is there already"),
    "exporting nowhere": (lambda: None, ["export"], "--to is required"),
    "no file to predict": (
        lambda: None,
        ["predict", "--data.predict_file=x.csv"],
        "--data.predict_file x.csv: no such",
    ),
    "hidden labels": (
        lambda: write_csv(Path("hidden.csv"), [(a, b, -1) for a, b, _ in make_rows(10)]),
        ["test", "--data.test_file=hidden.csv"],
        "hidden.csv, line 2: the label is -1, which means hidden",
    ),
    "a new run in an old folder": (
        lambda: None,
        ["fit", "--config=tb_logs/mrpc/version_0/config.yaml", "--trainer.logger.version=version_0"],
        "tb_logs/mrpc/version_0: holds a run already; --ckpt_path",
    ),
    "a stranger's code, as an argument of Lightning's": (
        lambda: plant(callbacks=[LAMBDA]),
        RESUME,
        "the run used .*LambdaCallback for --trainer.callbacks, which a run's folder may not decide",
    ),
    "a stranger's code, as a word": (
        lambda: plant(logger="my_code.Logger"),
        RESUME,
        "my_code.Logger.* for --trainer.logger",
    ),
    "a stranger's code, as a text": (
        lambda: plant(callbacks="[{class_path: my_code.Callback}]"),
        RESUME,
        "my_code.Callback.* for --trainer.callbacks",
    ),
    "a stranger's file": (
        lambda: edit_recipe(lambda recipe: recipe.update(trainer="t.yaml")),
        RESUME,
        "damaged",
    ),
    "a stranger's place for curves": (
        lambda: plant(logger={"class_path": TENSORBOARD, "init_args": {"save_dir": "x", "sub_dir": "../.."}}),
        RESUME,
        "for --trainer.logger, which a run's folder may not decide",
    ),
    "a stranger's place for weights": (
        lambda: edit_recipe(lambda recipe: recipe["model_checkpoint"].update(filename="../../../w")),
        RESUME,
        "--model_checkpoint.filename ../../../w: a file's name",
    ),
    "a best that is the last": (
        lambda: None,
        ["fit", "--data.train_file=train.csv", "--model_checkpoint.filename=last"],
        "--model_checkpoint.filename last: a file's name in the run's folder, other than last",
    ),
    "a last that is not whole": (
        lambda: None,
        ["fit", "--data.train_file=train.csv", "--model_checkpoint.save_last=true"],
        "--model_checkpoint.save_last: last.ckpt is written anyway",
    ),
    "a best with everything": (
        lambda: None,
        ["fit", "--data.train_file=train.csv", "--model_checkpoint.save_weights_only=false"],
        "--model_checkpoint.save_weights_only false: last.ckpt has what resuming needs",
    ),
    "a packaged file by its path": (
        lambda: None,
        ["fit", "--config=configs/demo.yaml"],
        "--config configs/demo.yaml: no such file; --config demo is the package's",
    ),
    "pairs that come again": (
        lambda: plant(overfit_batches=4),
        RESUME,
        "a run with overfit_batches cannot be resumed exactly",
    ),
    "a stranger's path": (lambda: change(LAST, claim), RESUME, "names .*train.csv as its run's, which is not in"),
    "a stranger's code": (
        lambda: plant(callbacks=[{"class_path": "my_code.Callback"}]),
        RESUME,
        "the run used my_code.Callback for --trainer.callbacks, .*--config tb_logs/mrpc/version_0/config.yaml",
    ),
}


TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"
LAMBDA = {
    "class_path": "lightning.pytorch.callbacks.LambdaCallback",
    "init_args": {"on_fit_start": "os.mkdir"},
}


def claim(content: dict[str, Any]) -> None:
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    state["best_k_models"] = {"train.csv": torch.tensor(0.0)}  # the worst so far: deleted at the next improvement
    state["kth_best_model_path"] = "train.csv"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def cut(name: str) -> None:
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: len(content) // 2])


def change(name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(name, weights_only=True)
    edit(content)
    torch.save(content, name)


def reshape() -> None:
    change(BEST, lambda content: content["state_dict"].update({"model.classifier.weight": torch.zeros(3, 32)}))


def leave_out_weights() -> None:
    change(BEST, lambda content: content["state_dict"].pop("model.classifier.weight"))


def plant(**values: Any) -> None:
    edit_recipe(lambda recipe: recipe["trainer"].update(values))


def edit_recipe(edit: Callable[[dict[str, Any]], object]) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    edit(recipe)
    RECIPE.write_text(yaml.safe_dump(recipe))


def full_disk(descriptor: int) -> None:
    """Stand in for `os.fsync` on a disk that is full, for checkpoints alone."""
    if "ckpt" not in os.readlink(f"/proc/self/fd/{descriptor}"):
        return
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize("case", BEFORE_A_RUN)
def test_a_bad_command_is_one_line_with_exit_code_2(
    case: str, project: Path, arguments: list[str], encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if case == "no folder can be made" and sys.platform != "linux":
        pytest.skip("/sys is Linux's")
    Path("broken.yaml").write_text("model: [\n")
    Path("empty.yaml").write_text("")
    Path("latin.yaml").write_bytes(b"# caf\xe9\nseed_everything: 1\n")
    Path("typo.yaml").write_text("model:\n  learning_rat: 3\n")
    words, message = BEFORE_A_RUN[case]
    if any("three" in word for word in words):
        shutil.copytree(encoder, "three")
        BertForSequenceClassification(BertConfig.from_pretrained(encoder, num_labels=3)).save_pretrained("three")
    if any("headless" in word for word in words):
        shutil.copytree(encoder, "headless")
        BertModel(BertConfig.from_pretrained(encoder)).save_pretrained("headless")
    if any("unpadded" in word for word in words):
        shutil.copytree(encoder, "unpadded")
        Path("unpadded/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    if words[:1] == ["fit"]:
        words = ["fit", *arguments, *words[1:]]
    if case == "missing data folder":
        words = [word for word in words if "train_file" not in word]
    before = contents(project)
    assert re.search(message, fails(capsys, words))
    assert contents(project).items() >= before.items()
    assert not Path("tb_logs").exists() or case in ("endless run", "long warmup")  # known once there is a Trainer


@pytest.mark.parametrize("case", AFTER_A_RUN)
def test_a_bad_command_about_a_run_is_one_line_and_loses_nothing(
    case: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "a folder that is full":
        monkeypatch.setattr("os.fsync", full_disk)
    prepare, words, message = AFTER_A_RUN[case]
    prepare()
    before = contents(trained)
    assert re.search(message, fails(capsys, words))
    after = contents(trained)
    # A resumed run writes config.yaml, with what was changed.
    assert {path for path, content in before.items() if after.get(path) != content} <= {
        trained / "tb_logs/mrpc/version_0/config.yaml"
    }
    assert not Path("exploded").exists()


def test_there_are_at_least_forty_of_them() -> None:
    assert len(BEFORE_A_RUN) + len(AFTER_A_RUN) >= 40
