"""Which architectures can do which task, by their config.json alone."""

import pytest
from transformers import BartConfig, BertConfig, LlamaConfig, T5Config, XLMConfig

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.head import LANGUAGE_MODEL, SEQUENCE_TO_SEQUENCE, Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.tasks import require_task

REWARD = Head("AutoModelForSequenceClassification", "SEQ_CLS", "a reward model")
BOTH = "has an encoder and a decoder. Set spec.task text2text-generation, or start from a decoder"
AHEAD = "reads a text in both directions, and so would see the words"


@pytest.mark.parametrize(
    ("config", "head", "said"),
    [
        (LlamaConfig(), LANGUAGE_MODEL, None),
        (BertConfig(is_decoder=True), LANGUAGE_MODEL, None),
        (BertConfig(), REWARD, None),
        (BartConfig(is_decoder=True, is_encoder_decoder=False), LANGUAGE_MODEL, None),
        (BertConfig(), LANGUAGE_MODEL, f"the-base is a bert, which {AHEAD}"),
        (XLMConfig(), LANGUAGE_MODEL, AHEAD),
        (XLMConfig(causal=True), LANGUAGE_MODEL, None),
        (T5Config(), LANGUAGE_MODEL, f"the-base is a t5, which {BOTH}"),
        (BartConfig(), LANGUAGE_MODEL, BOTH),
        (BartConfig(), REWARD, BOTH),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_text_is_written_by_what_does_not_read_ahead(tmp_path, config, head, said):
    """By others transformers' classes would learn, and lower the loss, with nothing to show for it."""
    config.save_pretrained(tmp_path)
    files = ModelFiles(tmp_path, "the-base")
    if said is None:
        require_task(files, head, "text-generation")
    else:
        with pytest.raises(TrainerError, match=said) as refusal:
            require_task(files, head, "text-generation")
        assert refusal.value.code == ExitCode.MODEL_INVALID


def test_an_architecture_without_the_head_is_refused(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(TrainerError, match=r"is a llama, of which there is no model with encoder and decoder \(AutoM"):
        require_task(ModelFiles(tmp_path, "the-base"), SEQUENCE_TO_SEQUENCE, "text2text-generation")
