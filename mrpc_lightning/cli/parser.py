"""The parser: its help, and errors of one line that name the flag or the line of a file, and what it expects."""

import difflib
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

from mrpc_lightning.cli.flags import ELSEWHERE, OWN_FLAGS, help_of
from mrpc_lightning.cli.instant import raise_usage
from mrpc_lightning.data import IN_MEMORY, MRPCDataModule
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import SHARED, ParaphraseClassifier

SECTIONS: dict[str, type] = {
    "trainer": Trainer,
    "model": ParaphraseClassifier,
    "data": MRPCDataModule,
    "early_stopping": EarlyStopping,
    "model_checkpoint": ModelCheckpoint,
}
# `typing` keeps one union for each set of members, whatever their order: where a library has asked for
# Optional[Union[float, int]] before, Lightning's Optional[Union[int, float]] is that, and 1 batch is read as 1.0, all.
for _name in ("train", "val", "test", "predict"):
    inspect.unwrap(Trainer.__init__).__annotations__[f"limit_{_name}_batches"] = int | float | None
# Words that take no value, or two; or all up to the next one.
SWITCHES = ("calibrated", "strict", "soup", "distill")
ARITY = dict.fromkeys(("debug", "glue", "onnx", "int8", "public", "print_config", "help", *SWITCHES), 0)
ARITY |= {"pair": 2, "grid": -1, "search": -1}
YAML_BOOLS = "; YAML reads yes, no, on and off as true and false: put quotes around them"


