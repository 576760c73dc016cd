"""The run file and the environment: what is read, and what is said of what cannot be."""

import json

import pytest

from finetune_api.run import CONTRACT_VERSION, ExitCode
from finetune_trainer.config import Surroundings, read_run
from finetune_trainer.errors import TrainerError
from finetune_trainer.scaling.machine import cpu_limit, thread_count


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, ExitCode.CONFIGURATION_INVALID, "cannot be read: No such file"),
        (b"{", ExitCode.CONFIGURATION_INVALID, "is not JSON"),
        (b"[]", ExitCode.CONFIGURATION_INVALID, "holds a JSON list"),
        (b'{"contract": 99, "of": "tomorrow"}', ExitCode.CONTRACT_MISMATCH, "contract version 99, this trainer image"),
        (b"{}", ExitCode.CONTRACT_MISMATCH, "contract version None"),
        (b'{"contract": 1}', ExitCode.CONFIGURATION_INVALID, "job: Field required"),
    ],
)
def test_a_run_file_that_cannot_be_used_is_explained(tmp_path, content, code, said):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainerError) as caught:
        read_run(path)
    assert caught.value.code is code
    assert said in caught.value.message
    assert "install operator and trainer image of one release" in caught.value.message


def test_a_run_file_is_read_as_it_was_written(trainer, tmp_path):
    config = trainer.config()
    (tmp_path / "run.json").write_text(config.to_json())
    assert read_run(tmp_path / "run.json") == config


def test_a_fault_in_a_run_file_is_named_by_its_path(trainer, tmp_path):
    content = json.loads(trainer.config().to_json())
    content["training"]["batchSize"] = 0
    content["contract"] = CONTRACT_VERSION
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(TrainerError, match=r"training\.batchSize: Input should be greater than or equal to 1"):
        read_run(tmp_path / "run.json")


def test_the_surroundings_have_the_contracts_defaults(monkeypatch):
    names = ("FINETUNE_SCRATCH", "FINETUNE_TERMINATION_LOG", "KUBEFLOW_TRAINER_SERVER_URL")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    found = Surroundings.of_environment()
    assert (str(found.scratch), str(found.termination_log)) == ("/scratch", "/dev/termination-log")
    assert found.reports_url is None


@pytest.mark.parametrize(
    ("quota", "limit"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", None)]
)
def test_the_cpu_limit_of_the_container_is_read(tmp_path, monkeypatch, quota, limit):
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    assert cpu_limit(path) == limit
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count(8, path) == (limit or 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert thread_count(8, path) == 8


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert cpu_limit(tmp_path / "none") is None
