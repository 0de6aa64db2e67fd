"""What a stranger's run, file or folder must not be able to do, and what must not get out."""

import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets.load
import pytest
import torch
import yaml
from helpers import LAST, RUN, copy_to, dependencies, fails, from_run, rewrite
from lightning.pytorch import LightningModule

from mrpc_lightning import main
from mrpc_lightning.deploy import predict
from mrpc_lightning.errors import InputError

CPU = "--trainer.accelerator=cpu"
BEST = RUN / "checkpoints/best.ckpt"
RESUME = ["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]
ESCAPE = "\x1b"


@pytest.fixture
def strangers(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a trained project to work in, as though it had come from somebody else."""
    return copy_to(tiny_run, tmp_path / "strangers", monkeypatch)


def attempt(words: list[str]) -> bool:
    """Run a command that may be refused; return whether it was not."""
    try:
        main(words)
    except SystemExit as stopped:
        assert stopped.code == 2
        return False
    return True


# Checkpoints


def test_only_versions_of_lightning_that_run_no_code_from_a_checkpoint_are_admitted() -> None:
    specifier = dependencies()["lightning"].specifier
    assert not specifier.contains("2.6.5") and specifier.contains("2.6.6")


def test_a_checkpoint_is_loaded_without_lightning_making_the_model(
    strangers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_from_checkpoint(*_: Any, **__: Any) -> None:
        raise AssertionError("Lightning made a model from a checkpoint")

    monkeypatch.setattr(LightningModule, "load_from_checkpoint", load_from_checkpoint)
    main(["test", CPU])
    figures, trained = (json.loads((RUN / name).read_text()) for name in ("test_metrics.json", "metrics.json"))
    assert figures["loss"] == pytest.approx(trained["loss"])
    [answer] = from_run("best").predict([("It rose.", "It fell.")])
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def own(content: dict[str, Any], path: Path) -> None:
    """Let a run claim a file as its worst checkpoint so far, which the next improvement deletes."""
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    claimed = str(Path(state["dirpath"]) / path)
    state["best_k_models"] = {claimed: torch.tensor(-1.0)}
    state["kth_best_model_path"], state["kth_value"] = claimed, torch.tensor(-1.0)
    state["best_model_score"] = torch.tensor(-1.0)


@pytest.mark.parametrize("link", ["a folder", "a file"])
def test_a_run_whose_checkpoints_are_links_is_not_resumed(
    link: str, strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.ckpt").write_text("precious")
    if link == "a folder":
        (LAST.parent / "old").symlink_to(outside)
        claimed = Path("old/precious.ckpt")
    else:
        (LAST.parent / "old.ckpt").symlink_to(outside / "precious.ckpt")
        claimed = Path("old.ckpt")
    rewrite(LAST, lambda content: own(content, claimed))
    try:
        message = fails(capsys, RESUME)
    finally:
        assert (outside / "precious.ckpt").read_text() == "precious"
    assert "old" in message
    assert (LAST.parent / "old").is_symlink() or (LAST.parent / "old.ckpt").is_symlink()


# Links in a run's folder

COMMANDS = {
    "test": ["test", CPU],
    "validate": ["validate", CPU],
    "predict": ["predict", CPU, "--data.predict_file=validation.csv"],
    "resume": [*RESUME, "--checkpoint_every=4"],
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_through_a_link_that_was_planted_in_a_runs_folder(
    command: str, strangers: Path, tmp_path: Path
) -> None:
    untouched = tmp_path / "untouched"
    shutil.copytree(strangers, untouched)
    started = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    assert attempt(COMMANDS[command])
    written = [path for path in RUN.rglob("*") if path.is_file() and path.stat().st_mtime_ns != started.get(path)]
    names = [path for path in written if not path.name.startswith("events.")]
    assert names
    shutil.rmtree("tb_logs")
    shutil.copytree(untouched / "tb_logs", "tb_logs")

    outside = tmp_path / "outside"
    outside.mkdir()
    needed = {"best.ckpt", "last.ckpt", "config.yaml"}
    for number, path in enumerate(names):
        for link in (path, path.with_name(f"{path.name}.tmp")):
            if link.name in needed:
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            target = outside / f"{number}{link.suffix}"
            target.write_text("precious")
            link.symlink_to(target)
    before = contents(outside)
    attempt(COMMANDS[command])
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["hparams.yaml", "metrics.csv", "logger_1/metrics.csv"])
def test_a_loggers_file_that_is_a_link_to_nowhere_is_not_made(
    name: str, strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (RUN / name).parent.mkdir(exist_ok=True)
    (RUN / name).unlink(missing_ok=True)
    (RUN / name).symlink_to(tmp_path / "outside")
    assert f"{RUN / name}: is a link" in fails(capsys, RESUME)
    assert not (tmp_path / "outside").exists()


def test_parts_of_a_table_are_not_written_into_a_folder_that_is_a_link(
    strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"

    def plant(folder: Path, sizes: list[int]) -> None:
        folder.rename(outside)
        folder.symlink_to(outside)
        raise InputError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(predict, "find_parts", plant)
        fails(capsys, COMMANDS["predict"])
    before = contents(outside)
    assert ".parts: is a link" in fails(capsys, COMMANDS["predict"])
    assert contents(outside) == before


def test_pictures_are_not_written_into_a_folder_that_is_a_link(strangers: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "curves.png").write_text("precious")
    (RUN / "test_pictures").symlink_to(outside)
    attempt(["test", CPU])
    assert contents(outside) == {"curves.png": b"precious"}


# Other people's folders and repositories


def test_no_program_of_the_current_folders_repository_is_run(project: Path, arguments: list[str]) -> None:
    program = project / "monitor.sh"
    program.write_text(f"#!/bin/sh\ntouch '{project}/ran'\n")
    program.chmod(0o755)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (
        ["init", "-q"],
        ["add", "train.csv"],
        [*identity, "commit", "-q", "-m", "first"],
        ["config", "core.fsmonitor", str(program)],
    ):
        subprocess.run(["git", *words], check=True)
    main(["fit", *arguments, "--trainer.max_epochs=1"])
    assert not (project / "ran").exists()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def rewrite_recipe(edit: Callable[[dict[str, Any]], object]) -> None:
    recipe = yaml.safe_load((RUN / "config.yaml").read_text())
    edit(recipe)
    (RUN / "config.yaml").write_text(yaml.safe_dump(recipe))


def read_with(builder: str, section: dict[str, Any]) -> None:
    section.update(dataset_name=builder, dataset_config=None, train_file=None, validation_file=None)


@pytest.mark.parametrize("words", [["test", CPU], RESUME])
def test_a_run_cannot_have_the_files_of_the_current_folder_unpickled(
    words: list[str], strangers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation", "test"):
        Path(f"{split}.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("train.csv", "validation.csv"):
        Path(name).unlink()
    rewrite(BEST, lambda content: read_with("pandas", content["datamodule_hyper_parameters"]))
    rewrite_recipe(lambda recipe: read_with("pandas", recipe["data"]))
    try:
        message = fails(capsys, words)
    finally:
        assert not Path("exploded").exists()
    assert "pandas" in message


@pytest.mark.parametrize("words", [["test", CPU], RESUME])
@pytest.mark.parametrize("reader", ["pandas", "csv", "text", "webdataset"])
def test_a_run_cannot_name_a_reader_of_files_as_its_data_set(
    reader: str, words: list[str], strangers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(BEST, lambda content: read_with(reader, content["datamodule_hyper_parameters"]))
    rewrite_recipe(lambda recipe: read_with(reader, recipe["data"]))
    asked: list[str] = []

    def load_dataset_builder(path: str, *_: Any, **__: Any) -> None:
        asked.append(path)
        raise ValueError("not to be asked")

    monkeypatch.setattr(datasets.load, "load_dataset_builder", load_dataset_builder)
    message = fails(capsys, words)
    assert asked == []
    assert "dataset_name" in message and reader in message


def test_a_run_cannot_name_a_registry_to_upload_to(strangers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_recipe(lambda recipe: recipe["trainer"].update(model_registry="someone/model"))
    assert "model_registry" in fails(capsys, RESUME)


FOREIGN = {
    "auto_map": {"AutoConfig": "someone--code.A"},
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "experts_implementation": "someone/kernel",
    "quantization_config": {"quant_method": "someone"},
}
DEPTHS: dict[str, Callable[[dict[str, Any]], None]] = {
    "one level": lambda config: config.update(text_config={"hidden_size": 32, **FOREIGN}),
    "two levels": lambda config: config.update(text_config={"vision_config": {"hidden_size": 32, **FOREIGN}}),
    "in a list": lambda config: config.update(parts=[{"hidden_size": 32, **FOREIGN}]),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_name_of_code_survives_at_any_depth_of_an_encoders_configuration(depth: str, strangers: Path) -> None:
    rewrite(BEST, lambda content: DEPTHS[depth](content["encoder_config"]))
    if attempt(["export", "--to=exported"]):
        assert "someone" not in Path("exported/config.json").read_text()


# What must not get out

SECRETS = ("hunter2-of-the-key", "hunter2-of-the-address", "hunter2-of-an-address-alone")


def test_secrets_of_a_logger_are_in_no_file_and_on_no_screen(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    key, password, token = SECRETS
    addresses = f"https://me:{password}@example.org/runs,https://{token}@example.org/runs"
    main(
        [
            *("fit", *arguments, "--trainer.max_epochs=1", "--trainer.logger=helpers.Keyed"),
            *(f"--trainer.logger.api_key={key}", f"--trainer.logger.url={addresses}"),
        ]
    )
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in files) and any(path.name == "last.ckpt" for path in files)
    printed = "".join(capsys.readouterr())
    for secret in SECRETS:
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in printed


def test_control_characters_of_a_strangers_label_names_do_not_reach_the_terminal(
    strangers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{ESCAPE}[31mdifferent", f"{ESCAPE}[31msame"]

    def name(content: dict[str, Any]) -> None:
        content["hyper_parameters"]["label_names"] = names
        content["datamodule_hyper_parameters"]["label_names"] = names

    rewrite(BEST, name)
    capsys.readouterr()
    for words in (["test", CPU], ["predict", CPU, "--pair", "It rose.", "It fell."]):
        attempt(words)
    assert ESCAPE not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["[same](https://evil.example)", "![same](https://evil.example/a.png)"])
def test_markdown_in_label_names_is_text_in_a_model_card(name: str, project: Path, arguments: list[str]) -> None:
    names = json.dumps(["different", name])
    if not attempt(["fit", *arguments, "--trainer.max_epochs=1", f"--model.label_names={names}"]):
        return
    main(["export", "--to=exported"])
    _, _, card = (Path("exported") / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert "same" in card
    assert not re.search(r"(?<!\\)\[same", card)
