"""One tuning: the model, its data as tokens, and what is done with them. Brings torch and the libraries in."""

import gc
import logging
import tempfile
from array import array
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.errors import Stopped, TrainerError, is_out_of_memory, one_line
from finetune_trainer.evaluation import generation, textmetrics
from finetune_trainer.evaluation.evaluate import Measured, evaluate, measure
from finetune_trainer.models.adapter import put_on, save_adapter
from finetune_trainer.models.adapters import first_adapter
from finetune_trainer.models.attention import one_by_one
from finetune_trainer.models.chain import require_same_tokenizer, stacked
from finetune_trainer.models.dropout import set_dropout
from finetune_trainer.models.freezing import freeze
from finetune_trainer.models.linear import speed_up
from finetune_trainer.models.merging import folded_layers, merged
from finetune_trainer.models.model import (
    choose_precision,
    count_weights,
    load_model,
    load_tokenizer,
    require_length,
    require_matching_vocabulary,
)
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.models.quantized import FOLDED_BYTES, unfolded_config
from finetune_trainer.preparation.data import Dataset, RecordSet
from finetune_trainer.preparation.given import chat_template
from finetune_trainer.preparation.sets import Part, Sets
from finetune_trainer.preparation.shown import show
from finetune_trainer.preparation.turns import end_turns_by
from finetune_trainer.progress import TRAINING_COST, Progress
from finetune_trainer.recipes import recipe_of
from finetune_trainer.scaling.machine import give_back_freed_memory, thread_count, tidy_memory
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.scaling.sharding import (
    Strategy,
    accelerator,
    choose_strategy,
    gather,
    loading_once,
    replicate,
    shard,
)
from finetune_trainer.training.batches import Cut, plan_batches
from finetune_trainer.training.fitting import find_fit
from finetune_trainer.training.history import History
from finetune_trainer.training.judging import Judge, Standing, Values
from finetune_trainer.training.layout import PADDED
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.memory import Fit, answer_tokens, device_memory, training_bytes
from finetune_trainer.training.noise import add_noise
from finetune_trainer.training.objective import Objective
from finetune_trainer.training.optimizers import works_on_shares
from finetune_trainer.training.passes import refer
from finetune_trainer.training.saving import Saver
from finetune_trainer.training.snapshot import Snapshot, TrainingState, share
from finetune_trainer.training.train import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """What the model of one moment is worth."""

    measured: Measured
    answers: list[str]
    """One for each prompt."""


