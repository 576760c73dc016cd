"""``FineTuneJob.spec`` as a whole, with the rules that span its sections."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Mutable, NotYet, Rule
from finetune_api.spec.data import Data
from finetune_api.spec.evaluation import Evaluation
from finetune_api.spec.fields import ObjectName
from finetune_api.spec.method import Method
from finetune_api.spec.model import ModelSource, starts
from finetune_api.spec.running import OwnTrainer, Resources, RunPolicy, Scheduling, Tracker
from finetune_api.spec.storage import Checkpoint, Output, Storage
from finetune_api.spec.training import Training


def _goes_by_evaluations(training: Training) -> bool:
    return training.schedule == "plateau" or bool(training.early_stopping or training.restore_best)


class FineTuneJobSpec(Model):
    """What to fine-tune, on what, how, and where the result goes. Immutable but for suspend, cancel and
    runPolicy.ttlAfterFinished."""

    profile: ObjectName | None = None
    """FineTuneProfile: what the platform team lets the job use, and what its pods get: images, nodes, limits, prices.
    Absent: the one called `default`, where there is one."""
    task: Literal[
        "text-generation",
        "text2text-generation",
        "text-classification",
        "token-classification",
        "question-answering",
    ] = "text-generation"
    """What the model is for, in transformers' words. `text-generation`: it goes on from a text (GPT, Llama, Qwen).
    `text2text-generation`: an encoder reads the `prompt`, a decoder writes the `completion` (T5, BART).
    `text-classification`: one label of several, or each that applies, by an encoder (BERT) or a decoder (Llama);
    `token-classification`: a tag for each word (entities, kinds of words); `question-answering`: the part of a text
    that answers a question. These three put a head on the model, if it has none for the data's labels: its weights are
    drawn by training.seed, all of it is trained, and it is published with the adapter. The untouched base is measured
    with that head, too, as it was drawn."""
    model: ModelSource
    """The model to start from."""
    storage: Storage = Storage()
    """The S3 account that holds data and output."""
    data: Data
    """What to train on, and what to measure with."""
    method: Method = Method()
    """How to fine-tune."""
    training: Training = Training()
    """The training loop's settings."""
    evaluation: Evaluation = Evaluation()
    """How the result is measured."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints, from which a run resumes."""
    output: Output
    """Where the result goes."""
    resources: Resources = Resources()
    """What the training pod asks for."""
    trainer: OwnTrainer | None = None
    """A training program of your own. Absent: this project's, which does what the rest of the spec says."""
    scheduling: Scheduling = Scheduling()
    """How the pod gets its place."""
    run_policy: RunPolicy = RunPolicy()
    """How a run may fail, wait and end."""
    tracking: Annotated[tuple[Tracker, ...] | None, NotYet()] = Field(default=None, max_length=8)
    """Experiment trackers."""
    preflight: Literal["Auto", "Always", "Never"] = "Auto"
    """Whether a pod without a GPU first checks data, model and S3 access, once: records and tokens, records that are
    both trained on and measured with, what the model's configuration cannot do, writing to output.uri. `Auto`: where
    GPUs are asked for, but for a job with a trainer of its own."""
    suspend: Annotated[bool, Mutable()] = False
    """Save a checkpoint, release the GPUs and wait; false again goes on from there."""
    cancel: Annotated[bool, Mutable()] = False
    """End the job for good and keep its record."""

    rules = (
        Rule(
            "preflight",
            "self.preflight != 'Always' || !has(self.trainer)",
            "preflight Always is for this project's trainer only: nobody knows what spec.trainer would do",
            lambda s: s.preflight != "Always" or s.trainer is None,
        ),
        Rule(
            "method",
            "self.method.objective == 'sft' || self.task == 'text-generation'",
            "method.objective other than sft is for task text-generation only",
            lambda s: s.method.objective == "sft" or s.task == "text-generation",
        ),
        Rule(
            "method",
            "!has(self.method.from) || (has(self.model.uri) && self.model.uri.startsWith('job://'))",
            "method.from is for a model.uri of job:// only",
            lambda s: s.method.from_ is None or starts(s.model, "job://"),
        ),
        Rule(
            "method",
            "!has(self.model.combine) || (self.method.adapter in ['lora', 'qlora'] && !has(self.method.lora))",
            "model.combine makes one LoRA adapter, with settings that follow from those combined: "
            "method.adapter may be lora or qlora, without method.lora",
            lambda s: s.model.combine is None or (s.method.adapter in ("lora", "qlora") and s.method.lora is None),
        ),
        Rule(
            "training",
            "!has(self.training.maxSteps) || self.training.maxSteps > 0 || has(self.model.combine) || "
            "(has(self.model.uri) && self.model.uri.startsWith('job://'))",
            "training.maxSteps 0 trains nothing: it is for model.combine, or for the adapter of a job://",
            lambda s: s.training.max_steps != 0 or s.model.combine is not None or starts(s.model, "job://"),
        ),
        Rule(
            "training",
            "!has(self.training.labelSmoothing) || self.method.objective == 'sft'",
            "training.labelSmoothing is for method.objective sft only",
            lambda s: s.training.label_smoothing is None or s.method.objective == "sft",
        ),
        Rule(
            "evaluation",
            "has(self.evaluation.everySteps) || (self.training.schedule != 'plateau' && "
            "!has(self.training.earlyStopping) && !has(self.training.restoreBest))",
            "give evaluation.everySteps with training.schedule plateau, training.earlyStopping, training.restoreBest: "
            "they go by evaluations",
            lambda s: bool(s.evaluation.every_steps) or not _goes_by_evaluations(s.training),
        ),
        Rule(
            "evaluation",
            "!has(self.evaluation.metrics) || self.task in ['text-generation', 'text2text-generation']",
            "evaluation.metrics are measures of written answers, for task text-generation or text2text-generation only",
            lambda s: s.evaluation.metrics is None or s.task in ("text-generation", "text2text-generation"),
        ),
        Rule(
            "output",
            "!self.output.mergeAdapter || self.method.adapter in ['lora', 'qlora', 'ia3']",
            "output.mergeAdapter is for method.adapter lora, qlora and ia3 only: virtual tokens are no weights of a "
            "model, and with none there is no adapter",
            lambda s: not s.output.merge_adapter or s.method.adapter in ("lora", "qlora", "ia3"),
        ),
        Rule(
            "method",
            "!(self.method.adapter in ['prompt', 'prefix']) || self.task.endsWith('-generation')",
            "method.adapter prompt and prefix are for task text-generation and text2text-generation only: of a task's "
            "own head PEFT would publish a part. Choose lora or ia3",
            lambda s: s.method.adapter not in ("prompt", "prefix") or s.task.endswith("-generation"),
        ),
        Rule(
            "training",
            "self.method.adapter != 'prefix' || self.training.activationCheckpointing != 'always'",
            "method.adapter prefix hands keys and values to layers that training.activationCheckpointing would compute "
            "twice: leave that out, or choose another adapter",
            lambda s: s.method.adapter != "prefix" or s.training.activation_checkpointing != "always",
        ),
    )
