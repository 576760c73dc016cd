"""Which models are refused before anything of them is loaded, and how published ones are checked."""

import json
from types import SimpleNamespace

import pytest

from finetune_api.run import ExitCode, JobIdentity, ModelLocation, RunResult
from finetune_api.spec import Storage
from finetune_api.status import Result
from finetune_trainer.errors import TrainerError
from finetune_trainer.models import modelfiles
from finetune_trainer.models.fetch import fetch_model
from finetune_trainer.models.modelfiles import is_needed, require_usable_names
from finetune_trainer.storage.manifest import Manifest, PublishedFile, digest_of
from finetune_trainer.storage.store import Store

USABLE = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def store(s3):
    return Store(Storage(endpoint_url=s3.url))


def fetch(store, tmp_path, **location):
    return fetch_model(ModelLocation(**location), store, tmp_path / "model")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "holds no model"),
        (["folder/config.json"], "holds no model"),
        (["model.safetensors", "tokenizer.json"], "has no config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter. Start from it by the job://"),
        (["config.json", "tokenizer.json"], "Convert it with save_pretrained"),
        (
            ["config.json", "tokenizer.json", "pytorch_model.bin"],
            "only pickled weights (pytorch_model.bin), which can run code",
        ),
        (["config.json", "tokenizer.json", "consolidated.safetensors"], "has no safetensors weights"),
        (["config.json", "tokenizer.json", "model-00001-of-00002.safetensors"], "or model.safetensors.index.json with"),
        (["config.json", "model.safetensors"], "has no tokenizer"),
        (["config.json", "model.safetensors", "tokenizer.model"], "but tokenizer.model, which has to be converted"),
        ([*USABLE, "a\\b.json"], "has a file with an odd name ('a"),
        ([*USABLE, "a\0.json"], "has a file with an odd name ('a"),
        ([*USABLE, "a\nb.json"], "has a file with an odd name ('a"),
        ([*USABLE, "a\ud800.json"], "has a file with an odd name ('a"),
        ([*USABLE, "a" * 300 + ".json"], "has a file with an odd name ('aaa"),
        ([*USABLE, "Config.json"], "has both config.json and Config.json, which some file systems take for one"),
    ],
)
def test_a_directory_that_is_no_model_is_refused_by_its_names(names, said):
    with pytest.raises(TrainerError) as caught:
        require_usable_names(names, "s3://team-a/model/")
    assert caught.value.code is ExitCode.MODEL_INVALID
    assert caught.value.message.startswith("s3://team-a/model/")
    assert said in caught.value.message


@pytest.mark.parametrize(
    "other",
    ["../x.json", "/etc/x.json", "sub/config.json", "._config.json", "._model.safetensors", "Größe (1).json", ".json"],
)
def test_files_that_are_not_the_model_s_own_are_left_alone(other):
    require_usable_names([*USABLE, other], "s3://team-a/model/")
    assert is_needed(other) is (other == "Größe (1).json")


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(s3, store, tmp_path, model_uri, monkeypatch):
    monkeypatch.setattr(modelfiles.shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 30, used=0, free=1000))
    with pytest.raises(
        TrainerError, match=r"no room for the model s3://team-a/models/tiny/: 0\.0 MiB of 1\.0 GiB are free"
    ) as caught:
        fetch(store, tmp_path, uri=model_uri)
    assert caught.value.code is ExitCode.DISK_FULL
    assert ", and it takes 0." in caught.value.message
    assert list((tmp_path / "model").iterdir()) == []


def test_a_pickle_beside_safetensors_is_not_even_fetched(s3, store, model_directory, tmp_path):
    uri = s3.put_directory("models/both", model_directory)
    s3.put("models/both/pytorch_model.bin", b"pickle")
    s3.put("models/both/onnx/model.safetensors", b"a copy")
    files = fetch(store, tmp_path, uri=uri)
    assert sorted(path.name for path in files.directory.iterdir()) == sorted(p.name for p in model_directory.iterdir())
    assert (files.name, files.revision) == (uri, None)


def test_a_model_that_was_overwritten_is_of_another_version(s3, store, model_directory, tmp_path):
    uri = s3.put_directory("models/versions", model_directory)
    s3.put("models/versions/notes.md", b"not needed")
    first = fetch(store, tmp_path / "1", uri=uri)
    s3.put("models/versions/notes.md", b"still not needed")
    assert fetch(store, tmp_path / "2", uri=uri).version == first.version
    s3.put("models/versions/config.json", (model_directory / "config.json").read_bytes() + b"\n")
    assert fetch(store, tmp_path / "3", uri=uri).version != first.version


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused(s3, store, model_directory, tmp_path, name):
    uri = s3.put_directory(f"models/code-{name}", model_directory)
    s3.put(f"models/code-{name}/{name}", json.dumps({"auto_map": {"AutoModel": "evil.Model"}}).encode())
    with pytest.raises(TrainerError, match=rf"its own Python code \(auto_map in {name}\), which is never run"):
        fetch(store, tmp_path, uri=uri)


