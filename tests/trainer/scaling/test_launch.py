"""The launcher, with small programs in the place of trainers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from finetune_api.run import GRACE_SECONDS, ExitCode, RunError, RunResult
from finetune_local.operator_process import free_port
from finetune_trainer.config import Surroundings
from finetune_trainer.scaling import launch
from finetune_trainer.scaling.launch import Gang, Nodes, patience, start, wanted

WHERE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NNODES", "NODE_RANK", "OMP_NUM_THREADS")
WAIT = "import signal; signal.pause()"
KILLED = 128 + signal.SIGKILL


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in WHERE:
        monkeypatch.delenv(name, raising=False)
    return Surroundings(tmp_path, tmp_path / "log", None, None, None)


def gang(tmp_path, *programs, nodes=Nodes()):  # noqa: B008 - one node
    """Processes that run one program each, by their rank."""
    choose = f"import os, sys; exec({programs!r}[int(os.environ['LOCAL_RANK'])])"
    return start([sys.executable, "-I", "-S", "-c", choose], len(programs), nodes, tmp_path)


def message(reason):
    """A program's part: its termination message."""
    text = RunResult(outcome="Failed", error=RunError(reason=reason, message=f"said by {reason}")).termination_message()
    return f"open(os.environ['FINETUNE_TERMINATION_LOG'], 'w').write({text!r})"


TELL = """
import json
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "FINETUNE_MASTER_FD", "MASTER_ADDR")
with open(os.environ["FINETUNE_SHARED"] + "/" + os.environ["RANK"], "w") as file:
    json.dump({name: os.environ.get(name) for name in names}, file)
"""


def told(tmp_path, rank):
    return json.loads((tmp_path / str(rank)).read_text())


def test_every_process_is_told_who_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    Gang(gang(tmp_path, TELL, TELL)).wait()
    first, second = told(tmp_path, 0), told(tmp_path, 1)
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3", "MASTER_ADDR": "127.0.0.1"}
    assert first.items() >= {"RANK": "0", "LOCAL_RANK": "0", **common}.items()
    assert second.items() >= {"RANK": "1", "LOCAL_RANK": "1", **common}.items()


def test_processes_of_several_nodes_are_numbered_through(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "tune-0.tune")
    Gang(gang(tmp_path, TELL, TELL, nodes=Nodes(3, 2))).wait()
    expected = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "MASTER_ADDR": "tune-0.tune"}
    assert told(tmp_path, 5).items() >= expected.items()
    assert told(tmp_path, 5)["FINETUNE_MASTER_FD"] is None


@pytest.mark.parametrize(
    ("number", "address", "reached", "listens"),
    [
        (0, "tune-0.tune", "localhost", False),
        (1, "tune-0.tune", "tune-0.tune", False),
        (0, "127.9.8.7", "127.9.8.7", True),
        (1, "127.9.8.7", "127.9.8.7", False),
    ],
)
def test_the_first_of_several_nodes_listens_at_its_address_and_needs_no_name(
    tmp_path, monkeypatch, number, address, reached, listens
):
    monkeypatch.setenv("MASTER_ADDR", address)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    Gang(gang(tmp_path, TELL, nodes=Nodes(2, number))).wait()
    found = told(tmp_path, number)
    assert (found["MASTER_ADDR"], found["FINETUNE_MASTER_FD"] is not None) == (reached, listens)


