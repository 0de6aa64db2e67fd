"""Answers in code and in a pipe: a model of a run, and what it says of pairs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mrpc_lightning.errors import InputError
from mrpc_lightning.pairs.tokens import unpack
from mrpc_lightning.run import run as runs

if TYPE_CHECKING:
    from mrpc_lightning.model import ParaphraseClassifier


class Answer(NamedTuple):
    """What a model says of a pair.

    Attributes:
        label: Name of the class with the higher probability.
        probabilities: Probability of each class by name.
    """

    label: str
    probabilities: dict[str, float]


def load(model_class: type["ParaphraseClassifier"], ckpt_path: str, logs: Path) -> "ParaphraseClassifier":
    """Load a model with its tokenizer; see `ParaphraseClassifier.from_run`."""
    checkpoint = runs.find_checkpoint(ckpt_path, logs)
    content = runs.read_checkpoint(checkpoint)
    model = runs.load(model_class, checkpoint).eval()
    files = content.get("MRPCDataModule", {}).get("tokenizer")
    if not files:
        raise InputError(f"{checkpoint}: of an older version, without its tokenizer")
    model.tokenizer = unpack(files, f"--ckpt_path {checkpoint}")
    model.max_length = content["datamodule_hyper_parameters"]["max_length"]
    model.autocast_dtype = torch.bfloat16 if runs.precision(content) == "bf16-mixed" else None
    return model


@torch.inference_mode()
def answer(model: "ParaphraseClassifier", pairs: Sequence[tuple[str, str]], batch_size: int) -> list[Answer]:
    """Answer pairs; see `ParaphraseClassifier.predict`."""
    if model.tokenizer is None:
        raise InputError("no tokenizer: load the model with ParaphraseClassifier.from_run")
    for number, pair in enumerate(pairs, 1):
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"pair {number}: give a list of pairs, each of two sentences")
        for side, sentence in enumerate(pair, 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise InputError(f"pair {number}: sentence{side} is empty or no text ({sentence!r})")
    names, symmetric, training = model.hparams["label_names"], model.hparams["symmetric"], model.training
    # Alike in length: less padding.
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]) + len(pairs[row][1]))
    found: dict[int, Answer] = {}
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        first, second = ([pairs[row][side] for row in rows] for side in (0, 1))
        if symmetric:
            first, second = first + second, second + first
        tokens = model.tokenizer(
            first, second, truncation=True, max_length=model.max_length, padding=True, return_tensors="pt"
        )
        inputs = {
            name: tensor.unflatten(0, (2, -1)) if symmetric else tensor
            for name, tensor in tokens.to(model.device).items()
        }
        with torch.autocast(model.device.type, model.autocast_dtype, enabled=model.autocast_dtype is not None):
            shares = model.predict_step(inputs, 0).tolist()
        for row, pair in zip(rows, shares, strict=True):
            found[row] = Answer(names[int(pair[1] > pair[0])], dict(zip(names, pair, strict=True)))
    model.train(training)
    return [found[row] for row in range(len(pairs))]


def answer_lines(model: "ParaphraseClassifier", lines: Iterable[str]) -> Iterator[str]:
    """Answer pairs as they come, a line each: `sentence1<TAB>sentence2`, or a JSON object with both.

    Yields:
        `label<TAB>probability of the positive class`, or the JSON object with `prediction` and probabilities.

    Raises:
        InputError: If a line is no pair.
    """
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield answer_line(model, line.rstrip("\r\n"), number)
    except UnicodeDecodeError as error:
        raise InputError(f"standard input, line {number + 1} or soon after: not UTF-8") from error


def answer_line(model: "ParaphraseClassifier", line: str, number: int) -> str:
    """Answer one line; see `answer_lines`."""
    row: dict[str, Any] = {}
    if line.lstrip().startswith("{") and "\t" not in line:
        try:
            row = json.loads(line)
            pair = [row["sentence1"], row["sentence2"]]
        except (ValueError, KeyError) as error:
            raise InputError(f"standard input, line {number}: no JSON object with sentence1 and sentence2") from error
    else:
        pair = line.split("\t")
    if len(pair) != 2:
        raise InputError(f"standard input, line {number}: not two sentences with a tab between them")
    try:
        [answer] = model.predict([(pair[0], pair[1])])
    except InputError as error:
        raise InputError(f"standard input, line {number}: {str(error).partition(': ')[2]}") from error
    if not row:
        return show(answer)
    shares = {f"probability_{name}": round(share, 6) for name, share in answer.probabilities.items()}
    return json.dumps({**row, "prediction": answer.label, **shares}, ensure_ascii=False)


def show(answer: Answer) -> str:
    """Write an answer as a line: label, tab, probability of the positive class."""
    return f"{answer.label}\t{list(answer.probabilities.values())[1]:.6f}"
