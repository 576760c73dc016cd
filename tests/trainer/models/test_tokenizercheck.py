"""Tokenizers that make pages of single characters are refused; ordinary ones are not."""

import pytest
from tokenizers import Regex, normalizers, processors

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.tokenizercheck import require_modest
from tests import tiny


@pytest.fixture
def tokenizer():
    tiny.tokenizer.cache_clear()
    yield tiny.tokenizer()
    tiny.tokenizer.cache_clear()


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        normalizers.NFKC(),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace(Regex(" {2,}"), " ")]),
        normalizers.BertNormalizer(),
    ],
)
def test_the_normalizers_that_models_have_are_modest(tokenizer, normalizer):
    if normalizer:
        tokenizer.backend_tokenizer.normalizer = normalizer
    require_modest(tokenizer, "the-base")


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Replace("o", "o" * 100_000),
        normalizers.Sequence([normalizers.Replace("a", "aa")] * 24),
        normalizers.Sequence([normalizers.Prepend("a" * 1000), normalizers.NFC()]),
    ],
)
def test_a_normalizer_that_makes_pages_of_characters_is_refused(tokenizer, normalizer):
    tokenizer.backend_tokenizer.normalizer = normalizer
    with pytest.raises(TrainerError, match="tokenizer of the-base makes pages of single characters") as caught:
        require_modest(tokenizer, "the-base")
    assert caught.value.code is ExitCode.MODEL_INVALID


def test_a_tokenizer_that_puts_pages_around_a_text_is_refused(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> " * 1000 + "$A", special_tokens=[("<|endoftext|>", 0)]
    )
    with pytest.raises(TrainerError, match="puts 1000 tokens around each text"):
        require_modest(tokenizer, "the-base")
