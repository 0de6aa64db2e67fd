"""The model card: what the Hub shows of a model, and reads of it."""

import contextlib
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from mrpc_lightning import demo
from mrpc_lightning.errors import InputError
from mrpc_lightning.report.metrics import number
from mrpc_lightning.run.run import Run, flatten
from mrpc_lightning.text import CONTROLS, duration

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TITLES = {"accuracy": "Accuracy", "f1": "F1"}


def write(
    run: Run | None,
    checkpoint: Path | None,
    content: Mapping[str, Any],
    label_names: Sequence[str],
    name: str,
    onnx: Mapping[str, Any],
    ancestors: Sequence[Mapping[str, Any]] = (),
    pushed: bool = False,
) -> str:
    """Return a card of what a run left; what the run does not know has no section.

    Args:
        run: See `export.run`, as of the next two.
        checkpoint: See there.
        content: See there.
        label_names: Names of the negative and of the positive class.
        name: How the model is called in the snippet: a folder, or "owner/name".
        onnx: What `export.to_onnx` returned; empty if there is no ONNX file.
        ancestors: What is known of the runs that the run started from, as `origin.lineage` has them.
        pushed: Whether the model goes to the Hub.
    """
    metrics = metrics_of(run, checkpoint, content)
    about = {**content.get("made_with", {}), **metrics}
    recipe: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # a checkpoint that was moved out of its run
        recipe = flatten(run.config) if run else {}
    if "trainer_precision" in about:  # the recipe may leave it to the machine
        recipe["trainer.precision"] = about["trainer_precision"]
    encoder = str(ancestors[-1]["encoder"] if ancestors else recipe.get("model.model_name") or "")
    if not HUB_NAME.fullmatch(encoder) or encoder.startswith(".") or Path(encoder).exists():
        encoder = ""  # somebody's own folder
    dataset, corpus = str(recipe.get("data.dataset_name") or ""), recipe.get("data.dataset_config")
    own = bool(recipe.get("data.train_file") or recipe.get("data.data_dir") or not dataset)
    # GLUE's own train.tsv lacks a pair of MRPC's.
    mrpc_folder = bool(recipe.get("data.data_dir")) and metrics.get("training_pairs") in (3667, 3668)
    is_mrpc = mrpc_folder or (not own and (dataset, corpus) == ("nyu-mll/glue", "mrpc"))
    trained = "MRPC" if is_mrpc else "its own pairs" if own else dataset
    # Other pairs than the data set's may have been scored.
    scored = trained if metrics.get("source") == metrics.get("training_source") else "its own pairs"
    is_demo = not own and dataset == demo.NAME
    on_hub = not own and HUB_NAME.fullmatch(dataset)
    from_hub = on_hub and scored == trained
    exported = metrics.get("one_order") or metrics  # an exported model reads a pair in one order
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Paraphrase identification",
            dataset_type=dataset if from_hub else "mrpc" if scored == "MRPC" else "own",
            dataset_name=scored,
            dataset_config=corpus if from_hub else None,
            dataset_split=metrics["split"],
            metric_type=metric,
            metric_name=title,
            metric_value=float(number(exported[metric])),
        )
        for metric, title in TITLES.items()
        if exported.get(metric) is not None
    ]
    data = ModelCardData(
        language="en" if is_mrpc or is_demo else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder or None,
        datasets=[dataset] if on_hub else None,
        metrics=list(TITLES) if metrics else None,
        tags=["paraphrase-identification", "sentence-pairs", "mrpc-lightning"],
        model_name=name.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    environment = Environment(
        loader=PackageLoader("mrpc_lightning", "deploy"),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # Python reads no pair of half characters
    body = environment.get_template("card.md.jinja").render(
        metrics=metrics,
        number=number,
        about=about,
        run=run,
        symmetric=content.get("hyper_parameters", {}).get("symmetric"),
        label_names=label_names,
        name=name,
        encoder=encoder,
        ancestors=ancestors,
        is_mrpc=is_mrpc,
        is_demo=is_demo,
        exported=exported,
        scored=scored,
        trained=trained,
        recipe=recipe,
        duration=duration(metrics["wall_seconds"]) if "wall_seconds" in metrics else "",
        onnx=onnx,
        pushed=pushed,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def metrics_of(run: Run | None, checkpoint: Path | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's metrics.json holds, if it is of this checkpoint: the run may have been resumed since."""
    with contextlib.suppress(OSError, KeyError, TypeError):  # not scored, or another file than one of ours
        if run and checkpoint and run.metrics["optimizer_step"] == content["global_step"]:
            return run.metrics if (run.folder / run.metrics["checkpoint"]).samefile(checkpoint) else {}
    return {}


def escape(value: Any) -> Any:
    """Escape a value of the template, so that it is no Markdown, HTML, formula, address or terminal's command."""
    if isinstance(value, int | float) or hasattr(value, "__html__"):
        return value
    text = html.escape(CONTROLS.sub(" ", str(value)), quote=False)
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    # A word joiner, which does not show, keeps a bare address from becoming a link.
    text = re.sub(r"(?i)(:(?=//)|www(?=\.)|@(?=\w))", "\\1\N{WORD JOINER}", text)
    return " ".join(text.split())
