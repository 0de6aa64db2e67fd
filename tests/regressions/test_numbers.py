"""Numbers that can be relied on, and work that is not lost."""

import csv
import functools
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import sentencepiece
import torch
from datasets import ClassLabel, Dataset, Features, Value
from helpers import (
    LAST,
    RUN,
    Forked,
    Row,
    dependencies,
    fails,
    load,
    make_rows,
    read_predictions,
    rewrite,
    start,
    wait_for,
    write_csv,
)
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score, log_loss
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertAttention, BertLayer

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, main
from mrpc_lightning.errors import InputError
from mrpc_lightning.report import probes

CPU = "--trainer.accelerator=cpu"
BEST = RUN / "checkpoints/best.ckpt"
OTHER_PAIRS = r"not the (\w+ )*pairs|other pairs|pairs .*(changed|differ)"


def without(arguments: list[str], *names: str) -> list[str]:
    return [word for word in arguments if not any(name in word for name in names)]


def metrics_of(run: Path = RUN, name: str = "metrics.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / name).read_text(encoding="utf-8"))
    return content


# Runs


@pytest.mark.slow
def test_two_runs_started_together_have_a_folder_each(project: Path, arguments: list[str]) -> None:
    together = (
        "import sys, time\nfrom pathlib import Path\nfrom mrpc_lightning import main\n"
        "Path(sys.argv[1]).touch()\n"
        "while not (Path('first').exists() and Path('second').exists()):\n    time.sleep(0.001)\n"
        "main(sys.argv[2:])\n"
    )
    words = ["fit", *arguments, "--trainer.logger=false", "--trainer.max_epochs=1"]
    seeds = {"first": 1, "second": 2}
    runs = [Forked([name, *words, f"--seed_everything={seed}"], together) for name, seed in seeds.items()]
    outputs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    folders = sorted(path.parent for path in Path("tb_logs").glob("**/metrics.json"))
    assert sorted(metrics_of(folder)["seed"] for folder in folders) == [1, 2]
    for folder in folders:
        metrics = metrics_of(folder)
        printed = outputs[metrics["seed"] - 1][0]
        assert str(folder) in printed and f"{metrics['loss']:.4f}" in printed


@pytest.mark.slow
def test_a_run_that_is_still_training_is_not_resumed(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    many = ["--trainer.max_epochs=4000", "--early_stopping.patience=4000", "--checkpoint_every=8"]
    running = Forked(["fit", *arguments, *many])
    try:
        wait_for(LAST)
        config = (RUN / "config.yaml").read_text()
        message = fails(capsys, ["fit", "--ckpt_path=last", "--trainer.max_epochs=12"])
        assert (RUN / "config.yaml").read_text() == config
        assert str(RUN) in message and re.search("another process|still|in use|running|locked", message)
        assert running.poll() is None
        step, deadline = load(LAST)["global_step"], time.monotonic() + 60
        while load(LAST)["global_step"] == step:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM, errors
    assert "resume with:" in errors
    assert not (RUN / "metrics.json").exists()


KILLED = """
import os, sys
from matplotlib.figure import Figure
from mrpc_lightning import main
Figure.savefig = lambda *_, **__: os._exit(9)
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("finished_before", [False, True])
def test_a_run_that_was_killed_before_its_report_is_finished_by_resuming_it(
    finished_before: bool, project: Path, arguments: list[str]
) -> None:
    words = ["fit", *arguments]
    if finished_before:
        main([*words, "--trainer.max_epochs=1"])
        (RUN / "report.html").unlink()
        words = ["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]
    killed = Forked(words, KILLED)
    _, errors = killed.communicate(timeout=120)
    assert killed.returncode == 9, errors
    assert load(LAST)["global_step"] == 16 and not (RUN / "report.html").exists()
    assert not (RUN / "metrics.json").exists(), "of the first epoch alone"
    main(["fit", "--ckpt_path=last"])
    assert metrics_of()["epochs_trained"] == 2 and len(metrics_of()["epochs"]) == 2
    assert (RUN / "report.html").is_file() and (RUN / "validation_predictions.csv").is_file()


WATCHED = """
import os, sys
def watch(event, values):
    if event == "open" and str(values[0]).endswith("/metrics.json") and values[2] & (os.O_WRONLY | os.O_RDWR):
        sys.stderr.write("metrics.json is written in its place\\n")
sys.addaudithook(watch)
from mrpc_lightning import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_metrics_json_takes_its_place_whole_and_last(project: Path, arguments: list[str]) -> None:
    watched = Forked(["fit", *arguments, "--trainer.max_epochs=1"], WATCHED)
    _, errors = watched.communicate(timeout=120)
    assert watched.returncode == 0, errors
    assert "written in its place" not in errors
    written = {path: path.stat().st_mtime_ns for path in RUN.rglob("*") if path.is_file()}
    results = {path: at for path, at in written.items() if path.suffix in (".html", ".csv", ".png", ".json")}
    assert max(results, key=lambda path: results[path]) == RUN / "metrics.json"


# Which pairs a number is of


def write_glue(folder: Path, pairs: int, validation_seed: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, rows in (("train.tsv", make_rows(pairs)), ("dev.tsv", make_rows(25, seed=validation_seed))):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"]
        lines += [f"{label}\t{row}\t{row}\t{first}\t{second}\n" for row, (first, second, label) in enumerate(rows)]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def append_to_training_file() -> None:
    write_csv(Path("train.csv"), make_rows(60) + make_rows(40, seed=5))


def change_validation_file() -> None:
    write_csv(Path("validation.csv"), make_rows(25, seed=7))


def change_folder() -> None:
    write_glue(Path("glue"), 60, validation_seed=7)


# name: (the flags that say where the pairs are, what happens to them)
CHANGES: dict[str, tuple[list[str], Callable[[], None]]] = {
    "rows appended to the file of which a part was held out": (
        ["--data.train_file=train.csv"],
        append_to_training_file,
    ),
    "another validation file under the same name": (
        ["--data.train_file=train.csv", "--data.validation_file=validation.csv"],
        change_validation_file,
    ),
    "a folder whose files changed": (["--data.data_dir=glue"], change_folder),
}


def fit_and_change(arguments: list[str], case: str) -> None:
    write_glue(Path("glue"), 60, validation_seed=1)
    flags, change = CHANGES[case]
    main(["fit", *without(arguments, "train_file", "validation_file"), *flags, "--trainer.max_epochs=1"])
    change()


def refused_or_warned(words: list[str], capsys: pytest.CaptureFixture[str], written: Path) -> bool:
    capsys.readouterr()
    try:
        main(words)
    except SystemExit as stopped:
        message = capsys.readouterr().err.strip()
        return stopped.code == 2 and "\n" not in message and re.search(OTHER_PAIRS, message) is not None
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    kept = json.loads(written.read_text(encoding="utf-8"))["warnings"]
    return all(any(re.search(OTHER_PAIRS, text) for text in texts) for texts in (printed, kept))


@pytest.mark.parametrize("case", CHANGES)
def test_pairs_that_changed_since_the_run_was_trained_are_not_scored_without_a_word(
    case: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fit_and_change(arguments, case)
    assert refused_or_warned(["test", CPU], capsys, RUN / "test_metrics.json")
    assert refused_or_warned(["validate", CPU], capsys, RUN / "validate_metrics.json")


def test_a_file_of_pairs_that_is_named_for_a_test_needs_no_warning(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fit_and_change(arguments, next(iter(CHANGES)))
    write_csv(Path("other.csv"), make_rows(30, seed=9))
    words = ["test", CPU, "--data.test_file=other.csv"]
    assert not refused_or_warned(words, capsys, RUN / "test_metrics.json")
    assert metrics_of(name="test_metrics.json")["pairs"] == 30


def test_pairs_that_did_not_change_need_no_warning(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *without(arguments, "validation_file"), "--trainer.max_epochs=1"])
    assert not refused_or_warned(["test", CPU], capsys, RUN / "test_metrics.json")


def write_parquet(path: Path, rows: list[Row], names: list[str]) -> None:
    first, second, labels = map(list, zip(*rows, strict=True))
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict({"sentence1": first, "sentence2": second, "label": labels}, features).to_parquet(str(path))


REVERSED = ["equivalent", "not_equivalent"]


@pytest.mark.parametrize("role", ["train_file", "validation_file", "test_file"])
def test_a_parquet_file_whose_classes_are_named_the_other_way_round_is_refused_with_advice(
    role: str, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(Path("pairs.parquet"), make_rows(60), REVERSED)
    words = ["fit", *without(arguments, f"{role}="), f"--data.{role}=pairs.parquet"]
    if role == "test_file":
        main(["fit", *arguments, "--trainer.max_epochs=1"])
        words = ["test", CPU, f"--data.{role}=pairs.parquet"]
    message = fails(capsys, words)
    assert "pairs.parquet" in message and "equivalent" in message
    if role != "test_file":  # a trained run's names are settled
        assert f"--model.label_names '{json.dumps(REVERSED)}'" in message


@pytest.mark.parametrize("names", [["not_equivalent", "equivalent"], REVERSED])
def test_a_parquet_file_is_read_where_its_class_names_are_those_asked_for(
    names: list[str], project: Path, arguments: list[str]
) -> None:
    write_parquet(Path("pairs.parquet"), make_rows(25), names)
    main(
        [
            *("fit", *without(arguments, "validation_file"), "--data.validation_file=pairs.parquet"),
            *("--trainer.max_epochs=1", f"--model.label_names={json.dumps(names)}"),
        ]
    )
    metrics = metrics_of()
    assert metrics["true_positives"] + metrics["false_negatives"] == sum(label for *_, label in make_rows(25))


@pytest.mark.parametrize("label_names", [["1", "0"], ["yes", "0"], ["1", "no"]])
def test_a_label_means_one_class_however_its_number_is_spelled(
    label_names: list[str], tmp_path: Path, encoder: str
) -> None:
    positives = []
    for number, spelled in enumerate(({0: "0", 1: "1"}, {0: "0.0", 1: "1.0"})):
        rows = [(first, second, spelled[label]) for first, second, label in make_rows(12)]
        file = tmp_path / f"{number}.csv"
        with file.open("w", newline="") as opened:
            csv.writer(opened).writerows([("sentence1", "sentence2", "label"), *rows])
        files = {"train_file": str(file), "validation_file": str(file)}
        try:
            data = MRPCDataModule(encoder, label_names=label_names, max_length=48, **files)
            data.setup("validate")
        except InputError:
            return
        positives.append(sum(int(batch["labels"].sum()) for batch in data.val_dataloader()))
    assert positives[0] == positives[1]


# Encoders


def rename_a_layer(folder: Path) -> int:
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("encoder.layer.1.", "coder.blocks.1."): value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return len(renamed.keys() - weights.keys())


def change_the_width(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    return 2 * 3  # in each of two layers: weight and bias into it, weight out of it


def leave_out_the_encoder(folder: Path) -> int:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".encoder." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return len(weights) - len(kept)


@pytest.mark.parametrize("spoil", [rename_a_layer, change_the_width, leave_out_the_encoder])
def test_an_encoder_whose_weights_do_not_fit_is_refused_with_their_number(
    spoil: Callable[[Path], int],
    project: Path,
    arguments: list[str],
    encoder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(encoder, "spoiled")
    count = spoil(Path("spoiled"))
    message = fails(capsys, ["fit", *arguments, "--model.model_name=./spoiled"])
    assert "--model.model_name ./spoiled" in message
    assert re.search(rf"\b{count}\b", message)
    assert not Path("tb_logs").exists()


@pytest.mark.parametrize("model_class", [BertModel, BertForMaskedLM])
def test_an_encoder_without_a_head_gets_a_fresh_one(
    model_class: type[PreTrainedModel], project: Path, arguments: list[str], encoder: str
) -> None:
    shutil.copytree(encoder, "headless")
    model_class(BertConfig.from_pretrained(encoder)).save_pretrained("headless")
    main(["fit", *arguments, "--model.model_name=./headless", "--trainer.max_epochs=1"])
    assert (RUN / "metrics.json").is_file()


def test_a_head_for_other_classes_gives_way_to_a_fresh_one(project: Path, arguments: list[str], encoder: str) -> None:
    shutil.copytree(encoder, "three")
    BertForSequenceClassification(BertConfig.from_pretrained(encoder, num_labels=3)).save_pretrained("three")
    main(["fit", *arguments, "--model.model_name=./three", "--trainer.max_epochs=1"])
    assert (RUN / "metrics.json").is_file()


def test_padding_is_never_attended_to_whatever_transformers_calls_its_mask(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attend(self: Any, hidden_states: torch.Tensor, mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        output, weights = self.self(hidden_states, attention_mask=mask, **kwargs)
        return self.output(output, hidden_states), weights

    def layer(
        self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **kwargs: Any
    ) -> Any:
        kwargs.pop("encoder_attention_mask", None)
        attended, _ = self.attention(hidden_states, mask=attention_mask, **kwargs)
        return self.feed_forward_chunk(attended)

    monkeypatch.setattr(BertAttention, "forward", attend)
    monkeypatch.setattr(BertLayer, "forward", layer)
    fitted = main(["fit", *arguments, "--trainer.max_epochs=1"])
    main(["export", "--to=exported"])
    tokenizer = AutoTokenizer.from_pretrained("exported")
    plain = AutoModelForSequenceClassification.from_pretrained("exported")
    first, second, _ = map(list, zip(*make_rows(12), strict=True))
    batch = tokenizer(first, second, padding=True, return_tensors="pt")
    assert not bool(batch["attention_mask"].all())
    with torch.inference_mode():
        assert torch.allclose(fitted.model.eval()(**batch), plain(**batch).logits, atol=1e-5)


PIECES: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": (
        "spiece.model",
        {
            **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
            **{"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]},
        },
    ),
    "deberta-v2": (
        "spm.model",
        {
            **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
            **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
        },
    ),
    "xlm-roberta": ("sentencepiece.bpe.model", {"unk_id": 0, "bos_id": 1, "eos_id": 2}),
}
TOKENIZERS = {"albert": "AlbertTokenizer", "deberta-v2": "DebertaV2Tokenizer", "xlm-roberta": "XLMRobertaTokenizer"}


def write_sentencepiece_encoder(folder: Path, kind: str) -> None:
    folder.mkdir()
    name, options = PIECES[kind]
    texts = [sentence for first, second, _ in make_rows(60) for sentence in (first, second)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "pieces"),
        vocab_size=100,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / "pieces.model").rename(folder / name)
    (folder / "pieces.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": TOKENIZERS[kind]}))
    sizes: dict[str, Any] = {
        **{"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1},
    }
    torch.manual_seed(0)
    model: PreTrainedModel
    if kind == "albert":
        model = AlbertForSequenceClassification(AlbertConfig(**sizes, embedding_size=16))
    elif kind == "deberta-v2":
        relative = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
        model = DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, **relative, pooler_hidden_size=32))
    else:
        model = XLMRobertaForSequenceClassification(XLMRobertaConfig(**sizes))
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "kind", ["deberta-v2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("albert", "xlm-roberta"))]
)
def test_an_encoder_with_a_sentencepiece_model_trains_resumes_predicts_and_exports(
    kind: str, project: Path, arguments: list[str]
) -> None:
    write_sentencepiece_encoder(Path("pieces"), kind)
    main(["fit", *arguments, "--model.model_name=./pieces", "--trainer.max_epochs=1"])
    shutil.rmtree("pieces")  # the run has all that it needs
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert metrics_of()["epochs_trained"] == 2
    main(["predict", CPU, "--data.predict_file=validation.csv"])
    shares = [float(row["probability_equivalent"]) for row in read_predictions(RUN / "predictions.csv")]
    main(["export", "--to=exported"])
    first, second, _ = map(list, zip(*make_rows(25, seed=1), strict=True))
    batch = AutoTokenizer.from_pretrained("exported")(
        first, second, truncation=True, max_length=48, padding=True, return_tensors="pt"
    )
    assert batch["input_ids"].unique().numel() > 10
    with torch.inference_mode():
        logits = AutoModelForSequenceClassification.from_pretrained("exported")(**batch).logits
    assert logits.softmax(-1)[:, 1].tolist() == pytest.approx(shares, abs=0.02)  # the run may compute in bf16


def test_an_installation_brings_sentencepiece() -> None:
    assert "sentencepiece" in dependencies()


class Vectors(SingleDeviceStrategy):
    """Shows the optimizer each parameter as a vector, as FSDP does."""

    def setup_optimizers(self, trainer: Trainer) -> None:
        assert self.lightning_module is not None
        parameters = list(self.lightning_module.parameters())
        shapes = [parameter.shape for parameter in parameters]
        for parameter in parameters:
            parameter.data = parameter.data.flatten()
        super().setup_optimizers(trainer)
        for parameter, shape in zip(parameters, shapes, strict=True):
            parameter.data = parameter.data.view(shape)


def test_weights_decay_though_a_strategy_keeps_them_as_vectors(project: Path, encoder: str) -> None:
    files = {"train_file": "train.csv", "validation_file": "validation.csv"}
    model = ParaphraseClassifier(encoder)
    trainer = Trainer(
        strategy=Vectors(device=torch.device("cpu")),
        max_steps=2,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, MRPCDataModule(encoder, max_length=48, **files))
    [optimizer] = trainer.optimizers
    decaying = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    named = dict(model.named_parameters())
    found = {name for name, parameter in named.items() if id(parameter) in decaying}
    assert found == {name for name, parameter in named.items() if parameter.dim() > 1}


# Several processes


def choose_late(folder: str) -> str:
    """A script that, in the second process alone, finds another run the newest."""
    return (
        "import os, sys\n"
        f"if os.environ.get('LOCAL_RANK') == '1':\n    os.utime('{folder}/checkpoints/best.ckpt')\n"
        "from mrpc_lightning import main\nmain(sys.argv[1:])\n"
    )


@pytest.mark.slow
def test_all_processes_use_the_run_that_the_first_one_chose(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=1"])
    other = RUN.with_name("version_1")
    shutil.copytree(RUN, other)

    write_csv(Path("other.csv"), make_rows(21, seed=9))
    rewrite(
        other / "checkpoints/best.ckpt",
        lambda content: content["datamodule_hyper_parameters"].update(validation_file="other.csv"),
    )
    os.utime(BEST, (time.time() + 1, time.time() + 1))
    main(["test", CPU])
    expected = metrics_of(name="test_metrics.json")
    time.sleep(1.1)  # from now on the other run is the newest for whoever touches it
    Path("late.py").write_text(choose_late(str(other)))
    words = ["test", CPU, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.eval_batch_size=7"]
    process = start(words, ["late.py"])
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"loaded    {BEST}" in printed
    found = metrics_of(name="test_metrics.json")
    assert found["pairs"] == 25
    assert [found[name] for name in ("accuracy", "f1")] == [expected[name] for name in ("accuracy", "f1")]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)


@pytest.mark.slow
def test_all_processes_of_a_new_run_without_a_logger_share_one_folder(project: Path, arguments: list[str]) -> None:
    words = ["fit", *arguments, "--trainer.logger=false", "--trainer.devices=2", "--trainer.strategy=ddp"]
    process = start(words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    [run] = [path.parent for path in Path("tb_logs").glob("**/metrics.json")]
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


# Metrics


def make_certain(content: dict[str, Any], factor: float) -> None:
    for name, value in content["state_dict"].items():
        if "classifier" in name:
            value.mul_(factor)


@pytest.mark.parametrize(
    ("precision", "symmetric", "certainty"),
    [
        ("32-true", "false", 1),
        ("bf16-mixed", "true", 1),
        ("32-true", "false", 12),
        ("32-true", "false", 25),
        ("bf16-mixed", "true", 25),
    ],
)
def test_metrics_are_those_that_scikit_learn_computes_from_the_predictions(
    precision: str, symmetric: str, certainty: float, trained: Path
) -> None:
    rewrite(BEST, lambda content: make_certain(content, certainty))
    main(["test", CPU, f"--model.symmetric={symmetric}", f"--trainer.precision={precision}"])
    metrics, rows = metrics_of(name="test_metrics.json"), read_predictions(RUN / "test_predictions.csv")
    labels = [int(row["label"] == "equivalent") for row in rows]
    predicted = [int(row["prediction"] == "equivalent") for row in rows]
    shares = numpy.array(
        [[float(row[f"probability_{name}"]) for name in ("not_equivalent", "equivalent")] for row in rows]
    )
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-6)
    assert metrics["f1"] == pytest.approx(f1_score(labels, predicted), abs=1e-6)
    assert metrics["loss"] == pytest.approx(log_loss(labels, shares), abs=1e-6)


def test_the_loss_of_certain_predictions_is_that_of_their_logits(project: Path, arguments: list[str]) -> None:
    main(["fit", *arguments, "--trainer.max_epochs=1", "--trainer.precision=32-true"])
    rewrite(BEST, lambda content: make_certain(content, 25))
    main(["test", CPU])
    main(["export", "--to=exported"])
    first, second, labels = map(list, zip(*make_rows(25, seed=1), strict=True))
    batch = AutoTokenizer.from_pretrained("exported")(first, second, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = AutoModelForSequenceClassification.from_pretrained("exported")(**batch).logits
    expected = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels))
    assert metrics_of(name="test_metrics.json")["loss"] == pytest.approx(float(expected), rel=1e-5)


def count_scored_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    original = BertForSequenceClassification.forward

    @functools.wraps(original)
    def forward(self: Any, input_ids: torch.Tensor, *values: Any, **others: Any) -> Any:
        if not self.training:
            rows.append(len(input_ids))
        return original(self, input_ids, *values, **others)

    monkeypatch.setattr(BertForSequenceClassification, "forward", forward)
    return rows


SPARE = 16  # rows of a look at one more batch, such as a check of the encoder


def test_each_pair_is_scored_once(project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scored = count_scored_rows(monkeypatch)
    monkeypatch.setattr(probes, "PAIRS", 0)  # changed pairs are scored beside them
    write_csv(Path("validation.csv"), make_rows(60, seed=1))
    main(["fit", *arguments, "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0"])
    assert 120 <= sum(scored) <= 120 + SPARE  # after the epoch, and for the final metrics
    scored.clear()
    main(["test", CPU])
    assert 60 <= sum(scored) <= 60 + SPARE


def test_each_pair_is_scored_in_both_orders_where_that_is_asked_for(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = count_scored_rows(monkeypatch)
    monkeypatch.setattr(probes, "PAIRS", 0)
    main(["test", CPU, "--model.symmetric=true"])
    assert 50 <= sum(scored) <= 50 + SPARE


# What the curves say

# Of three epochs: training loss, validation loss, validation pairs that are answered right.
EPOCHS = [(0.607, 0.540, 297), (0.450, 0.536, 307), (0.315, 0.550, 312)]
PAIRS = 400
# In which epoch the pairs of a city begin to be answered right.
CITIES = {"Oslo": 0, "Dublin": 1, "Lisbon": 2, "Vienna": 3}


def play_epochs(monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    """Let an encoder answer such that the curves are those of `EPOCHS`."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    ids = {word: tokenizer.convert_tokens_to_ids(word.lower()) for word in (*CITIES, "fell")}
    seen = [0]

    def forward(self: Any, input_ids: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        has = {word: (input_ids == number).any(dim=1) for word, number in ids.items()}
        direction = torch.where(has["fell"], -1.0, 1.0)
        if self.training:
            margin = torch.full((len(input_ids),), logit(math.exp(-EPOCHS[seen[0] // 60][0])))
            seen[0] += len(input_ids)
        else:
            epoch = max(seen[0] // 60 - 1, 0)
            _, loss, right = EPOCHS[epoch]
            wrong_share = 1 - right / PAIRS
            wrong_margin = logit(0.7)
            right_loss = (loss + wrong_share * math.log(0.3)) / (1 - wrong_share)
            begins = sum(has[city] * begin for city, begin in CITIES.items())
            margin = torch.where(begins > epoch, -wrong_margin, logit(math.exp(-right_loss)))
        values = direction * margin + 0 * self.classifier.weight.sum()
        return SequenceClassifierOutput(logits=torch.stack((-values / 2, values / 2), dim=1))

    monkeypatch.setattr(BertForSequenceClassification, "forward", forward)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_a_run_whose_accuracy_rises_to_its_last_epoch_is_not_told_that_more_epochs_promise_little(
    project: Path, arguments: list[str], encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [0, *(right for *_, right in EPOCHS), PAIRS]
    rows = []
    for city, begin in CITIES.items():
        for number in range(right[begin + 1] - right[begin]):
            label = int(number % 3 != 0)
            tail = "on Monday " * (number % 9 + 1)
            rows.append((f"In {city} rents rose {tail}", f"In {city} rents {'rose' if label else 'fell'}", label))
    write_csv(Path("validation.csv"), rows)
    play_epochs(monkeypatch, encoder)
    words = ["--trainer.max_epochs=3", "--trainer.precision=32-true", "--trainer.num_sanity_val_steps=0"]
    main(["fit", *arguments, *words])
    metrics = metrics_of()
    for epoch, (train_loss, val_loss, count) in zip(metrics["epochs"], EPOCHS, strict=True):
        assert epoch["val_accuracy"] == pytest.approx(count / PAIRS)
        assert [epoch["train_loss"], epoch["val_loss"]] == pytest.approx([train_loss, val_loss], abs=1e-3)
    assert "settled" not in metrics["diagnosis"].lower()
    assert "more epochs promise little" not in metrics["diagnosis"].lower()
