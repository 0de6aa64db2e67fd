import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
def test_contestants_train_on_the_same_pairs_and_are_measured_alike(tmp_path: Path) -> None:
    names = ["bare PyTorch loop, our settings", "mrpc_lightning"]
    words = [
        "--model=demo",
        "--max_length=64",
        "--layers=1",
        "--hidden=64",
        "--pairs=320",
        "--epochs=2",
        "--repeats=1",
        f"--out={tmp_path}",
    ]
    command = [sys.executable, str(BENCHMARKS / "compare.py"), *words, "--only", *names]
    for _ in range(2):  # the second time everything is there
        subprocess.run(command, check=True, timeout=300, cwd=tmp_path)
    bare, ours = (json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines())
    assert [bare["name"], ours["name"]] == names
    for one in (bare, ours):
        assert 0 < one["seconds_to_first_step"] < one["seconds_to_metrics"]
        assert one["pairs_per_second"] > 0 and 0.3 < one["f1"] < 1
    assert bare["padding"] == pytest.approx(ours["padding"], abs=0.01), "the order's seed is drawn otherwise"
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {name} |" in table for name in names) and "320 training pairs" in table
