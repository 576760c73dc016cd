"""The result set by set: what each set gave to the training, and what the models are worth on its held-out part."""

from collections.abc import Sequence
from typing import Any

from finetune_api.status import Metric
from finetune_trainer.preparation.sets import Part
from finetune_trainer.tuning.tuning import Tuning


def overall(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that are of no set alone."""
    return [metric for metric in metrics if "/" not in metric.name]


def of_sets(metrics: Sequence[Metric]) -> dict[str, list[Metric]]:
    """The metrics of each set, without its name in theirs."""
    found: dict[str, list[Metric]] = {}
    for metric in metrics:
        name, slash, own = metric.name.rpartition("/")
        if slash:
            found.setdefault(name, []).append(metric.model_copy(update={"name": own}))
    return found


def sets_report(tuning: Tuning, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """One entry a set; those of one run with one set have the metrics of the whole."""
    train, held = tuning.materials.train.parts, tuning.materials.validation.parts
    names = list(dict.fromkeys(part.set for part in (*train, *held)))
    measured = of_sets(metrics) or {part.set: overall(metrics) for part in held}
    per_epoch = [source.per_epoch for source in tuning.plan.sources]
    return [
        {
            "name": name,
            "train": [
                {"uri": part.source, "weight": part.weight, "perEpoch": given, **_size(part)}
                for part, given in zip(train, per_epoch, strict=True)
                if part.set == name
            ],
            "examples": [example.to_dict() for example in tuning.shown if example.set == name],
            "validation": [{"uri": part.source, **_size(part)} for part in held if part.set == name],
            "metrics": [metric.to_dict() for metric in measured.get(name, [])],
        }
        for name in names
    ]


def _size(part: Part) -> dict[str, Any]:
    examples, given = part.examples, part.template
    template = given and {"field": given.field, "name": given.source if given.named else None, "text": given.text}
    return {
        "sequences": len(examples),
        "tokens": examples.tokens,
        "recordsLeftOut": examples.dropped,
        "recordsCut": examples.cut,
        "template": template,
    }
