"""One tuning: the model, its data as tokens, and what is done with them. Brings torch and the libraries in."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import set_seed  # type: ignore[import-untyped]

from finetune_api.run import ExitCode, RunConfig
from finetune_api.spec import Lora
from finetune_trainer import samples
from finetune_trainer.batches import plan_batches
from finetune_trainer.data import Dataset
from finetune_trainer.encoding import Encoder
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluate import Measured, evaluate
from finetune_trainer.machine import thread_count
from finetune_trainer.model import (
    add_lora,
    choose_precision,
    load_model,
    load_tokenizer,
    require_length,
    require_matching_vocabulary,
)
from finetune_trainer.modelfiles import ModelFiles
from finetune_trainer.progress import TRAINING_COST, Progress
from finetune_trainer.train import Trained, train

logger = logging.getLogger(__name__)

_RATES = {"none": 2e-5}
_ADAPTER_RATE = 2e-4


@dataclass(frozen=True)
class Measurement:
    """What the model of one moment is worth."""

    measured: Measured
    answers: list[str]
    """One for each sample prompt."""


class Tuning:
    """A model that is measured, trained, measured again and saved."""

    def __init__(self, config: RunConfig, files: ModelFiles, data: Dataset, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self.files = files
        self.precision = choose_precision(config.training.precision)
        torch.set_num_threads(thread_count(torch.get_num_threads()))
        set_seed(config.training.seed)
        self._tokenizer = load_tokenizer(files)
        encoder = Encoder(self._tokenizer, config.training.max_length)
        self.train_set = encoder.encode(data.train, "training")
        self.validation_set = encoder.encode(data.validation, "validation")
        self.prompts = samples.prompts(data.validation, config.evaluation.samples, encoder, self._tokenizer)
        self._accelerator = Accelerator(
            mixed_precision="bf16" if self.precision == "bf16" else "no", cpu=not torch.cuda.is_available()
        )
        self._model = self._accelerator.prepare_model(self._load())
        self.plan = plan_batches(
            [len(example.ids) for example in self.train_set.examples],
            config.training.batch_size,
            config.training.epochs,
            config.training.max_steps,
            config.training.seed,
        )
        evaluations = 2 if config.evaluation.baseline else 1
        progress.plan(evaluations * self.validation_set.tokens + TRAINING_COST * self.plan.total_tokens)
        self._log_plan()

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: the user's, or the default of the method."""
        return self._config.training.learning_rate or _RATES.get(self._config.method.adapter, _ADAPTER_RATE)

    @property
    def lora(self) -> Lora | None:
        """The adapter's settings; None in full tuning."""
        return (self._config.method.lora or Lora()) if self._config.method.adapter == "lora" else None

    def _load(self) -> Any:
        model = load_model(self.files, self._config.method, self.precision)
        require_matching_vocabulary(model, self._tokenizer, self.files.name)
        sets = (self.train_set, self.validation_set)
        require_length(model, max(len(e.ids) for encoded in sets for e in encoded.examples), self.files.name)
        return add_lora(model, self.lora, self.files) if self.lora else model

    def measure_base(self) -> Measurement | None:
        """Measures the untouched base; None where ``evaluation.baseline`` is off.

        Raises:
            TrainerError: MODEL_INVALID, if the base itself yields no finite loss.
        """
        if not self._config.evaluation.baseline:
            return None
        measurement = self._measure()
        if not measurement.measured.finite:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The untouched model {self.files.name} has no finite loss on the validation records: its weights are "
                "broken, or overflow in this precision. Choose another model, or spec.training.precision fp32.",
            )
        return measurement

    def train(self) -> Trained:
        """Trains."""
        self._progress.begin_training()
        return train(
            self._model,
            self.train_set,
            self.plan,
            self._config.training,
            self.learning_rate,
            self._accelerator,
            self._progress.trained,
        )

    def measure_tuned(self) -> Measurement:
        """Measures what is going to be published: a model trained in bf16 is rounded to it first.

        Raises:
            TrainerError: DIVERGED, if there is no finite loss any more.
        """
        if self.lora is None and self.precision == "bf16":
            self._model.to(torch.bfloat16)
        measurement = self._measure()
        if not measurement.measured.finite:
            raise TrainerError(
                ExitCode.DIVERGED,
                "The tuned model has no finite loss on the validation records. Lower spec.training.learningRate.",
            )
        return measurement

    def _measure(self) -> Measurement:
        measured = evaluate(self._model, self.validation_set, self._accelerator.device, self._progress.evaluated)
        logger.info("eval_loss %.4f  token_accuracy %.4f", measured.eval_loss, measured.token_accuracy)
        answers = samples.answers(
            self._model,
            self.prompts,
            self._config.evaluation.max_new_tokens,
            self._tokenizer,
            self._accelerator.device,
        )
        return Measurement(measured, answers)

    def gpu_seconds(self, seconds: float) -> int:
        """GPUs in use times ``seconds``; 0 on the CPU."""
        return round(seconds) if self._accelerator.device.type == "cuda" else 0

    def save(self, directory: Path) -> None:
        """Writes the adapter in PEFT's format, or the whole model, and the tokenizer."""
        model = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        if self.lora:
            model.save_pretrained(directory, save_embedding_layers=False)  # True or "auto" would ask the hub
        else:
            model.save_pretrained(directory)
        self._tokenizer.save_pretrained(directory)

    def _log_plan(self) -> None:
        trainable = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        logger.info(
            "%d training and %d validation sequences, %d steps, %s trained parameters, %s on %s",
            *(len(self.train_set.examples), len(self.validation_set.examples), self.plan.total_steps),
            *(f"{trainable:,}", self.precision, self._accelerator.device),
        )
        if dropped := self.train_set.dropped + self.validation_set.dropped:
            logger.warning("%d records left out: nothing to learn within training.maxLength tokens", dropped)
