"""How a model lies on the devices of a training: whole on each of them (DDP), or a share on each (FSDP2).

DDP wherever weights, gradients and optimizer fit: it computes the same with less traffic. FSDP2 gathers the weights of
a layer when they are needed. It shards parameter by parameter, so a frozen base in bf16 and adapters in fp32 may lie in
one layer, as long as all that is trained there has one type. Both average gradients over the ranks.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs, fsdp2_prepare_model  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune_trainer.models.parts import without_adapter
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.training.objective import Objective

Strategy = Literal["ddp", "fsdp2"]

_STATE_SHARE = 0.6
"""Of a device's memory, for what does not depend on the batch; the rest is for activations."""
_TRAINED_BYTES = 8
"""What a trained parameter takes in fp32 beside its training: itself, and DDP's bucket of gradients."""


def choose_strategy(frozen_bytes: int, trained: int, training_bytes: int, memory: int, ranks: int) -> Strategy:
    """The decision.

    Args:
        frozen_bytes: of the weights that are not trained.
        trained: parameters.
        training_bytes: that each of them takes because it is trained: gradient, moments …
        memory: bytes of one device.
        ranks: devices.
    """
    whole = frozen_bytes + (_TRAINED_BYTES + training_bytes) * trained
    return "fsdp2" if ranks > 1 and whole > _STATE_SHARE * memory else "ddp"


def accelerator(strategy: Strategy, autocast: str) -> Accelerator:
    """Accelerate on this machine. With FSDP2 it is the gathered weights that have the precision of the computation.

    Buffers of a language model are constants: with DDP there is nothing to send around before a forward pass.
    """
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    precision = autocast if strategy == "ddp" else "no"
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[ddp])


def replicate(objective: Objective, accelerator: Accelerator) -> Any:
    """``objective``, prepared by Accelerate: for its device and, where there are several ranks, with DDP."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # between these libraries, not for users
        return accelerator.prepare_model(objective)


def fsdp2_plugin(model: nn.Module, autocast: str) -> FullyShardedDataParallelPlugin:
    """Accelerate's configuration for ``model``.

    Each layer of the architecture is gathered by itself, the rest (embeddings, head) together. Trained weights stay in
    fp32 and are gathered in the precision of the computation; gradients are summed in fp32. Beside an adapter there is
    nothing to cast: the frozen base already has the precision of the computation.

    Args:
        model: with its adapter, if it has one.
        autocast: ``bf16`` where weights that are trained in fp32 are computed with in bf16, else ``no``.
    """
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=layer_classes(model),
        mixed_precision_policy=mixed if autocast == "bf16" else None,
        cpu_ram_efficient_loading=True,
    )


def layer_classes(model: nn.Module) -> list[str]:
    """Names of the classes that the architecture does not want to be split and that the model has."""
    present = {type(module).__name__ for module in model.modules()}
    return sorted(set(without_adapter(model)._no_split_modules or ()) & present)


@contextmanager
def loading_once(ranks: Ranks) -> Iterator[dict[str, str] | None]:
    """Within, transformers' ``device_map`` for a model whose weights only the first rank of a node shall read: on the
    others they have no content until :func:`shard` distributes them. A node needs memory for one model, not for eight.

    The variables alone, of which transformers' documentation speaks, do not do that (seen in 5.23, transformers#43749);
    they let buffers, which are not distributed, have their content everywhere.
    """
    names = {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    os.environ |= names
    try:
        yield {"": "meta"} if ranks.local_rank else None
    finally:
        for name in names:
            del os.environ[name]


def shard(objective: Objective, accelerator: Accelerator, autocast: str) -> Objective:
    """Leaves each rank its share of the weights of ``objective``, in place. All ranks call it.

    Not by ``Accelerator.prepare``, which wants an optimizer that exists before the weights are sharded, and a GPU.
    """
    accelerator.state.fsdp_plugin = fsdp2_plugin(objective.model, autocast)
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)  # set by the plugin; loading is over
    fsdp2_prepare_model(accelerator, objective)
    register_fsdp_forward_method(objective, "lend")
    return objective


def is_share(tensor: Tensor) -> bool:
    """Whether this rank has only a share of it."""
    return isinstance(tensor, DTensor)


def own_size(parameter: Tensor) -> int:
    """Elements of a parameter that are on this rank."""
    return own(parameter).numel()


def own(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(parameter: Tensor, part: Tensor) -> Tensor:
    """``part``, which belongs to what this rank has of ``parameter``, as a tensor that is sharded as that is."""
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def gathered_bytes(model: nn.Module) -> int:
    """Bytes that weights take beside the rank's share while they are gathered, and gradients until they are dealt out:
    those of two layers, since the next one is on its way while one computes, and of all that is in no layer."""
    layers = [part for part in model.modules() if isinstance(part, FSDPModule)]
    sizes = [_gathered(layer) for layer in layers]
    return _gathered(model) - sum(sizes) + 2 * max(sizes) if layers else 0


def _gathered(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() * (2 if p.requires_grad else 1) for p in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. All ranks call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(model: nn.Module, dtype: torch.dtype | None, ranks: Ranks, everything: bool) -> dict[str, Tensor]:
    """What is to be saved of a sharded model, on the CPU of the first rank: tied weights once.

    Args:
        model: of the same kind on all ranks, which all call it.
        dtype: that numbers are rounded to; None: as they are.
        everything: also what is not trained and not the adapter's.
    """
    forget_gathered(model)
    wanted = {name for name, parameter in model.named_parameters() if everything or parameter.requires_grad}
    if everything:
        wanted |= {name for name, _ in model.named_buffers()}
    gathered = {}
    for name, tensor in model.state_dict().items():
        if name in wanted:
            full = whole(tensor)
            if ranks.first:
                gathered[name] = full.to("cpu", dtype if full.is_floating_point() else None)
    return gathered


def forget_gathered(module: nn.Module) -> None:
    """Drops the weights that are still gathered from the last forward pass: from here on there are shares alone."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def overwrite(target: Tensor, content: Tensor | None, ranks: Ranks) -> None:
    """Writes into ``target``, which may be sharded, what the first rank holds. All ranks call it.

    Args:
        target: of the same kind on all ranks.
        content: all of it, on the CPU; None on all ranks but the first.
    """
    if ranks.alone:
        target.copy_(content)  # type: ignore[arg-type]
    elif isinstance(target, DTensor):
        mesh = target.device_mesh
        source = torch.empty(target.shape, dtype=target.dtype) if content is None else content.to(target.dtype)
        target.copy_(distribute_tensor(source.to(mesh.device_type), mesh, target.placements))
    else:
        if content is not None:
            target.copy_(content)
        ranks.copy(target)
