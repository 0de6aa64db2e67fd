"""The real loading code, against a Hub of this file's own on the loopback interface."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from helpers import make_rows

ENCODER, CORPUS = "google-bert/bert-base-uncased", "nyu-mll/glue"
COMMIT = "0123456789" * 4
CARD = """---
configs:
- config_name: mrpc
  data_files:
  - {split: train, path: mrpc/train.parquet}
  - {split: validation, path: mrpc/validation.parquet}
---
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does, for one model and one data set that lie in folders of their own names."""

    root: Path

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        kind, name = ("datasets", CORPUS) if CORPUS in path else ("models", ENCODER)
        repository = self.root / name
        _, _, rest = path.partition(name)
        words = rest.strip("/").split("/")
        if name not in path:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif words[0] == "resolve":
            file = repository.joinpath(*words[2:])
            if file.is_file():
                content = file.read_bytes()
                self.answer(200, content, {"ETag": hashlib.sha1(content).hexdigest(), "X-Repo-Commit": COMMIT})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif words[0] == "tree":
            folder = repository.joinpath(*words[2:])
            if not folder.is_dir():
                return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            entries = [
                {
                    "type": "directory" if entry.is_dir() else "file",
                    "path": str(entry.relative_to(repository)),
                    "size": 0 if entry.is_dir() else entry.stat().st_size,
                    "oid": hashlib.sha1(str(entry).encode()).hexdigest(),
                }
                for entry in sorted(folder.iterdir())
            ]
            self.answer(200, json.dumps(entries).encode())
        else:
            files = [str(file.relative_to(repository)) for file in repository.rglob("*") if file.is_file()]
            about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "tags": [kind]}
            self.answer(200, json.dumps(about | {"private": False, "gated": False, "disabled": False}).encode())

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None: ...


@pytest.fixture
def endpoint(tmp_path: Path, encoder: str) -> Iterator[str]:
    root = tmp_path / "hub"
    shutil.copytree(encoder, root / ENCODER)
    (root / CORPUS / "mrpc").mkdir(parents=True)
    (root / CORPUS / "README.md").write_text(CARD)
    features = Features(
        sentence1=Value("string"),
        sentence2=Value("string"),
        label=ClassLabel(names=["not_equivalent", "equivalent"]),
        idx=Value("int32"),
    )
    for split, pairs in (("train", 40), ("validation", 21)):
        rows = [{"sentence1": a, "sentence2": b, "label": y, "idx": i} for i, (a, b, y) in enumerate(make_rows(pairs))]
        Dataset.from_list(rows, features=features).to_parquet(root / CORPUS / "mrpc" / f"{split}.parquet")
    handler = type("Handler", (Hub,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(
    folder: Path, endpoint: str, *words: str, program: Sequence[str] = ("-m", "mrpc_lightning")
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *program, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_encoder_and_corpus_come_from_the_hub_and_later_from_the_cache(tmp_path: Path, endpoint: str) -> None:
    words = ["fit", "--data.max_length=48", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    first = run(tmp_path, endpoint, *words)
    assert first.returncode == 0, first.stderr
    assert "40 to train, 21 to validate: nyu-mll/glue mrpc" in first.stdout
    # Nobody answers at port 9: what was downloaded serves again, without the libraries' minutes of retries.
    second = run(tmp_path, "http://127.0.0.1:9", *words)
    assert second.returncode == 0, second.stderr
    assert "Retrying" not in second.stderr
    # A run's folder needs no Hub at all to predict a user's pairs: nobody answers, and the cache is empty.
    (tmp_path / "new.csv").write_text("sentence1,sentence2\nRents rose,Rents fell\n")
    shutil.rmtree(tmp_path / "cache")
    third = run(tmp_path, "http://127.0.0.1:9", "predict", "--data.predict_file=new.csv", "--trainer.accelerator=cpu")
    assert third.returncode == 0, third.stderr
    assert len((tmp_path / "tb_logs/mrpc/version_1/predictions.csv").read_text().splitlines()) == 2
    figures = [json.loads((tmp_path / f"tb_logs/mrpc/version_{n}/metrics.json").read_text())["loss"] for n in (0, 1)]
    assert figures[0] == figures[1]


MISSING = {
    "--model.model_name=google-bert/nope": "--model.model_name google-bert/nope: ",
    "--data.dataset_name=nyu-mll/nope": "--data.dataset_name nyu-mll/nope: ",
    "--data.dataset_config=mrpx": "--data.dataset_name nyu-mll/glue: .*mrpx.*mrpc",
}
IN_TURNS = """
import sys
from mrpc_lightning import main
for word in sys.argv[1:]:
    try:
        main(["fit", "--data.max_length=48", word])
    except SystemExit as stopped:
        assert stopped.code == 2
"""


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_one_line(tmp_path: Path, endpoint: str) -> None:
    finished = run(tmp_path, endpoint, *MISSING, program=["-c", IN_TURNS])
    assert finished.returncode == 0 and "Traceback" not in finished.stderr, finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    for error, message in zip(errors, MISSING.values(), strict=True):
        assert re.search(message, error)


@pytest.mark.slow
def test_a_hub_that_never_answers_is_given_up_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        finished = run(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "fit")
    assert finished.returncode == 2
    assert re.fullmatch(
        r"error: --.*: not in the cache, and the Hugging Face Hub .* cannot be reached.*\n", finished.stderr
    )
    assert not (tmp_path / "tb_logs").exists()