def test_the_first_process_inherits_the_socket_at_which_the_others_find_it(tmp_path):
    listen = "import socket; s = socket.socket(fileno=int(os.environ['FINETUNE_MASTER_FD'])); s.accept()"
    call = "import socket; socket.create_connection((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])), 20)"
    assert Gang(gang(tmp_path, listen, call)).wait().code == 0


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        ({}, 1, False),
        ({}, 2, True),
        ({"RANK": "0"}, 2, False),  # started by torchrun, or by ourselves
        ({"NNODES": "2", "NODE_RANK": "0"}, 1, True),
        ({"NNODES": "1"}, 1, False),
    ],
)
def test_others_are_started_where_there_shall_be_several(monkeypatch, environment, processes, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wanted(processes) == expected


def exit_with(code):
    return f"os._exit({code})"


@pytest.mark.parametrize(
    ("programs", "rank", "code"),
    [
        ((exit_with(0), exit_with(0)), 0, 0),
        ((WAIT, exit_with(16)), 1, 16),
        ((exit_with(11), WAIT), 0, 11),
        ((WAIT, "os.kill(os.getpid(), 9)", WAIT), 1, KILLED),
        ((exit_with(0), exit_with(23)), 0, 0),
        ((exit_with(23), exit_with(16)), 1, 16),
        ((exit_with(21), exit_with(23)), 0, 21),
        ((exit_with(23), exit_with(21)), 1, 21),
        ((exit_with(21), exit_with(21)), 0, 21),
        ((exit_with(21), exit_with(16)), 1, 16),
    ],
)
def test_whoever_fails_first_speaks_for_all_and_the_others_are_ended(tmp_path, programs, rank, code):
    begun = time.monotonic()
    member = Gang(gang(tmp_path, *programs)).wait()
    assert (member.rank, member.code) == (rank, code)
    assert time.monotonic() - begun < 4


def test_what_has_succeeded_has_succeeded_whatever_hangs_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_FAREWELL_SECONDS", 0.1)
    member = Gang(gang(tmp_path, exit_with(0), WAIT)).wait()
    assert (member.rank, member.code) == (0, 0)


def test_where_all_have_only_lost_the_others_that_is_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_FAREWELL_SECONDS", 0.1)
    assert Gang(gang(tmp_path, WAIT, exit_with(23))).wait().code == ExitCode.PEERS_LOST


def test_patience_lasts_as_long_as_somebody_has_something_to_save():
    assert patience(1, ExitCode.SUCCEEDED) == float("inf")
    assert patience(1, ExitCode.PREEMPTED) == GRACE_SECONDS
    assert patience(1, ExitCode.OUT_OF_MEMORY) == patience(0, KILLED) == 0
    assert 0 < patience(0, ExitCode.PREEMPTED) == patience(0, ExitCode.SUCCEEDED) == patience(2, ExitCode.PEERS_LOST)


LAUNCH = """
import sys
from pathlib import Path
from finetune_trainer.scaling import launch
from finetune_trainer.config import Surroundings
begin = launch.start
launch.start = lambda _, *rest: begin([sys.executable, "-I", "-S", "choose.py"], *rest)
here = Surroundings(Path("scratch"), Path("log"), None, None, None)
sys.exit(launch.launch(Path("run.json"), int(sys.argv[1]), here))
"""


def launched(tmp_path, *programs):
    """The launcher as a process."""
    (tmp_path / "choose.py").write_text(f"import os; exec({programs!r}[int(os.environ['RANK'])])")
    (tmp_path / "scratch").mkdir(exist_ok=True)
    command = [sys.executable, "-c", LAUNCH, str(len(programs))]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)


def lines(process, count):
    """What the processes say next, in no order."""
    return sorted(process.stdout.readline().strip() for _ in range(count))


def error(tmp_path):
    return RunResult.model_validate_json((tmp_path / "log").read_text()).error


def test_the_termination_message_is_that_of_whoever_failed_first(tmp_path):
    programs = (f"{message('PeersLost')}; os._exit(23)", f"{message('OutOfMemory')}; os._exit(16)")
    assert launched(tmp_path, *programs).wait(20) == 16
    assert error(tmp_path).message == "said by OutOfMemory"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_whoever_was_killed_is_spoken_for(tmp_path):
    assert launched(tmp_path, WAIT, "os.kill(os.getpid(), 9)").wait(20) == KILLED
    assert error(tmp_path).reason == "TrainerKilled"
    assert "Process 1 of the training was killed by SIGKILL" in error(tmp_path).message
    assert "spec.resources.memory" in error(tmp_path).message


def test_only_sigkill_is_taken_for_a_lack_of_memory(tmp_path):
    assert launched(tmp_path, "os.kill(os.getpid(), 6)", WAIT).wait(20) == 128 + signal.SIGABRT
    assert error(tmp_path).message.startswith("Process 0 of the training was killed by SIGABRT, which the pod's log")


def test_where_nothing_can_be_started_that_is_said(tmp_path):
    nowhere = Surroundings(tmp_path / "missing", tmp_path / "log", None, None, None)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert launch.launch(tmp_path / "run.json", 2, nowhere) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert error(tmp_path).reason == "TrainerCrashed"
    assert "No such file or directory" in error(tmp_path).message


def test_whoever_left_no_message_is_known_by_the_exit_code(tmp_path):
    assert launched(tmp_path, "os._exit(3)", WAIT).wait(20) == 3
    assert not (tmp_path / "log").exists()


LISTEN = """
import signal
def stop(*_):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(21))
    print("asked", flush=True)
    OBEY
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize(("obey", "signals"), [("os._exit(21)", 1), ("pass", 2)])
def test_sigterm_goes_to_all_and_so_does_the_second_one(tmp_path, obey, signals):
    process = launched(tmp_path, *[LISTEN.replace("OBEY", obey)] * 2)
    assert lines(process, 2) == ["ready"] * 2
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        assert lines(process, 2) in (["asked"] * 2, [""] * 2)
    assert process.wait(20) == ExitCode.PREEMPTED


def test_a_process_that_has_not_learned_yet_what_sigterm_means_is_preempted_too(tmp_path):
    process = launched(tmp_path, *[f"print('ready', flush=True); {WAIT}"] * 2)
    assert lines(process, 2) == ["ready"] * 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == ExitCode.PREEMPTED


def test_nobody_is_left_behind(tmp_path):
    members = gang(tmp_path, WAIT, WAIT, exit_with(16))
    Gang(members).wait()
    for member in members:
        with pytest.raises(ProcessLookupError):
            os.kill(member.process.pid, 0)
