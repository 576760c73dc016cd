"""FineTuneJobs from files, made fit for the local S3."""

from pathlib import Path
from typing import Any

import pytest

from finetune_local.run.documents import BUCKET, SECRET, InvalidDocument, localise, profile_of, read

NODE = {"cpu": "4", "memory": "8Gi"}
S3 = "http://127.0.0.1:9000"
HEAD = "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\n"


def document(**spec: Any) -> dict[str, Any]:
    whole = {"model": {"uri": "hf://a/b"}, "data": {"train": [{"uri": "s3://team/x.jsonl"}], "validationFraction": 0.1}}
    meta = {"name": "j"}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": whole | spec}


def test_every_document_of_a_file_is_read_in_order(tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(f"{HEAD}metadata: {{name: one}}\n---\n{HEAD}metadata: {{name: two}}\n---\n")

    assert [job["metadata"]["name"] for job in read(file).jobs] == ["one", "two"]
    assert read(file).profiles == ()


def test_profiles_are_read_beside_jobs_or_by_themselves(tmp_path: Path) -> None:
    profile = f"{HEAD.replace('FineTuneJob', 'FineTuneProfile')}metadata: {{name: small}}\n"
    file = tmp_path / "jobs.yaml"
    file.write_text(f"{HEAD}metadata: {{name: one}}\n---\n{profile}")
    alone = tmp_path / "profile.yaml"
    alone.write_text(profile)

    for found, jobs in ((read(file), ["one"]), (read(alone), [])):
        assert [job["metadata"]["name"] for job in found.jobs] == jobs
        assert [profile["metadata"]["name"] for profile in found.profiles] == ["small"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty; expected a FineTuneJob"),
        ("kind: [", "not YAML: line 1, column 8: expected the node content, but found '<stream end>' (while parsing"),
        ("spec:\n\tmodel: x\n", "not YAML: line 2, column 1: found character '\\t' that cannot start any token"),
        ("a: {b: 1, c: 2, b: 3}\n", 'line 1, column 17: the key "b" is given twice'),
        (f"{HEAD}spec: !!binary aGk=\n", "document 1 holds what JSON cannot: Object of type bytes"),
        (f"{HEAD}spec: {{a: .nan}}\n", "document 1 holds what JSON cannot: "),
        ("a: &a [*a]\n", "document 1 holds what JSON cannot: Circular reference"),
        ("a: \x00\n", "not YAML: unacceptable character"),
        ("- 1\n", "document 1: found list, expected a FineTuneJob"),
        (f"{HEAD}---\napiVersion: v1\nkind: Pod\n", "document 2: found apiVersion v1, kind Pod; expected apiVersion"),
        ("kind: FineTuneJob\n", "found apiVersion None, kind FineTuneJob; expected apiVersion finetune.dev/v1alpha1"),
        (f"{HEAD}---\napiVersion: v1\nkind: FineTuneProfile\n", "kind FineTuneJob or FineTuneProfile"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)

    with pytest.raises(InvalidDocument) as caught:
        read(file)

    assert str(caught.value).startswith(str(file))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2.0e-4", 2e-4),
        ("1E3", 1000.0),
        ("-.5e1", -5.0),
        ("3", 3),
        ("0.1", 0.1),
        ("e4", "e4"),
        ("2e", "2e"),
        ("2024-05-01", "2024-05-01"),
    ],
)
def test_numbers_and_dates_are_what_kubectl_reads(tmp_path: Path, text: str, value: object) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"{HEAD}metadata: {{name: one}}\nspec: {{training: {{learningRate: {text}}}}}\n")

    assert read(file).jobs[0]["spec"]["training"]["learningRate"] == value


def test_a_key_may_be_given_beside_what_is_merged_in(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"{HEAD}a: &a {{x: 1, y: 2}}\nb: &b {{<<: *a, y: 3}}\nc: {{<<: *b, x: 4}}\n")

    job = read(file).jobs[0]

    assert (job["b"], job["c"]) == ({"x": 1, "y": 3}, {"x": 4, "y": 3})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidDocument, match=r"job\.yaml: not YAML: not a text in UTF-8"):
        read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match=r"none\.yaml: No such file"):
        read(tmp_path / "none.yaml")


