"""A model folder for transformers: weights, tokenizer, card; ONNX; and the way to the Hub."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.deploy import card
from mrpc_lightning.deploy.card import HUB_NAME
from mrpc_lightning.errors import InputError
from mrpc_lightning.hub import transport_error
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.report.metrics import measure
from mrpc_lightning.run.runs_old import flatten

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Of logits, between PyTorch and ONNX Runtime, both in float32.
TOLERANCE = 1e-3


def check(config: Any) -> None:
    """See to it that an export writes over nothing, and that what it needs is there.

    Args:
        config: The configuration of `export`.

    Raises:
        InputError: If it is not so.
    """
    folder = Path(config.to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to {folder}: is there already and not empty; give a new folder")
    if config.trainer.fast_dev_run:
        raise InputError("--trainer.fast_dev_run: there is nothing to try; leave it out")
    if config.public and config.push_to_hub is None:
        raise InputError("--public: goes with --push_to_hub owner/name")
    if config.push_to_hub is not None and not HUB_NAME.fullmatch(config.push_to_hub):
        raise InputError(f"--push_to_hub {config.push_to_hub}: give owner/name")
    if config.onnx or config.int8:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"--onnx: needs {error.name}: python -m pip install onnx onnxscript onnxruntime"
            ) from error


def run(
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    config: Any,
    content: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write weights, configuration, tokenizer and card; ONNX and an upload, where they are asked for.

    Args:
        model: The model, with its weights.
        data: The data, with its tokenizer.
        config: The configuration of `export`.
        content: The checkpoint; empty if there is none.
        metrics: What the run's metrics.json says of this checkpoint; empty if there is none.

    Raises:
        InputError: If ONNX Runtime computes something else than PyTorch, or the upload fails.
    """
    folder = Path(config.to)
    encoder = model.model
    assert encoder is not None
    encoder.eval()
    disable_progress_bar()  # of files that take a moment
    if config.onnx or config.int8:
        data.setup("validate")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        unfinished = Path(made) / "model"
        encoder.save_pretrained(unfinished)
        data.load_tokenizer().save_pretrained(unfinished)
        logging.disable(logging.WARNING)  # of operators that no encoder has, and of an optional step
        figures = to_onnx(encoder, data, unfinished, config.int8) if config.onnx or config.int8 else {}
        logging.disable(logging.NOTSET)
        name = config.push_to_hub or str(folder)
        text = card.write(metrics, recipe_of(content), model.hparams["label_names"], name, figures)
        (unfinished / "README.md").write_text(text, encoding="utf-8")
        umask = os.umask(0)
        os.umask(umask)
        for path in unfinished.iterdir():  # safetensors gives its file to the owner alone
            path.chmod(0o666 & ~umask)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        unfinished.rename(folder)
    if figures:
        print(f"onnx      logits within {figures['difference']:.1e} of PyTorch's on {figures['pairs']:,} pairs")
    if config.int8:
        print(f"int8      F1 {figures['int8_f1']:.4f}, {figures['int8_f1'] - figures['f1']:+.4f} against PyTorch's")
    print(f'exported  {folder}; use it with pipeline("text-classification", model="{folder}")')
    if config.push_to_hub:
        print(f"pushed    {push(folder, config.push_to_hub, config.public)}")


