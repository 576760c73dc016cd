"""The commands `up` and `run`, with a trainer that only pretends."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import yaml

from finetune_local import __main__ as command
from finetune_local import connection
from finetune_local.cluster import ControlPlaneFailed, LocalCluster
from finetune_local.connection import Addresses
from finetune_local.run.documents import InvalidDocument
from finetune_local.run.job import RunFailed

FAKE_TRAINER = """#!{python}
import json, os, sys

with open(sys.argv[sys.argv.index("--run") + 1]) as file:
    run = json.load(file)
code, name = 0, run["job"]["name"]
message = {{"contract": 1, "outcome": "Succeeded"}}
if name == "crashes":
    print("the last words of the trainer")
    sys.exit(3)
if name == "bad-data":
    code = 11
    error = {{"reason": "DataInvalid", "message": "train.jsonl line 1: broken JSON"}}
    message = {{"contract": 1, "outcome": "Failed", "error": error}}
else:
    import boto3

    s3 = boto3.client("s3", endpoint_url=run["storage"]["endpointUrl"], region_name=run["storage"]["region"])
    _, _, bucket, prefix = run["outputPrefix"].split("/", 3)
    _, _, data_bucket, key = run["data"]["train"][0]["uri"].split("/", 3)
    content = s3.get_object(Bucket=data_bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=prefix + "adapter/copy", Body=content)
    metrics = [{{"name": "eval_loss", "value": 1.21, "baseline": 1.83}}]
    message |= {{"metrics": metrics, "result": {{"adapterURI": run["outputPrefix"] + "adapter/"}}}}
with open(os.environ["FINETUNE_TERMINATION_LOG"], "w") as log:
    json.dump(message, log)
sys.exit(code)
"""

Scenario = Callable[[LocalCluster, argparse.Namespace], Awaitable[Any]]


def fine_tune_job(name: str, **spec: Any) -> dict[str, Any]:
    data = {"train": [{"uri": "file://train.jsonl"}], "validationFraction": 0.1}
    whole = {"model": {"uri": "hf://org/model"}, "data": data, "runPolicy": {"maxRetries": 0}}
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}}
    return head | {"spec": whole | spec}


def profile(name: str, **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile", "metadata": {"name": name}}
    return head | {"spec": spec}


def in_namespace(namespace: str, job: dict[str, Any]) -> dict[str, Any]:
    return job | {"metadata": job["metadata"] | {"namespace": namespace}}


def write(directory: Path, *jobs: dict[str, Any]) -> Path:
    (directory / "train.jsonl").write_text('{"text": "hello"}\n')
    file = directory / "job.yaml"
    file.write_text("---\n".join(yaml.safe_dump(job) for job in jobs))
    return file


def in_local_mode(tmp_path: Path, file: Path, scenario: Scenario, *arguments: str) -> Any:
    """Runs a scenario beside a local mode that `run` finds, as if `up` had started it."""
    trainer = tmp_path / "trainer"
    trainer.write_text(FAKE_TRAINER.format(python=sys.executable))
    trainer.chmod(0o755)
    directory = tmp_path / "local"
    options = command.arguments().parse_args(["--data-dir", str(directory), "run", str(file), *arguments])

    async def whole() -> Any:
        async with LocalCluster(directory, programs={"python": str(trainer)}) as cluster:
            connection.publish(directory, Addresses.of(cluster))
            return await scenario(cluster, options)

    return asyncio.run(whole())


def test_jobs_run_one_after_the_other_and_their_results_come_home(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, fine_tune_job("first"), fine_tune_job("second", output={"uri": "s3://team-a/adapters/"}))

    code = in_local_mode(tmp_path, file, lambda _, options: command.run(options), "--out", str(tmp_path / "out"))

    printed = capsys.readouterr()
    resources, table = printed.out.partition("\nNAME ")[::2]
    first, second = yaml.safe_load_all(resources)
    assert code == 0
    assert first["status"]["phase"] == second["status"]["phase"] == "Succeeded"
    assert second["status"]["result"]["adapterURI"].startswith("s3://team-a/adapters/second/")
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [["first", "Succeeded"], ["second", "Succeeded"]]
    assert "1.83→1.21" in table
    assert (tmp_path / "out" / "second" / "copy").read_text() == '{"text": "hello"}\n'
    assert "first  Running" in printed.err


def test_jobs_obey_the_profiles_beside_them_wherever_those_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is of an `up` that has the profiles already: they are replaced."""
    beside = tmp_path / "profiles.yaml"
    beside.write_text(yaml.safe_dump(profile("small", defaults={"cpu": "250m"}, limits={"cpu": 1})))
    everybodys = profile("default", defaults={"cpu": "125m"})
    named, unnamed = fine_tune_job("named", profile="small"), fine_tune_job("unnamed")
    file = write(tmp_path, named, unnamed, everybodys)
    greedy = fine_tune_job("greedy", profile="small", resources={"cpu": "500m"})

    async def scenario(cluster: LocalCluster, options: argparse.Namespace) -> Any:
        assert await command.run(options) == 0
        pods = (await cluster.client.get("/api/v1/namespaces/default/pods"))["items"]
        beside.write_text(yaml.safe_dump(profile("small", limits={"cpu": "250m"})))
        write(tmp_path, greedy)
        assert await command.run(options) == 1
        return pods

    pods = in_local_mode(tmp_path, file, scenario, "-f", str(beside))

    printed = capsys.readouterr()
    asked = {
        pod["metadata"]["annotations"]["finetune.dev/job"]: pod["spec"]["containers"][0]["resources"]["requests"]["cpu"]
        for pod in pods
    }
    assert asked == {"named": "250m", "unnamed": "125m"}
    assert "greedy: Failed: NotAllowed: " in printed.err
    assert "250m" in printed.err.strip().splitlines()[-1]
    resources = list(yaml.safe_load_all(printed.out.partition("\nNAME ")[0]))
    used = {found["metadata"]["name"]: found["status"]["attempts"][0]["profile"]["name"] for found in resources}
    assert used == {"named": "small", "unnamed": "default"}


