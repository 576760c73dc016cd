"""``adapter: prompt`` and ``prefix``: virtual tokens before each record, as embeddings or as keys and values."""

import inspect
from typing import Any

from transformers import PreTrainedModel

from finetune_api.run import ExitCode
from finetune_api.spec import Method, Prefix, Prompt
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.adapter import NAME, Adapter
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles


class PromptAdapter(Adapter):
    """``adapter: prompt``. The virtual tokens go through the model as others do, and it speaks of them as well: what it
    says of them is left out, so that the logits of a record lie where its tokens do, whatever stands before it."""

    what = "A prompt-tuning adapter"
    kind = "prompt-tuning"
    mend = "Set spec.method.adapter to lora."
    rate = 100.0
    shards = False  # PEFT takes them out of a model by itself, and never whole

    def __init__(self, method: Method) -> None:
        self._prompt = method.prompt or Prompt()
        self.virtual_tokens = self._prompt.virtual_tokens

    def settings(self) -> dict[str, object]:
        return {f"prompt.{name}": value for name, value in self._prompt.to_dict().items()}

    def config(self, model: PreTrainedModel, head: Head, files: ModelFiles) -> Any:
        from peft import PromptTuningConfig

        if head.peft_task == "SEQ_CLS" and "use_cache" in inspect.signature(model.forward).parameters:
            raise TrainerError(  # transformers looks for the last token that is no padding, and finds no tokens at all
                ExitCode.CONFIGURATION_INVALID,
                f"spec.method.adapter prompt does not go with {files.name}, a decoder with the head of {head.what}: "
                "that reads the last token of a text, and behind virtual tokens it cannot tell which one that is. Set "
                "spec.method.adapter to lora, or to prefix.",
            )
        text = self._prompt.text
        return PromptTuningConfig(
            task_type=head.peft_task,
            num_virtual_tokens=self.virtual_tokens,
            prompt_tuning_init="TEXT" if text else "SAMPLE_VOCAB",
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=str(files.directory) if text else None,
            tokenizer_kwargs={"local_files_only": True} if text else None,
        )

    def finish(self, adapted: Any) -> None:
        config = adapted.peft_config[NAME]
        config.prompt_tuning_init, config.tokenizer_name_or_path, config.tokenizer_kwargs = "RANDOM", None, None
        if config.task_type == "CAUSAL_LM":  # what has an encoder reads them, and does not speak of what it reads
            adapted.register_forward_hook(self._leave_out, with_kwargs=True)

    def _leave_out(self, _: Any, __: Any, given: dict[str, Any], said: Any) -> Any:
        if said.logits.shape[1] == given["input_ids"].shape[1] + self.virtual_tokens:  # else it stands aside for once
            said.logits = said.logits[:, self.virtual_tokens :]
        return said


class PrefixAdapter(Adapter):
    """``adapter: prefix``. Only what the tokens of a record look at is more; the model does not speak of it."""

    what = "A prefix-tuning adapter"
    kind = "prefix-tuning"
    mend = "Set spec.method.adapter to lora."
    rate = 50.0
    recomputes = False
    shards = False

    def __init__(self, method: Method) -> None:
        self._prefix = method.prefix or Prefix()
        self.virtual_tokens = self._prefix.virtual_tokens

    def settings(self) -> dict[str, object]:
        return {f"prefix.{name}": value for name, value in self._prefix.to_dict().items()}

    def config(self, model: PreTrainedModel, head: Head, files: ModelFiles) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(task_type=head.peft_task, num_virtual_tokens=self.virtual_tokens)
