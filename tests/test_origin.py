"""Training in two steps: a run starts from another's weights, knows it, and warns of pairs that this one has seen."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import RUN, TINY, Row, fails, load, make_rows, read_predictions, rewrite, write_csv
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, Predictor, main
from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.encoder import load_encoder
from mrpc_lightning.origin import ancestors_of
from mrpc_lightning.pairs.sources import digest
from mrpc_lightning.report import caveats

CPU = "--trainer.accelerator=cpu"
NAMES = ["not_equivalent", "equivalent"]
BEST = RUN / "checkpoints/best.ckpt"
SECOND, THIRD = Path("tb_logs/second/version_0"), Path("tb_logs/third/version_0")


def fit(name: str, model_name: str | Path, *words: str) -> dict[str, Any]:
    """Train a run of this name on the pairs of `train.csv`; return its metrics."""
    main(["fit", *TINY, f"--model.model_name={model_name}", f"--trainer.logger.name={name}", *words])
    return metrics_of(Path("tb_logs") / name / "version_0")


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("place", ["folder", "checkpoint", "moved", "exported"])
def test_every_weight_is_the_best_checkpoints_and_so_is_the_tokenizer(place: str, trained: Path) -> None:
    if place == "exported":
        main(["export", CPU, "--to=exported"])
    shutil.copy(BEST, "moved.ckpt")
    name = {"folder": RUN, "checkpoint": BEST, "moved": "moved.ckpt", "exported": "exported"}[place]
    expected = {name: value for name, value in load(BEST)["state_dict"].items() if name.startswith("model.")}
    state = torch.get_rng_state()
    loaded = load_encoder(str(name), None, True, NAMES, hidden_dropout=0.25)
    assert torch.equal(torch.get_rng_state(), state), "nothing was drawn: the second run is the same from each place"
    found = loaded.state_dict()
    assert found.keys() == {name.removeprefix("model.") for name in expected}
    assert all(torch.equal(found[name.removeprefix("model.")], value) for name, value in expected.items())
    assert loaded.training and loaded.config.hidden_dropout_prob == 0.25
    data = MRPCDataModule(str(name), max_length=48)
    assert (
        data.load_tokenizer()("Rents rose", "It fell")["input_ids"]
        == (
            Predictor.from_run(RUN).model.tokenizer("Rents rose", "It fell")["input_ids"]  # type: ignore[misc]
        )
    )
    # The folder has been deleted since: what was read is no longer on the disk.
    shutil.rmtree(RUN)
    assert all(torch.equal(found[name.removeprefix("model.")], value) for name, value in expected.items())


def test_a_head_is_kept_whatever_its_classes_are_called_and_turned_if_they_come_in_other_order(
    trained: Path,
) -> None:
    batch = Predictor.from_run(RUN).model.tokenizer("Rents rose", "It fell", return_tensors="pt")  # type: ignore[misc]
    logits = {
        names: load_encoder(str(RUN), None, True, list(names)).eval()(**batch).logits
        for names in ((NAMES[0], NAMES[1]), ("different", "same"), (NAMES[1], NAMES[0]))
    }
    kept, renamed, turned = logits.values()
    assert torch.equal(kept, renamed) and kept.diff().abs() > 0.01
    torch.testing.assert_close(kept, turned.flip(1))


def test_the_second_run_knows_the_first_and_needs_it_no_more(
    trained: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = metrics_of(RUN)
    assert first["ancestors"] == [] and "pairs_in_ancestors" not in first
    write_csv(trained / "second.csv", make_rows(30, seed=2))
    capsys.readouterr()
    second = fit("second", RUN, "--data.train_file=second.csv")
    line = f"{RUN}: {encoder}, trained on 60 pairs of train.csv, validation F1 {first['f1']:.4f}"
    assert f"ancestor  {line}" in capsys.readouterr().out and line in (SECOND / "report.html").read_text()
    data = MRPCDataModule(encoder, train_file="train.csv", validation_file="validation.csv", max_length=48)
    [known] = second["ancestors"]
    assert known == {
        "folder": str(RUN),
        "encoder": encoder,
        "training_source": "train.csv",
        "training_digest": digest(data.read("train")),
        "training_pairs": 60,
        "validation_f1": pytest.approx(first["f1"], abs=1e-6),
    }
    assert f"model_name: {RUN}" in (SECOND / "config.yaml").read_text()

    shutil.rmtree(RUN)
    (trained / "train.csv").unlink()
    capsys.readouterr()
    main(["fit", f"--ckpt_path={SECOND}", "--trainer.max_epochs=2"])
    resumed = metrics_of(SECOND)
    assert f"ancestor  {RUN}" in capsys.readouterr().out
    assert resumed["epochs_trained"] == 2 and resumed["ancestors"] == second["ancestors"]
    assert resumed["pairs_in_ancestors"] == second["pairs_in_ancestors"]
    main(["test", CPU, f"--ckpt_path={SECOND}"])
    tested = json.loads((SECOND / "test_metrics.json").read_text())
    assert tested["ancestors"] == [known]
    main(["predict", CPU, f"--ckpt_path={SECOND}", "--data.predict_file=validation.csv"])
    assert len(read_predictions(SECOND / "predictions.csv")) == 25
    main(["export", CPU, f"--ckpt_path={SECOND}", "--to=exported"])
    card = ModelCard.load("exported/README.md")
    assert "trained on 60 pairs of another run before" in card.text and "train.csv" not in card.text
    assert card.data.base_model is None, "the first run's folder is no model on the Hub"

    third = fit("third", "exported", "--data.train_file=second.csv")["ancestors"]
    assert [one["folder"] for one in third] == [str(SECOND), str(RUN)]
    assert [one["training_source"] for one in third] == ["second.csv", "train.csv"]
    assert third[1] == known and third[0]["encoder"] == str(RUN)
    # Nobody names the exported folder's run; as its weights stand, it is the last ancestor itself.
    main(["test", CPU, "--ckpt_path=none", "--model.model_name=exported", *TINY[1:6], "--data.train_file=second.csv"])
    scored = json.loads(Path("tb_logs/pretrained/exported/test_metrics.json").read_text())
    assert [one["folder"] for one in scored["ancestors"]] == [str(SECOND), str(RUN)]


def distinct(start: int, pairs: int) -> list[Row]:
    return [(f"Sentence {n} of the first kind", f"Its fellow {n}", n % 2) for n in range(start, start + pairs)]


def test_pairs_and_sentences_that_an_ancestor_was_trained_on_are_warned_of_down_the_chain(
    project: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = distinct(0, 40), distinct(100, 40)
    write_csv(project / "train.csv", old)
    write_csv(project / "validation.csv", distinct(200, 20))
    assert fit("mrpc", encoder)["warnings"] == fit("again", encoder)["warnings"], "nothing is warned of without one"
    # Three are pairs of the first run: one in the other order, one in other letters, one with other spaces. Two share a
    # sentence with such a pair, and one is made of two sentences that did not belong together.
    seen = [(old[0][1], old[0][0], 1), (old[1][0].upper(), old[1][1], 1), (old[2][0] + " ", old[2][1], 0)]
    half = [(old[3][0], "Something else", 0), ("Something new", old[4][1], 1), (old[5][0], old[6][1], 0)]
    write_csv(project / "train.csv", new)
    write_csv(project / "validation.csv", [*seen, *half, *distinct(300, 14)])
    lines = [
        "3 of 20 validation pairs are training pairs of an ancestor of this model: the metrics flatter",
        "3 of 20 validation pairs share a sentence with other training pairs of an ancestor of this model",
    ]
    for name, model_name in (("second", RUN), ("third", SECOND / "checkpoints/best.ckpt")):
        capsys.readouterr()
        found = fit(name, model_name)
        assert found["warnings"][-2:] == lines and "validation_pairs_in_training" in found
        assert (found["pairs_in_ancestors"], found["pairs_sharing_a_sentence_with_ancestors"]) == (3, 3)
        printed = capsys.readouterr().out
        assert all(f"warning: {line}\n" in printed for line in lines)
    main(["test", CPU, f"--ckpt_path={THIRD}"])
    assert json.loads((THIRD / "test_metrics.json").read_text())["warnings"][-2:] == lines
    main(["export", CPU, f"--ckpt_path={THIRD}", "--to=exported"])
    assert lines[0] in ModelCard.load("exported/README.md").text
    assert b"Sentence 0" not in b"".join(path.read_bytes() for path in Path("exported").iterdir())
    # Another split, of pairs that nobody has seen, and one that the second run was trained on.
    write_csv(project / "other.csv", distinct(400, 19) + new[:1])
    main(["test", CPU, f"--ckpt_path={THIRD}", "--data.test_file=other.csv"])
    other = json.loads((THIRD / "test_metrics.json").read_text())
    assert other["warnings"][-1].startswith("1 of 20 test pairs are training pairs of an ancestor")
    assert (other["pairs_in_ancestors"], other["pairs_sharing_a_sentence_with_ancestors"]) == (1, 0)


@pytest.mark.parametrize(
    ("encoder_name", "split", "pairs", "dataset", "expected"),
    [
        ("cross-encoder/stsb-distilroberta-base", "validation", 408, "mrpc", "48 of MRPC's 408 validation pairs"),
        ("somebody/bert-base-uncased-STS-B", "test", 1725, "mrpc", "499 of MRPC's 1,725 test pairs"),
        ("models/stsb_roberta", "validation", 408, "mrpc", "48 of MRPC's"),
        ("google-bert/bert-base-uncased", "validation", 408, "mrpc", None),
        ("somebody/posts-base", "validation", 408, "mrpc", None),
        ("cross-encoder/stsb-distilroberta-base", "validation", 408, "qqp", None),
        ("cross-encoder/stsb-distilroberta-base", "validation", 407, "mrpc", None),
    ],
)
def test_an_encoder_whose_name_says_sts_b_is_warned_of_on_mrpc(
    encoder_name: str, split: str, pairs: int, dataset: str, expected: str | None
) -> None:
    data = MRPCDataModule(encoder_name, dataset_config=dataset)
    data.pairs[split] = Dataset.from_dict({"sentence1": ["a"] * pairs, "sentence2": ["b"] * pairs})
    warnings, details = caveats.of_ancestors(data, split)
    assert details == {"ancestors": []} and len(warnings) == (expected is not None)
    assert expected is None or (expected in warnings[0] and encoder_name not in warnings[0])


def test_what_cannot_be_started_from_is_refused_in_a_line(
    trained: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(name: str | Path, *words: str) -> str:
        return fails(capsys, ["fit", *TINY, f"--model.model_name={name}", *words])

    assert f"--model.pretrained false: {RUN} is a run" in refused(RUN, "--model.pretrained=false")
    assert "holds no model (no config.json) and no run (no checkpoints)" in refused("tb_logs")
    damages: dict[str, Any] = {
        "what its checkpoint says of its training is damaged": lambda content: content["MRPCDataModule"].update(
            trained_on={"training_pairs": "many"}
        ),
        "the checkpoint's tokenizer": lambda content: content["MRPCDataModule"].update(tokenizer={}),
        "of the encoder's are missing": lambda content: content["state_dict"].pop(
            "model.bert.encoder.layer.0.output.dense.weight"
        ),
        "no trained head": lambda content: content["state_dict"].pop("model.classifier.weight"),
        "model.model_name": lambda content: content.update(encoder_config=3),
    }
    for reason, damage in damages.items():
        shutil.copy(BEST, "damaged.ckpt")
        rewrite(Path("damaged.ckpt"), damage)
        assert reason in refused("damaged.ckpt")
    BEST.rename("elsewhere.ckpt")
    assert "the run has no best.ckpt yet; name a checkpoint file" in refused(RUN)
    shutil.copytree(encoder, "exported")
    save_file({}, "exported/ancestors.safetensors", metadata={"ancestors": "[{}]"})
    assert "ancestors.safetensors: damaged; delete it" in refused("exported")


def test_a_checkpoint_that_kept_nothing_of_its_pairs_is_a_start_without_ancestors(trained: Path) -> None:
    rewrite(BEST, lambda content: [content["MRPCDataModule"].pop(name) for name in ("trained_on", "ancestors")])
    assert ancestors_of(str(RUN)) == []
    assert fit("second", RUN)["ancestors"] == []


def test_two_steps_in_code_take_the_runs_folder_too(trained: Path) -> None:
    data = MRPCDataModule(str(RUN), max_length=48)
    model = ParaphraseClassifier(str(RUN))
    data.load_tokenizer()
    model.setup("fit")
    assert [one["training_pairs"] for one in data.ancestors] == [60]
    with pytest.raises(InputError, match=f"^model.pretrained false: {RUN} is a run"):
        ParaphraseClassifier(str(RUN), pretrained=False).setup("fit")