def test_a_configuration_that_is_not_json_is_named(s3, store, model_directory, tmp_path):
    uri = s3.put_directory("models/broken-config", model_directory)
    s3.put("models/broken-config/config.json", b"{")
    with pytest.raises(TrainerError, match=r"config.json of s3://team-a/models/broken-config/ is not JSON"):
        fetch(store, tmp_path, uri=uri)


@pytest.fixture
def published(s3, model_directory, request):
    """What a full-tuning job has published: (attempt's prefix, model's URI, manifest's digest)."""
    prefix = f"out/{request.node.name}"
    uri = s3.put_directory(f"{prefix}/0a1b2c3d", model_directory)
    files = []
    for path in model_directory.iterdir():
        digest = digest_of(path.read_bytes()).removeprefix("sha256:")
        files.append(PublishedFile(path=path.name, size=path.stat().st_size, sha256=digest))
    content = Manifest(
        job=JobIdentity(namespace="team-a", name="base", uid="u"),
        attempt=0,
        created="2026-01-01T00:00:00Z",
        location=uri,
        files=tuple(files),
        data=(),
        result=RunResult(outcome="Succeeded", result=Result(model_uri=uri)),
    ).to_bytes()
    return s3.put(f"{prefix}/manifest.json", content).removesuffix("manifest.json"), uri, digest_of(content)


def test_what_a_job_published_is_fetched_by_its_manifest(store, tmp_path, published, model_directory):
    _, uri, digest = published
    files = fetch(store, tmp_path, uri=uri, digest=digest, origin="job://base")
    assert (files.directory / "config.json").read_bytes() == (model_directory / "config.json").read_bytes()
    assert files.name == uri


def test_the_prefix_of_an_attempt_stands_for_what_it_published(store, tmp_path, published):
    prefix, _, _ = published
    assert (fetch(store, tmp_path, uri=prefix).directory / "model.safetensors").exists()


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_published_file_that_was_changed_is_refused(s3, store, tmp_path, published, with_digest):
    _, uri, digest = published
    weights = s3.get(f"{uri}model.safetensors")
    s3.put(f"{uri}model.safetensors".removeprefix("s3://team-a/"), weights[:-1] + b"\xff")
    with pytest.raises(TrainerError, match="was changed or damaged after it was published") as caught:
        fetch(store, tmp_path, uri=uri, digest=digest if with_digest else None)
    assert caught.value.code is ExitCode.MODEL_INVALID


def test_a_manifest_other_than_the_one_in_the_status_is_refused(s3, store, tmp_path, published):
    prefix, uri, digest = published
    s3.put(f"{prefix}manifest.json".removeprefix("s3://team-a/"), s3.get(f"{prefix}manifest.json") + b"\n")
    with pytest.raises(TrainerError, match=f"No manifest with the digest {digest}"):
        fetch(store, tmp_path, uri=uri, digest=digest)


def test_an_adapter_is_no_base(s3, store, tmp_path, published):
    prefix, uri, _ = published
    manifest = Manifest.model_validate_json(s3.get(f"{prefix}manifest.json"))
    adapter = manifest.model_copy(update={"result": RunResult(outcome="Succeeded", result=Result(adapter_uri=uri))})
    s3.put(f"{prefix}manifest.json".removeprefix("s3://team-a/"), adapter.to_bytes())
    with pytest.raises(TrainerError, match=r"is an adapter\. Start from it by the job://"):
        fetch(store, tmp_path, uri=prefix)


def test_a_manifest_that_leads_elsewhere_vouches_for_nothing(s3, store, tmp_path, published):
    prefix, _, _ = published
    manifest = Manifest.model_validate_json(s3.get(f"{prefix}manifest.json"))
    elsewhere = manifest.model_copy(update={"location": "s3://team-b/secret/"})
    s3.put(f"{prefix}manifest.json".removeprefix("s3://team-a/"), elsewhere.to_bytes())
    with pytest.raises(TrainerError, match=r"has no config\.json"):
        fetch(store, tmp_path, uri=prefix)


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", ".", "..", "a/b", "a\\b", ""])
def test_a_manifest_cannot_name_a_file_outside_its_folder(path):
    with pytest.raises(ValueError, match="path"):
        PublishedFile(path=path, size=1, sha256="0")
