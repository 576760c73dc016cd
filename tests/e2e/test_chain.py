"""Jobs that start from what others published, from YAML to status."""

import pytest

from tests.e2e.conftest import Platform, Raw
from tests.e2e.test_main_job import metric

TRAINING = {"maxSteps": 40, "batchSize": 16, "learningRate": 0.01, "maxLength": 64}


def run(platform: Platform, name: str, data: str, **sections: object) -> Raw:
    job = platform.wait(platform.apply(platform.manifest(name, data, training=TRAINING, **sections)))
    assert job["status"]["phase"] == "Succeeded", job["status"]["message"]
    return job


@pytest.fixture(scope="module")
def first(platform: Platform, colours: str) -> Raw:
    return run(platform, "chain-first", colours)


def test_an_adapter_is_trained_on_merged_and_combined(platform: Platform, colours: str, first: Raw) -> None:
    longer = run(platform, "chain-longer", colours, model={"uri": "job://chain-first"})
    assert metric(longer, "eval_loss")["baseline"] == pytest.approx(metric(first, "eval_loss")["value"], rel=1e-5)
    assert metric(longer, "eval_loss")["value"] < metric(first, "eval_loss")["value"]
    built_on = first["status"]["result"]["builtOn"]
    assert (built_on["uri"], longer["status"]["result"]["builtOn"]) == ("s3://team-a/base/", built_on)

    stacked = run(platform, "chain-stacked", colours, model={"uri": "job://chain-longer"}, method={"lora": {"rank": 2}})
    assert metric(stacked, "eval_loss")["baseline"] == pytest.approx(metric(longer, "eval_loss")["value"], rel=1e-5)
    [below] = stacked["status"]["result"]["builtOn"]["adapters"]
    assert below["digest"] == longer["status"]["result"]["digest"]

    names = ("chain-first", "chain-longer")
    model = {"combine": {"adapters": [{"uri": f"job://{name}"} for name in names], "method": "cat"}}
    manifest = platform.manifest("chain-mix", colours, model=model, training={"maxSteps": 0, "maxLength": 64})
    mix = platform.wait(platform.apply(manifest))
    assert mix["status"]["phase"] == "Succeeded", mix["status"]["message"]
    loss = metric(mix, "eval_loss")
    assert loss["baseline"] == pytest.approx(metric(first, "eval_loss")["baseline"], rel=1e-5)
    assert loss["value"] < loss["baseline"]


def test_adapters_on_different_models_are_refused_before_a_pod_exists(
    platform: Platform, colours: str, first: Raw
) -> None:
    model = {"combine": {"adapters": [{"uri": "job://chain-first"}, {"uri": "job://chain-stacked"}]}}
    job = platform.wait(platform.apply(platform.manifest("chain-odd", colours, model=model)))
    assert "that of FineTuneJob chain-stacked on s3://team-a/base/" in job["status"]["message"]
    assert [c["reason"] for c in job["status"]["conditions"] if c["type"] == "Ready"] == ["ModelJobsDiffer"]
    assert platform.pods_of(job) == []
