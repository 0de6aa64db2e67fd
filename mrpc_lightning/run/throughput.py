"""How fast a run trains, and how much of the machine it uses: to the loggers as it runs, and in the final table."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}


class Throughput(Callback):
    """Count pairs, tokens and padding while a run trains, and measure its time without that of validation.

    On several processes it counts those of the first one, and assumes that the others have as many.

    The model FLOPs utilization (MFU) is the share of the rate at which this machine multiplies large matrices in the
    run's number format. See `model_flops` for what is counted; padding is not.
    """

    def __init__(self) -> None:
        self.training_seconds = 0.0
        self.trained_pairs = 0
        self.trained_tokens: torch.Tensor | int = 0  # on the device: to ask for it is to wait
        self.computed_tokens = 0  # with padding
        self.flops_per_token = 0
        self.machine_flops = 0.0  # a second
        self._logged_step = 0
        self._since = 0.0  # when the clock was started last; 0: it is stopped
        self._logged: list[float] = [0.0, 0, 0, 0]  # what `_counts` returned when values were logged last

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run continues to count."""
        now, logged = self._counts(), self._logged
        return {"training_seconds": [now[0], logged[0]], "counts": now[1:], "logged": logged[1:]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count."""
        self.training_seconds, logged = state_dict["training_seconds"]
        self.trained_pairs, self.trained_tokens, self.computed_tokens = state_dict["counts"]
        self._logged = [logged, *state_dict["logged"]]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the machine."""
        self.flops_per_token = model_flops(pl_module)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            dtype = DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)
            self.machine_flops = matrix_flops(trainer.strategy.root_device, dtype) * trainer.world_size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that the curves begin with."""
        self._logged_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, if it is stopped."""
        self._since = self._since or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and log how fast it was since the last time."""
        self.trained_pairs += len(batch["input_ids"]) * trainer.world_size
        self.trained_tokens = self.trained_tokens + batch["attention_mask"].sum() * trainer.world_size
        self.computed_tokens += batch["input_ids"].numel() * trainer.world_size
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it
        if trainer.loggers and every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            before, self._logged = self._logged, self._counts()
            values = self._values(self._logged, before)
            for logger in trainer.loggers:
                logger.log_metrics(values, step - 1)  # steps count from 0 in Lightning's curves

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock while the model is validated."""
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of an epoch."""
        self._stop()

    def values(self) -> dict[str, float]:
        """Return the values of the whole run."""
        return self._values(self._counts(), [0, 0, 0, 0])

    def _stop(self) -> None:
        self.training_seconds = self._counts()[0]
        self._since = 0.0

    def _counts(self) -> list[float]:
        self.trained_tokens = int(self.trained_tokens)
        seconds = self.training_seconds + (time.perf_counter() - self._since if self._since else 0.0)
        return [seconds, self.trained_pairs, self.trained_tokens, self.computed_tokens]

    def _values(self, now: list[float], before: list[float]) -> dict[str, float]:
        seconds, pairs, tokens, computed = (one - other for one, other in zip(now, before, strict=True))
        values = {"padding": 1 - tokens / (computed or 1), "peak_memory_gigabytes": peak_memory() / 1e9}
        if seconds > 0:
            values |= {"pairs_per_second": pairs / seconds, "tokens_per_second": tokens / seconds}
            flops = self.flops_per_token * tokens / seconds
            if 0 < flops <= self.machine_flops:  # else the machine was busy elsewhere while its peak was measured
                values["model_flops_utilization"] = flops / self.machine_flops
        return values


def model_flops(model: nn.Module) -> int:
    """Return the floating-point operations by which one token is trained on.

    6 for each parameter outside the embeddings: 2 forward and 4 backward (Kaplan et al. 2020, section 2.1). Attention's
    own products, a few percent at a hundred tokens, are left out, as is what `step` saves in the last layer.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return 6 * sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in embeddings)


def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure at how many floating-point operations a second a device multiplies large square matrices.

    Args:
        device: A CPU or a CUDA card; nothing is known of others.
        dtype: Number format of the matrices.

    Returns:
        The best of up to ten tries, as many as fit into a tenth of a second; 0 where nothing is known.
    """
    best = 0.0
    for size in {"cpu": (256, 1024), "cuda": (8192,)}.get(device.type, ()):
        matrix, warm_at = torch.ones(size, size, dtype=dtype, device=device), 0.0
        for _ in range(10):
            start = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # waits for the card
            now = time.perf_counter()
            best = max(best, 2 * size**3 / (now - start))
            warm_at = warm_at or now  # the first try loads libraries
            if now - warm_at > 0.1:
                break
        if 2 * 1024**3 / best > 0.1:  # a format that this CPU only imitates
            break
    if device.type == "cuda":
        del matrix
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return best


def peak_memory() -> int:
    """Return the most bytes that this process has held: on the card, if there is one; 0 where that is unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, elsewhere
