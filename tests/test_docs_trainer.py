"""docs/trainer.md has a row for every argument of the installed `TrainingArguments`, and names keys that there are."""

import dataclasses
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import transformers

from mrpc_lightning import main
from mrpc_lightning.cli.flags import ELSEWHERE, SUBCOMMANDS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "trainer.md").read_text(encoding="utf-8")
NEWEST = tuple(map(int, re.findall(r"all others are in 5\.0 to (\d)\.(\d+)", PAGE)[0]))
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def tables() -> list[tuple[str, list[str]]]:
    """Return each row of a table with the name of its first column."""
    found, head = [], ""
    for line, following in zip(PAGE.splitlines(), [*PAGE.splitlines()[1:], ""], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if following.startswith("| ---"):
            head = cells[0]
        elif line.startswith("| ") and not line.startswith("| ---"):
            assert len(cells) == 3, line
            found.append((head, cells))
    return found


ROWS = tables()
ARGUMENTS = [cells for head, cells in ROWS if head == "`TrainingArguments`"]
NAMED = sorted({span for _, cells in ROWS for span in spans(cells[1])})


def is_of(version: tuple[int, ...], note: str) -> bool:
    """Say whether a version of transformers has the arguments of a row, by its mark "from 5.2" or "until 5.1"."""
    marks = [(word, (int(major), int(minor))) for word, major, minor in re.findall(r"(from|until) (\d)\.(\d+)", note)]
    return all(version >= mark if word == "from" else version <= mark for word, mark in marks)


def command_of(span: str) -> list[str]:
    """Return what a key, a flag or a command of the page is as a command line."""
    first, *rest = shlex.split(span)
    return [first, *rest] if first in SUBCOMMANDS else ["fit", f"--{first.removeprefix('--')}", *rest]


@pytest.mark.skipif(VERSION > NEWEST, reason="the page is of an older transformers: add what is new, and the version")
def test_each_argument_of_the_installed_version_has_one_row() -> None:
    listed = [name for names, _, note in ARGUMENTS if is_of(VERSION, note) for name in spans(names)]
    fields = dataclasses.fields(transformers.TrainingArguments)
    assert Counter(listed) == {field.name: 1 for field in fields}


def test_each_row_names_a_counterpart_or_says_that_there_is_none() -> None:
    for _, (names, here, note) in ROWS:
        assert spans(names) and (spans(here) or here == "always" or (here == "-" and note)), names


def test_the_page_agrees_with_what_the_command_line_answers() -> None:
    here = {name: cell for names, cell, _ in ARGUMENTS for name in spans(names)}
    for name in here.keys() & ELSEWHERE.keys():
        assert ELSEWHERE[name] in here[name], name


def test_keys_and_flags_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, set[str]] = {}
    for span in NAMED:
        command, *words = command_of(span)
        if command not in known:
            with pytest.raises(SystemExit):
                main([command, "--help", "all"])
            known[command] = set(re.findall(r"--([\w.]+)", capsys.readouterr().out))
        for flag in (word[2:] for word in words if word.startswith("--")):
            # Arguments of a logger or a strategy are not in the help: with a value, the next test has them.
            is_nested = flag.startswith(("trainer.logger.", "trainer.strategy.")) and len(words) > 1
            assert flag in known[command] or is_nested, span


def test_commands_and_values_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line.removeprefix("python -m mrpc_lightning ")) for line in lines]
    commands += [command for command in map(command_of, NAMED) if len(command) > 2]
    assert len(commands) > 20
    for command in commands:
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--print_config"])
        assert stopped.value.code == 0, f"{command}: {capsys.readouterr().err}"
