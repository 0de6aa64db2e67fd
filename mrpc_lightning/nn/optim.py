from typing import Any, Literal

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from mrpc_lightning.errors import InputError
from mrpc_lightning.nn.encoder import depths

Schedule = Literal["linear", "cosine", "constant"]


def parameter_groups(
    model: Any, weight_decay: float, learning_rate: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those with weight decay and those without: biases and normalization.

    The rule is that of BERT's own optimizer (`exclude_from_weight_decay` in google-research/bert). It goes by names,
    not by shapes: some strategies keep every parameter as a vector.

    Where `layer_decay` is below 1 there are two such groups for each depth of the model, the head's first. A group's
    learning rate is `learning_rate * layer_decay ** depth`, with the depth that `depths` returns. ELECTRA's code
    (`_get_layer_lrs` in google-research/electra) does the same, but for one depth more between head and top layer.
    """
    spared = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name.endswith("bias") or type(module).__name__.endswith("Norm")
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    depth_of = depths(model, f"model.layer_decay {layer_decay:g}") if layer_decay != 1 else {}
    groups: list[dict[str, Any]] = []
    for depth in range(max(depth_of.values(), default=0) + 1):
        here = [parameter for parameter in trained if depth_of.get(id(parameter), 0) == depth]
        rate = {"lr": learning_rate * layer_decay**depth} if depth_of else {}
        groups += [
            {"params": [one for one in here if id(one) not in spared], "weight_decay": weight_decay, **rate},
            {"params": [one for one in here if id(one) in spared], "weight_decay": 0.0, **rate},
        ]
    return groups


def make_optimizer(model: Any, device: torch.device, scaled: bool, learning_rate: float, **options: float) -> AdamW:
    """Make AdamW, fused where it can be.

    Args:
        model: The model.
        device: Where it is trained.
        scaled: Whether gradients are scaled, as for fp16: those of a fused optimizer cannot be clipped.
        learning_rate: The schedule's peak.
        options: What `parameter_groups` takes besides.
    """
    fused = device.type in ("cpu", "cuda") and not scaled
    groups = parameter_groups(model, learning_rate=learning_rate, **options)
    optimizer = AdamW(groups, lr=learning_rate, fused=fused)
    if fused:
        optimizer._step_supports_amp_scaling = False  # else Lightning fears it for bf16, too
    return optimizer


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Turn `warmup`, below 1 a share of all optimizer steps and from 1 on optimizer steps, into steps.

    Raises:
        InputError: If it is negative, or as long as the run or longer.
    """
    steps = round(warmup * total_steps) if warmup < 1 else round(warmup)
    if warmup < 0 or (steps >= total_steps and steps > 0):
        raise InputError(
            f"model.warmup {warmup:g}: a run of {total_steps} optimizer steps needs a warmup from 0 to "
            f"{total_steps - 1} steps, or a share of them below 1"
        )
    return steps


def make_schedule(optimizer: Optimizer, warmup: float, total_steps: float, kind: Schedule = "linear") -> LambdaLR:
    """Raise the learning rate linearly from 0 to its peak during the warmup, then lower it to 0 at the last step.

    It is lowered along a line or half a cosine; a constant one stays at its peak. The functions are transformers' own.

    Raises:
        InputError: If the run has no known end.
    """
    if not 0 < total_steps < float("inf"):
        raise InputError("the schedule needs to know the run's end: set trainer.max_epochs or trainer.max_steps")
    steps = int(total_steps)
    name = "constant_with_warmup" if kind == "constant" else kind
    schedule: LambdaLR = get_scheduler(name, optimizer, warmup_steps(warmup, steps), steps)
    return schedule
