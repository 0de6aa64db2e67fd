"""Answers in code and in a pipe: a model of a run, and what it says of pairs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier, Prediction
from mrpc_lightning.pairs.tokens import unpack
from mrpc_lightning.run.checkpoint import read_checkpoint
from mrpc_lightning.run.run import find_checkpoint


class Predictor:
    """A trained model, ready to use.

    Args:
        model: The model, with its tokenizer.
    """

    def __init__(self, model: ParaphraseClassifier, device: Any = None) -> None:
        self.model = model.eval()

    @classmethod
    def from_run(cls, ckpt_path: str | Path = "best", logs: str | Path = "tb_logs") -> "Predictor":
        """Load what a run has trained, with its tokenizer.

        Args:
            ckpt_path: "best" or "last", of the newest run that has one; a run's folder; or a checkpoint file.
            logs: The folder in which runs are searched.

        Raises:
            InputError: If there is no such checkpoint, or it is damaged.
        """
        checkpoint = find_checkpoint(str(ckpt_path), Path(logs))
        content = read_checkpoint(checkpoint)
        model = ParaphraseClassifier.restore(content)
        files = content.get("MRPCDataModule", {}).get("tokenizer")
        if not files:
            raise InputError(f"{checkpoint}: of an older version, without its tokenizer")
        model.tokenizer = unpack(files)
        model.max_length = content["datamodule_hyper_parameters"]["max_length"]
        model.autocast_dtype = torch.bfloat16 if content["made_with"]["trainer_precision"] == "bf16-mixed" else None
        return cls(model)

    def predict(self, pairs: Iterable[tuple[str, str]], batch_size: int = 64) -> list[Prediction]:
        """Return a prediction for each pair of sentences, in their order; see `ParaphraseClassifier.predict`."""
        return self.model.predict(pairs, batch_size)

    def predict_lines(self, lines: Any, columns: Any = None) -> Any:
        return answer_lines(self.model, lines)


def answer_lines(model: ParaphraseClassifier, lines: Iterable[str]) -> Iterator[str]:
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


def answer_line(model: ParaphraseClassifier, line: str, number: int) -> str:
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


def show(answer: Prediction) -> str:
    """Write an answer as a line: label, tab, probability of the positive class."""
    return f"{answer.label}\t{list(answer.probabilities.values())[1]:.6f}"
