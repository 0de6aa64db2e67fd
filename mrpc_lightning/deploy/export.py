"""A model folder for transformers: weights, tokenizer, card; ONNX; and the upload to the Hub."""

import contextlib
import copy
import json
import logging
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from mrpc_lightning import origin
from mrpc_lightning.data import MRPCDataModule
from mrpc_lightning.deploy import card
from mrpc_lightning.deploy.card import HUB_NAME
from mrpc_lightning.errors import InputError
from mrpc_lightning.hub import transport_error
from mrpc_lightning.model import ParaphraseClassifier
from mrpc_lightning.nn.speedups import predicting
from mrpc_lightning.pairs.batches import EvaluationBatches
from mrpc_lightning.pairs.loader import make_loader
from mrpc_lightning.pairs.tokens import lengths
from mrpc_lightning.report.calibration import FILE, Calibration
from mrpc_lightning.report.metrics import measure
from mrpc_lightning.run.run import Run

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Of logits, between PyTorch and ONNX Runtime, both in float32.
TOLERANCE = 1e-3


def check(config: Any) -> None:
    """Check that an export, by its configuration, overwrites nothing, and that what it needs is there.

    Raises:
        InputError: If it would, or something is missing.
    """
    folder = Path(config.to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to {folder}: is there already and not empty; give a new folder")
    if config.trainer.fast_dev_run:
        raise InputError("trainer.fast_dev_run: export has nothing to try; leave it out")
    if config.public and config.push_to_hub is None:
        raise InputError("--public: goes with --push_to_hub owner/name")
    if config.push_to_hub is not None and not HUB_NAME.fullmatch(config.push_to_hub):
        raise InputError(f"--push_to_hub {config.push_to_hub}: give owner/name")
    if config.onnx or config.int8:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise InputError(f"--onnx: needs {', '.join(missing)}: python -m pip install {' '.join(missing)}")


def run(
    model: ParaphraseClassifier,
    data: MRPCDataModule,
    config: Any,
    run: Run | None,
    checkpoint: Path | None,
    content: Mapping[str, Any],
) -> None:
    """Write weights, configuration, tokenizer and card; ONNX and an upload, where they are asked for.

    Args:
        model: The model, with its weights.
        data: The data, with its tokenizer.
        config: The configuration of `export`.
        run: The run that the weights are of; None for an encoder that no run trained.
        checkpoint: The checkpoint's file; None without a run.
        content: What the checkpoint holds; empty without a run.

    Raises:
        InputError: If ONNX Runtime computes something else than PyTorch, or the upload fails.
    """
    folder, encoder = Path(config.to), model.model
    assert encoder is not None
    encoder.eval()
    encoder.config.symmetric = model.hparams["symmetric"]  # transformers ignores it; `Predictor.from_run` does not
    tokenizer = copy.deepcopy(data.load_tokenizer())
    tokenizer.model_max_length = data.hparams["max_length"]  # longer pairs are cut where the training cut them
    disable_progress_bar()  # of files that take a moment
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        unfinished = Path(made) / "model"
        encoder.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        known = origin.lineage(content, run.folder) if run and content else data.ancestors
        if known:
            origin.save(known, unfinished)
        if run and checkpoint and Calibration.of(checkpoint):
            shutil.copy(run.folder / FILE, unfinished)
        onnx = to_onnx(encoder, data, unfinished, config.int8) if config.onnx or config.int8 else {}
        name = config.push_to_hub or str(folder)
        pushed, names = config.push_to_hub is not None, model.hparams["label_names"]
        text = card.write(run, checkpoint, content, names, name, onnx, data.ancestors, pushed)
        (unfinished / "README.md").write_text(text, encoding="utf-8")
        for path in unfinished.iterdir():  # safetensors gives its file to the owner alone
            path.chmod((unfinished / "README.md").stat().st_mode)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        unfinished.rename(folder)
    for name, one in onnx["files"].items() if onnx else ():
        changed = f"{one['changed']:,} of {onnx['pairs']:,} predictions differ"
        size = f"{one['pairs_per_second']:.0f} pairs/s, {one['megabytes']:.1f} MB"
        print(f"{name:16}F1 {one['f1']:.4f}, {changed}, {size}")
    model_name = json.dumps(str(folder), ensure_ascii=False)
    print(f'exported  {folder}; use it with pipeline("text-classification", model={model_name})')
    if config.push_to_hub:
        print(f"pushed    {push(folder, config.push_to_hub, config.public)}")


def to_onnx(model: PreTrainedModel, data: MRPCDataModule, folder: Path, int8: bool) -> dict[str, Any]:
    """Write model.onnx with any batch and length, and score it on the whole validation split, in one order.

    With `int8` also write model.int8.onnx, whose weights are integers of 8 bits, and score that.

    Returns:
        `pairs`; `difference`, the largest between the logits of model.onnx and PyTorch's; and for "PyTorch" and each of
        the `files` the F1 (`f1`), how many predictions differ from PyTorch's (`changed`), `pairs_per_second` of the one
        pass over all pairs, and `megabytes`.

    Raises:
        InputError: If PyTorch cannot export the model, or ONNX Runtime computes something else than PyTorch.
    """
    data.setup("validate")
    tokens = data.tokens["validation"]
    order = EvaluationBatches(lengths(tokens), data.hparams["eval_batch_size"])
    loader = list(make_loader(tokens, data.load_tokenizer(), order))
    labels = torch.cat([batch["labels"] for batch in loader]).numpy()
    batches = [{name: batch[name] for name in INPUTS if name in batch} for batch in loader]
    with predicting(model, torch.device("cpu"), len(labels)), torch.inference_mode():
        model(**batches[0])  # the first one finds memory and compiles
        start = time.perf_counter()
        expected = torch.cat([model(**batch).logits for batch in batches]).numpy()
        seconds = time.perf_counter() - start
    files: dict[str, dict[str, float]] = {}

    def add(name: str, path: Path, logits: NDArray[Any], seconds: float) -> None:
        files[name] = {
            "f1": f1(labels, logits),
            "changed": int((logits.argmax(axis=1) != expected.argmax(axis=1)).sum()),
            "pairs_per_second": len(labels) / seconds,
            "megabytes": path.stat().st_size / 1e6,
        }

    add("PyTorch", folder / "model.safetensors", expected, seconds)
    path, dynamic = folder / "model.onnx", {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    example = {name: torch.cat([tensor, tensor]) for name, tensor in batches[0].items()}  # a size of 1 would be fixed
    with contextlib.ExitStack() as stack:
        logging.disable(logging.WARNING)  # of operators that no encoder has, and of an optional step
        stack.callback(logging.disable, logging.NOTSET)
        try:
            torch.onnx.export(
                model,
                (),
                path,
                kwargs=example,
                input_names=list(example),
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(example, dynamic),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"--onnx: PyTorch cannot export {type(model).__name__}: {reason}") from error
        found, seconds = run_onnx(path, batches)
        difference = float(numpy.abs(expected - found).max())
        if not difference <= TOLERANCE:  # NaN is not
            raise InputError(
                f"{path.name}: its logits differ from PyTorch's by up to {difference:.2g}; nothing is written"
            )
        add(path.name, path, found, seconds)
        if int8:
            import onnx
            from onnxruntime.quantization import QuantType, quantize_dynamic

            graph, path = onnx.load(path), folder / "model.int8.onnx"
            del graph.graph.value_info[:]  # shapes that the quantizer infers again, and else finds contradicted
            # A scale for each output of a layer changes half as many predictions as one for all: benchmarks/README.md.
            quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True)
            add(path.name, path, *run_onnx(path, batches))
    return {"pairs": len(labels), "difference": difference, "files": files}


def run_onnx(path: Path, batches: list[dict[str, torch.Tensor]]) -> tuple[NDArray[Any], float]:
    """Return the logits that ONNX Runtime computes, of shape (pairs, 2), and the seconds that it takes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches]
    session.run(["logits"], inputs[0])  # as for PyTorch
    start = time.perf_counter()
    logits = numpy.concatenate([session.run(["logits"], batch)[0] for batch in inputs])
    return logits, time.perf_counter() - start


def f1(labels: NDArray[Any], logits: NDArray[Any]) -> float:
    """Return the F1 of logits."""
    return float(measure(labels, torch.from_numpy(logits).double().softmax(dim=-1).numpy())["f1"][0])


def push(folder: Path, name: str, public: bool) -> str:
    """Upload a model folder to "owner/name" on the Hub, private unless it is to be public, and return its address.

    Hashes of training pairs stay here: who guesses a sentence could tell from them whether it was among these.

    Raises:
        InputError: If it cannot be uploaded.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        if not public and not api.repo_info(name).private:
            raise InputError(f"--push_to_hub {name}: is there and public; add --public, or give another name")
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Upload of mrpc_lightning",
            ignore_patterns=[origin.FILE],
        )
    except InputError:
        raise
    except (HfHubHTTPError, HFValidationError, OSError, ValueError, transport_error()) as error:
        raise InputError(
            f"--push_to_hub {name}: {explain(error)}. The model lies in {folder}; try again with: "
            f"hf upload {'' if public else '--private '}{name} {shlex.quote(str(folder))} --exclude {origin.FILE}"
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
    return re.sub(r"hf_\w+", "hf_...", " ".join(str(error).split())) or type(error).__name__
