"""FSDP: weights, gradients and optimizer states are shared out among processes, for a model too large for each.

PyTorch's `fully_shard` (FSDP2) does it, and Lightning's ModelParallelStrategy drives it. Checkpoints are those of any
other strategy: whole, in one file, so that a run may go on, and be used, with another.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from transformers import PreTrainedModel

from mrpc_lightning.nn.encoder import layers_of

# PyTorch 2.13 warns of the old name.
NAMES = ("forward_sync_buffers", "broadcast_buffers")
SENDING = next(name for name in NAMES if name in signature(DistributedDataParallel).parameters)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def distribute(model: PreTrainedModel, strategy: Strategy) -> None:
    """Prepare a model for several processes, as the Trainer's strategy has them.

    FSDP: a process holds its share of each layer, and all of a layer only while it computes it. DDP: buffers are not
    sent before each step, as an encoder's never change, and gradients are held once, not again where they are sent.
    """
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs = {SENDING: False, "gradient_as_bucket_view": True, **strategy._ddp_kwargs}
    if not isinstance(strategy, ModelParallelStrategy) or isinstance(model, FSDPModule):
        return
    mesh = init_device_mesh(strategy.root_device.type, (strategy.world_size,))
    for module in (*layers_of(model), model):
        fully_shard(module, mesh=mesh)


class ShardedStrategy(ModelParallelStrategy):
    """Train a sharded model, and write and read checkpoints as other strategies do."""

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Return how a sampler of Lightning's own shares out the pairs: among all processes."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Say that weights are loaded before the optimizer is made: it asks for the batches that are left."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Say that a checkpoint's optimizer states are given to `load_optimizer_state_dict`."""
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's whole state, on the first process; nothing on the others.

        Its parameters are numbered as `Optimizer.state_dict` numbers them: in the order of the optimizer's groups.
        """
        assert self.model is not None
        found: dict[str, Any] = get_optimizer_state_dict(self.model, plain(optimizer), options=WHOLE)
        if not found:
            return {}
        number = {name: n for n, name in enumerate(name for group in found["param_groups"] for name in group["params"])}
        groups = [{**group, "params": [number[name] for name in group["params"]]} for group in found["param_groups"]]
        return {"state": {number[name]: state for name, state in found["state"].items()}, "param_groups": groups}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, as other strategies do."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give each process its share of a checkpoint's weights."""
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each process its share of a checkpoint's optimizer states."""
        assert self.model is not None
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            ordered = [names[id(one)] for group in optimizer.param_groups for one in group["params"]]
            groups: Any = [
                {**group, "params": [ordered[n] for n in group["params"]]} for group in saved["param_groups"]
            ]
            state: Any = {"state": {ordered[n]: one for n, one in saved["state"].items()}, "param_groups": groups}
            set_optimizer_state_dict(self.model, plain(optimizer), state, options=WHOLE)


def plain(optimizer: Any) -> Optimizer:
    """Return PyTorch's optimizer, which Lightning may have wrapped."""
    found: Optimizer = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    return found
