"""The Job that a FineTuneJob runs as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import names, run
from finetune_api.job import FineTuneJob
from finetune_api.plain import odd_in_uri
from finetune_operator.policy import grant
from finetune_operator.render import AttemptPlan, Reporting, job_manifest, run_config, service_manifest
from finetune_operator.settings import Settings
from tests import builders as b

MODEL = run.ModelLocation(uri="hf://a/b")
FIRST = AttemptPlan()
REPORTING = Reporting("https://operator.ft.svc/v1/reports", "-----BEGIN CERTIFICATE-----")


def rendered(reporting=REPORTING, settings=None, attempt=FIRST, **sections):
    return manifest_of(b.finetunejob(**sections), reporting, settings or Settings(), attempt=attempt)


def manifest_of(raw, reporting=REPORTING, settings=None, profile=None, attempt=FIRST):
    settings = settings or Settings()
    given = grant(FineTuneJob.read(raw), profile, settings)
    return job_manifest(given, attempt, MODEL, settings, reporting)


def template(manifest):
    return manifest["spec"]["template"]


def container(manifest):
    (found,) = template(manifest)["spec"]["containers"]
    return found


def environment(manifest):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(manifest)["env"]}


def test_the_job_is_controlled_by_its_finetunejob_and_found_by_our_labels_alone():
    manifest = rendered()
    meta = manifest["metadata"]
    assert meta["name"] == names.child_name("support-bot", b.UID, 0)
    assert [(o["uid"], o["controller"]) for o in meta["ownerReferences"]] == [(b.UID, True)]
    ours = {names.LABEL_MANAGED_BY: names.MANAGER, names.LABEL_JOB_UID: b.UID, names.LABEL_ATTEMPT: "0"}
    assert meta["labels"] == template(manifest)["metadata"]["labels"] == ours


def test_no_label_or_annotation_of_the_finetunejob_reaches_its_children():
    raw = b.finetunejob()
    raw["metadata"] |= {"labels": {"argocd.argoproj.io/instance": "x"}, "annotations": {"a": "b"}}
    text = str(manifest_of(raw, None))
    assert "argocd" not in text


def test_the_first_pod_that_fails_ends_the_job_and_one_that_ends_well_while_it_is_deleted_is_none():
    spec = rendered(runPolicy={"maxRetries": 5})["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert "podFailurePolicy" not in spec


def test_a_further_attempt_has_its_number_its_divisor_and_the_prefix_of_its_job():
    manifest = rendered(attempt=AttemptPlan(3, micro_batch_divisor=4))
    assert manifest["metadata"]["name"] == names.child_name("support-bot", b.UID, 3)
    assert manifest["metadata"]["labels"][names.LABEL_ATTEMPT] == "3"
    written = template(manifest)["metadata"]["annotations"][names.ANNOTATION_RUN]
    config = run.RunConfig.model_validate_json(written)
    assert (config.attempt, config.micro_batch_divisor) == (3, 4)
    assert config.output_prefix == names.job_prefix("s3://team-a/adapters/", "support-bot", b.UID)


def test_the_pod_holds_one_token_and_that_is_for_us():
    pod = template(rendered())["spec"]
    assert pod["automountServiceAccountToken"] is False
    sources = next(v["projected"]["sources"] for v in pod["volumes"] if "projected" in v)
    tokens = [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]
    assert [(token["audience"], token["path"]) for token in tokens] == [(names.MANAGER, "token")]


def test_the_run_file_and_the_authority_come_from_the_pods_own_annotations():
    manifest = rendered()
    sources = template(manifest)["spec"]["volumes"][0]["projected"]["sources"]
    items = {item["path"]: item["fieldRef"]["fieldPath"] for item in sources[0]["downwardAPI"]["items"]}
    assert items == {
        "run.json": "metadata.annotations['finetune.dev/run']",
        "reports-ca.crt": "metadata.annotations['finetune.dev/reports-ca']",
    }
    annotations = template(manifest)["metadata"]["annotations"]
    config = run.RunConfig.model_validate_json(annotations[names.ANNOTATION_RUN])
    assert config.output_prefix == names.job_prefix("s3://team-a/adapters/", "support-bot", b.UID)
    assert annotations[names.ANNOTATION_REPORTS_CA] == REPORTING.ca


def test_a_pod_gets_the_time_that_its_trainer_counts_on_to_save_its_state():
    assert template(rendered())["spec"]["terminationGracePeriodSeconds"] == run.GRACE_SECONDS


def test_without_a_reports_endpoint_the_pod_is_told_of_none():
    manifest = rendered(reporting=None)
    assert not [name for name in environment(manifest) if name.startswith("KUBEFLOW")]
    assert "serviceAccountToken" not in str(manifest)


def test_caches_and_temporary_files_go_to_the_scratch_volume():
    found = environment(rendered())
    assert {found[name].split("/")[1] for name in ("FINETUNE_SCRATCH", "TMPDIR", "HF_HOME")} == {"scratch"}


def test_credentials_are_referenced_and_never_copied():
    found = environment(rendered(storage={"credentials": "s3"}, model={"uri": "hf://a/b", "credentials": "hf"}))
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"}}
    assert found["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert found["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert "AWS_ACCESS_KEY_ID" not in environment(rendered())


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}),
        ({"gpusPerNode": 0}, {"requests": {"cpu": "1"}}),
        (
            {"gpusPerNode": 0, "cpu": "500m", "memory": "16Gi"},
            {"requests": {"cpu": "500m", "memory": "16Gi"}, "limits": {"memory": "16Gi"}},
        ),
        ({"cpu": 4}, {"requests": {"cpu": "4"}, "limits": {"nvidia.com/gpu": "1"}}),
        ({"gpusPerNode": 4}, {"requests": {"cpu": "4"}, "limits": {"nvidia.com/gpu": "4"}}),
    ],
)
def test_resources_are_what_was_asked_for(asked, got):
    assert container(rendered(resources=asked))["resources"] == got


@pytest.mark.parametrize(("gpus", "processes"), [(0, 1), (1, 1), (4, 4)])
def test_each_gpu_gets_a_process_and_several_share_memory_to_talk_in(gpus, processes):
    manifest = rendered(resources={"gpusPerNode": gpus})
    written = template(manifest)["metadata"]["annotations"][names.ANNOTATION_RUN]
    assert run.RunConfig.model_validate_json(written).processes == processes
    volumes = {volume["name"]: volume for volume in template(manifest)["spec"]["volumes"]}
    (mounted,) = [m["name"] for m in container(manifest)["volumeMounts"] if m["mountPath"] == "/dev/shm"] or [None]
    assert volumes.get(mounted, {}).get("emptyDir") == ({"medium": "Memory"} if processes > 1 else None)


def test_several_nodes_are_as_many_pods_of_one_job_that_meet_where_the_first_has_its_name():
    manifest = rendered(resources={"nodes": 3}, attempt=AttemptPlan(2))
    service = service_manifest(FineTuneJob.read(b.finetunejob(resources={"nodes": 3})))
    assert service is not None
    spec, name = manifest["spec"], service["metadata"]["name"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert template(manifest)["spec"]["subdomain"] == name
    met = environment(manifest)
    assert (met["NNODES"], met["MASTER_PORT"]) == ("3", "29500")
    assert met["MASTER_ADDR"] == f"{manifest['metadata']['name']}-0.{name}"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert met["NODE_RANK"] == {"fieldRef": {"fieldPath": index}}
    assert service["spec"].items() >= {"clusterIP": "None", "publishNotReadyAddresses": True}.items()
    assert template(manifest)["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    assert service["metadata"]["ownerReferences"] == manifest["metadata"]["ownerReferences"]


def test_one_node_needs_no_service_and_is_told_of_none():
    assert service_manifest(FineTuneJob.read(b.finetunejob())) is None
    assert "subdomain" not in template(rendered())["spec"]
    assert not {"NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"} & environment(rendered()).keys()


def test_settings_and_priority_reach_the_pod():
    settings = Settings(trainer_image="registry/trainer@sha256:1", image_pull_policy="Never", run_as_user=1234)
    manifest = rendered(settings=settings, scheduling={"priorityClass": "low"})
    assert container(manifest)["image"] == "registry/trainer@sha256:1"
    assert container(manifest)["imagePullPolicy"] == "Never"
    assert template(manifest)["spec"]["securityContext"]["runAsUser"] == 1234
    assert template(manifest)["spec"]["priorityClassName"] == "low"


def test_nothing_that_a_user_wrote_is_expanded_or_reaches_a_command_line():
    evil = "$(HOSTNAME)`id`$(id)"
    manifest = rendered(
        data={"train": [{"uri": f"s3://b/{evil}.jsonl"}], "validationFraction": 0.1}, output={"uri": f"s3://b/{evil}/"}
    )
    assert evil not in str(container(manifest))
    assert container(manifest)["command"] == ["python", "-m", "finetune_trainer", "--run", "/etc/finetune/run.json"]
    assert evil in template(manifest)["metadata"]["annotations"][names.ANNOTATION_RUN]


@given(
    key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
    .map(lambda text: text + "x")
    .filter(lambda text: odd_in_uri(text) is None and not {".", ".."} & set(text.split("/"))),
    rank=st.integers(1, 1024),
    rate=st.floats(1e-8, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_run_file_survives_its_way_through_the_annotation(key, rank, rate, seed):
    raw = b.finetunejob(
        data={"train": [{"uri": f"s3://b/{key}"}], "validationFraction": 0.5},
        method={"lora": {"rank": rank}},
        training={"learningRate": rate, "seed": seed},
    )
    config = run_config(FineTuneJob.read(raw), FIRST, MODEL)
    assert run.RunConfig.model_validate_json(config.to_json()) == config
