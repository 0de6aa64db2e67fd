"""The command line's words: errors of one line, and which words name config files."""

import difflib
import re
import textwrap
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from mrpc_lightning import demo
from mrpc_lightning.cli.instant import SUBCOMMANDS, raise_usage
from mrpc_lightning.errors import InputError

CKPT_PATH = '"best" or "last", of the newest run that has one; a run\'s folder; or a checkpoint file.'
EVALUATED = {
    "ckpt_path": f'What to use: {CKPT_PATH} Unset: "best". "none": an encoder that was fine-tuned elsewhere, as it is.',
    "run": 'The run that "best" and "last" mean, such as version_3. Unset: the newest.',
}
# What a subcommand's help begins with: an example, and the flags that matter, explained for this command line.
FIRST_FLAGS = {
    "fit": (
        "fit --config configs/mrpc.yaml --model.model_name FacebookAI/roberta-base",
        {
            "config": "A YAML file of flags. configs/mrpc.yaml has all that matter, with their meaning and default.",
            "model.model_name": 'The encoder: a name on the Hugging Face Hub, a local folder, or "demo".',
            "model.learning_rate": "Peak learning rate of AdamW.",
            "data.batch_size": "Training pairs a process and step.",
            "data.train_file": "Your training pairs: CSV, TSV, JSON lines or Parquet. Unset: MRPC, from the Hub.",
            "data.validation_file": "Your validation pairs. Unset: a tenth of the training file is held out.",
            "trainer.max_epochs": "Passes over the training pairs.",
            "early_stopping.patience": "Validations without an improvement before training stops.",
            "seed_everything": "Seed of the head's first weights, the order of pairs and dropout.",
            "ckpt_path": 'Go on with a run that was stopped: "last", of the newest that has one; or a run\'s folder.',
        },
    ),
    "validate": (
        "validate --ckpt_path last",
        {**EVALUATED, "data.validation_file": "Other pairs than the run's."},
    ),
    "test": (
        "test --data.test_file labelled_pairs.csv",
        {
            **EVALUATED,
            "data.test_file": "Labelled pairs to score. Unset: the run's validation split.",
            "data.test_split": "The split to score: train, validation or test.",
            "data.eval_batch_size": "Pairs a process and step; changes speed and memory alone.",
        },
    ),
    "predict": (
        "predict --data.predict_file new_pairs.csv",
        {
            **EVALUATED,
            "data.predict_file": "The pairs, with or without labels; -: standard input. Unset: the run's test split.",
            "output": "The table to write: .csv, .tsv, .jsonl or .parquet. Unset: predictions.csv in the run's folder.",
            "pair": "Two sentences: answer this pair alone.",
            "glue": "Write GLUE's MRPC.tsv.",
            "data.eval_batch_size": "Pairs a process and step; changes speed and memory alone.",
        },
    ),
    "export": (
        "export --to my-model",
        {
            "to": "The folder to make.",
            "onnx": "Also write model.onnx, checked against PyTorch.",
            "int8": "Also write model.int8.onnx, and say what it costs in F1.",
            "push_to_hub": "Upload to owner/name on the Hub; private, unless --public is given.",
            **EVALUATED,
        },
    ),
}
CONFIG_FLAGS = ("--config", "-c")


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line and name the flag that was probably meant."""

    def format_help(self, *args: Any) -> str:
        """Return the help: of a subcommand, first an example and the flags that matter, then all the rest."""
        subcommand = (self.prog or "").split()[-1]
        if subcommand not in FIRST_FLAGS:
            return str(super().format_help(*args))
        example, texts = FIRST_FLAGS[subcommand]
        lines = []
        for flag, text in texts.items():
            action = self._option_string_actions[f"--{flag}"]
            action.help = text
            default = "" if action.default in (None, SUPPRESS) else f" (default: {action.default})"
            lines += textwrap.wrap(
                f"{'--' + flag:26}{text}{default}", 100, initial_indent="  ", subsequent_indent=" " * 28
            )
        everything = str(super().format_help(*args))
        rest = everything[everything.index("\n\n") :].strip()  # the usage names every flag there is
        return (
            f"usage: python -m mrpc_lightning {subcommand} [--config FILE] [--flag value ...]\n\n"
            f"{SUBCOMMANDS[subcommand].capitalize()}. For example:\n\n  python -m mrpc_lightning {example}\n\n"
            "The flags that matter:\n\n" + "\n".join(lines) + f"\n\nAll flags, in groups:\n\n{rest}\n"
        )

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
        return f"say what to do: {', '.join(SUBCOMMANDS)}; for example: {demo.COMMAND}"
    if "invalid choice" in text:
        keys = list(SUBCOMMANDS)
    if found := re.search(r"arguments are required: \w+\.(\S+)", text):
        return f"--{found[1]} is required"
    if found := re.search(r"not accepted before subcommand '(\w+)'", text):
        return f"flags and --config go after {found[1]}"
    if found := re.search(r"nrecognized arguments: ([^-\s]\S*)", text):
        return f"{found[1]}: what does it belong to? A checkpoint or a run's folder goes after --ckpt_path"
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
