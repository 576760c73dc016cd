"""Creating, reading, changing and deleting objects."""

from __future__ import annotations

import pytest

from tests.local.apiserver.apiclient import APPLY, JOBS, JSON_PATCH, MERGE, STRATEGIC, Running
from tests.local.apiserver.samples import batch_job, config_map, sample_job

MAPS = "/api/v1/namespaces/default/configmaps"


def test_a_created_object_carries_its_identity_and_the_defaults_of_its_schema(jobs_api: Running) -> None:
    answer = jobs_api.post(JOBS, sample_job())
    assert answer.status == 201
    meta, spec = answer.json["metadata"], answer.json["spec"]
    assert meta["generation"] == 1
    assert meta["namespace"] == "default"
    assert {"uid", "resourceVersion", "creationTimestamp"} <= meta.keys()
    assert (spec["adapter"], spec["lora"], spec["suspend"]) == ("lora", {"rank": 16, "alpha": 32}, False)
    assert jobs_api.get(f"{JOBS}/one").json == answer.json


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[" * 100_000])
def test_what_is_no_json_is_refused(jobs_api: Running, text: str) -> None:
    body = f'{{"apiVersion": "finetune.dev/v1alpha1", "kind": "SampleJob", "spec": {{"learningRate": {text}}}}}'
    answer = jobs_api.post(JOBS, body)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")


def test_a_status_cannot_be_created_with_its_object(jobs_api: Running) -> None:
    assert "status" not in jobs_api.post(JOBS, sample_job() | {"status": {"phase": "Succeeded"}}).json


def test_a_change_of_the_spec_raises_the_generation_and_one_of_labels_does_not(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    assert jobs_api.patch(f"{JOBS}/one", {"metadata": {"labels": {"x": "y"}}}).json["metadata"]["generation"] == 1
    assert jobs_api.patch(f"{JOBS}/one", {"spec": {"epochs": 3}}).json["metadata"]["generation"] == 2
    changed = jobs_api.patch(f"{JOBS}/one/status", {"status": {"phase": "Running"}}).json
    assert changed["metadata"]["generation"] == 2


def test_the_status_subresource_changes_the_status_alone(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    patch = {"status": {"phase": "Running"}, "spec": {"epochs": 9}, "metadata": {"labels": {"x": "y"}}}
    changed = jobs_api.patch(f"{JOBS}/one/status", patch).json
    assert changed["status"] == {"phase": "Running"}
    assert changed["spec"]["epochs"] == 2
    assert changed["metadata"]["labels"] == {"team": "a"}


def test_a_write_that_changes_nothing_keeps_the_resource_version(jobs_api: Running) -> None:
    created = jobs_api.post(JOBS, sample_job()).json
    again = jobs_api.put(f"{JOBS}/one", created)
    assert again.status == 200
    assert again.json == created


def test_a_put_on_an_old_resource_version_is_a_conflict(jobs_api: Running) -> None:
    created = jobs_api.post(JOBS, sample_job()).json
    jobs_api.patch(f"{JOBS}/one", {"spec": {"epochs": 3}})
    answer = jobs_api.put(f"{JOBS}/one", created)
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    assert "the object has been modified" in answer.json["message"]


def test_a_put_of_a_custom_object_needs_a_resource_version(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    answer = jobs_api.put(f"{JOBS}/one", sample_job())
    assert answer.status == 422
    assert answer.json["details"]["causes"][0]["field"] == "metadata.resourceVersion"


def test_a_put_with_another_uid_is_a_conflict(jobs_api: Running) -> None:
    created = jobs_api.post(JOBS, sample_job()).json
    created["metadata"]["uid"] = "another"
    answer = jobs_api.put(f"{JOBS}/one", created)
    assert answer.status == 409
    assert "Precondition failed: UID in precondition: another" in answer.json["message"]


@pytest.mark.parametrize(
    ("patch", "kind"),
    [
        ({"data": {"k": "w"}}, MERGE),
        ({"data": {"k": "w"}}, STRATEGIC),
        ([{"op": "replace", "path": "/data/k", "value": "w"}], JSON_PATCH),
        ({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "w"}}, APPLY),
    ],
)
def test_a_dry_run_answers_as_if_and_stores_nothing(api: Running, patch: object, kind: str) -> None:
    api.post(MAPS, config_map(), agent="m")
    before = api.get(f"{MAPS}/c").json
    answer = api.patch(f"{MAPS}/c?dryRun=All&fieldManager=m&force=true", patch, kind)
    assert (answer.status, answer.json["data"]) == (200, {"k": "w"})
    assert api.get(f"{MAPS}/c").json == before
    assert api.post(f"{MAPS}?dryRun=All", config_map("d")).status == 201
    assert api.delete(f"{MAPS}/c?dryRun=All").status == 200
    assert api.get(MAPS).items == ["c"]


def test_custom_objects_have_no_strategic_merge_patch(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    answer = jobs_api.patch(f"{JOBS}/one", {}, STRATEGIC)
    assert (answer.status, answer.json["reason"]) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("validation", "status", "warning"),
    [
        ("Strict", 400, None),
        ("Warn", 201, '299 - "unknown field \\"spec.epochz\\""'),
        ("", 201, '299 - "unknown field \\"spec.epochz\\""'),
        ("Ignore", 201, None),
    ],
)
def test_an_unknown_field_is_refused_warned_of_or_dropped_as_asked(
    jobs_api: Running, validation: str, status: int, warning: str | None
) -> None:
    answer = jobs_api.post(f"{JOBS}?fieldValidation={validation}", sample_job(epochz=1))
    assert (answer.status, answer.headers.get("Warning")) == (status, warning)
    if status == 201:
        assert "epochz" not in answer.json["spec"]


def test_an_unknown_field_in_a_strict_patch_is_refused_with_the_patched_object(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    answer = jobs_api.patch(f"{JOBS}/one?fieldValidation=Strict", {"spec": {"epochz": 1}})
    assert (answer.status, answer.json["reason"]) == (422, "Invalid")
    assert 'strict decoding error: unknown field \\"spec.epochz\\"' in answer.text


def test_unknown_metadata_is_an_unknown_field(jobs_api: Running) -> None:
    job = sample_job()
    job["metadata"]["owner"] = "me"
    answer = jobs_api.post(f"{JOBS}?fieldValidation=Strict", job)
    assert 'unknown field "metadata.owner"' in answer.json["message"]


def test_a_name_can_be_generated(jobs_api: Running) -> None:
    job = sample_job()
    job["metadata"] = {"generateName": "g-"}
    names = {jobs_api.post(JOBS, job).json["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) == 7 and name.startswith("g-") for name in names)


def test_nothing_can_be_created_in_a_namespace_that_is_not_there(jobs_api: Running) -> None:
    answer = jobs_api.post(JOBS.replace("default", "nowhere"), sample_job())
    assert (answer.status, answer.json["message"]) == (404, 'namespaces "nowhere" not found')


@pytest.mark.parametrize(
    ("meta", "field", "told"),
    [
        ({"name": "a", "labels": {"k": "a b"}}, "metadata.labels", "a valid label must be an empty string"),
        ({"name": "a", "labels": {"k": "x" * 64}}, "metadata.labels", "must be no more than 63 bytes"),
        ({"name": "a", "labels": {"-k": "v"}}, "metadata.labels", "name part must consist of"),
        ({"name": "a", "annotations": {"k": "x" * 262144}}, "metadata.annotations", "may not be more than 262144"),
        ({"name": "x" * 254}, "metadata.name", "must be no more than 253 bytes"),
        ({}, "metadata.name", "name or generateName is required"),
        ({"name": "a", "ownerReferences": [{"kind": "X"}]}, "metadata.ownerReferences[0].uid", "must not be empty"),
    ],
)
def test_bad_metadata_is_refused_with_its_field(api: Running, meta: dict[str, object], field: str, told: str) -> None:
    body = config_map()
    body["metadata"] = meta
    answer = api.post(MAPS, body)
    assert answer.status == 422
    assert any(cause["field"] == field and told in cause["message"] for cause in answer.json["details"]["causes"])


def test_annotations_of_the_greatest_size_are_taken(api: Running) -> None:
    assert api.post(MAPS, config_map(annotations={"k": "x" * 262143})).status == 201


def test_a_body_over_three_mebibytes_is_refused(api: Running) -> None:
    body = config_map()
    body["data"] = {"k": "x" * (3 * 1024 * 1024)}
    answer = api.post(MAPS, body)
    assert (answer.status, answer.json["reason"]) == (413, "RequestEntityTooLarge")
    assert "limit is 3145728" in answer.json["message"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("labelSelector=team", ["a", "b"]),
        ("labelSelector=team=x", ["a"]),
        ("labelSelector=team!=x", ["b", "c"]),
        ("labelSelector=team+in+(x,y)", ["a", "b"]),
        ("labelSelector=team+notin+(x)", ["b", "c"]),
        ("labelSelector=!team", ["c"]),
        ("labelSelector=team,team!=y", ["a"]),
        ("fieldSelector=metadata.name=b", ["b"]),
        ("fieldSelector=metadata.name!=b,metadata.namespace=default", ["a", "c"]),
    ],
)
def test_selectors_choose_objects(api: Running, selector: str, names: list[str]) -> None:
    for name, labels in (("a", {"team": "x"}), ("b", {"team": "y"}), ("c", {})):
        api.post(MAPS, config_map(name, labels=labels))
    assert api.get(f"{MAPS}?{selector}").items == names


def test_a_field_that_cannot_be_selected_by_is_refused(jobs_api: Running) -> None:
    answer = jobs_api.get(f"{JOBS}?fieldSelector=spec.epochs=2")
    assert (answer.status, answer.json["message"]) == (400, "field label not supported: spec.epochs")


def test_a_list_comes_in_pages_under_one_resource_version(api: Running) -> None:
    for name in "abcde":
        api.post(MAPS, config_map(name))
    names, token, versions = [], "", set()
    while True:
        page = api.get(f"{MAPS}?limit=2&continue={token}")
        names += page.items
        versions.add(page.json["metadata"]["resourceVersion"])
        if names == ["a", "b"]:
            assert page.json["metadata"]["remainingItemCount"] == 3
            api.post(MAPS, config_map("z"))
        token = page.json["metadata"].get("continue", "")
        if not token:
            break
    assert names == ["a", "b", "c", "d", "e", "z"]
    assert len(versions) == 1


def test_a_page_after_the_history_is_gone_has_expired(api: Running) -> None:
    for name in "abc":
        api.post(MAPS, config_map(name))
    token = api.get(f"{MAPS}?limit=1").json["metadata"]["continue"]
    api.post(MAPS, config_map("d"))
    api.server.compact()
    assert api.get(f"{MAPS}?limit=1&continue={token}").json["reason"] == "Expired"


def test_a_collection_is_deleted_by_selector(api: Running) -> None:
    for name, labels in (("a", {"team": "x"}), ("b", {})):
        api.post(MAPS, config_map(name, labels=labels))
    assert api.delete(f"{MAPS}?labelSelector=team=x").status == 200
    assert api.get(MAPS).items == ["b"]


def test_a_deletion_answers_with_the_uid_of_what_it_removed(api: Running) -> None:
    uid = api.post(MAPS, config_map()).json["metadata"]["uid"]
    wrong = api.delete(f"{MAPS}/c", {"preconditions": {"uid": "another"}})
    assert wrong.status == 409
    gone = api.delete(f"{MAPS}/c", {"preconditions": {"uid": uid}}).json
    assert (gone["status"], gone["details"]["uid"]) == ("Success", uid)
    assert api.get(f"{MAPS}/c").status == 404


def test_a_finalizer_holds_an_object_until_it_is_taken_away(jobs_api: Running) -> None:
    job = sample_job()
    job["metadata"]["finalizers"] = ["example.com/hold"]
    jobs_api.post(JOBS, job)
    deleted = jobs_api.delete(f"{JOBS}/one").json
    assert {"deletionTimestamp", "deletionGracePeriodSeconds"} <= deleted["metadata"].keys()
    assert deleted["metadata"]["generation"] == 2
    added = jobs_api.patch(f"{JOBS}/one", {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}})
    assert "no new finalizers can be added" in added.json["message"]
    assert jobs_api.patch(f"{JOBS}/one", {"metadata": {"finalizers": None}}).status == 200
    assert jobs_api.get(f"{JOBS}/one").status == 404


def test_server_side_apply_creates_merges_and_gives_up_fields(api: Running) -> None:
    body = config_map()
    body["data"] = {"k": "v", "old": "1"}
    created = api.patch(f"{MAPS}/c?fieldManager=a", body, APPLY)
    assert created.status == 201
    api.patch(f"{MAPS}/c?fieldManager=b", {"data": {"other": "2"}})
    again = api.patch(f"{MAPS}/c?fieldManager=a", config_map(), APPLY)
    assert (again.status, again.json["data"]) == (200, {"k": "v", "other": "2"})
    unchanged = api.patch(f"{MAPS}/c?fieldManager=a", config_map(), APPLY)
    assert unchanged.json == again.json


def test_server_side_apply_merges_lists_by_their_keys(api: Running) -> None:
    path = "/api/v1/namespaces/default/services/s"
    first = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80, "name": "web"}]}}
    second = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 90, "name": "metrics"}]}}
    api.patch(f"{path}?fieldManager=a", first, APPLY)
    merged = api.patch(f"{path}?fieldManager=b", second, APPLY).json
    assert [port["name"] for port in merged["spec"]["ports"]] == ["web", "metrics"]
    alone = api.patch(f"{path}?fieldManager=b", second | {"spec": {"ports": []}}, APPLY).json
    assert [port["name"] for port in alone["spec"]["ports"]] == ["web"]


