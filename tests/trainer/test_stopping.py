"""What SIGTERM does to this process, and when."""

import os
import signal
import subprocess
import sys
import time

import pytest

from finetune_api.run import GRACE_SECONDS, ExitCode
from finetune_trainer.errors import Stopped
from finetune_trainer.stopping import StopRequest


@pytest.fixture
def stop():
    handler = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    request.listen()
    yield request
    signal.signal(signal.SIGTERM, handler)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_what_the_main_thread_is_at(stop):
    with pytest.raises(Stopped):
        sigterm()
    assert stop.asked()


def test_where_it_is_deferred_the_work_comes_to_its_own_end(stop):
    with stop.deferred():
        sigterm()
        assert stop.asked()
    with pytest.raises(Stopped):
        stop.obey()


def test_once_it_is_deferred_for_good_nothing_is_ended_any_more(stop):
    stop.defer()
    sigterm()
    assert stop.asked()


def test_who_was_not_asked_has_nothing_to_obey(stop):
    stop.obey()
    assert not stop.asked()


def test_there_is_the_grace_period_to_save_the_state_but_for_some_seconds_of_it(stop):
    now = time.monotonic()
    request = StopRequest(clock=lambda: now)
    whole = request.seconds_left()
    assert GRACE_SECONDS - 20 <= whole < GRACE_SECONDS
    with request.deferred():
        request.listen()
        sigterm()
    now += 30
    assert request.seconds_left() == pytest.approx(whole - 30)
    now += 1000
    assert request.seconds_left() == 0


def test_a_sigterm_after_the_end_changes_nothing(stop):
    stop.ignore()
    sigterm()
    assert not stop.asked()


def test_a_second_sigterm_ends_the_process_at_once():
    program = (
        "import signal; from finetune_trainer import errors, stopping\n"
        "stopping.StopRequest().listen()\n"
        "try: print('ready', flush=True); signal.pause()\n"
        "except errors.Stopped: print('stopping', flush=True); signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for expected in ("ready", "stopping"):
        assert process.stdout.readline().strip() == expected
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == ExitCode.PREEMPTED
