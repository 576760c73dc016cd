"""The real kubectl against local mode, with our own resource. Collected only where kubectl is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Platform, as_yaml


class Kubectl:
    """kubectl as a user runs it."""

    def __init__(self, kubeconfig: Path, cache: Path) -> None:
        self._base = [str(shutil.which("kubectl")), "--kubeconfig", str(kubeconfig), "--cache-dir", str(cache)]

    def __call__(self, *arguments: str) -> str:
        """What it printed on standard output; it must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The finished process, however it ended."""
        return subprocess.run([*self._base, *arguments], capture_output=True, text=True, timeout=100, check=False)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """The running process."""
        return subprocess.Popen([*self._base, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def kubectl(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    return Kubectl(platform.cluster.kubeconfig, tmp_path_factory.mktemp("cache"))


def test_the_life_of_a_job_as_its_user_sees_it(
    platform: Platform, kubectl: Kubectl, colours: str, tmp_path: Path
) -> None:
    training = {"maxSteps": 5, "batchSize": 8, "maxLength": 64}
    file = str(as_yaml(platform.manifest("by-hand", colours, training=training), tmp_path))
    assert kubectl("apply", "-f", file) == "finetunejob.finetune.dev/by-hand created\n"
    assert kubectl("apply", "-f", file) == "finetunejob.finetune.dev/by-hand unchanged\n"

    watch = kubectl.start("get", "ftj", "by-hand", "--watch")
    wait = ("wait", "--timeout=90s", "ftj/by-hand")
    kubectl(*wait, "--for=jsonpath={.status.phase}=Succeeded")
    kubectl(*wait, "--for=condition=Ready")
    assert watch.stdout is not None
    seen = [watch.stdout.readline()]
    while "Succeeded" not in seen[-1]:
        seen.append(watch.stdout.readline())
    watch.kill()
    watch.wait()
    assert seen[0].split() == ["NAME", "PHASE", "PROGRESS", "ETA", "METRIC", "BASE→TUNED", "ADAPTER", "AGE"]

    row = kubectl("get", "ftj", "by-hand", "--no-headers").split()
    assert row[:4] == ["by-hand", "Succeeded", "100%", "eval_loss"]
    assert row[5].startswith("s3://team-a/out/by-hand/")
    assert "finetunejob.finetune.dev/by-hand" in kubectl("get", "all")
    assert "adapterURI: s3://team-a/out/by-hand/" in kubectl("get", "ftj", "by-hand", "-o", "yaml")
    described = kubectl("describe", "ftj", "by-hand")
    assert "Published to s3://team-a/out/by-hand/" in described.partition("Events:")[2]

    child = platform.get("by-hand")["status"]["jobRef"]["name"]
    assert "eval_loss" in kubectl("logs", f"job/{child}")
    assert kubectl("apply", "-f", file) == "finetunejob.finetune.dev/by-hand unchanged\n"
    kubectl("delete", "-f", file)
    assert "NotFound" in kubectl.run("get", "job", child).stderr


def test_explain_tells_what_a_field_is_for(kubectl: Kubectl) -> None:
    told = kubectl("explain", "finetunejob.spec.method")
    assert "How to fine-tune." in told
    assert "adapter\t<string>" in told


WRONG = [
    ({"training": {"epochz": 2}}, 'unknown field "spec.training.epochz"'),
    ({"training": {"epochs": "many"}}, 'spec.training.epochs in body must be of type number: "string"'),
    ({"method": {"lora": {"rank": 0}}}, "spec.method.lora.rank in body should be greater than or equal to 1"),
    ({"training": {"epochs": 1, "maxSteps": 5}}, "give training.epochs or training.maxSteps, not both"),
    (
        {"data": {"train": [{"uri": "s3://b/t.jsonl"}]}},
        "give either data.validation (files) or data.validationFraction",
    ),
    ({"evaluation": {"sliceBy": "topic"}}, "spec.evaluation.sliceBy: Invalid value"),
]


@pytest.mark.parametrize(("sections", "said"), WRONG)
def test_wrong_yaml_is_refused_with_the_path_of_its_field(
    platform: Platform, kubectl: Kubectl, colours: str, tmp_path: Path, sections: dict[str, object], said: str
) -> None:
    refused = kubectl.run("apply", "-f", str(as_yaml(platform.manifest("wrong", colours, **sections), tmp_path)))
    assert refused.returncode == 1
    assert said in refused.stderr


def test_a_spec_cannot_be_changed_after_the_fact(platform: Platform, kubectl: Kubectl, tmp_path: Path) -> None:
    before = platform.manifest("fixed", "s3://team-a/nothing.jsonl", model={"uri": "job://nobody"})
    kubectl("apply", "-f", str(as_yaml(before, tmp_path)))
    after = platform.manifest("fixed", "s3://team-a/nothing.jsonl", model={"uri": "job://somebody"})
    refused = kubectl.run("apply", "-f", str(as_yaml(after, tmp_path)))
    assert "spec.model is immutable: delete the FineTuneJob and apply it again" in refused.stderr