def test_server_side_apply_tells_whose_fields_it_would_change(api: Running) -> None:
    api.post(f"{MAPS}?fieldManager=first", config_map())
    body = config_map()
    body["data"] = {"k": "other"}
    answer = api.patch(f"{MAPS}/c?fieldManager=second", body, APPLY)
    told = 'Apply failed with 1 conflict: conflict with "first" using v1: .data.k'
    assert (answer.status, answer.json["message"]) == (409, told)
    assert api.patch(f"{MAPS}/c?fieldManager=second&force=true", body, APPLY).json["data"] == {"k": "other"}


def test_a_resource_that_is_not_served_is_not_found(api: Running) -> None:
    for path in ("/api/v1/replicationcontrollers", "/apis/apps/v1/statefulsets", "/apis/nothing.dev/v1/things", "/x"):
        assert api.get(path).status == 404, path


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"{MAPS}/c"), ("PUT", MAPS), ("DELETE", "/api/v1/namespaces"), ("PATCH", MAPS)],
)
def test_a_method_that_makes_no_sense_is_refused(api: Running, method: str, path: str) -> None:
    answer = api.call(method, path, config_map())
    assert answer.status == 405, answer.text
    assert answer.json["reason"] == "MethodNotAllowed"


def test_events_are_one_thing_under_two_names(api: Running) -> None:
    about = {"apiVersion": "batch/v1", "kind": "Job", "name": "child", "namespace": "default"}
    new = {"metadata": {"name": "e"}, "regarding": about, "note": "hello", "reason": "Started", "type": "Normal"}
    new |= {"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "me", "action": "Run"}
    assert api.post("/apis/events.k8s.io/v1/namespaces/default/events", new).status == 201
    path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.kind=Job,involvedObject.name=child"
    (core,) = api.get(path).json["items"]
    assert (core["message"], core["reportingComponent"]) == ("hello", "me")
    (shown,) = api.get("/apis/events.k8s.io/v1/events").json["items"]
    assert (shown["note"], shown["regarding"]["name"]) == ("hello", "child")


def test_a_definition_that_goes_takes_its_objects_along(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    jobs_api.delete(f"{definitions}/samplejobs.finetune.dev")
    jobs_api.until(lambda: jobs_api.get(f"{definitions}/samplejobs.finetune.dev").status == 404)
    assert jobs_api.get(JOBS).status == 404


def test_a_job_can_be_read_as_a_table_with_kubectls_columns(api: Running) -> None:
    path = "/apis/batch/v1/namespaces/default/jobs"
    api.post(path, batch_job())
    table = api.get(path, accept="application/json;as=Table;v=v1;g=meta.k8s.io").json
    columns = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
    assert columns == ["Name", "Status", "Completions", "Duration", "Age"]
    assert table["rows"][0]["cells"][:3] == ["child", "Running", "0/1"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
