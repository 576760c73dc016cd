"""Trainers that start in a moment: a process that has imported everything forks one for each that is asked for.

Each counts what happens in it, and ends, or is sent a signal, at the event it was told. Run as a program this is that
process: it reads a line of JSON for each trainer.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

_END = "the end"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Order:
    """One trainer."""

    config: str
    """The run file."""
    directory: str
    """For its scratch files, its log and its termination message."""
    signals: dict[str, str] = field(default_factory=dict)
    """Event → name of a signal. An event is named by its number, from 1 (where there are fewer, the last one, when
    everything is done and nothing of it was told yet), by the beginning of what it is called, or by that and what came
    earlier: ``enter Publishing … send PUT``."""


@dataclass(frozen=True)
class Life:
    """What became of a trainer."""

    code: int
    """Exit code; negative: the number of the signal that ended it."""
    events: list[str]
    log: str
    message: str
    """The termination message; empty where there is none."""


class Running:
    """A trainer that was begun."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def wait(self) -> Life:
        """To its end."""
        code = int((self._directory / "code").read_text())  # a pipe, into which it is written in the end
        message = self._directory / "termination-log"
        return Life(
            code,
            (self._directory / "events").read_text().splitlines(),
            (self._directory / "log").read_text(),
            message.read_text() if message.exists() else "",
        )


class Zygote:
    """The process, from outside."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def begin(self, order: Order) -> Running:
        """Forks a trainer; several may run at the same time."""
        assert self._process.stdin
        os.mkfifo(Path(order.directory) / "code")
        self._process.stdin.write(f"{json.dumps(asdict(order))}\n")
        self._process.stdin.flush()
        return Running(Path(order.directory))

    def run(self, order: Order) -> Life:
        """One trainer, to its end."""
        return self.begin(order).wait()


@contextmanager
def started() -> Iterator[Zygote]:
    """A zygote, ready."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.zygote"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield Zygote(process)
        process.kill()


# The process itself -------------------------------------------------------------------------------------------------


class Events:
    """Counts and writes down what happens, and sends the signals that belong to it."""

    def __init__(self, path: Path, signals: dict[str, str]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._signals = dict(signals)
        self._count = 0
        self._seen: list[str] = []
        self._lock = threading.Lock()

    def happened(self, what: str) -> None:
        """From any thread."""
        with self._lock:
            self._count += 1
            self._seen.append(what)
            os.write(self._file, f"{what}\n".encode())
            due = [key for key in self._signals if self._is_due(key, what)]
            names = [self._signals.pop(key) for key in due]
        for name in names:
            os.kill(os.getpid(), signal.Signals[name])

    def _is_due(self, key: str, what: str) -> bool:
        if key.isdecimal():
            return int(key) == self._count or what == _END
        earlier, _, name = key.rpartition(" … ")
        return what.startswith(name) and (not earlier or any(event.startswith(earlier) for event in self._seen))

    def around(self, owner: Any, name: str, what: Callable[..., str]) -> None:
        """Lets calls of ``owner.name`` be events before they are carried out."""
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.happened(what(*args))
            return original(*args, **kwargs)

        setattr(owner, name, counted)


def _observe(events: Events) -> None:
    """Requests to S3, before they are sent, while they are, and after they were answered; and files written here."""
    from botocore.httpsession import URLLib3Session
    from safetensors import torch as safetensors

    from finetune_trainer.checkpoints import savedtraining
    from finetune_trainer.progress import Progress
    from finetune_trainer.storage import upload

    events.around(URLLib3Session, "send", lambda _, request: f"send {request.method} {_path(request.url)}")
    answered = URLLib3Session.send

    def send(session: Any, request: Any) -> Any:
        answer = answered(session, request)
        events.happened(f"answer {request.method} {_path(request.url)}")
        return answer

    URLLib3Session.send = send
    events.around(upload._Body, "read", lambda body, *_: f"body at {body.tell()}")
    events.around(savedtraining, "_save", lambda _, path: f"write {path.name}")
    events.around(safetensors, "save_file", lambda _, path, *__: f"write {path}")
    events.around(Progress, "trained", lambda _, done: f"step {done.step}")
    events.around(Progress, "evaluated", lambda *_: "evaluated")
    events.around(Progress, "enter", lambda _, phase: f"enter {phase}")


def _path(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]


def _live(order: Order) -> int:
    """A trainer's life; the exit code."""
    from accelerate.state import AcceleratorState

    from finetune_api.run import RunConfig, RunResult
    from finetune_trainer.__main__ import tune
    from finetune_trainer.ending import run_to_end
    from finetune_trainer.progress import Progress
    from finetune_trainer.report import Reporter
    from finetune_trainer.stopping import StopRequest
    from finetune_trainer.storage import store as storage
    from finetune_trainer.storage.patience import Patience

    AcceleratorState._reset_state(reset_partial_state=True)
    storage.Patience = partial(Patience, pause_seconds=0.0)
    directory = Path(order.directory)
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    events = Events(directory / "events", order.signals)
    _observe(events)
    stop = StopRequest()
    stop.listen()
    config = RunConfig.model_validate_json(order.config)
    scratch = directory / "scratch"
    scratch.mkdir()

    def story() -> RunResult:
        result = tune(config, scratch, Progress(Reporter(None)), stop)
        events.happened(_END)
        return result

    return run_to_end(story, directory / "termination-log")


def _import_everything() -> None:
    """But no work: a process that has threads must not fork."""
    import logging

    sys.modules["bitsandbytes"] = None  # type: ignore[assignment] # as the trainer does where nothing is quantised
    import botocore.session  # noqa: F401
    import peft  # noqa: F401
    from transformers import conversion_mapping
    from transformers.models.llama import modeling_llama  # noqa: F401

    from finetune_trainer.tuning import tuning  # noqa: F401

    conversion_mapping.get_checkpoint_conversion_mapping("llama")  # makes those of all architectures, a tenth of a run
    logging.basicConfig(format="%(asctime)s.%(msecs)03d %(threadName)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("finetune_trainer").setLevel(logging.INFO)


def _guard(order: Order) -> None:
    """Lets a trainer live in a process of its own, and tells its exit code."""
    child = os.fork()
    if not child:
        os._exit(_live(order))
    _, status = os.waitpid(child, 0)
    (Path(order.directory) / "code").write_text(str(os.waitstatus_to_exitcode(status)))


def main() -> None:
    """Forks a trainer for each order."""
    gc.disable()  # what is imported stays: nobody looks through it for garbage, here or in those that are forked
    _import_everything()
    gc.freeze()
    assert threading.active_count() == 1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _guard(Order(**json.loads(line)))
            os._exit(0)


if __name__ == "__main__":
    main()