def test_a_wrong_profile_is_refused_before_anything_runs_and_profiles_alone_are_no_run(tmp_path: Path) -> None:
    file = write(tmp_path, fine_tune_job("j"), profile("small", limits={"cpus": 1}))

    async def scenario(_: LocalCluster, options: argparse.Namespace) -> None:
        with pytest.raises(RunFailed) as caught:
            await command.run(options)
        assert str(caught.value).startswith(str(file))
        assert 'unknown field "spec.limits.cpus"' in str(caught.value)
        write(tmp_path, profile("small"))
        with pytest.raises(InvalidDocument, match=r"job\.yaml: no FineTuneJob; name a file with one, too"):
            await command.run(options)

    in_local_mode(tmp_path, file, scenario)


def test_a_failed_job_ends_the_run_with_reason_and_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, fine_tune_job("bad-data"), fine_tune_job("never"))

    code = in_local_mode(tmp_path, file, lambda _, options: command.run(options))

    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert code == 1
    assert last.startswith("bad-data: Failed: DataInvalid: ")
    assert "train.jsonl line 1: broken JSON" in last
    assert "never" not in printed.out


def test_a_crash_that_nothing_explains_shows_the_end_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, fine_tune_job("crashes"))

    code = in_local_mode(tmp_path, file, lambda _, options: command.run(options))

    assert code == 1
    assert "the last words of the trainer" in capsys.readouterr().err


def test_a_wrong_job_is_refused_in_the_api_servers_words(tmp_path: Path) -> None:
    wrong = {
        'unknown field "spec.training.epochz"': fine_tune_job("j", training={"epochz": 1}),
        "spec.training.epochs in body should be greater than 0": fine_tune_job("j", training={"epochs": -1}),
        'metadata.name: Invalid value: "Bad_Name"': fine_tune_job("Bad_Name"),
        "spec.output.uri: the bucket Bad! cannot be made": fine_tune_job("j", output={"uri": "s3://Bad!/x"}),
        "metadata.namespace: there is no namespace none; create it first": in_namespace("none", fine_tune_job("j")),
        "metadata.namespace: there is no namespace a/b; create it first": in_namespace("a/b", fine_tune_job("j")),
    }
    file = write(tmp_path, fine_tune_job("j"))

    async def scenario(_: LocalCluster, options: argparse.Namespace) -> None:
        for told, job in wrong.items():
            write(tmp_path, job)
            with pytest.raises(RunFailed) as caught:
                await command.run(options)
            assert str(caught.value).startswith(str(file))
            assert told in str(caught.value)
            assert "\n" not in str(caught.value)

    in_local_mode(tmp_path, file, scenario)


