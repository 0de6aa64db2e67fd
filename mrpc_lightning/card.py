"""The model card: what the Hub shows of a model, and reads of it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from mrpc_lightning import demo
from mrpc_lightning.results import duration

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
    "data.swap_pairs": "sentences of a pair swapped at random",
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
    dataset, corpus = str(recipe.get("data.dataset_name") or ""), recipe.get("data.dataset_config")
    own = bool(recipe.get("data.train_file"))
    is_mrpc = not own and (bool(recipe.get("data.data_dir")) or (dataset, corpus) == ("nyu-mll/glue", "mrpc"))
    from_hub = not own and not recipe.get("data.data_dir") and HUB_NAME.fullmatch(dataset)
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Paraphrase identification",
            dataset_type=dataset if from_hub else "mrpc" if is_mrpc else "own",
            dataset_name="MRPC" if is_mrpc else str(metrics["source"]),
            dataset_config=corpus if from_hub else None,
            dataset_split=metrics["split"],
            metric_type=figure,
            metric_name=title,
            metric_value=round(metrics[figure], 4),
        )
        for figure, title in METRICS.items()
        if metrics
    ]
    data = ModelCardData(
        language="en" if is_mrpc or dataset == demo.NAME else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder if HUB_NAME.fullmatch(encoder) else None,
        datasets=[dataset] if from_hub else None,
        metrics=list(METRICS) if metrics else None,
        tags=["paraphrase-identification", "sentence-pairs", "mrpc-lightning"],
        model_name=name.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    environment = Environment(
        loader=PackageLoader("mrpc_lightning", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    body = environment.get_template("card.md.jinja").render(
        metrics=metrics,
        label_names=label_names,
        name=name,
        encoder=encoder,
        is_mrpc=is_mrpc,
        is_demo=not own and dataset == demo.NAME,
        source=metrics.get("training_source") or metrics.get("source") or "",
        hyper_parameters={title: recipe[key] for key, title in HYPER_PARAMETERS.items() if recipe.get(key) is not None},
        duration=duration(metrics["wall_seconds"]) if "wall_seconds" in metrics else "",
        onnx=onnx,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))
