"""Models from a hub: a small one on loopback, which the real client speaks to in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from tests import small_disk
from tests.hub import COMMIT, serving

PROGRAM = """
import json, sys
from pathlib import Path
from finetune_api.run import ModelLocation
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.fetch import fetch_model
for line in sys.stdin:
    try:
        files = fetch_model(ModelLocation(**json.loads(line)), None, Path("unused"))
        print(json.dumps({"name": files.name, "revision": files.revision,
                          "files": sorted(path.name for path in files.directory.iterdir())}), flush=True)
    except TrainerError as error:
        print(json.dumps({"code": error.code.name, "message": error.message}), flush=True)
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def hub(model_directory):
    whole = {path.name: path.read_bytes() for path in model_directory.iterdir()}
    pickled = {name: content for name, content in whole.items() if not name.endswith(".safetensors")}
    models = {
        "org/tiny": whole | {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"a copy", "README.md": b"card"},
        "org/pickled": pickled | {"pytorch_model.bin": b"pickle"},
    }
    with serving(models) as made:
        yield made


@pytest.fixture(scope="module")
def fetch(hub, tmp_path_factory):
    """Fetches a model in one process that serves all tests, since importing the client takes a second."""
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("hub")), "HF_TOKEN": "t"}
    env.pop("HF_HUB_OFFLINE", None)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def ask(**location):
        process.stdin.write(json.dumps(location) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_hub_that_cannot_be_reached_is_a_trouble_that_may_pass(tmp_path):
    env = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_OFFLINE", None)
    asked = json.dumps({"uri": "hf://org/tiny"}) + "\n"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, input=asked, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["code"] == "STORAGE_UNAVAILABLE"
    assert "Check the network from the training pod" in found["message"]


if small_disk.can_be_made():

    def test_a_model_that_fills_the_disk_is_told_with_the_room_there_is(hub, tmp_path):
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
        env.pop("HF_HUB_OFFLINE", None)
        asked = json.dumps({"uri": "hf://org/tiny"}) + "\n"
        program = small_disk.command(tmp_path, 64 << 10, sys.executable, "-c", PROGRAM)
        done = subprocess.run(program, env=env, input=asked, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert found["code"] == "DISK_FULL"
        assert "The disk has no room for the model hf://org/tiny: " in found["message"]


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_model_is_fetched_with_its_commit_and_only_its_own_files(fetch, hub, model_directory, revision):
    found = fetch(uri="hf://org/tiny", revision=revision)
    assert (found["name"], found["revision"]) == ("org/tiny", COMMIT)
    assert found["files"] == sorted(path.name for path in model_directory.iterdir())
    assert not [call for call in hub.calls if call.endswith((".bin", ".onnx"))]


@pytest.mark.parametrize(
    ("location", "code", "said"),
    [
        ({"uri": "hf://org/none"}, "MODEL_INVALID", "was not found on the hub. Correct spec.model.uri"),
        ({"uri": "hf://org/tiny", "revision": "v9"}, "MODEL_INVALID", "has no revision v9 on the hub"),
        ({"uri": "hf://org/gated"}, "MODEL_INVALID", "The hub refuses access to org/gated (gated or private)"),
        ({"uri": "hf://org/pickled"}, "MODEL_INVALID", "only pickled weights (pytorch_model.bin)"),
        ({"uri": "hf://org/tiny", "licences": ["mit"]}, "MODEL_INVALID", "has the licence apache-2.0, and the Fine"),
        ({"uri": "hf://org/pickled", "licences": ["mit"]}, "MODEL_INVALID", "names no licence on its model card"),
        ({"uri": "hf://not a name"}, "MODEL_INVALID", "is not a model's name on the hub"),
        ({"uri": "hf://org/down"}, "STORAGE_UNAVAILABLE", "the hub could not be reached or kept failing"),
    ],
)
def test_a_model_that_cannot_be_had_is_explained(fetch, hub, location, code, said):
    before = len(hub.calls)
    found = fetch(**location)
    assert (found["code"], said in found["message"]) == (code, True), found["message"]
    assert not [call for call in hub.calls[before:] if "/resolve/" in call]


def test_a_model_whose_licence_is_allowed_is_fetched(fetch):
    assert fetch(uri="hf://org/tiny", licences=["MIT", "Apache-2.0"])["revision"] == COMMIT