def test_a_job_that_no_node_can_take_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_local.run.job._HOPELESS_SECONDS", 0.2)
    file = write(tmp_path, fine_tune_job("j", resources={"gpusPerNode": 1}, preflight="Never"))

    with pytest.raises(RunFailed, match=r"j: Starting: Unschedulable: .*1 Insufficient nvidia\.com/gpu"):
        in_local_mode(tmp_path, file, lambda _, options: command.run(options))


def test_a_job_that_is_deleted_meanwhile_ends_the_run(tmp_path: Path) -> None:
    file = write(tmp_path, fine_tune_job("j", resources={"gpusPerNode": 1}, preflight="Never"))

    async def scenario(cluster: LocalCluster, options: argparse.Namespace) -> None:
        running = asyncio.create_task(command.run(options))
        path = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs"
        version = (await cluster.client.get(path))["metadata"]["resourceVersion"]
        async for _, job in cluster.client.watch(path, version):
            if job.get("status", {}).get("phase"):
                break
        await cluster.client.delete(f"{path}/j")
        await running

    with pytest.raises(RunFailed, match="j was deleted while it ran"):
        in_local_mode(tmp_path, file, scenario)


def test_an_operator_that_dies_ends_the_run_and_leaves_its_log(tmp_path: Path) -> None:
    file = write(tmp_path, fine_tune_job("j", resources={"gpusPerNode": 1}, preflight="Never"))
    words = [sys.executable, "-m", "finetune_local", "--data-dir", str(tmp_path / "none"), "run", str(file)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as run:
        _until(run.stderr, "j  Starting")
        for child in psutil.Process(run.pid).children():
            if "finetune_operator" in " ".join(child.cmdline()):
                child.kill()
        assert run.wait(10) == 1
        assert run.stderr is not None
        told = run.stderr.read()

    assert "the operator ended with exit code -9: " in told
    log = Path(told.rpartition("read ")[2].strip(")\n"))
    assert log.is_file()
    shutil.rmtree(log.parent)


def test_settings_that_the_operator_refuses_are_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with LocalCluster(tmp_path, operator_settings={"workers": "none"}):
            pass

    with pytest.raises(ControlPlaneFailed, match="FINETUNE_OPERATOR_WORKERS: found 'none'"):
        asyncio.run(scenario())


def test_the_result_is_home_before_anything_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write(tmp_path, fine_tune_job("first")), tmp_path / "out"

    def nobody_reads(*_: object, **__: object) -> None:
        assert (out / "copy").exists()
        raise BrokenPipeError

    monkeypatch.setattr(command, "_print_resource", nobody_reads)
    with pytest.raises(BrokenPipeError):
        in_local_mode(tmp_path, file, lambda _, options: command.run(options), "--out", str(out))


def test_a_result_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write(tmp_path, fine_tune_job("first")), tmp_path / "out"

    async def scenario(_: LocalCluster, options: argparse.Namespace) -> None:
        monkeypatch.setattr(command, "_make_directory", lambda option, directory: out.write_text("in the way"))
        await command.run(options)

    with pytest.raises(RunFailed, match=r"s3://finetune-local/output/first/\S+ cannot be downloaded to .*out: "):
        in_local_mode(tmp_path, file, scenario, "--out", str(out))


@pytest.mark.parametrize("words", [["run", "job.yaml", "--out", "file/out"], ["--data-dir", "file/up", "up"]])
def test_a_directory_that_cannot_be_made_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    write(tmp_path, fine_tune_job("j"))
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["finetune_local", *words])
    monkeypatch.setattr(command, "LocalCluster", None)

    assert command.main() == 1

    told = capsys.readouterr().err.strip()
    option = "--out file/out" if "run" in words else "--data-dir file/up"
    assert told == f"{option}: Not a directory; name a directory to write to"