class Logits(torch.nn.Module):
    """A model as ONNX has it: tensors by position, logits alone.

    Args:
        model: The model.
        names: Names of its inputs.
    """

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return the logits, of shape (batch, 2)."""
        logits: torch.Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def to_onnx(model: PreTrainedModel, data: MRPCDataModule, folder: Path, int8: bool) -> dict[str, float]:
    """Write model.onnx with any batch and length, and score it on the whole validation split.

    Args:
        model: The model, in evaluation mode.
        data: The data, set up for validation.
        folder: Where to write.
        int8: Also write model.int8.onnx, whose weights are integers of 8 bits.

    Returns:
        `pairs`; `difference`, the largest between its logits and PyTorch's; the F1 of PyTorch's (`f1`), of
        ONNX Runtime's (`onnx_f1`), and with `int8` its accuracy and F1 (`int8_accuracy`, `int8_f1`).

    Raises:
        InputError: If ONNX Runtime computes something else than PyTorch.
    """
    batches = list(inputs(data.val_dataloader()))
    names = [name for name in INPUTS if name in batches[0]]
    dynamic = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    path = folder / "model.onnx"
    try:
        torch.onnx.export(
            Logits(model, names).eval(),
            tuple(torch.from_numpy(batches[0][name]) for name in names),
            path,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(tuple(dynamic for _ in names),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"--onnx: PyTorch cannot export {type(model).__name__}: {reason}") from error
    labels = numpy.concatenate([batch["labels"] for batch in batches])
    with torch.inference_mode():
        expected = [
            model(**{name: torch.from_numpy(batch[name]) for name in names}).logits.numpy() for batch in batches
        ]
    found = run_onnx(path, batches, names)
    difference = float(numpy.abs(numpy.concatenate(expected) - numpy.concatenate(found)).max())
    if not difference <= TOLERANCE:  # NaN is not
        raise InputError(f"{path}: its logits differ from PyTorch's by up to {difference:.2g}; it is not to be used")
    figures = {
        "pairs": len(labels),
        "difference": difference,
        "f1": scores(labels, expected)["f1"],
        "onnx_f1": scores(labels, found)["f1"],
    }
    if int8:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        graph = onnx.load(path)
        del graph.graph.value_info[:]  # shapes that the quantizer infers again, and else finds contradicted
        quantize_dynamic(graph, folder / "model.int8.onnx", weight_type=QuantType.QInt8)
        quantized = scores(labels, run_onnx(folder / "model.int8.onnx", batches, names))
        figures |= {"int8_accuracy": quantized["accuracy"], "int8_f1": quantized["f1"]}
    return figures


def inputs(loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
    """Yield batches as arrays; of both orders the one that is given."""
    for batch in loader:
        yield {
            name: (tensor[0] if tensor.dim() == 3 else tensor).numpy()  # (2, batch, tokens)
            for name, tensor in batch.items()
        }


def run_onnx(path: Path, batches: list[dict[str, Any]], names: list[str]) -> list[Any]:
    """Return the logits that ONNX Runtime computes, batch by batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [session.run(["logits"], {name: batch[name] for name in names})[0] for batch in batches]


def scores(labels: Any, logits: list[Any]) -> dict[str, float]:
    """Return the figures of logits."""
    probabilities = torch.from_numpy(numpy.concatenate(logits)).double().softmax(dim=-1).numpy()
    return {name: float(value[0]) for name, value in measure(labels, probabilities).items()}


def push(folder: Path, name: str, public: bool) -> str:
    """Upload a model folder to the Hub, and return its address.

    Args:
        folder: The folder.
        name: "owner/name".
        public: Whether everybody may see it.

    Raises:
        InputError: If it cannot be uploaded.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        if not public and not api.repo_info(name).private:
            raise InputError(f"--push_to_hub {name}: is there and public; add --public, or give another name")
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload of mrpc_lightning")
    except InputError:
        raise
    except (HfHubHTTPError, HFValidationError, OSError, ValueError, transport_error()) as error:
        raise InputError(
            f"--push_to_hub {name}: {explain(error)}. The model lies in {folder}; try again with: "
            f"hf upload {'' if public else '--private '}{name} {folder}"
        ) from error
    return f"{api.endpoint}/{name}"


def explain(error: Exception) -> str:
    """Say in a line why an upload failed, without any token."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    known = {
        401: "the Hub does not know you: log in with `hf auth login`, with a token that may write",
        403: "your token may not write there: make one that may, or choose a repository of your own",
        404: "the Hub has no such owner",
    }
    if status in known:
        return known[status]
    if status is None and isinstance(error, (OSError, transport_error())):
        return f"the Hub cannot be reached ({type(error).__name__})"
    return hide_tokens(" ".join(str(error).split())) or type(error).__name__


def hide_tokens(text: str) -> str:
    """Replace whatever looks like a Hub token."""
    return re.sub(r"hf_\w+", "hf_...", text)


def recipe_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe that a checkpoint holds, by dotted key; empty if it holds none."""
    recipe = content.get("recipe")
    return flatten(recipe) if isinstance(recipe, dict) else {}