def test_local_files_go_to_the_local_s3(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train.jsonl").touch()
    (tmp_path / "valid.jsonl").touch()
    data = {
        "train": [{"uri": "file://sub/train.jsonl", "format": "text"}],
        "validation": [{"uri": f"file://{tmp_path}/valid.jsonl"}],
    }

    fit = localise(document(model={"uri": "file://model"}, data=data), tmp_path / "job.yaml", S3, NODE)

    spec = fit.job["spec"]
    assert {upload.path for upload in fit.uploads} == {
        tmp_path / "model",
        tmp_path / "sub" / "train.jsonl",
        tmp_path / "valid.jsonl",
    }
    assert {upload.uri for upload in fit.uploads} == {
        spec["model"]["uri"],
        spec["data"]["train"][0]["uri"],
        spec["data"]["validation"][0]["uri"],
    }
    assert spec["model"]["uri"].startswith(f"s3://{BUCKET}/input/j/")
    assert spec["model"]["uri"].endswith("/model/")
    assert spec["data"]["train"][0]["format"] == "text"
    assert fit.uses_local_s3


def test_what_is_absent_is_filled_in(tmp_path: Path) -> None:
    fit = localise(document(), tmp_path / "job.yaml", S3, NODE)

    spec = fit.job["spec"]
    assert spec["storage"] == {"endpointUrl": S3, "region": "us-east-1", "credentials": SECRET}
    assert spec["output"] == {"uri": f"s3://{BUCKET}/output/"}
    assert spec["resources"] == {"gpusPerNode": 0, "cpu": "4"}
    merged = localise(document(output={"mergeAdapter": True}), tmp_path / "job.yaml", S3, NODE).job["spec"]["output"]
    assert merged == {"uri": f"s3://{BUCKET}/output/", "mergeAdapter": True}
    assert fit.buckets == (BUCKET,)
    assert fit.notes == (
        "no GPU is offered on this machine: spec.resources.gpusPerNode is 0",
        "all CPUs of this machine: spec.resources.cpu is 4",
    )


@pytest.mark.parametrize(
    ("profile", "cpu", "note"),
    [
        ({}, "4", "all CPUs of this machine: spec.resources.cpu is 4"),
        ({"limits": {"cpu": 8}}, "4", "all CPUs of this machine: spec.resources.cpu is 4"),
        ({"limits": {"cpu": "1500m"}}, "1500m", "all CPUs that FineTuneProfile p allows: spec.resources.cpu is 1500m"),
        ({"defaults": {"cpu": 2}, "limits": {"cpu": 3}}, None, None),
    ],
)
def test_a_job_that_asks_for_no_cpus_gets_what_its_profile_gives_or_allows(
    tmp_path: Path, profile: dict[str, Any], cpu: str | None, note: str | None
) -> None:
    held = {"metadata": {"name": "p"}, "spec": profile}

    fit = localise(document(), tmp_path / "job.yaml", S3, NODE, held)

    assert fit.job["spec"]["resources"].get("cpu") == cpu
    assert (note in fit.notes) is (note is not None)
    given = localise(document(resources={"cpu": 16}), tmp_path / "job.yaml", S3, NODE, held)
    assert given.job["spec"]["resources"]["cpu"] == 16, "what is asked for is the operator's to refuse"


@pytest.mark.parametrize(
    ("nodes", "cpu", "note"),
    [
        (1, "4", "all CPUs of this machine: spec.resources.cpu is 4"),
        (3, "1333m", "all CPUs of this machine, shared by 3 pods: spec.resources.cpu is 1333m"),
        (0, "4", "all CPUs of this machine: spec.resources.cpu is 4"),
        ("two", "4", "all CPUs of this machine: spec.resources.cpu is 4"),
    ],
)
def test_the_pods_of_several_nodes_share_the_cpus_since_all_of_them_must_run_at_once(
    tmp_path: Path, nodes: Any, cpu: str, note: str
) -> None:
    fit = localise(document(resources={"nodes": nodes}), tmp_path / "job.yaml", S3, NODE)

    assert fit.job["spec"]["resources"] == {"nodes": nodes, "gpusPerNode": 0, "cpu": cpu}
    assert note in fit.notes


@pytest.mark.parametrize(
    ("spec", "name"), [({"profile": "small"}, "small"), ({}, "default"), ({"profile": 1}, "default"), (None, "default")]
)
def test_a_job_has_the_profile_that_it_names_or_the_default_one(spec: Any, name: str) -> None:
    assert profile_of(document() | {"spec": spec}) == name


def test_keys_with_nothing_behind_them_count_as_absent(tmp_path: Path) -> None:
    empty = document(storage=None, output=None, resources=None)

    assert localise(empty, tmp_path / "job.yaml", S3, NODE) == localise(document(), tmp_path / "job.yaml", S3, NODE)


@pytest.mark.parametrize(("given", "gpus"), [({"gpusPerNode": 1}, {}), ({}, {"nvidia.com/gpu": "1"})])
def test_gpus_are_left_as_they_are_where_asked_for_or_there(
    tmp_path: Path, given: dict[str, int], gpus: dict[str, str]
) -> None:
    fit = localise(document(resources=given), tmp_path / "job.yaml", S3, NODE | gpus)

    assert fit.job["spec"]["resources"] == given | {"cpu": "4"}


def test_what_is_given_stays(tmp_path: Path) -> None:
    storage = {"endpointUrl": "https://minio:9000", "credentials": "mine"}
    given = document(storage=storage, output={"uri": "s3://team/out/"}, resources={"gpusPerNode": 0, "cpu": 1})

    fit = localise(given, tmp_path / "job.yaml", S3, NODE)

    assert fit.job == given
    assert not fit.uses_local_s3
    assert fit.buckets == ()


def test_the_bucket_of_the_output_is_made(tmp_path: Path) -> None:
    fit = localise(document(output={"uri": "s3://team-a/adapters/"}), tmp_path / "job.yaml", S3, NODE)

    assert fit.buckets == (BUCKET, "team-a")


def test_an_output_without_a_bucket_makes_none(tmp_path: Path) -> None:
    fit = localise(document(output={"uri": "s3:///adapters/"}), tmp_path / "job.yaml", S3, NODE)

    assert fit.buckets == (BUCKET,)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"model": {"uri": "file://none"}}, "spec.model.uri: {dir}/none does not exist; name an existing file"),
        (
            {"model": {"uri": "file://file"}},
            "spec.model.uri: {dir}/file is no directory; expected a model's directory",
        ),
        ({"data": {"train": [{"uri": "file://."}]}}, "spec.data.train[0].uri: {dir} is a directory; expected a file"),
        (
            {"data": {"train": [{"uri": "sub/file"}]}},
            "spec.data.train[0].uri: found 'sub/file'; expected s3://bucket/key, or file://sub/file for a local path",
        ),
        (
            {"model": {"uri": "Qwen/Qwen2.5-7B"}},
            "spec.model.uri: found 'Qwen/Qwen2.5-7B'; expected hf://org/name, or file://Qwen/Qwen2.5-7B for a local",
        ),
        (
            {"data": {"train": [{"uri": "file://file"}]}, "storage": {"credentials": "mine"}},
            "spec.storage names an S3 account, but {dir}/file is a local file: remove spec.storage",
        ),
    ],
)
def test_a_local_file_that_cannot_be_used_is_named(tmp_path: Path, spec: dict[str, Any], told: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(InvalidDocument) as caught:
        localise(document(**spec), tmp_path / "job.yaml", S3, NODE)

    assert told.format(dir=tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "spec", [None, "text", {"data": "x", "model": 3}, {"data": {"train": "x"}}, {"data": {"train": ["x"]}, "output": 1}]
)
def test_wrong_types_are_left_for_the_api_server_to_refuse(tmp_path: Path, spec: Any) -> None:
    wrong = document() | {"spec": spec, "metadata": None}

    fit = localise(wrong, tmp_path / "job.yaml", S3, NODE)

    assert fit.uploads == ()
