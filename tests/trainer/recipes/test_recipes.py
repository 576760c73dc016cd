"""What all recipes have in common."""

from importlib import import_module

import pytest

from finetune_trainer.recipes import RECIPES
from finetune_trainer.recipes.recipe import Recipe

LOWER = {
    "sft": {"eval_loss", "perplexity"},
    "kto": {"eval_loss", "kl", "reward_undesirable"},
    **{key: {"eval_loss", "reward_rejected"} for key in ("dpo", "orpo", "simpo", "reward")},
}


@pytest.mark.parametrize(("task", "objective"), RECIPES)
def test_each_says_of_which_metrics_less_is_better(task, objective):
    module, _, name = RECIPES[task, objective].name.rpartition(".")
    recipe: type[Recipe] = getattr(import_module(f"finetune_trainer.recipes.{module}"), name)
    assert set(recipe.lower_is_better) == (LOWER[objective] if task.endswith("-generation") else {"eval_loss"})
