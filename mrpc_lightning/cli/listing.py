"""`runs` and `compare`: what looks at runs that are there, and needs no Trainer."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mrpc_lightning.cli.flags import SUBCOMMANDS
from mrpc_lightning.cli.instant import failing_in_one_line, raise_usage
from mrpc_lightning.errors import InputError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with code 2."""
        raise_usage(message)


def main(command: str, words: Sequence[str]) -> None:
    """Run one of the two subcommands.

    Args:
        command: "runs" or "compare".
        words: The command line after it.
    """
    what = f"{SUBCOMMANDS[command].capitalize()}."
    parser = Parser(prog=f"python -m mrpc_lightning {command}", description=what, allow_abbrev=False)
    with failing_in_one_line(debug=False):
        answer = list_runs(parser, words) if command == "runs" else compare_runs(parser, words)
        print(answer, end="", flush=True)


def list_runs(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Return the table of the runs in a folder."""
    from mrpc_lightning.study import runs

    parser.add_argument("folder", nargs="?", default="tb_logs", type=Path, help="where runs are (default: tb_logs)")
    parser.add_argument("--sort", choices=runs.SORTS, default="newest", help="the newest first, or the best")
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text", help="json has all that is known")
    given = parser.parse_args(words)
    return runs.render(runs.find(given.folder, given.sort), given.format)


def compare_runs(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Return how runs compare.

    Raises:
        InputError: If scipy is missing, or runs cannot be compared.
    """
    name = "a run's folder; or a folder of several runs, which are taken for seeds of one setting"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{name}; the others are compared with the first")
    parser.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="what `fit`, or `test`, scored"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json has every pair that differs")
    given = parser.parse_args(words)
    if len(given.runs) < 2:
        raise InputError("compare: give two runs, or more")
    if find_spec("scipy") is None:
        raise InputError("compare: needs scipy: python -m pip install scipy")
    from mrpc_lightning.study import compare

    return compare.render(compare.compare(given.runs, given.split), given.format)
