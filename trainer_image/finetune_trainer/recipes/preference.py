"""Preference tuning: of two answers to one prompt the chosen one becomes likelier, the rejected one less likely.

Each pair counts the same. Its prompt lies in a forward pass once, with both answers going on from it. Rewards are what
an objective takes an answer to be worth, by the model alone.

Shapes: P pairs; log likelihoods are sums over an answer's tokens, nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune_api.spec import Dpo, Orpo, Simpo
from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.recipes import likelihood
from finetune_trainer.recipes.likelihood import Likelihood
from finetune_trainer.recipes.pairs import LOWER_IS_BETTER, PairEncoder, compared, pair_metrics, pair_of, segments_of
from finetune_trainer.recipes.recipe import Recipe
from finetune_trainer.training.objective import Loss


@dataclass(frozen=True)
class Answers:
    """The chosen answers of some pairs, or the rejected ones."""

    likelihoods: Tensor
    """[P] log likelihoods."""
    tokens: Tensor
    """[P] how many they are sums over."""
    references: Tensor
    """[P] log likelihoods under the model before its first step; 0 where they are not asked for."""

    @property
    def ratios(self) -> Tensor:
        """[P] log of the likelihood over that of the reference."""
        return self.likelihoods - self.references

    @property
    def averages(self) -> Tensor:
        """[P] log likelihood of a token."""
        return self.likelihoods / self.tokens


@dataclass(frozen=True)
class Worth:
    """What an objective makes of pairs."""

    losses: Tensor
    """[P]"""
    chosen: Tensor
    """[P] rewards."""
    rejected: Tensor
    """[P] rewards."""


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass."""

    answers: likelihood.Batch
    """The two answers of each pair, one after the other."""
    references: Tensor | None
    """[P, 2]; None: they are asked for."""


class Preference(Likelihood):
    """What the objectives on pairs share. Each of them says what a pair is worth."""

    shares = True

    def worth(self, chosen: Answers, rejected: Answers) -> Worth:
        """The losses and rewards of pairs."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Batch:
        answers = [segment for example in examples for segment in segments_of(example)]
        asked = self.references and not examples[0].references
        known = torch.tensor([example.references.tolist() or [0.0, 0.0] for example in examples], device=device)
        return Batch(likelihood.collate(answers, packed, device), None if asked else known)

    def stand_in(self, tokens: int) -> Example:
        return pair_of(tokens)

    def forward(self, batch: Batch) -> Loss:
        """The sum of the losses of the pairs; or their references, where these are not known yet."""
        found = self.log_likelihoods(batch.answers).view(-1, 2)
        if batch.references is None:
            return Loss(found.sum(), predictions=found.tolist())
        tokens = torch.tensor(batch.answers.counts, device=found.device).view(-1, 2)
        worth = self.worth(*(Answers(found[:, n], tokens[:, n], batch.references[:, n]) for n in (0, 1)))
        loss = worth.losses.sum()
        return Loss(loss) if loss.requires_grad else Loss(loss, compared(worth.chosen, worth.rejected))


class DirectPreference(Preference):
    """DPO (Rafailov et al. 2023): the reward of an answer is beta times the log of its likelihood over that under the
    reference, and -log sigmoid of the difference of the two rewards is the loss."""

    references = 2

    def __init__(self, model: Any, settings: Dpo) -> None:
        super().__init__(model)
        self._settings = settings

    def worth(self, chosen: Answers, rejected: Answers) -> Worth:
        beta, smoothing = self._settings.beta, self._settings.label_smoothing
        margins = beta * (chosen.ratios - rejected.ratios)
        match self._settings.loss:
            case "sigmoid":  # smoothed: conservative DPO (Mitchell 2023)
                losses = -(1 - smoothing) * logsigmoid(margins) - smoothing * logsigmoid(-margins)
            case "hinge":  # SLiC-HF (Zhao et al. 2023)
                losses = torch.relu(1 - margins)
            case "ipo":  # Azar et al. 2023, equation 17, by the token
                difference = chosen.ratios / chosen.tokens - rejected.ratios / rejected.tokens
                losses = (difference - 1 / (2 * beta)).square()
        return Worth(losses, beta * chosen.ratios, beta * rejected.ratios)


class OddsRatioPreference(Preference):
    """ORPO (Hong et al. 2024), without a reference: the loss of the chosen answer by the token, as in sft, plus beta
    times -log sigmoid of the log of the ratio of the two answers' odds."""

    def __init__(self, model: Any, settings: Orpo) -> None:
        super().__init__(model)
        self._settings = settings

    def worth(self, chosen: Answers, rejected: Answers) -> Worth:
        beta = self._settings.beta
        odds = log_odds(chosen.averages) - log_odds(rejected.averages)
        losses = -chosen.averages - beta * logsigmoid(odds)
        return Worth(losses, beta * chosen.averages, beta * rejected.averages)


def log_odds(log_likelihood: Tensor) -> Tensor:
    """log(p / (1 - p)) of log(p), which is below 0."""
    p = log_likelihood.clamp(max=-1e-6)  # 1 - p is 0 otherwise
    return p - torch.log(-torch.expm1(p))


class SimplePreference(Preference):
    """SimPO (Meng et al. 2024), without a reference: the reward of an answer is beta times its log likelihood by the
    token, and the chosen one's shall be larger by gamma."""

    def __init__(self, model: Any, settings: Simpo) -> None:
        super().__init__(model)
        self._settings = settings

    def worth(self, chosen: Answers, rejected: Answers) -> Worth:
        one, other = (self._settings.beta * each.averages for each in (chosen, rejected))
        return Worth(-logsigmoid(one - other - self._settings.gamma), one, other)


class PreferenceRecipe(Recipe):
    """``task: text-generation`` on records of format ``preference``."""

    head = LANGUAGE_MODEL
    generates = True
    encoder = PairEncoder
    dropout = 0.0
    lower_is_better = LOWER_IS_BETTER

    def metrics(self, totals: Totals) -> dict[str, float]:
        return pair_metrics(totals)


class DpoRecipe(PreferenceRecipe):
    """``objective: dpo``."""

    rates: ClassVar = {"adapter": 1e-5, "none": 1e-6}

    def objective(self, model: Any) -> DirectPreference:
        return DirectPreference(model, self.config.method.dpo or Dpo())


class OrpoRecipe(PreferenceRecipe):
    """``objective: orpo``."""

    rates: ClassVar = {"adapter": 8e-5, "none": 8e-6}

    def objective(self, model: Any) -> OddsRatioPreference:
        return OddsRatioPreference(model, self.config.method.orpo or Orpo())


class SimpoRecipe(PreferenceRecipe):
    """``objective: simpo``."""

    rates: ClassVar = {"adapter": 1e-5, "none": 1e-6}

    def objective(self, model: Any) -> SimplePreference:
        return SimplePreference(model, self.config.method.simpo or Simpo())
