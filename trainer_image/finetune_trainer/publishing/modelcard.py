"""The model card: what was tuned, from what, on what, how, and what it came to. Hugging Face's format."""

import json
from collections.abc import Mapping, Sequence

from huggingface_hub import ModelCardData

from finetune_api.run import RunConfig
from finetune_api.status import Metric
from finetune_trainer.models.adapter import Adapter
from finetune_trainer.models.head import Head
from finetune_trainer.models.model import replaces_head, whole_modules
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.data import SourceFile
from finetune_trainer.publishing.bysets import of_sets, overall

_FOUR_BITS = """four_bits = BitsAndBytesConfig(  # beside which it was trained; as it is, the base will do as well
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True{}
)
"""


def model_card(
    config: RunConfig,
    files: ModelFiles,
    head: Head,
    adapter: Adapter | None,
    data: Sequence[SourceFile],
    hyperparameters: Mapping[str, object],
    metrics: Sequence[Metric],
    versions: Mapping[str, str],
) -> str:
    """README.md with the hub's metadata in front."""
    alone = adapter is not None and not config.merge_adapter
    metadata = ModelCardData(
        base_model=files.name if config.model.uri.startswith("hf://") else None,
        library_name="peft" if alone else "transformers",
        pipeline_tag=config.task,
        tags=["finetune-operator", *([adapter.kind] if adapter else [])],
    )
    base = config.model.origin or config.model.uri
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {config.job.name}",
        f"{_what(adapter, alone)} `{base}`{f' (revision `{files.revision}`)' if files.revision else ''}.",
        "## Evaluation\n\nOn held-out records that were never trained on.\n\n"
        + _table(["metric", "base", "tuned"], [_row(metric) for metric in overall(metrics)]),
        *_by_sets(metrics),
        "## Data\n\n" + _table(["file", "records", "SHA-256"], [[f.uri, str(f.records), f.sha256] for f in data]),
        *_lineage(files),
        "## Hyperparameters\n\n" + _table(["name", "value"], [[k, str(v)] for k, v in hyperparameters.items()]),
        "## Versions\n\n" + _table(["package", "version"], [[k, v] for k, v in versions.items()]),
        _usage(config, files, head, alone, bool(adapter and adapter.quantized)),
    ]
    return "\n\n".join(sections) + "\n"


def _lineage(files: ModelFiles) -> list[str]:
    """The jobs whose results went into this one, with their data."""
    rows = [
        [one.job.name, one.base_model or "-", file.uri, str(file.records), file.sha256]
        for one in files.lineage
        for file in one.data
    ]
    head = ["job", "started from", "file", "records", "SHA-256"]
    return ["## Before that\n\nThe jobs whose results went into this one.\n\n" + _table(head, rows)] if rows else []


def _by_sets(metrics: Sequence[Metric]) -> list[str]:
    rows = [[name, *_row(metric)] for name, found in of_sets(metrics).items() for metric in found]
    return ["### By set\n\n" + _table(["set", "metric", "base", "tuned"], rows)] if rows else []


def _row(metric: Metric) -> list[str]:
    return [metric.name, _number(metric.baseline), _number(metric.value)]


def _what(adapter: Adapter | None, alone: bool) -> str:
    if not adapter:
        return "Fine-tuned from"
    return f"{adapter.what} for" if alone else f"{adapter.what} merged into"


def _merges(files: ModelFiles) -> str:
    """Code that puts the adapters into the base that the published one stands on."""
    lines = (
        f'base = PeftModel.from_pretrained(base, "adapter-{number}").merge_and_unload()  # a copy of {adapter.uri}\n'
        for number, adapter in enumerate(files.stack, 1)
    )
    return "".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _four_bits(files: ModelFiles, head: Head) -> str:
    """Code that says how the base is held in 4 bits. PEFT cannot put a head in the place of one that is, too."""
    whole = whole_modules(files, head)
    return _FOUR_BITS.format(f", llm_int8_skip_modules={json.dumps(whole)}" if whole else "")


def _usage(config: RunConfig, files: ModelFiles, head: Head, adapter: bool, quantized: bool) -> str:
    """Code that loads the result. An adapter finds its base by itself where that is a hub's name, and where the base's
    own config.json says all there is to say of its head."""
    auto, hub = head.auto, config.model.uri.startswith("hf://")
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("this-directory")'
    if not adapter:
        code = f'from transformers import {auto}, AutoTokenizer\n\nmodel = {auto}.from_pretrained("this-directory")'
    elif hub and not head.whole and not quantized and not files.stack:
        peft = f"AutoPeft{auto.removeprefix('Auto')}"
        code = (
            f"from peft import {peft}\nfrom transformers import AutoTokenizer\n\n"
            f'model = {peft}.from_pretrained("this-directory")'
        )
    else:
        base = f'"{files.name}"' if hub else '"the-base"'
        names = f"{'AutoConfig, ' if head.whole else ''}{'BitsAndBytesConfig, ' if quantized else ''}"
        revision = f', revision="{files.revision}"' if hub and files.revision else ""
        own = ', config=AutoConfig.from_pretrained("this-directory")' if head.whole else ""
        own += ", quantization_config=four_bits" if quantized else ""
        other = ", ignore_mismatched_sizes=True" if replaces_head(files, head) else ""
        code = (
            f"from peft import PeftModel\nfrom transformers import {names}{auto}, AutoTokenizer\n\n"
            f"{_four_bits(files, head) if quantized else ''}"
            f"{'' if hub else f'# the-base: a copy of {config.model.uri}{chr(10)}'}"
            f"base = {auto}.from_pretrained({base}{revision}{own}{other})\n"
            f"{_merges(files)}"
            'model = PeftModel.from_pretrained(base, "this-directory")'
        )
    return f"## Use\n\n```python\n{code}\n{tokenizer}\n```"
