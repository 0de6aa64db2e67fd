import csv
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import load, make_rows
from safetensors.torch import load_file, save_file

from mrpc_lightning import ParaphraseClassifier, Predictor, main
from mrpc_lightning.errors import InputError

RUN = Path("tb_logs/mrpc/version_0")


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_run_predicts_in_code_as_on_the_command_line(
    symmetric: bool, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *arguments, "--trainer.precision=32-true", f"--model.symmetric={symmetric}".lower()])
    main(["predict", "--trainer.accelerator=cpu", "--data.predict_file=validation.csv"])
    with (RUN / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [(first, second) for first, second, _ in make_rows(25, seed=1)]
    for path in ("best", RUN, RUN / "checkpoints/best.ckpt"):
        found = Predictor.from_run(path).predict(pairs, batch_size=7)
        assert [one.label for one in found] == [row["prediction"] for row in rows]
        for one, row in zip(found, rows, strict=True):
            assert list(one.probabilities) == ["not_equivalent", "equivalent"]
            assert one.probabilities["equivalent"] == pytest.approx(float(row["probability_equivalent"]), abs=2e-6)
    turned = Predictor.from_run("best").predict([(second, first) for first, second in pairs])
    same = [a.probabilities == pytest.approx(b.probabilities, abs=1e-5) for a, b in zip(found, turned, strict=True)]
    assert all(same) == symmetric
    capsys.readouterr()
    main(["predict", "--trainer.accelerator=cpu", "--pair", *pairs[0]])
    printed = capsys.readouterr()
    label, share = printed.out.split("\t")
    assert label == found[0].label and float(share) == pytest.approx(found[0].probabilities["equivalent"], abs=0.02)
    assert "loaded" in printed.err


def test_what_is_no_list_of_pairs_is_refused(encoder: str, trained: Path) -> None:
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


def test_the_mean_of_both_orders_is_that_of_two_models_of_one_order(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.precision=32-true", "--trainer.max_epochs=1", "--model.symmetric=true"])
    pairs = [(first, second) for first, second, _ in make_rows(25, seed=1)]
    both = Predictor.from_run("best")
    assert both.model.hparams["symmetric"]
    one = Predictor(ParaphraseClassifier.restore(load(RUN / "checkpoints/best.ckpt"), symmetric=False))
    given, turned = one.predict(pairs), one.predict([(second, first) for first, second in pairs])
    for found, first, second in zip(both.predict(pairs), given, turned, strict=True):
        shares = first.probabilities["equivalent"], second.probabilities["equivalent"]
        assert shares[0] != shares[1]
        assert found.probabilities["equivalent"] == pytest.approx(sum(shares) / 2, abs=1e-5)


def test_a_model_folder_predicts_as_its_run(project: Path, arguments: list[str]) -> None:
    flags = ["--trainer.precision=32-true", "--trainer.max_epochs=1", "--data.max_length=12", "--model.symmetric=true"]
    main(["fit", *arguments, *flags, '--model.label_names=["no", "yes"]'])
    main(["export", "--trainer.accelerator=cpu", "--to=my-model"])
    pairs = [(first, second) for first, second, _ in make_rows(25, seed=1)]  # most are longer than 12 tokens
    run, folder = Predictor.from_run("best"), Predictor.from_run("my-model")
    assert folder.model.max_length == 12 and not folder.model.training
    for found, expected in zip(folder.predict(pairs), run.predict(pairs), strict=True):
        assert found.label == expected.label and list(found.probabilities) == ["no", "yes"]
        assert found.probabilities["yes"] == pytest.approx(expected.probabilities["yes"], abs=1e-6)


def test_a_folder_without_a_trained_model_in_safetensors_is_refused(tmp_path: Path, encoder: str) -> None:
    shutil.copytree(encoder, tmp_path / "headless")
    weights = load_file(tmp_path / "headless/model.safetensors")
    headless = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(headless, tmp_path / "headless/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="headless: has no trained head for two classes"):
        Predictor.from_run(tmp_path / "headless")
    shutil.copytree(encoder, tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").unlink()
    torch.save(weights, tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        Predictor.from_run(tmp_path / "pickled")


def test_a_model_is_moved_to_the_device_that_is_asked_for(encoder: str) -> None:
    model = ParaphraseClassifier(encoder)
    model.setup("predict")
    assert Predictor(model).model.device.type == "cpu" and not model.training
    moved = Predictor(model, "meta").model
    assert {tensor.device.type for tensor in moved.parameters()} == {"meta"} and moved.device.type == "meta"


def test_one_pair_and_a_pipe_compute_where_the_trainer_does(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    make = Predictor.__init__

    def note(
        self: Predictor, model: ParaphraseClassifier, device: torch.device | str | None = None, *rest: Any
    ) -> None:
        asked.append(torch.device(device or "meta"))
        make(self, model, device, *rest)

    monkeypatch.setattr(Predictor, "__init__", note)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for words in (["--pair", "a", "b"], ["-"]):
        cli = main(["predict", "--trainer.accelerator=cpu", *words])
        assert asked.pop() == cli.trainer.strategy.root_device


def test_a_damaged_checkpoint_is_named(trained: Path) -> None:
    content = load(RUN / "checkpoints/best.ckpt")
    del content["state_dict"]["model.classifier.bias"]
    torch.save(content, "damaged.ckpt")
    with pytest.raises(InputError, match=r"^ckpt_path damaged.ckpt: .*classifier.bias"):
        Predictor.from_run("damaged.ckpt")
