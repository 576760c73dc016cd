"""How a chat template of the job ends a turn, and a tokenizer that knows it."""

from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.given import Given


def end_turns_by(tokenizer: PreTrainedTokenizerBase, given: Given, model: str) -> None:
    """Lets ``tokenizer`` end texts as one of our chat templates ends turns: a model in use is stopped by that token,
    and what is published must say so.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where the tokenizer does not have the token.
    """
    if not given.named:
        return
    end = given.named.end
    if end is None and tokenizer.eos_token is None:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"{given.field} {given.source} ends a turn with the tokenizer's end-of-text token, and that of {model} has "
            "none (eos_token). Choose another template, or another model.",
        )
    if end is None:
        return
    if end not in tokenizer.get_vocab():
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"{given.field} {given.source} ends a turn with {end}, which the tokenizer of {model} does not have, so "
            "that the model would not know where to stop. Choose plain or zephyr, which end with the tokenizer's own "
            "end-of-text token, or another model.",
        )
    tokenizer.eos_token = end
