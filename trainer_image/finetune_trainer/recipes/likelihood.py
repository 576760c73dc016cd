"""How likely a causal language model holds tokens to be: what all objectives on text are made of.

Shapes: B rows, T tokens of a row, N learned tokens, S segments, H hidden size, V vocabulary.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from finetune_trainer.models.attention import boundaries, positions
from finetune_trainer.models.parts import body_and_head, without_adapter
from finetune_trainer.recipes.headloss import HeadLoss, never_trained
from finetune_trainer.training.layout import Layout, try_layout
from finetune_trainer.training.objective import IGNORED, Objective

_LOGITS_AT_ONCE, _LOGITS_AT_LEAST = 2**26, 2**21
"""Logits beyond which they are computed in chunks: 256 MiB in fp32; or 8 MiB, where memory is dear: on a CPU, whose
products are as fast with fewer tokens, and wherever activations are computed twice."""
_CHUNK = 128
"""Tokens of a chunk at least: with fewer the head's weights are read more often than is good (measured: 32 tokens take
1.4 times as long)."""

_EVEN = 32
"""Tokens of a packed row, and learned tokens, are made a multiple of this: a processor likes even shapes, and every
other shape costs memory for a kernel of its own (measured: 30 MiB each with oneDNN)."""


@dataclass(frozen=True)
class Segment:
    """Tokens that follow one another."""

    ids: "array[int]"
    """int32 token ids."""
    learned: bytes
    """1 where the token's prediction counts; 0 where nothing comes before it."""
    shared: int = 0
    """Tokens that come before it: the first ones of the last segment before it in which this is 0."""


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass."""

    ids: Tensor
    """[B, T] int64; one row if packed."""
    arguments: dict[str, Any]
    """How the segments lie in it: a mask where they are padded, positions and boundaries where they are packed."""
    at: tuple[Tensor, Tensor]
    """Row and column of the tokens whose successor is learned: [N], then some that do not count."""
    targets: Tensor
    """Those successors: [N], then IGNORED."""
    counts: list[int]
    """[S] learned tokens of each segment; their sum is N."""


def collate(segments: Sequence[Segment], packed: bool, device: torch.device) -> Batch:
    """Segments as one batch on ``device``: one after the other in a row, or one a row, padded on the right. Then a
    beginning that is shared is repeated.

    On a GPU this runs ahead of it: the copies come from pinned memory, and nothing waits for the pass before.
    """
    ids = [torch.frombuffer(segment.ids, dtype=torch.int32).long() for segment in segments]
    learned = [torch.frombuffer(bytearray(segment.learned), dtype=torch.bool) for segment in segments]
    counts = [segment.learned.count(1) for segment in segments]
    shared = [segment.shared for segment in segments]
    if packed:
        rows, arguments, row, column, targets = _in_a_row(ids, learned, shared, device)
    else:
        rows, arguments, row, column, targets = _padded(ids, learned, shared, device)
    unused = -len(row) % _EVEN
    at = [move(functional.pad(index, (0, unused)), device) for index in (row, column)]
    targets = move(functional.pad(targets, (0, unused), value=IGNORED), device)
    return Batch(move(rows, device), arguments, (at[0], at[1]), targets, counts)


_Laid = tuple[Tensor, dict[str, Any], Tensor, Tensor, Tensor]
"""Ids, arguments, and for each learned token row and column of the token before it, and its id."""


def _in_a_row(ids: list[Tensor], learned: list[Tensor], shared: list[int], device: torch.device) -> _Laid:
    if surplus := sum(map(len, ids)) % _EVEN:
        ids.append(torch.zeros(_EVEN - surplus, dtype=torch.long))  # a record of which nothing is learned
        learned.append(torch.zeros(_EVEN - surplus, dtype=torch.bool))
        shared.append(0)
    lengths = [len(segment) for segment in ids]
    rows, marks = torch.cat(ids)[None], torch.cat(learned)[None]
    arguments = {
        "position_ids": move(positions(lengths, shared)[None], device),
        **boundaries(lengths, device, shared),
    }
    row, column = marks.nonzero(as_tuple=True)
    before = torch.arange(-1, rows.shape[1] - 1)  # never for column 0 of a record: nothing predicts it
    start = root = 0
    for length, count in zip(lengths, shared, strict=True):
        root = root if count else start
        before[start] = root + count - 1 if count else start - 1
        start += length
    return rows, arguments, row, before[column], rows[row, column]


def _padded(ids: list[Tensor], learned: list[Tensor], shared: list[int], device: torch.device) -> _Laid:
    root = ids[0]
    for number, count in enumerate(shared):
        root = root if count else ids[number]
        if count:
            ids[number] = torch.cat([root[:count], ids[number]])
            learned[number] = torch.cat([torch.zeros(count, dtype=torch.bool), learned[number]])
    rows, marks = (pad_sequence(parts, batch_first=True) for parts in (ids, learned))
    mask = torch.arange(rows.shape[1]) < torch.tensor([len(each) for each in ids])[:, None]
    row, column = marks.nonzero(as_tuple=True)
    return rows, {"attention_mask": move(mask.long(), device)}, row, column - 1, rows[row, column]


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """To ``device``, without waiting for what that is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Likelihood(Objective):
    """An objective that is made of the likelihoods of tokens under a causal language model."""

    shares: ClassVar[bool] = False
    """Whether segments of its batches go on from one beginning."""

    def __init__(self, model: Any, headless: bool = False) -> None:
        super().__init__(model)
        self._sparing = False
        self.headless = headless
        """The model's body and head may be called one by one, so that logits are computed for learned tokens only."""

    def choose_layout(self) -> Layout:
        return try_layout(without_adapter(self.model), self.shares)

    def use(self, layout: Layout) -> None:
        self.headless = layout.headless

    def recompute(self) -> None:
        super().recompute()
        self._sparing = True

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[N] of each learned token its negative log likelihood, nats, given those before it; and whether it is the
        likeliest one, which is found out only where no gradients are asked for. Behind them come some that are 0."""
        if not self.headless:
            logits = self.model(input_ids=batch.ids, use_cache=False, **batch.arguments).logits  # [B, T, V]
            return self._of_logits(logits[batch.at], batch.targets)
        body, head = body_and_head(without_adapter(self.model))
        hidden = body(input_ids=batch.ids, use_cache=False, **batch.arguments).last_hidden_state[batch.at]  # [N, H]
        at_once = _LOGITS_AT_LEAST if self._sparing or hidden.device.type == "cpu" else _LOGITS_AT_ONCE
        step = max(_CHUNK, at_once // head.weight.shape[0])
        if hidden.requires_grad and never_trained(head, hidden) and not self.smoothing:
            losses = HeadLoss.apply(hidden, head.weight, batch.targets, step)  # type: ignore[no-untyped-call]
            return losses, torch.zeros_like(losses)
        if len(hidden) <= step:
            return self._of_hidden(head, hidden, batch.targets)
        parts = [
            checkpoint(self._of_hidden, head, some, targets, use_reentrant=False)
            for some, targets in zip(torch.split(hidden, step), torch.split(batch.targets, step), strict=True)
        ]
        each, rights = zip(*parts, strict=True)
        return torch.cat(each), torch.cat(rights)

    def _of_hidden(self, head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._of_logits(head(hidden), targets)

    def _of_logits(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of logits [N, V] and targets [N]: see :meth:`token_losses`."""
        losses = self.cross_entropy(logits, targets, "none")
        right = torch.zeros_like(losses) if logits.requires_grad else (logits.argmax(-1) == targets).float()
        return losses, right

    def log_likelihoods(self, batch: Batch) -> Tensor:
        """[S] of each segment the log likelihood of its learned tokens, nats."""
        losses, _ = self.token_losses(batch)
        parts = torch.split(losses[: sum(batch.counts)], batch.counts)
        return -pad_sequence([*parts], batch_first=True).sum(1)
