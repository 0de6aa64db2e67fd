"""One model out of the runs of a setting: the mean of their weights, or one that learns their probabilities.

Both are runs like any other: `test`, `predict` and `export` work on their folders. Both are chosen on the validation
split: the soup's runs, and the distilled model's epoch.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml
from datasets import Dataset

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.deploy.predictor import Predictor
from mrpc_lightning.errors import InputError
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.origin import HASHES, read_checkpoint
from mrpc_lightning.pairs.sources import digest
from mrpc_lightning.report.metrics import Array, both, measure
from mrpc_lightning.run.checkpoint import mean
from mrpc_lightning.run.run import Run, replacing
from mrpc_lightning.study.plan import Unit
from mrpc_lightning.study.predictions import Predictions, left_out
from mrpc_lightning.study.results import beside

OWN_LABEL = 0.5  # share of the label in what a distilled model learns; the rest is the other models'


def soup(folder: Path, units: Sequence[Unit], command: Callable[[Sequence[str]], None]) -> dict[str, Any]:
    """Average the weights of runs, greedily: each is added that does not make F1 on the validation split worse.

    The rule is that of Wortsman et al. 2022 (algorithm 1): the runs are tried from the best to the worst.

    Args:
        folder: The study's folder.
        units: The finished runs of one setting.
        command: Runs a command of this program.

    Returns:
        Its row of the table.
    """
    ranked = sorted(units, key=lambda unit: -(unit.scores["f1"] or 0))
    pairs = ranked[0].validation_pairs
    labels, best = numpy.array(pairs["label"][:]), -1.0
    kept: list[dict[str, Any]] = []  # what the checkpoints of the added runs hold
    added: list[Unit] = []
    for unit in ranked:
        content = read_checkpoint(unit.run.best)
        weights = mean([one["state_dict"] for one in (*kept, content)])
        score = float(measure(labels, both(predict({**content, "state_dict": weights}, pairs)))["f1"][0])
        if score >= best:
            best, kept, added = score, [*kept, content], [*added, unit]
    run, seeds = Run(folder / "soup"), sorted(unit.seed for unit in added)
    with replacing(run.path("checkpoints/best.ckpt")) as temporary:
        torch.save({**merged(kept, digest(pairs)), "seeds": seeds}, temporary)
    recipe = {**added[0].run.config}
    recipe["data"] = {**recipe["data"], "fold": None}
    run.write("config.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    run.path("metrics.json").unlink(missing_ok=True)
    command(["test", "--ckpt_path", str(run.folder)])
    metrics = {**run.read("test_metrics.json"), "seeds": seeds, "optimizer_step": kept[0]["global_step"]}
    run.write("metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return row(f"mean weights of {len(seeds)} of {len(units)} runs, chosen on the validation split", run, "test", units)


def merged(contents: Sequence[Mapping[str, Any]], validation: str) -> dict[str, Any]:
    """Return the checkpoint of a soup: the mean of the weights, and the training pairs of all runs that are in it.

    Args:
        contents: What the runs' checkpoints hold.
        validation: Digest of the validation split's pairs; a run with a fold had others.
    """
    data = dict(contents[0]["MRPCDataModule"])
    known = [content["MRPCDataModule"]["trained_on"] for content in contents]
    joined = {name: torch.unique(torch.cat([one[name] for one in known])) for name in HASHES}
    pairs = max(len(joined["pair_hashes"]), *(one["training_pairs"] for one in known))
    data |= {"digests": {"validation": validation}, "trained_on": {**known[0], **joined, "training_pairs": pairs}}
    return {
        **contents[0],
        "state_dict": mean([content["state_dict"] for content in contents]),
        "metrics": {},
        "MRPCDataModule": data,
        "datamodule_hyper_parameters": {**contents[0]["datamodule_hyper_parameters"], "fold": None},
    }


def predict(content: Mapping[str, Any], pairs: Dataset) -> Array:
    """Return the positive class's probability of each pair, of shape (pairs,), by what a checkpoint holds."""
    device = "cuda" if torch.cuda.is_available() else None
    predictor = Predictor(ParaphraseClassifier.restore(content), device)
    found = predictor.predict(zip(pairs["sentence1"], pairs["sentence2"], strict=True))
    return numpy.array([[*one.probabilities.values()][1] for one in found])


def teach(folder: Path, units: Sequence[Unit]) -> Unit:
    """Write the training pairs with the probabilities that the runs of a setting give them, for one run to learn.

    A pair's probability is the mean over the runs that have not seen it, where there are folds, else over all of them.
    Half of what is learned is the label. What is there already, of the same runs, is taken as it is.

    Returns:
        The unit that learns them, as long as the runs did and with their other values.

    Raises:
        InputError: If no run has left out some of the pairs.
    """
    first, data = units[0], units[0].data
    runs = [(unit.setting.folder, unit.seed, unit.run.metrics.get("optimizer_step")) for unit in units]
    name = f"distilled-{hashlib.sha256(repr((OWN_LABEL, runs)).encode()).hexdigest()[:8]}"
    files = {split: Run(folder).path(f"{name}.{split}.jsonl") for split in ("validation", "train")}
    if not files["train"].is_file():
        values: dict[str, Any] = {**data.hparams, "fold": None}
        pairs = MRPCDataModule(**values).read("train")
        soft = (1 - OWN_LABEL) * probabilities(units, pairs) + OWN_LABEL * numpy.array(pairs["label"][:])
        for split, table in (("validation", first.validation_pairs[:]), ("train", {**pairs[:], "soft": soft.tolist()})):
            named = {**table, "label": [data.hparams["label_names"][label] for label in table["label"]]}
            rows = (dict(zip(named, one, strict=True)) for one in zip(*named.values(), strict=True))
            text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
            Run(folder).write(files[split].name, text)
    own = (
        *((f"data.{split}_file", str(path)) for split, path in files.items()),
        *((f"data.{column}_column", column) for column in ("sentence1", "sentence2", "label")),
        ("data.soft_label_column", "soft"),
        ("data.data_dir", "null"),
    )
    return Unit(folder, replace(first.setting, values=(*first.setting.values, *own), called=name), 1)


def probabilities(units: Sequence[Unit], pairs: Dataset) -> Array:
    """Return what the runs say of training pairs, of shape (pairs,): with folds, those that had left out a pair.

    Raises:
        InputError: If no run has left out some of the pairs.
    """
    if units[0].fold is None:
        found = numpy.stack([predict(read_checkpoint(unit.run.best), pairs) for unit in units])
        return numpy.asarray(found.mean(axis=0))
    shares = {(first, second): share for (_, first, second, _), share in left_out(units).items()}
    keys = [*zip(pairs["sentence1"], pairs["sentence2"], strict=True)]
    if missing := sum(key not in shares for key in keys):
        raise InputError(f"--distill: {missing:,} training pairs were left out by no run; give more --seeds")
    return numpy.array([shares[key] for key in keys])


def row(name: str, run: Run, split: str, units: Sequence[Unit]) -> dict[str, Any]:
    """Return a model's row of the table: its metrics beside those of the single runs.

    Args:
        name: What it is.
        run: Its run.
        split: As `Predictions.read` takes it.
        units: The single runs.

    Raises:
        InputError: If it was scored on other pairs.
    """
    own, singles = Predictions.read(run.folder, split), [Predictions.read(u.run.folder, u.scored_on) for u in units]
    if [pair[1:] for pair in own.pairs] != [pair[1:] for pair in singles[0].pairs]:
        raise InputError(f"{run.folder}: was scored on other pairs than the study's runs")
    return {"name": name, "folder": str(run.folder), **beside(own, singles)}