@pytest.mark.parametrize("gpus", ["-1", "one", "1.5"])
def test_gpus_are_a_whole_number(gpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.arguments().parse_args([f"--gpus={gpus}", "up"])

    assert f"--gpus: found '{gpus}'; expected a whole number" in capsys.readouterr().err


def test_a_directory_serves_one_up_at_a_time(tmp_path: Path) -> None:
    told = "stop it, or name another --data-dir"
    with connection.claimed(tmp_path), pytest.raises(connection.AlreadyRuns, match=told), connection.claimed(tmp_path):
        raise AssertionError("claimed twice")
    with connection.claimed(tmp_path):
        pass


def test_addresses_that_a_killed_up_left_count_for_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        left = Addresses(os.getpid(), f"https://127.0.0.1:{port}", "token", "", "http://127.0.0.1:1", "key", "secret")
        connection.publish(tmp_path, left)
        assert connection.discover(tmp_path) == left

    assert connection.discover(tmp_path) is None


def test_an_up_that_stops_ends_the_run_in_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, fine_tune_job("j", resources={"gpusPerNode": 1}, preflight="Never"))
    base = [sys.executable, "-m", "finetune_local", "--data-dir", str(tmp_path / "local")]
    with subprocess.Popen([*base, "up"], stdout=subprocess.PIPE, text=True) as up:
        _until(up.stdout, "Ready")
        with subprocess.Popen([*base, "run", str(file)], stderr=subprocess.PIPE, text=True) as run:
            _until(run.stderr, "j  Starting")
            up.send_signal(signal.SIGINT)
            assert run.wait(10) == 1
            assert run.stderr is not None
            last = run.stderr.read().splitlines()[-1]

    assert last.startswith("local mode does not answer as expected, or was stopped: ")


def _main_that_prints(text: str) -> list[str]:
    """The command line of a process whose `run` does nothing but print."""
    lines = ["import sys, finetune_local.__main__ as command", "async def run(options):"]
    lines += [f"    print({text!a}, flush=True)", "    return 0", "command.run = run", "sys.exit(command.main())"]
    return [sys.executable, "-c", "\n".join(lines), "run", "job.yaml"]


def test_output_that_nobody_reads_ends_the_run_in_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(_main_that_prints("text"), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(writing)

    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_without_arrows_is_no_fault() -> None:
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(_main_that_prints("1→2"), capture_output=True, text=True, timeout=30, env=latin)

    assert (done.returncode, done.stdout, done.stderr) == (0, "1?2\n", "")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGKILL, -9)])
def test_however_up_ends_no_process_is_left(tmp_path: Path, how: signal.Signals, code: int) -> None:
    words = [sys.executable, "-m", "finetune_local", "--data-dir", str(tmp_path), "up"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as up:
        told = _until(up.stdout, "Ready")
        family = psutil.Process(up.pid).children(recursive=True)
        addresses = json.loads((tmp_path / "up.json").read_text())
        Addresses(**addresses).bucketeer().put_file("s3://finetune-local/file", tmp_path / "up.json")
        up.send_signal(how)
        assert up.wait(10) == code

    assert f"export KUBECONFIG={tmp_path}/kubeconfig" in told
    assert f"storage: {{endpointUrl: {addresses['endpoint_url']}, credentials: finetune-local-s3}}" in told
    assert len(family) >= 3  # S3, guardian, operator
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert connection.discover(tmp_path) is None


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    file = write(tmp_path, fine_tune_job("j", resources={"gpusPerNode": 1}, preflight="Never"))
    words = [sys.executable, "-m", "finetune_local", "--data-dir", str(tmp_path / "none"), "run", str(file)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as run:
        _until(run.stderr, "j  Starting")
        family = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == command.INTERRUPTED
        assert run.stderr is not None
        assert "Traceback" not in run.stderr.read()

    assert len(family) >= 3
    assert psutil.wait_procs(family, timeout=10)[1] == []


def _until(stream: IO[str] | None, start: str) -> str:
    """What it prints up to the line that begins so."""
    told = []
    for line in stream or ():
        told.append(line)
        if line.startswith(start):
            break
    return "".join(told)


def test_run_without_a_usable_file_starts_nothing_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: Pod\n")
    words = [sys.executable, "-m", "finetune_local", "run", str(tmp_path / "job.yaml")]

    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=30)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"{tmp_path}/job.yaml, document 1: found apiVersion None, kind Pod; expected ")
    assert len(done.stderr.splitlines()) == 1
