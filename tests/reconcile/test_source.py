"""What a job starts from, where other jobs published it."""

import pytest

from finetune_api.conditions import Reason
from finetune_api.job import read_spec
from finetune_api.run import AdapterLocation, Combination, ModelLocation
from finetune_operator.source import ModelRefused, resolve, source_names
from tests import builders as b

ON_HUB = {"uri": "hf://org/name", "revision": "c0ffee"}
ON_JOB = {"uri": "s3://b/base/", "digest": "sha256:base"}


def published(name, on=ON_HUB, adapter="lora", **result):
    """A job that succeeded with an adapter, or with whatever ``result`` says."""
    there = result or {"adapterURI": f"s3://b/{name}/", "digest": f"sha256:{name}", "builtOn": on}
    return b.finetunejob(
        name, method={"adapter": adapter}, status={"phase": "Succeeded", "result": {"digest": "sha256:m"} | there}
    )


def location(spec, *sources) -> ModelLocation:
    return resolve(read_spec(b.spec(**spec)), "team-a", "own", {raw["metadata"]["name"]: raw for raw in sources})


def refusal(spec, *sources):
    with pytest.raises(ModelRefused) as refused:
        location(spec, *sources)
    return refused.value.failure


def at(name, **more) -> AdapterLocation:
    return AdapterLocation(uri=f"s3://b/{name}/", digest=f"sha256:{name}", job=name, **more)


def on(name, *below):
    """What a chain's later adapters belong on."""
    return ON_HUB | {"adapters": [{"uri": f"s3://b/{n}/", "digest": f"sha256:{n}", "job": n} for n in (*below, name)]}


A = {"model": {"uri": "job://a"}}


@pytest.mark.parametrize("method", [{}, {"from": "continue"}, {"adapter": "qlora"}, {"adapter": "lora"}])
def test_an_adapter_of_the_same_kind_is_gone_on_with_on_its_own_base(method):
    assert location(A | {"method": method}, published("a")) == ModelLocation(
        uri="hf://org/name", revision="c0ffee", origin="job://a", adapters=(at("a"),)
    )


@pytest.mark.parametrize("method", [{"from": "merge"}, {"adapter": "none"}, {"adapter": "ia3"}, {"lora": {"rank": 4}}])
def test_another_kind_or_other_settings_merge_what_was_published(method):
    assert location(A | {"method": method}, published("a", ON_JOB)) == ModelLocation(
        uri="s3://b/base/", digest="sha256:base", origin="job://a", stack=(at("a"),)
    )


def test_the_whole_chain_comes_along():
    found = location({"model": {"uri": "job://c"}, "method": {"from": "merge"}}, published("c", on("b", "a")))
    assert (found.stack, found.adapters) == ((at("a"), at("b"), at("c")), ())
    found = location({"model": {"uri": "job://c"}}, published("c", on("b", "a")))
    assert (found.stack, found.adapters) == ((at("a"), at("b")), (at("c"),))


def test_a_model_without_a_manifest_is_known_by_its_bytes():
    found = location(A, published("a", {"uri": "s3://b/own/", "version": "v"}))
    assert (found.uri, found.version) == ("s3://b/own/", "v")


@pytest.mark.parametrize(
    ("spec", "found", "reason", "said"),
    [
        (
            {"method": {"from": "continue", "adapter": "ia3"}},
            published("a"),
            Reason.MODEL_JOB_UNSUITABLE,
            "Set method.adapter lora",
        ),
        (
            {"method": {"from": "merge"}},
            published("a", modelURI="s3://b/m/"),
            Reason.MODEL_JOB_UNSUITABLE,
            "published a whole model, and method.from merge is for adapters",
        ),
        (
            {"training": {"maxSteps": 0}},
            published("a", modelURI="s3://b/m/"),
            Reason.MODEL_JOB_UNSUITABLE,
            "training.maxSteps 0 is for adapters",
        ),
        (
            {"training": {"maxSteps": 0}, "method": {"from": "merge"}},
            published("a"),
            Reason.MODEL_JOB_UNSUITABLE,
            "training.maxSteps 0",
        ),
        (
            {"method": {"adapter": "qlora", "from": "merge"}},
            published("a"),
            Reason.MODEL_JOB_UNSUITABLE,
            "holds it in 4 bits",
        ),
        ({"method": {"adapter": "qlora"}}, published("a", on("x")), Reason.MODEL_JOB_UNSUITABLE, "1 adapters merged"),
        (
            {"method": {"from": "merge"}},
            published("a", on("h", *"abcdefg")),
            Reason.MODEL_JOB_UNSUITABLE,
            "made of 9 adapters",
        ),
        (
            {},
            published("a", adapterURI="s3://b/a/"),
            Reason.MODEL_JOB_NOT_A_MODEL,
            "does not say what that belongs on",
        ),
    ],
)
def test_what_cannot_be_started_from_as_the_spec_asks_is_told(spec, found, reason, said):
    failure = refusal(A | spec, found)
    assert failure.reason == reason
    assert said in failure.message
    assert "job://a" in failure.message