class Tuning:
    """A model that is measured, trained, measured again and saved."""

    def __init__(
        self,
        config: RunConfig,
        files: ModelFiles,
        data: Dataset,
        progress: Progress,
        resumed: Snapshot | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """All ranks begin, measure, train and save together; ``resumed`` is asked for on the first one only."""
        self._config = config
        self._progress = progress
        self._ranks = ranks
        self.files = files
        self.precision = choose_precision(config.training.precision)
        torch.set_num_threads(thread_count(torch.get_num_threads()))
        self.recipe = recipe_of(config, data)
        self.adapter = first_adapter(config, files)
        """None in full tuning."""
        self._tokenizer = load_tokenizer(files)
        require_same_tokenizer(self._tokenizer, files)
        self._chat_template = chat_template(config.data)
        if self._chat_template:
            end_turns_by(self._tokenizer, self._chat_template, files.name)
        self.recipe.meet(files, self._tokenizer)
        self.train_set, self.validation_set, self.prompts = ranks.prepared("examples", lambda: self._encode(data))
        ranks.join()
        resumed = share(resumed, ranks)
        self.resumed = resumed is not None
        """Whether it goes on from a snapshot."""
        strategy = self._strategy()
        self._sharded = strategy == "fsdp2"
        set_seed(config.training.seed)
        self._accelerator = accelerator(strategy, self._autocast)
        self._objective = self._place()
        self._model = self._objective.model
        prepared = self._objective if self._sharded else replicate(self._objective, self._accelerator)
        if not ranks.first:
            set_seed(config.training.seed + ranks.rank)  # all began with equal weights; dropout is each one's own
        self.plan = plan_batches(
            self.train_set.lengths,
            config.training.batch_size,
            config.training.epochs,
            config.training.max_steps,
            config.training.seed,
            bucketed=not self._layout.packed,
            weights=[(len(part.examples), part.weight) for part in self.train_set.parts],
        )
        self._judge = Judge(config.training, config.evaluation.every_steps, self.plan.total_steps)
        gc.freeze()  # libraries and model stay as long as the process: nothing there to look for again and again
        self._loop = self._begin(prepared, resumed)
        self._plan_progress()
        self.shown = show(self.train_set, self._tokenizer) if ranks.first else []
        """Examples for people to see; the first rank's."""
        self._log_plan()
        if self._objective.references:
            self._loop.references = resumed.references if resumed else self._refer()
            self._know(self._loop.references)
        gc.enable()

    def _encode(self, data: Dataset) -> tuple[Sets, Sets, list[generation.Prompt]]:
        longest = self._config.training.max_length
        encoder = cache(partial(self.recipe.encoder, self._tokenizer, longest))

        def encode(records: RecordSet, what: str, every: bool) -> Sets:
            parts = ((file, self.recipe.encode(encoder(file.template), part, what)) for file, part in records.parts)
            sets = Sets(
                Part(file.set, examples, file.weight, file.source.uri, file.template) for file, examples in parts
            )
            sets.require_learned(what, every, longest)
            return sets

        train, validation = encode(data.train, "training", True), encode(data.validation, "validation", False)
        count = max(self._config.evaluation.samples, self._scored) if self.recipe.generates else 0
        prompts = generation.prompts(data.validation, count, lambda file: encoder(file.template), self._tokenizer)
        if self._scored and not all(prompt.answered for prompt in prompts):
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"spec.evaluation.metrics asks for {', '.join(self._text_metrics)}, which needs records that hold an "
                "answer: messages, prompt-completion or fields; some of those held out are plain text. Leave it out.",
            )
        return train, validation, prompts

    def _strategy(self) -> Strategy:
        if self._ranks.alone:
            return "ddp"
        frozen, trained = count_weights(self.files, self.recipe.head, self.adapter, self._config.method.freeze)
        width = 2.0 if self.precision == "bf16" and self.adapter else 4.0
        if self.adapter and self.adapter.quantized:
            width = FOLDED_BYTES
        settings = self._config.training
        memory = device_memory(self._ranks.local_count)
        each = training_bytes(settings, not torch.cuda.is_available())
        strategy = choose_strategy(int(width * frozen), trained, each, memory, self._ranks.count)
        if strategy == "fsdp2" and self.adapter and not self.adapter.shards:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"{self.adapter.what.rstrip(',')} needs whole weights, but {self.files.name} is so large that each GPU "
                "can only have a share of them. Choose GPUs with more memory, or spec.method.adapter lora without an "
                "initialization.",
            )
        if strategy == "fsdp2" and not works_on_shares(settings):
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"spec.training.optimizer {settings.optimizer} needs whole weights, but {self.files.name} is so large "
                "that each GPU can only have a share of them. Choose adamw, sgd or rmsprop, or an adapter.",
            )
        return strategy

    def _place(self) -> Objective:
        """The model on its device, or the shares of all ranks on theirs."""
        with loading_once(self._ranks) if self._sharded else nullcontext() as device_map:
            base = self._load(device_map)
        packs = self.adapter is None or not self.adapter.virtual_tokens
        self._layout = PADDED
        if packs and not self._sharded:
            self._layout = self.recipe.objective(base.to(self._accelerator.device)).choose_layout()
        model = base
        if self.adapter:
            model = put_on(base, self.adapter, self.recipe.head, self.files)
        elif self._config.method.freeze:
            freeze(base, self._config.method.freeze)
        if self._autocast == "no":  # where weights are cast, that is autocast's to do
            speed_up(model)
        objective = self.recipe.objective(model)
        objective.smoothing = self._config.training.label_smoothing or 0.0
        if self._sharded:
            shard(objective, self._accelerator, self._autocast)
            if packs:
                self._layout = objective.lend(lambda _: objective.choose_layout())
        objective.use(self._layout)
        if alpha := self._config.training.neftune_alpha:
            add_noise(objective, alpha)
        return objective

    def _plan_progress(self) -> None:
        history = self._loop.state.history
        evaluation = self.validation_set.tokens + self._writing
        references = sum(examples.tokens for examples in self._sets.values()) if self._objective.references else 0
        before = references + (evaluation if self._config.evaluation.baseline else 0)
        between = self._work_between * self._judge.measurements(self.plan.total_steps)
        total = before + between + evaluation + TRAINING_COST * self.plan.total_tokens
        done = before + self._work(history) if self.resumed else 0
        self._progress.plan(total, done, history.last)

    def _work(self, history: History) -> int:
        """What the training has taken so far, in evaluated tokens."""
        measured = self._judge.measurements(self._loop.state.standing.measured_at)
        return TRAINING_COST * history.tokens + measured * self._work_between

    @property
    def _writing(self) -> int:
        """What all answers take."""
        return generation.work(self.prompts, self._config.evaluation.max_new_tokens)

    @property
    def _work_between(self) -> int:
        """What a measurement between two steps takes."""
        return self.validation_set.tokens + (self._writing if self._judge.watches(self._text_metrics) else 0)

    @property
    def _text_metrics(self) -> list[str]:
        """Those that are made of answers."""
        wanted = self._config.evaluation.metrics
        return [name for name in (self.recipe.text_metrics if wanted is None else wanted) if name in textmetrics.NAMES]

    @property
    def _scored(self) -> int:
        """Records whose answers metrics are made of, at most."""
        return self._config.evaluation.generate_records if self._text_metrics else 0

    @property
    def _autocast(self) -> str:
        """Accelerate's mixed precision: for weights that are trained in fp32 and computed with in bf16. Beside an
        adapter the frozen weights are bf16 themselves."""
        return "bf16" if self.precision == "bf16" and self.adapter is None else "no"

    def _begin(self, prepared: Any, resumed: Snapshot | None) -> Loop:
        state = TrainingState.of_dict(resumed.state) if resumed else TrainingState(fit=self._find_fit())
        if state.fit.recompute:
            self._recompute()
        gc.collect()  # what was only tried out
        tidy_memory()
        loop = Loop(
            objective=prepared,
            examples=self.train_set,
            plan=self.plan,
            cut=Cut(
                self._layout.packed, state.fit.tokens, self._config.training.micro_batch_size, self._virtual_tokens
            ),
            settings=self._config.training,
            rate=self.learning_rate,
            accelerator=self._accelerator,
            state=state,
            ranks=self._ranks,
        )
        if resumed:
            loop.restore(resumed)
            loop.state.resumed_at.append(resumed.step)
        return loop

    def _refer(self) -> dict[str, torch.Tensor]:
        """What the model makes of all examples before its first step: asked once, and kept in every snapshot."""
        found = {}
        for name, examples in self._sets.items():
            numbers = refer(
                self._objective,
                examples,
                self._loop.cut,
                self._accelerator.device,
                self._progress.evaluated,
                self._ranks,
            )
            found[name] = torch.frombuffer(numbers, dtype=torch.float32).view(len(examples), -1)
        return found

    def _know(self, references: Mapping[str, torch.Tensor]) -> None:
        for name, examples in self._sets.items():
            examples.know(array("f", references[name].flatten().tolist()))

    @property
    def _sets(self) -> dict[str, Sets]:
        return {"train": self.train_set, "validation": self.validation_set}

    def _find_fit(self) -> Fit:
        longest = max(max(self.train_set.lengths), max(self.validation_set.lengths))
        settings = self._config.training
        try:
            return find_fit(self._objective, self._layout.packed, self._accelerator, longest, settings, self._ranks)
        except Exception as error:
            if not self._virtual_tokens or is_out_of_memory(error):
                raise
            raise TrainerError(  # the first pass with them: not every architecture takes what PEFT hands it
                ExitCode.CONFIGURATION_INVALID,
                f"{self.files.name} cannot be given virtual tokens: {one_line(error, 200)}. Set spec.method.adapter to "
                "lora.",
            ) from error

    def _recompute(self) -> None:
        try:
            if self.adapter and not self.adapter.recomputes:
                raise ValueError("it has an adapter that hands its layers what is not computed twice")
            self._objective.recompute()
        except ValueError as error:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"spec.training.activationCheckpointing is needed or asked for, but {self.files.name} cannot do it: "
                f"{one_line(error, 200)}. Set it to never, and spec.training.maxLength lower.",
            ) from error
        give_back_freed_memory()

    @property
    def _virtual_tokens(self) -> int:
        return self.adapter.virtual_tokens if self.adapter else 0

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: the user's, or the default of the method."""
        usual = self.adapter.rate * self.recipe.rates["adapter"] if self.adapter else self.recipe.rates["none"]
        return self._config.training.learning_rate or usual

    @property
    def standing(self) -> Standing:
        """What its measurements between steps came to."""
        return self._loop.state.standing

    @property
    def resumed_at(self) -> list[int]:
        """The step that each process but the first went on from."""
        return self._loop.state.resumed_at

    def _load(self, device_map: dict[str, str] | None) -> Any:
        adapter, quantized = self.adapter is not None, bool(self.adapter and self.adapter.quantized)
        model = load_model(self.files, self.recipe.head, adapter, self.precision, device_map, quantized)
        require_matching_vocabulary(model, self._tokenizer, self.files.name)
        longest = max(encoded.longest_row for encoded in self._sets.values())
        require_length(model, longest, self.files.name, self._virtual_tokens)
        if (dropout := self._config.training.dropout) is not None:
            set_dropout(model, dropout, self.files.name)
        return stacked(model, self.files, self.recipe.head)

    def measure_base(self) -> Measurement | None:
        """Measures the untouched base; None where ``evaluation.baseline`` is off.

        Raises:
            TrainerError: MODEL_INVALID, if the base itself yields no finite loss.
        """
        if not self._config.evaluation.baseline:
            return None
        with self.adapter.untouched(self._objective) if self.adapter else nullcontext():
            measurement = self._measure()
        self._judge.require(measurement.measured.metrics)
        if not measurement.measured.finite:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The untouched model {self.files.name} has no finite loss on the validation records: its weights are "
                "broken, or overflow in this precision. Choose another model, or spec.training.precision fp32.",
            )
        return measurement

    def train(self, saver: Saver | None, asked_to_stop: Callable[[], bool]) -> History:
        """Takes the steps that are left, and leaves the model as it is published; ``saver`` is the first rank's."""
        self._progress.begin_training()
        rewinds = self._config.on_divergence == "Rewind"
        train(self._loop, saver, asked_to_stop, rewinds, self._progress.trained, self._judge, self._measure_between)
        history, planned = self._loop.state.history, self._judge.measurements(self.plan.total_steps)
        whole = TRAINING_COST * self.plan.total_tokens + planned * self._work_between
        self._progress.shortened(whole - self._work(history))
        return history

    def _measure_between(self, asked_to_stop: Callable[[], bool]) -> Values | None:
        """Between two steps; None: it was asked to stop."""

        def evaluated(tokens: int) -> None:
            if self._ranks.any(asked_to_stop()):
                raise Stopped
            self._progress.evaluated(tokens)

        with self._progress.beside_training():
            try:
                measured, _ = self._measured(evaluated, self._judge.watches(self._text_metrics))
            except Stopped:
                return None
        logger.info("after step %d: %s", self._loop.state.step, measured)
        self._progress.measured(measured.metrics)
        return measured.metrics

    def measure_tuned(self) -> Measurement:
        """Measures what is going to be published: a model trained in bf16 is rounded to it first.

        Raises:
            TrainerError: DIVERGED, if there is no finite loss any more.
        """
        if self._autocast == "bf16" and not self._sharded:  # shards are rounded whenever they are gathered
            self._objective.to(torch.bfloat16)
        measurement = self._measure()
        if not measurement.measured.finite:
            raise TrainerError(
                ExitCode.DIVERGED,
                "The tuned model has no finite loss on the validation records. Lower spec.training.learningRate.",
            )
        return measurement

    def _measure(self) -> Measurement:
        measured, said = self._measured(self._progress.evaluated)
        logger.info("%s", measured)
        tidy_memory()
        return Measurement(measured, said)

    def _measured(self, on_batch: Callable[[int], None], written: bool = True) -> tuple[Measured, list[str]]:
        """Of the model as it is now, on the held-out examples; and its answers, unless it is not to write any."""
        totals = evaluate(
            self._objective, self.validation_set, self._loop.cut, self._accelerator.device, on_batch, self._ranks
        )
        found = measure(totals, self.recipe.metrics).metrics
        said = self._objective.lend(self._answers) if written and self.prompts else []
        if written and (scored := self.prompts[: self._scored]):
            found = {**found, **generation.measure(self._text_metrics, scored, said)}
        return Measured(dict(sorted(found.items(), key=lambda metric: "/" in metric[0]))), said

    def _answers(self, model: Any) -> list[str]:
        """Sharded weights need all ranks for each answer; where they are whole, each rank gives a share of them."""
        ranks = ALONE if self._sharded else self._ranks
        own = self.prompts[ranks.rank :: ranks.count]
        with one_by_one(model):
            said = generation.answers(
                model,
                own,
                self._config.evaluation.max_new_tokens,
                self._tokenizer,
                self._accelerator.device,
                answer_tokens(self._loop.cut.tokens, self._accelerator.device),
                lambda tokens: self._progress.evaluated(tokens * ranks.count),
            )
        shares = ranks.gather(said)
        return [shares[number % ranks.count][number // ranks.count] for number in range(len(self.prompts))]

    def gpu_seconds(self, seconds: float) -> int:
        """GPUs in use times ``seconds``; 0 on the CPU."""
        return round(seconds * self._ranks.count) if self._accelerator.device.type == "cuda" else 0

    def save(self, directory: Path | None) -> None:
        """Writes the adapter in PEFT's format, or the whole model, and the tokenizer. On the first rank; the others
        give their share, and need no directory."""
        rounded = torch.bfloat16 if self._autocast == "bf16" else None
        weights = gather(self._model, rounded, self._ranks, self.adapter is None) if self._sharded else None
        if directory is None:
            return
        if self.adapter and self._config.merge_adapter:
            with tempfile.TemporaryDirectory(dir=directory.parent) as aside:
                save_adapter(self._model, self.adapter, Path(aside), weights)
                model = merged(self.files, self.recipe.head, Path(aside), folded_layers(self._model))
            model.save_pretrained(directory)
        elif self.adapter:
            save_adapter(self._model, self.adapter, directory, weights)
        else:
            self._model.save_pretrained(directory, state_dict=weights)
        if self.adapter and self.recipe.head.whole and not self._config.merge_adapter:
            config = unfolded_config(without_adapter(self._model).config)
            config.save_pretrained(directory)  # labels, padding: not in the base's own
        if self._sharded and rounded:  # it was written with the type of the shares
            self._model.config.dtype = rounded
            self._model.config.save_pretrained(directory)
        if self._chat_template:
            self._tokenizer.chat_template = self._chat_template.text
            self._save_ends(directory)
        self._tokenizer.save_pretrained(directory)

    def _save_ends(self, directory: Path) -> None:
        """Lets a whole model in use stop where the job's chat template ends a turn; an adapter's base has settings of
        its own, and there the tokenizer tells."""
        model = without_adapter(self._model)
        if model.generation_config and (self.adapter is None or self._config.merge_adapter):
            model.generation_config.eos_token_id = generation.ends_of(model, self._tokenizer)
            model.generation_config.save_pretrained(directory)

    def _log_plan(self) -> None:
        trainable = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        logger.info(
            "%d training and %d validation sequences, %d steps, %s trained parameters, %s on %s",
            *(len(self.train_set), len(self.validation_set), self.plan.total_steps),
            *(f"{trainable:,}", self.precision, self._accelerator.device),
        )
        for example in self.shown:
            logger.info("%s", example)
        fit = self._loop.state.fit
        if not self._ranks.alone:
            logger.info(
                "%d processes share the work, and each holds %s",
                *(self._ranks.count, "a share of the weights (FSDP2)" if self._sharded else "all weights (DDP)"),
            )
        logger.info(
            "records are %s, at most %d tokens at a time%s",
            *("packed" if self._layout.packed else "padded", fit.tokens),
            ", activations computed twice" if fit.recompute else "",
        )
        if dropped := self.train_set.dropped + self.validation_set.dropped:
            logger.warning("%d records left out: nothing to learn within training.maxLength tokens", dropped)
