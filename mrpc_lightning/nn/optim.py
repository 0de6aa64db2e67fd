from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from mrpc_lightning.errors import InputError


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters into those with weight decay and those without: biases and normalization.

    The rule is that of BERT's own optimizer (`exclude_from_weight_decay` in google-research/bert). It goes by names,
    not by shapes: some strategies keep every parameter as a vector.
    """
    spared = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name.endswith("bias") or type(module).__name__.endswith("Norm")
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if id(parameter) not in spared], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if id(parameter) in spared], "weight_decay": 0.0},
    ]


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


def linear_schedule(optimizer: Optimizer, warmup: float, total_steps: float) -> LambdaLR:
    """Raise the learning rate linearly from 0 to its peak during the warmup, then lower it to 0 at the last step.

    Raises:
        InputError: If the run has no known end.
    """
    if not 0 < total_steps < float("inf"):
        raise InputError("a linear schedule needs to know the run's end: set trainer.max_epochs or trainer.max_steps")
    steps = int(total_steps)
    schedule: LambdaLR = get_linear_schedule_with_warmup(optimizer, warmup_steps(warmup, steps), steps)
    return schedule
