"""What a run came to: the termination message, the full report and the files that are published."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_api.run import RunConfig, RunResult
from finetune_api.status import METRICS_LIMIT, BuiltOn, BuiltOnAdapter, Metric, Result, Usage
from finetune_trainer.preparation.data import Dataset
from finetune_trainer.publishing.bysets import sets_report
from finetune_trainer.publishing.modelcard import model_card
from finetune_trainer.publishing.versions import versions
from finetune_trainer.training.history import History
from finetune_trainer.tuning.measuring import Measurement
from finetune_trainer.tuning.tuning import Tuning

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class Outcome:
    """Everything there is to tell about a run that went well."""

    config: RunConfig
    data: Dataset
    tuning: Tuning
    base: Measurement | None
    trained: History
    tuned: Measurement
    gpu_seconds: int

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The tuned model beside its base: of the whole, then of each set. The report has all of them, the status the
        first ones."""
        baseline = self.base.measured.metrics if self.base else {}
        named = self.tuned.measured.metrics
        return tuple(Metric(name=name, value=value, baseline=baseline.get(name)) for name, value in named.items())

    def run_result(self, location: str) -> RunResult:
        """The termination message, if the files lie at ``location``."""
        adapter, model = self.tuning.subject.adapter, self.config.model
        alone = adapter is not None and not self.config.merge_adapter
        return RunResult(
            outcome="Succeeded",
            metrics=self.metrics[:METRICS_LIMIT],
            result=Result(
                adapter_uri=location if alone else None,
                model_uri=None if alone else location,
                base_model=model.origin or model.uri,
                revision=self.tuning.subject.files.revision,
                rank=adapter.rank if adapter and alone else None,
                built_on=self._built_on() if alone else None,
                report_uri=f"{location}{REPORT_NAME}",
            ),
            usage=Usage(gpu_seconds=self.gpu_seconds, trained_tokens=self.trained.tokens),
        )

    def _built_on(self) -> BuiltOn:
        """What the adapter belongs on, exactly."""
        model, files = self.config.model, self.tuning.subject.files
        return BuiltOn(
            uri=model.uri,
            revision=files.revision,
            digest=model.digest,
            version=None if files.revision or model.digest else files.version,
            adapters=tuple(BuiltOnAdapter(uri=a.uri, digest=a.digest, job=a.job) for a in files.stack),
        )

    def write(self, directory: Path) -> None:
        """The files to publish: weights, tokenizer, model card and the full report."""
        self.tuning.save(directory)
        card = model_card(
            self.config,
            self.tuning.subject.files,
            self.tuning.subject.head,
            self.tuning.subject.adapter,
            self.data.files,
            self._hyperparameters(),
            self.metrics,
            versions(),
        )
        (directory / "README.md").write_text(card, encoding="utf-8")
        report = json.dumps(self._report(), ensure_ascii=False, indent=2, allow_nan=False)
        (directory / REPORT_NAME).write_text(report, encoding="utf-8")

    def _hyperparameters(self) -> dict[str, object]:
        """The settings that shaped the result, with the values that were chosen automatically."""
        training = self.config.training.to_dict()
        settings: dict[str, object] = {
            "objective": self.config.method.objective,
            "adapter": self.config.method.adapter,
        }
        if adapter := self.tuning.subject.adapter:
            settings |= adapter.settings()
            settings["mergeAdapter"] = self.config.merge_adapter
        elif parts := self.config.method.freeze:
            settings |= {f"freeze.{name}": value for name, value in parts.to_dict().items()}
        chosen = {
            "learningRate": self.tuning.loop.rate,
            "precision": self.tuning.subject.precision,
            "steps": self.tuning.plan.total_steps,
        }
        return settings | training | chosen

    def _report(self) -> dict[str, Any]:
        tuning = self.tuning
        return {
            "run": self.config.to_dict(),
            "base": {"name": tuning.subject.files.name, "revision": tuning.subject.files.revision},
            "lineage": [ancestor.to_dict() for ancestor in tuning.subject.files.lineage],
            "data": [asdict(file) for file in self.data.files],
            "sets": sets_report(self.tuning, self.metrics),
            "sequences": {
                "train": len(tuning.materials.train),
                "validation": len(tuning.materials.validation),
                "trainRecordsLeftOut": tuning.materials.train.dropped,
                "validationRecordsLeftOut": tuning.materials.validation.dropped,
                "trainRecordsCut": tuning.materials.train.cut,
                "validationRecordsCut": tuning.materials.validation.cut,
            },
            "hyperparameters": self._hyperparameters(),
            "metrics": [metric.to_dict() for metric in self.metrics],
            "resumedAt": tuning.loop.state.resumed_at,
            "steps": [asdict(step) for step in self.trained.steps],
            "evaluations": [asdict(each) for each in self.trained.evaluations],
            "bestStep": tuning.standing.best.step or None,
            "stoppedEarly": tuning.standing.stopped,
            "samples": [
                {
                    "set": prompt.set,
                    "prompt": prompt.text,
                    "reference": prompt.reference,
                    "base": self.base.answers[index] if self.base else None,
                    "tuned": self.tuned.answers[index],
                }
                for index, prompt in enumerate(tuning.materials.prompts[: self.config.evaluation.samples])
            ],
            "versions": versions(),
        }
