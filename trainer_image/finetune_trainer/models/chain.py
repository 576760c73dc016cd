"""Adapters that other jobs published: merged into the model, or gone on with. By PEFT."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.run import Combination, ExitCode
from finetune_api.spec import Method
from finetune_trainer.errors import TrainerError, is_out_of_memory, one_line
from finetune_trainer.models.adapter import NAME, Adapter, put_on
from finetune_trainer.models.adapterfiles import TOKENIZER, WEIGHTS
from finetune_trainer.models.head import Head
from finetune_trainer.models.ia3 import Ia3Adapter
from finetune_trainer.models.lora import LoraAdapter
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles

_COMBINED = "combined"
_TYPES = {"lora": "LORA", "ia3": "IA3", "prompt-tuning": "PROMPT_TUNING", "prefix-tuning": "PREFIX_TUNING"}
_SHOWN = {
    "lora.rank": "r",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "virtualTokens": "num_virtual_tokens",
}
"""Settings by our names and by PEFT's."""


class PublishedAdapter(Adapter):
    """An adapter that is there already, or several that become one; trained further like a new one of its kind."""

    def __init__(self, new: Adapter, adapters: Sequence[AdapterFiles], combination: Combination | None = None) -> None:
        """``new``: what another adapter of the kind would be."""
        self._new, self._adapters, self._combination = new, adapters, combination
        self.mend, self.rate = "Correct spec.model.", new.rate  # type: ignore[misc]
        self.kind = new.kind  # type: ignore[misc]
        self.virtual_tokens, self.quantized = new.virtual_tokens, new.quantized
        self.shards, self.recomputes = new.shards, new.recomputes
        ranks = [int(adapter.config.get("r") or 0) for adapter in adapters]
        self.rank = (sum(ranks) if combination and combination.method == "cat" else max(ranks)) or None
        self.what = f"{new.what} ({'combined from' if combination else 'trained on from'} {self._jobs})"

    @property
    def _jobs(self) -> str:
        if self._combination is None:
            return f"that of {self._adapters[0].job}"
        return ", ".join(f"{adapter.weight:g} × {adapter.job}" for adapter in self._adapters)

    def settings(self) -> dict[str, object]:
        if self._combination:
            told = {f"combine.{name}": value for name, value in self._combination.to_dict().items()}
            return {"combine.adapters": self._jobs, "lora.rank": self.rank, **told}
        config = self._adapters[0].config
        shown = {ours: config[theirs] for ours, theirs in _SHOWN.items() if config.get(theirs) is not None}
        return {"from": f"continue, {self._adapters[0].job}", **shown}

    def config(self, model: PreTrainedModel, head: Head, files: ModelFiles) -> Any:
        first = _config(self._adapters[0], head)
        if first.peft_type != (wanted := _TYPES[self._new.kind]):
            _refuse(f"{self._adapters[0].what} is of PEFT's type {first.peft_type.value}, and not {wanted}")
        if self._combination is None:
            return first
        # Scales become part of the matrices: alpha / r is 1, and stays it.
        return dataclasses.replace(first, r=self.rank, lora_alpha=self.rank, use_rslora=False)

    def finish(self, adapted: Any) -> None:
        self._new.finish(adapted)
        if _without_content(adapted):
            return
        if self._combination is None:
            _fill(adapted, NAME, self._adapters[0])
            return
        names = [f"part-{number}" for number in range(len(self._adapters))]
        for name, files in zip(names, self._adapters, strict=True):
            adapted.add_adapter(name, _config(files, None))
            _fill(adapted, name, files)
        _combine(adapted, names, [files.weight for files in self._adapters], self._combination)
        for name in names:
            adapted.delete_adapter(name)
        adapted.set_adapter(NAME)

    @contextmanager
    def untouched(self, objective: Any) -> Iterator[None]:
        """One that is trained on is compared with what it was, several that were combined with none of them."""
        with objective.model.disable_adapter() if self._combination else nullcontext():
            yield


