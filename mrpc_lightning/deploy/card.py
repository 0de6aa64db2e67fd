"""The model card: what the Hub shows of a model, and reads of it."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from mrpc_lightning import demo
from mrpc_lightning.text import duration

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What shaped the training, in the order of the card's table, by key of the recipe.
HYPER_PARAMETERS = {
    "model.learning_rate": "learning rate, peak",
    "model.warmup": "warmup, share of all optimizer steps or steps",
    "model.weight_decay": "weight decay",
    "data.batch_size": "pairs a process and step",
    "trainer.accumulate_grad_batches": "steps accumulated",
    "trainer.gradient_clip_val": "gradient clipping, norm",
    "trainer.max_epochs": "epochs at most",
    "data.max_length": "tokens a pair at most",
    "trainer.precision": "precision",
    "seed_everything": "seed",
}
METRICS = {"accuracy": "Accuracy", "f1": "F1"}


def write(
    metrics: Mapping[str, Any],
    recipe: Mapping[str, Any],
    label_names: Sequence[str],
    name: str,
    onnx: Mapping[str, float],
) -> str:
    """Write a card from what a run left; what the run does not know has no section.

    Args:
        metrics: What the run's metrics.json holds; empty if there is none.
        recipe: The run's recipe, as `export.recipe_of` returns it; empty if there is none.
        label_names: Names of the negative and of the positive class.
        name: How the model is called in the snippet: a folder, or "owner/name".
        onnx: What `export.to_onnx` returned; empty if there is no ONNX file.
    """
    encoder = str(recipe.get("model.model_name") or "")
    if not HUB_NAME.fullmatch(encoder) or encoder.startswith(".") or Path(encoder).exists():
        encoder = ""  # somebody's own folder
    dataset, corpus = str(recipe.get("data.dataset_name") or ""), recipe.get("data.dataset_config")
    own = bool(recipe.get("data.train_file") or recipe.get("data.data_dir"))
    # GLUE's own train.tsv lacks a pair of MRPC's.
    mrpc_folder = bool(recipe.get("data.data_dir")) and metrics.get("training_pairs") in (3667, 3668)
    is_mrpc = mrpc_folder or (not own and (dataset, corpus) == ("nyu-mll/glue", "mrpc"))
    # Other pairs than the data set's may have been scored.
    scored_there = bool(metrics) and metrics.get("source") == metrics.get("training_source")
    from_hub = scored_there and not own and HUB_NAME.fullmatch(dataset)
    scored = ""
    if scored_there and not (own and not mrpc_folder):
        scored = "MRPC" if is_mrpc else dataset
    figures = metrics.get("one_order") or metrics  # an exported model answers in one order
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Paraphrase identification",
            dataset_type=dataset if from_hub else "mrpc" if scored == "MRPC" else "own",
            dataset_name=scored or "its own pairs",
            dataset_config=corpus if from_hub else None,
            dataset_split=metrics["split"],
            metric_type=figure,
            metric_name=title,
            metric_value=round(figures[figure], 4),
        )
        for figure, title in METRICS.items()
        if metrics
    ]
    data = ModelCardData(
        language="en" if is_mrpc or dataset == demo.NAME else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder or None,
        datasets=[dataset] if not own and HUB_NAME.fullmatch(dataset) else None,
        metrics=list(METRICS) if metrics else None,
        tags=["paraphrase-identification", "sentence-pairs", "mrpc-lightning"],
        model_name=name.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    environment = Environment(
        loader=PackageLoader("mrpc_lightning", "deploy"),
        undefined=StrictUndefined,
        finalize=plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    body = environment.get_template("card.md.jinja").render(
        metrics=metrics,
        label_names=label_names,
        name=name,
        encoder=encoder,
        is_mrpc=is_mrpc,
        is_demo=not own and dataset == demo.NAME,
        figures=figures,
        scored=scored or "its own pairs",
        trained="MRPC" if is_mrpc else dataset if not own else "its own pairs",
        pretrained=recipe.get("model.pretrained", True),
        # Examples of pairs that were trained on are nobody else's business.
        warnings=[text for text in metrics.get("warnings", []) if "were trained on" not in text],
        hyper_parameters={
            title: recipe[key] for key, title in HYPER_PARAMETERS.items() if recipe.get(key) not in (None, False)
        },
        duration=duration(metrics["wall_seconds"]) if "wall_seconds" in metrics else "",
        onnx=onnx,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def plain(value: Any) -> Any:
    """Keep a text from being read as Markdown or HTML."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = " ".join(html.escape(value, quote=False).split()) if value.strip() else value
    return text.replace("|", "\\|").replace("`", "\\`")
