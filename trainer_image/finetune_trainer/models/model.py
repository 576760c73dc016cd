"""Loads the model and its tokenizer."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal, NoReturn

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finetune_api.run import ExitCode
from finetune_api.spec import Freeze
from finetune_trainer.errors import TrainerError, is_out_of_memory, is_panic, one_line
from finetune_trainer.models.adapter import Adapter, put_on
from finetune_trainer.models.freezing import freeze
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.quantized import keep_bits, quantization
from finetune_trainer.models.tokenizercheck import require_modest
from finetune_trainer.models.weightfiles import read_tensors

Precision = Literal["fp32", "bf16"]

_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
"""Of architectures whose heads are for one task alone; one of another ending, such as a language model's, has learned
what is of use to all."""

transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def choose_precision(setting: str) -> Precision:
    """``training.precision`` on this machine: ``auto`` is bf16 on a GPU that computes in it, else fp32."""
    if setting == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if setting == "bf16" else "fp32"


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The model's tokenizer, after it was tried.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(files.directory, **_local())
        tokenizer("A word.\n", add_special_tokens=True)
    except BaseException as error:
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        read_config(files)
        _refuse(f"The tokenizer of {files.name} cannot be loaded: {_told(error, files)}", error)
    template: object = tokenizer.chat_template
    if not isinstance(template, str | dict | None):
        _refuse(f"The chat template of {files.name} is a {type(template).__name__} and not a text")
    require_modest(tokenizer, files.name)
    return tokenizer


def read_config(files: ModelFiles) -> Any:
    """The model's config.json, as transformers reads it.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    try:
        return AutoConfig.from_pretrained(files.directory, **_local())
    except Exception as error:
        _refuse(f"The config.json of {files.name} cannot be read: {_told(error, files)}", error)


def load_model(
    files: ModelFiles,
    head: Head,
    frozen: bool,
    precision: Precision,
    device_map: dict[str, str] | None = None,
    quantized: bool = False,
) -> PreTrainedModel:
    """The model with its weights, on the CPU.

    A frozen base is held in the precision of the computation. Weights that are themselves trained are held in fp32,
    because small updates vanish in bf16.

    Args:
        frozen: whether it is not trained itself, because it gets an adapter.
        device_map: transformers', for another place than the CPU.
        quantized: whether its linear layers are held in 4 bits.

    Raises:
        TrainerError: MODEL_INVALID, also where weights are missing that would otherwise be made up at random.
    """
    dtype = torch.bfloat16 if frozen and precision == "bf16" else torch.float32
    if not quantized:
        return _load(files, head, dtype, device_map=device_map)
    whole = whole_modules(files, head)
    model = _load(files, head, dtype, device_map=device_map, quantization_config=quantization(dtype, whole))
    keep_bits(model)
    return model


def whole_modules(files: ModelFiles, head: Head) -> list[str] | None:
    """What stays as it is where the rest is held in 4 bits, because it is trained; None: nothing of the head is."""
    return head.modules(_laid_out(files, head)) if head.whole else None


def load_as_stored(files: ModelFiles, head: Head) -> PreTrainedModel:
    """The model with its weights, on the CPU, in the number format of its files; raises as :func:`load_model` does."""
    return _load(files, head, "auto")


def _load(files: ModelFiles, head: Head, dtype: Any, **arguments: Any) -> PreTrainedModel:
    replaced = replaces_head(files, head)
    try:
        with _laid_out_like(files):
            loaded: Any = head.auto_class.from_pretrained(
                files.directory,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=replaced,
                **arguments,
                **head.settings,
                **_local(),
            )
    except Exception as error:
        if isinstance(error, TrainerError) or is_out_of_memory(error):
            raise
        why = _mismatch(files, head) if "ignore_mismatched_sizes" in str(error) else _told(error, files)
        _refuse(f"The model {files.name} cannot be loaded as {head.what}: {why}", error)
    model, loading = loaded
    lacking, on_top = set(loading["missing_keys"]), tuple(f"{name}." for name in head.modules(model))
    body = {name for name in model.state_dict() if not name.startswith(on_top)}
    missing = sorted(name for name in lacking if not (head.new and name.startswith(on_top)))
    if missing and body <= lacking:
        raise TrainerError(
            ExitCode.MODEL_INVALID,
            f"{files.name} cannot become {head.what}: transformers' {type(model).__name__} keeps its body under other "
            f"names ({missing[0]}) than the files do. Start from an encoder, such as a BERT, or correct spec.task.",
        )
    if missing:  # that cannot be made anew, as all of a new head and its pooler can
        _refuse(f"The weights of {files.name} lack {len(missing)} tensors of its architecture, such as {missing[0]}")
    if replaced:
        _renew(model, head)
    return model  # type: ignore[no-any-return]


