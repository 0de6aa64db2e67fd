"""One model out of the runs of a setting: the mean of their weights, or one that learns their probabilities.

Both are runs like any other: `test`, `predict` and `export` work on their folders.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import Dataset

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.deploy.predictor import Predictor
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import SHARED, ParaphraseClassifier
from mrpc_lightning.origin import read_checkpoint
from mrpc_lightning.report.metrics import Array, intervals, measure, plain
from mrpc_lightning.run.checkpoint import mean
from mrpc_lightning.run.run import Run, replacing
from mrpc_lightning.study import statistics
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.study.predictions import Predictions, both
from mrpc_lightning.study.results import METRICS

OWN_LABEL = 0.1  # share of the label in what a distilled model learns; the rest is the other models' (see README)


def soup(folder: Path, units: Sequence[Unit], train: Callable[[Sequence[str]], None]) -> tuple[str, Run]:
    """Average the weights of runs, greedily: each is added that does not make F1 on the validation split worse.

    The rule is that of Wortsman et al. 2022 (algorithm 1): the runs are tried from the best to the worst.

    Args:
        folder: The study's folder.
        units: The finished runs of one setting.
        train: Runs a command of this program.

    Returns:
        What it is, for the table; and its run.
    """
    ranked = sorted(units, key=lambda unit: -unit.run.metrics["f1"])
    pairs = validation_pairs(ranked[0])
    labels = numpy.array(pairs["label"][:])
    kept: list[dict[str, torch.Tensor]] = []
    chosen: list[int] = []
    best = -1.0
    for unit in ranked:
        weights = read_checkpoint(unit.run.best)["state_dict"]
        score = float(measure(labels, both(predict(unit, pairs, mean([*kept, weights]))))["f1"][0])
        if score >= best:
            best, kept, chosen = score, [*kept, weights], [*chosen, unit.seed]
    run, first = Run(folder / "soup"), ranked[0].run
    content = {**read_checkpoint(first.best), "state_dict": mean(kept)}
    with replacing(run.path("checkpoints/best.ckpt")) as temporary:
        torch.save(content, temporary)
    run.write("config.yaml", (first.folder / "config.yaml").read_bytes())
    train(["test", "--ckpt_path", str(run.folder)])
    run.write("metrics.json", json.dumps({**run.read("test_metrics.json"), "seeds": chosen}, indent=2) + "\n")
    return f"soup of {len(chosen)} of {len(units)} runs' weights, chosen on the validation split", run


def predict(unit: Unit, pairs: Dataset, weights: Mapping[str, torch.Tensor] | None = None) -> Array:
    """Return the positive class's probability of each pair, of shape (pairs,), by a run or by other weights of it."""
    content = read_checkpoint(unit.run.best)
    model = ParaphraseClassifier.restore(content if weights is None else {**content, "state_dict": weights})
    device = "cuda" if torch.cuda.is_available() else None
    found = Predictor(model, device).predict(zip(pairs["sentence1"], pairs["sentence2"], strict=True))
    return numpy.array([[*one.probabilities.values()][1] for one in found])


def validation_pairs(unit: Unit) -> Dataset:
    """Return the validation split's pairs, also of a run that has chosen its epoch on a fold."""
    data = data_of(unit)
    return data.read(data.test_split if unit.fold else "validation")


def data_of(unit: Unit) -> MRPCDataModule:
    """Return the data module of a run."""
    recipe = unit.run.config
    return MRPCDataModule(**recipe["data"], **{name: recipe["model"][name] for name in SHARED})


def teach(folder: Path, units: Sequence[Unit]) -> Unit:
    """Write the training pairs with the probabilities that the runs of a setting give them, for one run to learn.

    A pair's probability is the mean over the runs that have not seen it, where there are folds, else over all of them;
    a tenth of what is learned is the label, as in DistilBERT's and others' recipes of a soft and a hard loss.

    Returns:
        The unit that learns them, as long as the runs did and with their other values.
    """
    first = units[0]
    data = data_of(first)
    values: dict[str, Any] = {**data.hparams, "fold": None}
    pairs = MRPCDataModule(**values).read("train")
    keys = [*zip(pairs["sentence1"], pairs["sentence2"], strict=True)]
    if first.fold:
        shares: dict[tuple[str, str], list[float]] = {}
        for unit in units:
            left_out = Predictions.read(unit.run.folder, "validation")
            for pair, share in zip(left_out.pairs, left_out.positive.tolist(), strict=True):
                shares.setdefault((pair[1], pair[2]), []).append(share)
        if missing := sum(key not in shares for key in keys):
            raise InputError(f"--distill: {missing:,} training pairs were left out by no run; give more --seeds")
        soft = numpy.array([float(numpy.mean(shares[key])) for key in keys])
    else:
        soft = numpy.mean([predict(unit, pairs) for unit in units], axis=0)
    labels = numpy.array(pairs["label"][:])
    soft = (1 - OWN_LABEL) * soft + OWN_LABEL * labels
    validation = validation_pairs(first)
    tables = {"train": {**pairs[:], "soft": soft.tolist()}, "validation": validation[:]}
    texts = {name: lines(table) for name, table in tables.items()}
    name = f"distilled-{hashlib.sha256(texts['train'].encode()).hexdigest()[:8]}"
    files = {split: str(Run(folder).write(f"{name}.{split}.jsonl", text)) for split, text in texts.items()}
    own = (
        *(("data." + split + "_file", path) for split, path in files.items()),
        *((f"data.{column}_column", column) for column in ("sentence1", "sentence2", "label")),
        ("data.soft_label_column", "soft"),
        ("data.data_dir", "null"),
    )
    return Unit(folder, replace(first.setting, values=(*first.setting.values, *own), called=name), 1)


def lines(table: Mapping[str, Sequence[Any]]) -> str:
    """Return a table as JSON lines."""
    rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def scored(name: str, folder: Path, split: str, singles: Sequence[Predictions]) -> dict[str, Any]:
    """Return one model's row of the table: its metrics, and what it gains over the single runs.

    Args:
        name: What it is.
        folder: Its run's folder.
        split: As `Predictions.read` takes it.
        singles: What the single runs say of the same pairs.

    Raises:
        InputError: If it was scored on other pairs.
    """
    own = Predictions.read(folder, split)
    if [pair[1:] for pair in own.pairs] != [pair[1:] for pair in singles[0].pairs]:
        raise InputError(f"{folder}: was scored on other pairs than the study's runs")
    single = numpy.stack([one.positive for one in singles])
    found, names = plain(measure(own.labels, both(own.positive))), [*METRICS]
    ours = numpy.broadcast_to(own.positive, single.shape)
    return {
        "name": name,
        "folder": str(folder),
        **{metric: found[metric] for metric in METRICS},
        "intervals": intervals(own.labels, both(own.positive), names),
        "gains": statistics.over_seeds_and_pairs(own.labels, ours, single, names),
    }