def _combine(adapted: Any, names: list[str], weights: list[float], how: Combination) -> None:
    """PEFT's weighted sum of adapters ``names``, as the one that is trained."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    needs_density = how.method.startswith(("ties", "dare"))
    adapted.base_model.add_weighted_adapter(
        names,
        weights,
        _COMBINED,
        combination_type=how.method,
        density=how.density if needs_density else None,
        svd_full_matrices=False,  # those of the full one that count are the same
    )
    state = get_peft_model_state_dict(adapted, adapter_name=_COMBINED, save_embedding_layers=False)
    set_peft_model_state_dict(adapted, state, adapter_name=NAME)
    adapted.delete_adapter(_COMBINED)


def stacked(model: PreTrainedModel, files: ModelFiles, head: Head) -> PreTrainedModel:
    """The model with the adapters of ``files.stack`` in it, one after the other.

    Raises:
        TrainerError: MODEL_INVALID, where one does not fit.
    """
    if _without_content(model):
        return model
    for adapter in files.stack:
        new = Ia3Adapter(Method()) if adapter.config["peft_type"] == "IA3" else LoraAdapter(Method())
        adapted: Any = put_on(model, PublishedAdapter(new, [adapter]), head, files)
        model = adapted.merge_and_unload()
        model.requires_grad_(True)  # as it was before PEFT froze it
    return model


def require_same_tokenizer(tokenizer: PreTrainedTokenizerBase, files: ModelFiles) -> None:
    """Refuses adapters that were trained with other tokens than the base has.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    from tokenizers import Tokenizer

    known = tokenizer.get_vocab()
    for adapter in (*files.stack, *files.adapters):
        path = adapter.directory / TOKENIZER
        if path.exists() and (other := _differing(known, Tokenizer, path, adapter)):
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"{adapter.what} was trained with another tokenizer than {files.name} has: {other}. Name the "
                "job that trained it on this base.",
            )


def _differing(known: dict[str, int], reader: Any, path: Path, adapter: AdapterFiles) -> str:
    """A token that has another number, or none, in one of two tokenizers; empty where there is none."""
    try:
        found = reader.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _refuse(f"{adapter.what} has a tokenizer that cannot be read: {one_line(error, 200)}")
    one = next((token for token in (known | found) if known.get(token) != found.get(token)), None)
    if one is None:
        return ""
    numbers = [str(vocabulary.get(one, "none")) for vocabulary in (found, known)]
    return f"the token {one_line(one, 40)!r} has the number {numbers[0]} there and {numbers[1]} here"


def _config(files: AdapterFiles, head: Head | None) -> Any:
    """PEFT's configuration of a published adapter, to be trained."""
    from peft import PeftConfig

    if head is not None and files.config.get("task_type") != head.peft_task:
        raise TrainerError(
            ExitCode.MODEL_INVALID,
            f"{files.what} was made for {files.config.get('task_type')}, and spec.task wants {head.what}. Run the job "
            "that published it with output.mergeAdapter, and start from its whole model; or name another job.",
        )
    try:
        config: Any = PeftConfig.from_pretrained(str(files.directory))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _refuse(f"{files.what} has a configuration that cannot be read: {one_line(error, 200)}")
    config.inference_mode = False
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # they are read, whatever they once began with
    return config


def _fill(adapted: Any, name: str, files: AdapterFiles) -> None:
    """Writes the weights of an adapter where they belong."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    state: dict[str, Tensor] = load_file(files.directory / WEIGHTS)
    places = get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
    if odd := sorted(places.keys() ^ state.keys()):
        where = "the model has no place for" if odd[0] in state else "it lacks"
        _refuse(f"{files.what} does not fit the model: {where} {one_line(odd[0], 200)}")
    if odd := [key for key, place in places.items() if place.shape != state[key].shape]:
        shapes = f"{list(state[odd[0]].shape)} there and {list(places[odd[0]].shape)} here"
        _refuse(f"{files.what} does not fit the model: {one_line(odd[0], 200)} is {shapes}")
    set_peft_model_state_dict(adapted, state, adapter_name=name)


def _without_content(model: Any) -> bool:
    """Whether the weights of this process are yet to come from another one."""
    return any(parameter.is_meta for parameter in model.parameters())


def _refuse(what: str) -> NoReturn:
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what}. Correct spec.model, or run the job that published it again.")
