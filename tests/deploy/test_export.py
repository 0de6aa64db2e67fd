import ast
import csv
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from helpers import copy_to, fails, make_rows, train
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from mrpc_lightning import Predictor, demo, main
from mrpc_lightning.deploy.card import write
from mrpc_lightning.deploy.export import explain
from mrpc_lightning.run.run import Run

RUN = Path("tb_logs/mrpc/version_0")
CPU = "--trainer.accelerator=cpu"


@pytest.fixture(scope="module")
def exact_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["--trainer.precision=32-true", "--trainer.max_epochs=2"]
    return train(tmp_path_factory.mktemp("exact"), encoder, *words)


@pytest.fixture
def trained(exact_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has trained for two epochs in float32, to work in."""
    return copy_to(exact_run, tmp_path / "project", monkeypatch)


def test_the_folder_has_the_checkpoints_logits_and_a_card_of_the_run(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", CPU, "--to=my-model"])
    with (RUN / "validation_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = Predictor.from_run("best").model
    model = AutoModelForSequenceClassification.from_pretrained("my-model").eval()
    batch = AutoTokenizer.from_pretrained("my-model")(
        [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        assert torch.allclose(model(**batch).logits, own(**batch), atol=1e-6)
    classify = pipeline("text-classification", model="my-model", device="cpu")
    pairs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in rows]
    for found, row in zip(classify(pairs, batch_size=5), rows, strict=True):
        assert found["label"] == row["prediction"]
        assert found["score"] == pytest.approx(float(row[f"probability_{found['label']}"]), abs=1e-5)

    metrics = json.loads((RUN / "metrics.json").read_text())
    card = ModelCard.load("my-model/README.md")
    [index] = card.data.to_dict()["model-index"]
    _, results = model_index_to_eval_results([index])
    assert {one.metric_type: one.metric_value for one in results} == {
        name: round(metrics[name], 4) for name in ("accuracy", "f1")
    }
    assert card.data.pipeline_tag == "text-classification" and card.data.base_model is None
    low, high = metrics["intervals"]["f1"]
    assert f"{low:.3f} to {high:.3f}" in card.text and f"seed {metrics['seed']}" in card.text
    kept = metrics["epochs"][metrics["epoch"] - 1]
    assert f"| **{metrics['epoch']}** | **{kept['train_loss']:.4f}** | **{kept['val_loss']:.4f}** |" in card.text
    assert len(re.findall(r"^\| \**\d", card.text, re.MULTILINE)) == len(metrics["epochs"])
    sections = re.split(r"^## ", card.text, flags=re.MULTILINE)
    assert len(sections) >= 5 and all(len(section.strip().splitlines()) > 2 for section in sections[1:])
    [snippet] = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    capsys.readouterr()
    exec(snippet, {})
    printed = capsys.readouterr().out
    assert "equivalent" in printed and "score" in printed


def test_a_checkpoint_without_metrics_has_a_card_that_says_why(trained: Path) -> None:
    main(["export", CPU, "--to=last-model", "--ckpt_path=last"])
    (RUN / "metrics.json").unlink()
    main(["export", CPU, "--to=other-model"])
    reasons = {"last-model": "scored with another checkpoint", "other-model": "the run was not scored"}
    for name, reason in reasons.items():
        card = ModelCard.load(f"{name}/README.md")
        assert "model-index" not in card.data.to_dict() and reason in card.text and "always" not in card.text
        assert "None |" not in card.text and "learning rate" in card.text and "| hardware |" in card.text


def test_no_name_becomes_markup_in_a_card(tmp_path: Path) -> None:
    title = "<b>![x](http://e.example/p.png)\n\n# Title | `code` *a* _b_ $c$ www.e.example"
    names = ["[click](https://evil.example)", title]
    checkpoint = tmp_path / "checkpoints/best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    values = {name: 0.5 for name in ("accuracy", "f1", "baseline_accuracy", "baseline_f1")}
    about = {"optimizer_step": 3, "checkpoint": "checkpoints/best.ckpt", "pairs": 9, "split": "validation"}
    metrics = {**values, **about, "baseline_accuracy_class": names[0], "warnings": names}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    body = ModelCard(write(Run(tmp_path), checkpoint, {"global_step": 3}, names, "me/my-model", {})).text
    assert body.count("click") == 3 and body.count("Title") == 4
    assert not re.search(r"(?<!\\)[\[\]]", body)  # no link without a bracket
    assert not re.search(r"https?://|www\.|<b>|^# Title", body, re.MULTILINE)
    before, _, after = body.replace("mrpc_lightning", "").split("```")
    assert not re.search(r"(?<!\\)[`_$]|(?<![\\*])\*(?!\*)", before + after)


@pytest.mark.slow
def test_onnx_and_int8_are_checked_on_every_validation_pair(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    main(["export", CPU, "--to=my-model", "--onnx", "--int8", "--data.eval_batch_size=1"])
    printed = capsys.readouterr().out
    card = Path("my-model/README.md").read_text()
    assert "model.int8.onnx" in card and "25 validation pairs" in card
    _, snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(snippet, {})
    shown = ast.literal_eval(capsys.readouterr().out)
    assert shown in (["not_equivalent"], ["equivalent"])
    [asked] = Predictor.from_run("my-model").predict([("Rents rose in Oslo.", "In Oslo, rents went up.")])
    assert shown == [asked.label]
    session = onnxruntime.InferenceSession("my-model/model.onnx")
    model = Predictor.from_run("best").model
    tokenizer = AutoTokenizer.from_pretrained("my-model")
    for pairs in (1, 3):
        for words in (1, 9):
            batch = tokenizer(["Rents rose " * words] * pairs, ["rents fell"] * pairs, return_tensors="pt")
            [found] = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
            with torch.inference_mode():
                assert numpy.abs(found - model(**batch).numpy()).max() < 1e-5
    quantized = onnxruntime.InferenceSession("my-model/model.int8.onnx")
    changed = 0
    for first, second, _ in make_rows(25, seed=1):
        batch = tokenizer(first, second, return_tensors="pt")
        [found] = quantized.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        with torch.inference_mode():
            changed += int(found.argmax() != model(**batch).argmax())
    assert re.search(rf"model.int8.onnx +F1 \d\.\d{{4}}, {changed} of 25 predictions differ, \d+ pairs/s, \d", printed)
    assert re.search(rf"\| model.int8.onnx \| \d\.\d{{4}} \| {changed} \({changed / 25:.1%}\) \| \d+ \| \d", card)
    assert Path("my-model/model.int8.onnx").stat().st_size < Path("my-model/model.onnx").stat().st_size


class Hub(BaseHTTPRequestHandler):
    """Takes a repository and its files as the Hub does, or refuses."""

    status = 200
    requests: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests.append((self.path, body))
        answer: Any = {}
        if self.path.endswith("/repos/create"):
            answer = {"url": f"http://{self.headers['Host']}/me/my-model", "id": "1"}
        elif self.path.endswith("/preupload/main"):
            answer = {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
            }
        elif "/commit/" in self.path:
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/my-model/commit/1",
                "commitOid": "1" * 40,
                "pullRequestUrl": None,
            }
        self.answer(answer)

    def do_GET(self) -> None:
        self.answer({"id": "me/my-model", "sha": "0" * 40, "siblings": [], "private": True, "tags": []})

    def answer(self, content: Any) -> None:
        text = json.dumps(content if self.status == 200 else {"error": "no: hf_abcdefghijklmnop"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[type[Hub], str]]:
    handler = type("Handler", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_push_uploads_everything_privately_and_a_refusal_is_one_line(
    trained: Path, hub: tuple[type[Hub], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, address = hub
    for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    words = ["export", CPU, "--push_to_hub=me/my-model"]
    main([*words, "--to=my-model"])
    printed = capsys.readouterr()
    assert f"pushed    {address}/me/my-model" in printed.out
    created = next(json.loads(body) for path, body in handler.requests if path.endswith("/repos/create"))
    assert created.get("private") is True or created.get("visibility") == "private"
    commit = next(body for path, body in handler.requests if "/commit/" in path).decode()
    sent = {json.loads(line)["value"]["path"] for line in commit.splitlines() if '"file"' in line}
    assert {"model.safetensors", "config.json", "README.md", "tokenizer.json"} <= sent
    assert Path("my-model/ancestors.safetensors").is_file() and "ancestors.safetensors" not in sent
    assert "secret" not in printed.out + printed.err

    for status, reason in ((401, "log in"), (403, "may not write"), (500, "")):
        handler.status = status
        error = fails(capsys, [*words, f"--to=refused-{status}"])
        assert reason in error
        assert f"hf upload --private me/my-model refused-{status}" in error
        assert "secret" not in error and "hf_abc" not in error
        assert Path(f"refused-{status}/model.safetensors").is_file()


def test_flags_that_make_no_sense_are_refused_before_anything_is_written(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "goes with --push_to_hub" in fails(capsys, ["export", CPU, "--to=x", "--public"])
    assert "owner/name" in fails(capsys, ["export", CPU, "--to=x", "--push_to_hub=nobody"])
    assert not Path("x").exists()
    assert explain(ValueError("token hf_AbCdEf123 is bad")) == "token hf_... is bad"


def test_a_card_of_own_pairs_names_no_file_no_sentence_and_no_markup(project: Path, arguments: list[str]) -> None:
    names = ["a|b `c`", "<b>"]
    rows = Path("validation.csv").read_text().splitlines()
    Path("train.csv").write_text("\n".join([Path("train.csv").read_text().rstrip(), rows[1]]) + "\n")  # trained on
    main(["fit", *arguments, f"--model.label_names={json.dumps(names)}", "--model.symmetric=true"])
    main(["export", CPU, "--to=my-model"])
    text = Path("my-model/README.md").read_text()
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["validation_pairs_in_training"] and "of these pairs were trained on" in text
    assert "train.csv" not in text and rows[1].split(",")[0] not in text and "/" not in text.split("---")[1]
    assert "<b>" not in text and "a\\|b \\`c\\`" in text and "&lt;b&gt;" in text
    # An exported model reads a pair in one order; the run's metrics are the mean of both.
    one_order = metrics["one_order"]
    assert ModelCard.load("my-model/README.md").data.eval_results[0].metric_value == round(one_order["accuracy"], 4)
    assert "average the probabilities" in text
    modes = {path.stat().st_mode & 0o777 for path in Path("my-model").iterdir()}
    assert len(modes) == 1


@pytest.mark.slow
def test_the_demos_card_says_what_it_is_of(project: Path) -> None:
    config = Path(__file__).resolve().parents[2] / "configs/demo.yaml"
    main(["fit", f"--config={config}", CPU, "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"])
    main(["export", CPU, "--to=my-demo"])
    text = Path("my-demo/README.md").read_text()
    assert "embedded corpus" in text or "mrpc_lightning's own" in text
    assert "Microsoft" not in text and demo.NAME in text
