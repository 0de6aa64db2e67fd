"""What README and docs/ tell people to type works: commands parse, and nearly all are run, with stand-ins."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import TINY, command, copy_to, make_rows, write_csv

from mrpc_lightning import main
from mrpc_lightning.run.resume import MAY_CHANGE

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
HERE = "python -m mrpc_lightning "
# What is not run, and why.
NOT_RUN = {
    "python -m pip install": "CI installs so; what follows && is run",
    "python -m pytest": "these tests",
    "tensorboard ": "a server; tests/run/test_recorder.py reads its files",
    "torchrun ": "two machines; tests/run/test_nodes.py has two networks in their place",
    "tail -f ": "never ends; tests/deploy/test_predictor.py has the pipe",
    "mkdocs ": "CI builds the documentation",
    "python benchmarks/": "minutes; tests/test_benchmarks.py runs them at toy size",
    "--push_to_hub": "uploads; tests/deploy/test_export.py has a stand-in for the Hub",
    "fit --ckpt_path last": "needs a run that was stopped; tests/run/test_resume.py kills some",
}
OTHERS = {"curves.md": "tests/report/test_docs_curves.py", "cli.md": "made from the parser"}


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [block.replace("\\\n", " ") for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]


def commands(path: Path) -> list[str]:
    lines = [part.strip() for block in blocks(path, "sh") for line in block.splitlines() for part in line.split("&&")]
    return [line for line in lines if line and not any(what in line for what in NOT_RUN)]


def test_the_readme_is_short_and_names_each_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    named = set(re.findall(r"\]\(docs/([\w.]+)\)", readme))
    generated, home = {"cli.md", "api.md"}, {"index.md"}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - named == generated | home
    assert "notebook.ipynb" in named


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_each_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    found = re.findall(r"[\w.]+\.(?:md|ipynb)", json.dumps(menu))
    assert sorted(found) == sorted(path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb"))


def test_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [path.read_text(encoding="utf-8").replace("\\\n", " ") for path in (*PAGES, *CONFIGS)]
    found = {one.strip() for text in texts for one in re.findall(rf"{HERE}([a-z][^`#\n]*)", text)}
    assert len(found) >= 20
    for one in sorted(found):
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(one)]
        listing = words[0] in ("runs", "compare")  # their parser has no --print_config, and --help hides a wrong flag
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--help" if listing else "--print_config"])
        printed = capsys.readouterr()
        assert stopped.value.code == 0, f"{one}: {printed.err}"
        assert not listing or all(word in printed.out for word in words if word.startswith("--"))


def test_what_may_change_when_a_run_is_resumed_is_documented() -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    assert [key for key in MAY_CHANGE if f"`{key}`" not in page] == []


def stand_in(folder: Path, encoder: str) -> None:
    """Make the files that the pages name: configs of the tiny encoder and corpus, and tables of pairs."""
    for name in ("pairs.csv", "held_out.csv", "new_pairs.csv", "labelled_pairs.csv"):
        write_csv(folder / name, make_rows(40, seed=len(name)))
    rows = ["sentence1\tsentence2\tlabel", *("\t".join(map(str, row)) for row in make_rows(40))]
    (folder / "first.tsv").write_text("\n".join(rows))
    (folder / "configs").mkdir()
    for path in CONFIGS:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        config.setdefault("model", {}).update(model_name=encoder, pretrained=True)
        config.setdefault("trainer", {}).update(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        values = {"train_file": "train.csv", "validation_file": "validation.csv", "max_length": 48}
        config.setdefault("data", {}).update(values)
        (folder / "configs" / path.name).write_text(yaml.safe_dump(config))


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_run(
    path: Path, tiny_run: Path, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.name in OTHERS:
        pytest.skip(OTHERS[path.name])
    folder = copy_to(tiny_run, tmp_path / "project", monkeypatch)
    shutil.copytree(folder / "tb_logs/mrpc/version_0", folder / "tb_logs/mrpc/version_1")
    shutil.copytree(folder / "tb_logs/mrpc/version_0", folder / "tb_logs/first/version_0")
    stand_in(folder, encoder)
    for line in commands(path):
        assert line.startswith(HERE), line
        line = line.replace("--seeds 10", "--seeds 2").replace("--trials 30", "--trials 2")
        line = re.sub(r"--model\.model_name [A-Z]\S*/\S+", f"--model.model_name {encoder}", line)
        words = shlex.split(line.removeprefix(HERE))
        if words[0] not in ("runs", "compare", "export") and "--config" not in words:
            words += [word for word in TINY if "accelerator" in word or "progress" in word]
        done = command(words, timeout=300)
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("name", ["README.md", "project.md", "export.md"])
def test_code_runs(name: str, trained: Path, encoder: str) -> None:
    [path] = [path for path in PAGES if path.name == name]
    main(["export", "--to", "my-model"])
    write_csv(trained / "pairs.csv", make_rows(60))
    values: dict[str, Any] = {}
    for block in blocks(path, "python"):
        code = block.replace('"google-bert/bert-base-uncased"', repr(encoder)).replace(
            "Module(encoder,", "Module(encoder, max_length=48,"
        )
        exec(code.replace("max_epochs=3", "max_epochs=1, accelerator='cpu'"), values)
