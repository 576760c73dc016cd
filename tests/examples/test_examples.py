"""Each example does what it is there for: the trainer runs its jobs, and each result is better than its base."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from examples.__main__ import table
from examples.collection import README, Example, examples, improved, readme
from finetune_api import names
from finetune_api.job import FineTuneJob
from finetune_api.run import RunResult
from finetune_api.status import Metric
from finetune_local.run import documents
from finetune_local.s3 import Bucketeer
from finetune_operator import policy
from finetune_operator.render import AttemptPlan, run_config
from finetune_operator.settings import Settings
from finetune_operator.source import resolve
from tests.api.test_agreement import refused_by_the_crd
from tests.trainer.zygote import Order, Zygote

Raw = dict[str, Any]
QUICKSTART = "quickstart"
"""It makes its own input and has tests of its own."""
SMALL = [example for example in examples() if example.name != QUICKSTART]


class Stage:
    """Runs jobs one after the other, as operator and trainer would."""

    def __init__(self, store: tuple[str, Bucketeer], zygote: Zygote, folder: Path) -> None:
        self._endpoint, self._bucketeer = store
        self._zygote, self._folder = zygote, folder
        self._ended: dict[str, Raw] = {}

    def run(self, file: Path, document: Raw, profiles: dict[str, Raw]) -> RunResult:
        """One job to its end, with what its profile gives and within what that allows."""
        profile = profiles.get(documents.profile_of(document))
        fit = documents.localise(document, file, self._endpoint, {"cpu": "1"}, profile)
        for upload in fit.uploads:
            put = self._bucketeer.put_directory if upload.path.is_dir() else self._bucketeer.put_file
            put(upload.uri, upload.path)
        for bucket in fit.buckets:
            self._bucketeer.create_bucket(bucket)
        assert not refused_by_the_crd(fit.job["spec"])
        name = fit.job["metadata"]["name"]
        uid = f"{self._folder.name}-{name}"
        job = FineTuneJob.read(fit.job | {"metadata": {"name": name, "namespace": "default", "uid": uid}})
        given = policy.grant(job, profile, Settings())
        model = policy.vetted(given, resolve(job.spec, "default", name, self._ended))
        directory = self._folder / name
        directory.mkdir()
        life = self._zygote.run(Order(run_config(given.job, AttemptPlan(), model).to_json(), str(directory)))
        ended = RunResult.model_validate_json(life.message)
        assert life.code == 0, ended.error or life.log
        status = {"phase": "Succeeded", **ended.to_dict()}
        self._ended[name] = fit.job | {"status": status}
        shutil.rmtree(directory)
        return ended


@pytest.fixture
def stage(object_store: tuple[str, Bucketeer], zygote: Zygote, tmp_path: Path) -> Stage:
    return Stage(object_store, zygote, tmp_path)


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("example", SMALL, ids=lambda example: example.name)
def test_each_job_of_an_example_is_better_than_its_base(example: Example, stage: Stage) -> None:
    profiles = {document["metadata"]["name"]: document for _, document in example.profiles()}
    for file, document in example.jobs():
        [headline, *_] = stage.run(file, document, profiles).metrics
        assert improved(headline), f"{document['metadata']['name']}: {headline}"


def test_no_two_jobs_have_one_name_so_that_all_run_in_one_namespace() -> None:
    found = [document["metadata"]["name"] for example in examples() for _, document in example.jobs()]
    assert sorted(found) == sorted(set(found))


def test_every_job_that_names_a_profile_has_it_beside_it_and_every_profile_has_a_job() -> None:
    for example in examples():
        there = {document["metadata"]["name"] for _, document in example.profiles()}
        named = {document["spec"]["profile"] for _, document in example.jobs() if "profile" in document["spec"]}
        assert named == there, example.name


def test_each_file_says_first_what_it_shows() -> None:
    for example in examples():
        for file in example.files:
            first = file.read_text().splitlines()[0]
            assert first.startswith("# "), file
            assert names.KIND not in first
        assert 10 < len(example.summary) < 140, example.name


def test_the_page_of_the_examples_lists_them_all() -> None:
    assert README.read_text() == readme(), "run python -m examples.collection"


@pytest.mark.parametrize(
    ("name", "value", "baseline", "better"),
    [
        ("eval_loss", 1.0, 2.0, True),
        ("eval_loss", 2.0, 1.0, False),
        ("perplexity", 2.0, 1.0, False),
        ("f1", 2.0, 1.0, True),
        ("f1", 1.0, 1.0, False),
        ("eval_loss", 1.0, None, False),
    ],
)
def test_a_loss_is_better_when_it_is_lower_and_anything_else_when_it_is_higher(
    name: str, value: float, baseline: float | None, better: bool
) -> None:
    assert improved(Metric(name=name, value=value, baseline=baseline)) is better


def test_the_table_shows_the_first_metric_of_each_job() -> None:
    loss = {"name": "eval_loss", "value": 1.0, "baseline": 2.0}
    rows = [
        {"example": "capitals", "phase": "Succeeded", "metrics": [loss], "seconds": 3.2},
        {"example": "x", "phase": "Failed", "metrics": [], "seconds": 1.0},
    ]
    assert table(rows).splitlines() == [
        "EXAMPLE    PHASE       METRIC      BASE→TUNED    SECONDS",
        "capitals   Succeeded   eval_loss   2.000→1.000   3.2",
        "x          Failed                                1.0",
    ]