class Parser(LightningArgumentParser):
    """Lightning's parser, with a help that begins with what matters and errors of one line."""

    words: typing.Sequence[str] = ()  # the command line after the subcommand

    @property
    def subcommand(self) -> str:
        """The subcommand that this parser is for."""
        return (self.prog or "").split()[-1]

    def format_help(self, *args: Any) -> str:
        """Return the help: first an example and the flags that matter, then all of them."""
        everything = str(super().format_help(*args))
        rest = everything[everything.index("\n\n") :].strip()  # the usage names every flag there is
        matter = help_of(self.subcommand, dict(self.get_defaults().items()))
        return f"{matter}\nAll flags, in groups:\n\n{rest}\n"

    def add_class_arguments(self, theclass: Any, *args: Any, **options: Any) -> Any:
        """Add a class's arguments as flags; those that hold rows in memory are for code alone."""
        skip = {*IN_MEMORY} if theclass is MRPCDataModule else set()
        return super().add_class_arguments(theclass, *args, skip=skip, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong in one line, and exit with code 2."""
        raise_usage(self._explain(" ".join(str(message).split())))

    def _explain(self, message: str) -> str:
        """Return a line on what is wrong: an unknown key, a word too many, or a value of the wrong type."""
        keys = [key for key in self.get_defaults().keys() if key != "config"]
        files, flags = split_config_files(self.words)
        given = [*keys_of_files(files), *flags_given(flags)]  # the last one counts
        for key, _, place in given:
            if key.startswith("data.") and key[5:] in SHARED:
                return f"{place}: must be given via model.{key[5:]}"
            if not is_known(key, keys):
                close = suggest(key, keys)
                what = f"unexpected argument {place}" if place.startswith("--") else f"{place}: there is no such key"
                return what + (f"; did you mean --{close}?" if close else "")
        if (stray := stray_words(flags)) and stray[-1].endswith("]"):
            return f"unexpected argument {stray[0]}; put quotes around a list: '[2.0, 1.0]'"
        if stray:
            file = f" a file of pairs with --data.predict_file {stray[0]}," if self.subcommand == "predict" else ""
            return f"unexpected argument {stray[0]}; pass{file} a checkpoint or a run folder with --ckpt_path"
        for flag, options in OWN_FLAGS.get(self.subcommand, {}).items():
            if options.get("required") and flag not in (key for key, _, _ in given):
                return f"--{flag} is required"
        named = re.search(r'key "([\w.]+)"', message)
        values = [(value, place) for key, value, place in given if named and key == named[1]]
        if not named or not values:
            return message
        value, place = values[-1]
        bools = isinstance(value, list) and any(isinstance(item, bool) for item in value)
        shown = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        wanted = expected(named[1])
        return f"{place.partition('=')[0]} {shown}: " + (
            f"expected {wanted}{YAML_BOOLS * bools}" if wanted else message
        )


def expected(key: str) -> str:
    """Return what a key's type accepts, as a person writes it; empty for a key of no class."""
    section, _, name = key.partition(".")
    if section not in SECTIONS or name not in inspect.signature(SECTIONS[section]).parameters:
        return {"seed_everything": "int or bool", "checkpoint_every": "int or null"}.get(key, "")
    names = list(dict.fromkeys(accepted(typing.get_type_hints(vars(SECTIONS[section])["__init__"])[name])))
    for last in ("null", "a class path"):
        names = [each for each in names if each != last] + [last] * (last in names)
    return ", ".join(names[:-1]) + " or " * (len(names) > 1) + names[-1]


def accepted(annotation: Any) -> Iterator[str]:
    """Yield a name for each alternative of a type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from accepted(argument)
    elif origin is typing.Literal:
        yield from map(str, arguments)
    elif origin is list:
        yield "a list, such as " + ("""'["a", "b"]'""" if arguments == (str,) else "'[1.0, 2.0]'")
    elif annotation in (bool, int, float, str):
        yield annotation.__name__
    else:
        yield "null" if annotation is type(None) else "a class path"


def is_known(key: str, keys: list[str]) -> bool:
    """Say whether a key is one of the parser's, a section of them, or an argument of a class that one names."""
    ours = ("config", "c", "help", "h", "print_config", *SECTIONS)
    is_object = re.match(r"trainer\.(accelerator|strategy|logger|callbacks|plugins|profiler)\b", key) is not None
    return key in ours or key in keys or is_object or any(name.startswith(f"{key}.") for name in keys)


def suggest(key: str, keys: list[str]) -> str:
    """Return the key that was probably meant; empty if none is close."""
    key = key.removesuffix("+")
    if key in ELSEWHERE:
        return ELSEWHERE[key]
    begun = [name for name in keys if name.startswith(key)] + [name for name in keys if name.endswith(f".{key}")]
    section, _, last = key.rpartition(".")
    inside = {name.rpartition(".")[2]: name for name in keys if name.rpartition(".")[0] == section} if section else {}
    parts = inside or {name.rpartition(".")[2]: name for name in keys}
    close = difflib.get_close_matches(last, parts, n=1, cutoff=0.7)
    return begun[0] if begun else parts[close[0]] if close else ""


def packaged_configs() -> dict[str, str]:
    """Return the config files that come with the package, by the name that stands for each: demo, mrpc, mrpc_best."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"  # of a wheel; else the package is in a clone
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: str(path) for path in sorted(folder.glob("*.yaml"))}


def with_packaged_configs(words: typing.Sequence[str]) -> list[str]:
    """Return a command line in which `--config demo` is the file, unless there is a file of that name."""
    packaged, found = packaged_configs(), list(words)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "-c"):
            continue
        place, value = (place, value) if equals else (place + 1, "".join(words[place + 1 : place + 2]))
        if value in packaged and not Path(value).is_file():
            found[place] = f"{flag}={packaged[value]}" if equals else packaged[value]
    return found


def split_config_files(words: typing.Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate a command line's config files from its other words, both in their order."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in ("--config", "-c"):
            files.append(next(rest, ""))
        elif word.startswith(("--config=", "-c=")):
            files.append(word.partition("=")[2])
        else:
            others.append(word)
    return files, others


def flags_given(words: list[str]) -> list[tuple[str, str, str]]:
    """Return key, value and word of each flag of a command line."""
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            found.append((key.removesuffix("+"), value if equals else after, word))
    return found


def stray_words(words: list[str]) -> list[str]:
    """Return the words that belong to no flag."""
    stray, left = [], 0
    for word in words:
        if word.startswith("--") and not left > 0:
            left = 0 if "=" in word else ARITY.get(word[2:], 1)
        elif left:
            left -= 1
        else:
            stray.append(word)
    return stray


def without(words: typing.Sequence[str], flags: typing.Collection[str]) -> list[str]:
    """Return a command line without some flags and their values."""
    kept, inside = [], False
    for word in words:
        inside = word.lstrip("-").partition("=")[0] in flags if word.startswith("-") else inside
        kept += [] if inside else [word]
    return kept


def keys_of_files(names: list[str]) -> list[tuple[str, Any, str]]:
    """Return each key that config files set, its value, and where it stands.

    Raises:
        InputError: If a file is missing, no YAML mapping, or not UTF-8.
    """
    found: list[tuple[str, Any, str]] = []
    for name in names:
        path = Path(name)
        try:
            is_file = path.is_file()
        except OSError:  # a text of YAML, longer than a name may be
            is_file = False
        if not is_file and not re.search(r"[:{\n]", name):
            own = f"; --config {path.stem} is the package's" if path.stem in packaged_configs() else ""
            raise InputError(f"--config {name}: no such file{own}")
        try:
            node = yaml.compose(path.read_text(encoding="utf-8") if is_file else name, Loader=yaml.SafeLoader)
            if not isinstance(node, yaml.MappingNode):
                raise InputError(f"--config {name}: holds no keys")
            found += walk(node, f"{name}, line " if is_file else "--config ", "")
        except UnicodeDecodeError as error:
            raise InputError(f"--config {name}: not UTF-8; save the file as UTF-8") from error
        except yaml.YAMLError as error:
            raise InputError(f"--config {name}: not YAML: {' '.join(str(error).split())}") from error
    return found


def walk(node: yaml.MappingNode, place: str, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Yield the keys of a YAML mapping with values and lines; a class with its arguments is one value."""
    for name, value in node.value:
        key = f"{prefix}{name.value}"
        inner = value.value if isinstance(value, yaml.MappingNode) else []
        if inner and not any(each.value == "class_path" for each, _ in inner):
            yield from walk(value, place, f"{key}.")
        else:
            where = f"{place}{name.start_mark.line + 1}: {key}" if place.endswith("line ") else key
            yield key, yaml.safe_load(yaml.serialize(value)), where
