"""NEFTune (Jain et al. 2023): noise on the embeddings of what is read, while it is trained.

Each number of an embedding gets noise that is uniform in ±alpha / sqrt(L·d), with d the width of the embeddings and L
the tokens of the record. It is the record's own length, as in the paper's code, also where several records lie in one
row or are padded to one length: a step has the same noise, in distribution, however it is cut.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.models.parts import without_adapter
from finetune_trainer.training.objective import Objective


def add_noise(objective: Objective, alpha: float) -> None:
    """From here on ``objective`` is trained with noise; measured it is without. Nothing that is saved changes."""
    model = without_adapter(objective.model)
    noise = _Noise(alpha)
    for module in {objective.model, model, model.base_model}:  # whichever of them is called, and is the first to know
        module.register_forward_pre_hook(noise.see_lengths, with_kwargs=True)
    table = model.get_input_embeddings()
    for module in model.modules():  # encoder and decoder may each have a module for the same table
        if module is table or (isinstance(module, nn.Embedding) and module.weight is table.weight):
            module.register_forward_hook(noise.add)


class _Noise:
    """Between the call of a model and that of its embeddings."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: Tensor | None = None
        """Of the record that each token belongs to: [B, T], or [1, T] of a packed row; None: nothing is to be read."""

    def see_lengths(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        """Called before the model. Whatever reads after the first embeddings, as a decoder does, gets no noise."""
        ids, mask, offsets = (kwargs.get(name) for name in ("input_ids", "attention_mask", "cu_seq_lens_q"))
        if ids is None:
            self._lengths = None
        elif offsets is not None:
            seen = kwargs["cu_seq_lens_k"].diff()  # with the beginning that a segment goes on from
            self._lengths = seen.repeat_interleave(offsets.diff().long(), output_size=ids.shape[1])[None]
        elif mask is not None and mask.ndim == 2:
            self._lengths = mask.sum(1, keepdim=True).clamp(min=1).expand(ids.shape)
        else:
            self._lengths = torch.full_like(ids, ids.shape[1])

    def add(self, embeddings: nn.Module, _args: Any, out: Tensor) -> Tensor:
        """The embeddings [B, T, d], with noise."""
        lengths, self._lengths = self._lengths, None
        if not embeddings.training or lengths is None or lengths.shape[1] != out.shape[1]:
            return out
        scale = (self._alpha / math.sqrt(out.shape[-1])) * lengths.to(out.device).float().rsqrt()  # [B, T]
        return out + torch.empty_like(out).uniform_(-1, 1) * scale[..., None].to(out.dtype)
