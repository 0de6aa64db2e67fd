"""The command line's words: errors of one line, and which words name config files."""

import difflib
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mrpc_lightning.errors import InputError
from mrpc_lightning.hub import DEMO_COMMAND

CONFIG_FLAGS = ("--config", "-c")


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line and name the flag that was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print an error and exit with code 2."""
        raise_usage(explain_parser_error(str(message), self._keys()))

    def _keys(self) -> list[str]:
        parsers: list[Any] = [self]
        if self._subcommands_action:
            parsers += self._subcommands_action._name_parser_map.values()
        return sorted({option.lstrip("-") for parser in parsers for option in parser._option_string_actions})


def explain_parser_error(message: str, keys: list[str]) -> str:
    """Turn jsonargparse's message, of up to ten lines, into one line for the person at the keyboard.

    Args:
        message: What jsonargparse says.
        keys: All keys there are, such as "model.learning_rate".
    """
    text = " ".join(message.split())
    if found := re.match(r'Parser key "([\w.]+)": (.*)', text):
        key, problem = found.groups()
        value = re.search(r"(?:Got|Given) value: (\S.*?)(?: Given value|$)", problem[problem.rfind("value type") + 1 :])
        literals = re.findall(r"typing\.Literal\[(.*?)\]", problem.split("Errors:")[0])
        types = re.findall(r"<class '(\w+)'>", problem.split("Errors:")[0].split("Got value")[0])
        names = [*dict.fromkeys(", ".join(literals).replace("'", "").split(", ") if literals else [])]
        names += ["null" if name == "NoneType" else name for name in dict.fromkeys(types)]
        names += ["a class path"] * ("lightning." in problem)
        if value and names:
            return f"--{key} {value[1]}: expected {', '.join(names[:-1])}{' or ' * (len(names) > 1)}{names[-1]}"
        return f"--{key}: {problem}"
    if text.startswith('expected "subcommand"'):
        return f"say what to do: {', '.join(LightningCLI.subcommands())}; for example: {DEMO_COMMAND}"
    if "invalid choice" in text:
        keys = list(LightningCLI.subcommands())
    found = re.search(r"(?:arguments: -*|accept option '|invalid choice: ')([\w.]+)", text)
    word = found[1] if found else ""
    close = [key for key in keys if word and key.startswith(word)] or difflib.get_close_matches(word, keys, n=1)
    return f"{text}; did you mean {'--' * ('invalid choice' not in text)}{close[0]}?" if close else text


def split_config_files(words: list[str]) -> tuple[list[str], list[str]]:
    """Part a command line's `--config FILE` words from the others, both in their order."""
    files: list[str] = []
    flags: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in CONFIG_FLAGS:
            files += [word, next(rest, "")]
        else:
            (files if word.startswith(("--config=", "-c=")) else flags).append(word)
    return files, flags


def check_config_files(words: list[str]) -> None:
    """See to it that config files can be read, before a parser that does not name them reads them.

    Args:
        words: `--config` words, as `split_config_files` gives them.

    Raises:
        InputError: If one is no YAML mapping, or not UTF-8.
    """
    for name in (word.partition("=")[2] if "=" in word else word for word in words if word not in CONFIG_FLAGS):
        if not Path(name).is_file():
            continue  # the parser says so, and it takes YAML in place of a name
        try:
            content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"--config {name}: not UTF-8; save the file as UTF-8") from error
        except yaml.YAMLError as error:
            raise InputError(f"--config {name}: not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise InputError(f"--config {name}: holds no keys")


def raise_usage(message: str) -> NoReturn:
    """Print an error in one line and exit with code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