def replaces_head(files: ModelFiles, head: Head) -> bool:
    """Whether the model has a head of another task, in whose place a new one comes."""
    return head.new and any(str(name).endswith(_OTHER_HEADS) for name in read_config(files).architectures or ())


@torch.no_grad()
def _renew(model: PreTrainedModel, head: Head) -> None:
    """Draws the weights of the head anew: some of another task's may have had the same names and shapes."""
    for name in head.modules(model):
        if "." not in name:  # a pooler in the body has learned what is of use to all
            for part in model.get_submodule(name).modules():
                for mark in (part, *part.parameters(recurse=False)):
                    mark.__dict__["_is_hf_initialized"] = False  # which transformers sets, and looks at
                model._init_weights(part)  # type: ignore[no-untyped-call]


def count_weights(
    files: ModelFiles, head: Head, adapter: Adapter | None, parts: Freeze | None = None
) -> tuple[int, int]:
    """Parameters that are not trained, and that are, from config.json: before there is memory for them.

    Raises:
        TrainerError: MODEL_INVALID, CONFIGURATION_INVALID.
    """
    model = lay_out(files, head)
    if adapter:
        model = put_on(model, adapter, head, files)
    elif parts:
        freeze(model, parts)
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return sum(parameter.numel() for parameter in parameters) - trained, trained


def lay_out(files: ModelFiles, head: Head) -> Any:
    """The model as config.json describes it, without weights.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    try:
        return _laid_out(files, head)
    except Exception as error:
        _refuse(f"The model {files.name} cannot be loaded as {head.what}: {_told(error, files)}", error)


def require_matching_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer that has tokens the model knows nothing of, be they too many or numbered too high.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    if len(tokenizer) > rows:
        _refuse(f"The tokenizer of {name} has {len(tokenizer)} tokens, but its model only {rows} embeddings")
    token, highest = max(tokenizer.get_vocab().items(), key=itemgetter(1))
    if highest >= rows:
        _refuse(
            f"The tokenizer of {name} gives the token {one_line(token, 40)!r} the number {highest}, but its model has "
            f"only {rows} embeddings"
        )


def require_length(model: PreTrainedModel, longest: int, name: str, virtual: int = 0) -> None:
    """Refuses sequences of more tokens than the model has positions, ``virtual`` ones before each of them counted.

    Raises:
        TrainerError: CONFIGURATION_INVALID.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, part in model.named_modules():  # RoBERTa counts from behind the padding token
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None and positions:
            positions -= part.padding_idx + 1
    if isinstance(positions, int) and 0 < positions < longest + virtual:
        beside = f", of which {virtual} are for virtual tokens" if virtual else ""
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"The longest record has {longest} tokens after cutting, but {name} has {positions} positions{beside}. Set "
            f"spec.training.maxLength to {positions - virtual} or less.",
        )


@contextmanager
def _laid_out_like(files: ModelFiles) -> Iterator[None]:
    """Refuses a config.json that describes far more weights than there are, before memory is taken for the rest.

    A module's parameters are counted as it gets them: without memory first, then with what was read, and those of the
    embeddings twice where the head shares them.
    """
    held = sum(math.prod(tensor.shape) for tensor in read_tensors(files.directory, files.name).values())
    left = 4 * held + 1_000_000

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= parameter.numel() if parameter is not None else 0
        if parameter is not None and left < 0:
            _refuse(
                f"The config.json of {files.name} describes several times the {held:,} weights that its files hold, up "
                f"to {type(module).__name__}.{name} {list(parameter.shape)}"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _mismatch(files: ModelFiles, head: Head) -> str:
    """Which tensor has another shape in the files than config.json makes of it; found without memory for either."""
    expected = _laid_out(files, head).state_dict()
    for name, held in read_tensors(files.directory, files.name).items():
        if name in expected and tuple(expected[name].shape) != held.shape:
            return f"config.json makes {name} {list(expected[name].shape)}, its weights are {list(held.shape)}"
    return "its weights have other shapes than config.json says"


def _laid_out(files: ModelFiles, head: Head) -> Any:
    """The model as config.json describes it, without weights."""
    config = AutoConfig.from_pretrained(files.directory, **head.settings, **_local())
    with torch.device("meta"):
        return head.auto_class.from_config(config)


def _told(error: BaseException, files: ModelFiles) -> str:
    """What a library said, with the model's own name where it names a directory of this pod."""
    return one_line(error).replace(str(files.directory), files.name)


def _local() -> dict[str, Any]:
    return {"local_files_only": True, "trust_remote_code": False}


def _refuse(what: str, cause: BaseException | None = None) -> NoReturn:
    mend = "Correct spec.model, or save the model again with a current transformers"
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what.rstrip('.')}. {mend}.") from cause