def combined(*weights, names="ab", **more):
    adapters = [
        {"uri": f"job://{n}"} | ({"weight": w} if w is not None else {}) for n, w in zip(names, weights, strict=True)
    ]
    return {"model": {"combine": {"adapters": adapters} | more}}


def test_adapters_of_one_base_are_combined_by_their_weights():
    found = location(combined(0.75, -0.25, method="ties", density=0.3), published("a"), published("b"))
    assert found == ModelLocation(
        uri="hf://org/name",
        revision="c0ffee",
        origin="job://a + job://b",
        adapters=(at("a", weight=0.75), at("b", weight=-0.25)),
        combination=Combination(method="ties", density=0.3),
    )


def test_the_same_base_may_lie_in_two_places():
    copies = [published(name, {"uri": f"s3://b/copy-for-{name}/", "version": "v"}) for name in "ab"]
    assert location(combined(1, 1), *copies).uri == "s3://b/copy-for-a/"
    other = published("b", {"uri": "s3://b/copy-for-a/", "version": "w"})
    assert refusal(combined(1, 1), copies[0], other).reason == Reason.MODEL_JOBS_DIFFER


def test_without_weights_all_count_the_same_and_one_together():
    found = location(combined(None, None, None, None, names="abcd"), *map(published, "abcd"))
    assert [adapter.weight for adapter in found.adapters] == [0.25] * 4
    assert found.combination == Combination(method="linear")


@pytest.mark.parametrize(
    ("found", "reason", "said"),
    [
        ((published("a"),), Reason.MODEL_JOB_NOT_FOUND, "there is no FineTuneJob b"),
        ((published("a"), b.finetunejob("b")), Reason.MODEL_JOB_NOT_FINISHED, "FineTuneJob b is Pending"),
        ((published("a"), published("b", ON_JOB)), Reason.MODEL_JOBS_DIFFER, "hf://org/name (c0ffee), that of "),
        (
            (published("a"), published("b", ON_HUB | {"revision": "beef"})),
            Reason.MODEL_JOBS_DIFFER,
            "FineTuneJob b on hf://org/name (beef)",
        ),
        ((published("a"), published("b", on("x"))), Reason.MODEL_JOBS_DIFFER, "with the adapter of x"),
        ((published("a"), published("b", adapter="ia3")), Reason.MODEL_JOB_UNSUITABLE, "only lora can be combined"),
        (
            (published("a"), published("b", modelURI="s3://b/m/")),
            Reason.MODEL_JOB_UNSUITABLE,
            "published a whole model",
        ),
    ],
)
def test_adapters_that_do_not_go_together_are_told(found, reason, said):
    failure = refusal(combined(0.5, 0.5), *found)
    assert failure.reason == reason
    assert said in failure.message


def test_all_jobs_are_looked_up_that_a_model_names():
    assert source_names({"uri": "job://a"}) == ["a"]
    assert source_names(combined(1, 1, names="ba")["model"]) == ["a", "b"]
    for odd in (None, 3, {}, {"combine": None}, {"combine": {"adapters": 3}}, {"combine": {"adapters": [3, {}]}}):
        assert source_names(odd) == []


@pytest.mark.parametrize("uri", ["s3://b/../other/", "s3://b/%2e%2e/", "file:///etc/passwd", "s3://b/a\u202e/"])
def test_a_status_that_names_no_plain_place_is_told_and_breaks_nothing(uri):
    """A status can be written by whoever may patch it."""
    for result in ({"modelURI": uri}, {"adapterURI": uri, "digest": "sha256:a", "builtOn": ON_HUB}):
        failure = refusal(A, published("a", **result))
        assert failure.reason is Reason.MODEL_JOB_NOT_A_MODEL
        assert "spec.model (job://a)" in failure.message
