"""docs/curves.md has a run for each name that `fit` gives to curves, and these runs get their names."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mrpc_lightning import main
from mrpc_lightning.report.curves import Diagnosis

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "curves.md").read_text(encoding="utf-8")
# What the page calls a run, its command, and the line that `fit` printed.
RUN = r"## ([^\n]+)\n\n```sh\npython -m mrpc_lightning (fit [^\n]+)\n```\n.*?\n> (curves: [^\n]+)"
RUNS = re.findall(RUN, PAGE, re.DOTALL)


def test_each_kind_of_curves_has_a_run_and_the_line_that_names_it() -> None:
    [kinds] = re.findall(r"kind: (.*?)\.\n", str(Diagnosis.__doc__), re.DOTALL)
    assert sorted(title.lower() for title, _, _ in RUNS) == sorted({*re.findall('"(.*?)"', kinds)} - {"too short"})
    for title, command, line in RUNS:
        assert line.startswith(f"curves: {title}"), title
        name = re.findall(r"--trainer\.logger\.name (\S+)", command)
        assert name == [title.lower().replace(" ", "_")], title


@pytest.mark.slow
@pytest.mark.parametrize(("title", "command", "line"), RUNS, ids=[run[0] for run in RUNS])
def test_a_run_of_the_page_is_what_the_page_calls_it(
    title: str, command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(ROOT / word) if "/" in word else word for word in shlex.split(command)]  # files of the repository
    main([*words, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    [path] = tmp_path.glob("tb_logs/*/version_0/metrics.json")
    found = json.loads(path.read_text(encoding="utf-8"))["diagnosis"]
    assert found.startswith(title)
    assert found.partition(". ")[2] == line.partition(". ")[2], "the advice"
