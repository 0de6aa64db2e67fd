"""Predictions in code and in a pipe: a trained model on a device."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy
import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification

from mrpc_lightning import hub
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.nn.encoder import check_weights, without_code
from mrpc_lightning.origin import read_checkpoint
from mrpc_lightning.pairs.checks import unusable
from mrpc_lightning.pairs.files import Table
from mrpc_lightning.pairs.tables import Prediction, fill, is_table, new_columns
from mrpc_lightning.pairs.tokens import load_tokenizer
from mrpc_lightning.report.calibration import FILE, Calibration
from mrpc_lightning.run.run import LOGS, find_checkpoint
from mrpc_lightning.text import CONTROLS, count, printable

PLAIN: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}


class Predictor:
    """A trained model in evaluation mode on a device.

    Args:
        model: The model, with its tokenizer.
        device: Where to compute, such as "cuda". Unset: where the model is.
        calibration: How probabilities become predictions. Unset: the likelier class.
    """

    def __init__(
        self,
        model: ParaphraseClassifier,
        device: torch.device | str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model.eval() if device is None else model.eval().to(device)
        self.calibration = calibration

    @classmethod
    def from_run(
        cls,
        ckpt_path: str | Path = "best",
        logs: str | Path = LOGS,
        device: torch.device | str | None = None,
        calibrated: bool = False,
        threshold: float | None = None,
    ) -> "Predictor":
        """Load what a run has trained, or a model folder that `export` wrote, with its tokenizer.

        Nothing in the files is run, whoever made them. A run's model computes as it was trained, in bf16 or float32;
        a model folder's in float32.

        Args:
            ckpt_path: "best" or "last", of the newest run that has one; a run's folder; a checkpoint file; or a folder
                that `export` wrote.
            logs: The folder in which runs are searched.
            device: Where to compute. Unset: on the CPU.
            calibrated: Use the threshold and the temperature that `study --folds` has left in the folder.
            threshold: Answer with the positive class from above this probability on. Unset: 0.5.

        Raises:
            InputError: If there is no such checkpoint or folder, or it is damaged; if a threshold is none, or one too
                many.
        """
        asked = Calibration.at(threshold, calibrated)
        if (Path(ckpt_path) / "config.json").is_file():
            found = needed(Calibration.read(Path(ckpt_path)), ckpt_path) if calibrated else asked
            return cls(load_exported(Path(ckpt_path)), device, found)
        checkpoint = find_checkpoint(str(ckpt_path), Path(logs))
        content = read_checkpoint(checkpoint)
        found = needed(Calibration.of(checkpoint), checkpoint) if calibrated else asked
        try:
            return cls(ParaphraseClassifier.restore(content), device, found)
        except InputError as error:
            raise InputError(f"ckpt_path {checkpoint}: {error}") from error

    @overload
    def predict(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> list[Prediction]: ...

    @overload
    def predict(self, pairs: Any, batch_size: int = 64) -> Any: ...

    def predict(self, pairs: Any, batch_size: int = 64) -> Any:
        """Return a prediction for each pair, or a table with predictions; see `ParaphraseClassifier.predict`."""
        if is_table(pairs):
            names = self.model.hparams["label_names"]
            return fill(pairs, self.model.columns, names, lambda some: self.predict(some, batch_size))
        found = self.model.predict(pairs, batch_size)
        if self.calibration is None or not found:
            return found
        chosen, shares = self.calibration.apply(numpy.array([[*one.probabilities.values()] for one in found]))
        names = list(found[0].probabilities)
        return [
            Prediction(names[int(label)], dict(zip(names, pair, strict=True)))
            for label, pair in zip(chosen, shares.tolist(), strict=True)
        ]

    def predict_lines(
        self, lines: Iterable[str], columns: tuple[str, str] = ("sentence1", "sentence2"), strict: bool = False
    ) -> Iterator[str]:
        """Predict pairs as they come, one a line: two sentences with a tab between them, or a JSON object.

        Control characters in the yielded lines are escaped: a terminal would obey them.

        Args:
            lines: The lines.
            columns: Keys of the two sentences in a JSON object. A first line of these two names is a header.
            strict: Refuse a line that holds no pair, instead of leaving its prediction empty.

        Yields:
            For each line that is not empty the label, a tab and the probability of the positive class; for a JSON
            object the same object with `prediction` and the probability of each class. Of a line that holds no pair
            both are empty, and what follows, `problem` in a JSON object, says why; a warning counts these lines.

        Raises:
            InputError: If a line is not UTF-8; with `strict`, if it holds no pair.
        """
        number = bad = first = 0  # lines: read, without a pair, the first of these
        try:
            for number, line in enumerate(lines, 1):
                is_header = number == 1 and line.rstrip("\r\n").split("\t") == list(columns)
                if line.strip() and not is_header:
                    row, pair, problem = parse(line.rstrip("\r\n"), columns)
                    if problem and strict:
                        raise InputError(f"standard input, line {number}: {problem}")
                    found = None if problem else self.predict([pair])[0]
                    if problem:
                        bad, first = bad + 1, first or number
                    yield self._show_line(row, found, problem and f"line {number}: {problem}")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input, line {number + 1} or soon after: not UTF-8") from error
        if bad:
            rank_zero_warn(f"standard input: {count(bad, 'line')} without a prediction, the first of them {first}")

    def _show_line(self, row: dict[str, Any] | None, found: Prediction | None, problem: str) -> str:
        if row is None:
            return show(found) if found else f"\t\t{printable(problem)}"
        names = self.model.hparams["label_names"]
        kept = {name: value for name, value in row.items() if name not in new_columns(names, True)}
        shares = [round(share, 6) for share in found.probabilities.values()] if found else [None, None]
        values = [found.label if found else None, *shares, problem]
        added = zip(new_columns(names, bool(problem)), values, strict=False)
        text = json.dumps({**kept, **dict(added)}, ensure_ascii=False)
        return CONTROLS.sub(lambda match: json.dumps(match.group())[1:-1], text)


def parse(line: str, columns: tuple[str, str]) -> tuple[dict[str, Any] | None, tuple[str, str], str]:
    """Read a line of a pipe.

    Returns:
        The JSON object that it holds, empty if that is damaged, or None; the two sentences; and, if it holds no two,
        what is wrong.
    """
    row, nothing = None, ("", "")
    sentences: Any = line.split("\t")
    if line.lstrip().startswith("{") and len(sentences) == 1:
        row = dict[str, Any]()
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
        if not {*columns} <= {*row}:
            return row, nothing, f"no JSON object with {columns[0]} and {columns[1]}"
        sentences = [row[name] for name in columns]
    elif len(sentences) != 2:
        return row, nothing, "not two sentences with a tab between them"
    problems = unusable(Table("", {name: [one] for name, one in zip(columns, sentences, strict=True)}), columns)
    return row, nothing if problems else (sentences[0], sentences[1]), problems.get(0, "")


def needed(calibration: Calibration | None, place: str | Path) -> Calibration:
    """Return a calibration that was asked for.

    Raises:
        InputError: If there is none.
    """
    if calibration is None:
        raise InputError(f"--calibrated: {place} has no {FILE}; a study with --folds leaves one for its runs' best")
    return calibration


def show(prediction: Prediction) -> str:
    """Write a prediction as a line: label, tab, probability of the positive class."""
    return f"{printable(prediction.label)}\t{list(prediction.probabilities.values())[1]:.6f}"


def load_exported(folder: Path) -> ParaphraseClassifier:
    """Load a model folder that `export` wrote, from safetensors and plain values alone.

    Raises:
        InputError: If the folder holds no trained model for two classes.
    """
    key = f"ckpt_path {folder}"
    try:
        values = without_code(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        config = AutoConfig.for_model(**values)
        encoder, found = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **PLAIN
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{key}: {hub.explain(error, str(folder))}") from error
    check_weights(encoder, found, key, head=True)
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    model = ParaphraseClassifier(str(folder), label_names=names, symmetric=bool(values.get("symmetric")))
    model.model, model.tokenizer = encoder, load_tokenizer(str(folder), None, key)
    positions = getattr(config, "max_position_embeddings", None) or 512
    model.max_length = min(model.tokenizer.model_max_length, positions)
    return model
