"""``spec.evaluation``: how the result is measured."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, NotYet


class Gate(Model):
    """A bound that a metric must keep for the result to be published."""

    metric: Annotated[str, Field(max_length=64)]
    """Name of the metric."""
    min: float | None = None
    """Lowest value allowed."""
    max: float | None = None
    """Highest value allowed."""
    min_delta: float | None = None
    """Lowest difference to the base allowed."""
    max_delta: float | None = None
    """Highest difference to the base allowed."""


TextMetric = Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match"]


class Evaluation(Model):
    """How the result is measured: always eval_loss, perplexity and token_accuracy on the held-out records."""

    baseline: bool = True
    """Also measure the untouched base on the same records, so that the gain is known."""
    samples: Annotated[int, Field(ge=0, le=16)] = 0
    """Held-out prompts to answer with the base and with the tuned model, for the report."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Longest answer, in tokens."""
    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Evaluate after every so many optimizer steps too; all values are in the full report. Absent: at the beginning and
    at the end only."""
    metrics: Annotated[tuple[TextMetric, ...], Field(max_length=32)] | None = None
    """Further metrics, of what the model answers to held-out records: `bleu` and `chrf` (sacrebleu, 0 to 100; for
    `bleu`, texts of four words and more), `rouge1`, `rouge2` and `rougeL` (F-measures, 0 to 1), `exact_match` (share,
    0 to 1). Absent: for text2text-generation `bleu`, `chrf` and the three of ROUGE, else none; an empty list asks for
    none. Between two steps (everySteps) they are measured only where training watches one of them."""
    generate_records: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Held-out records to answer for those metrics, the first ones (of each file in turn): answers take much longer
    than a loss."""
    slice_by: Annotated[str | None, NotYet()] = Field(default=None, max_length=128)
    """Field of the records by whose values the metrics are split."""
    gates: Annotated[tuple[Gate, ...] | None, NotYet()] = Field(default=None, max_length=32)
    """Bounds that must hold for the result to be published."""
