"""Progress on its way to the operator: Kubeflow's wire format, never in the way of training."""

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest

from finetune_api.conditions import Phase
from finetune_api.run import Report, TrainerStatus
from finetune_trainer.progress import TRAINING_COST, Progress, StepDone
from finetune_trainer.report import Endpoint, Reporter
from tests.certificates import make_certificate

LONG = 3600.0


@pytest.fixture
def server():
    """Puts (headers, body) of every POST into a queue; waits for ``release`` before it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.received.put((dict(self.headers), json.loads(body)))
            self.server.release.wait(30)
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.received, made.release, made.status = Queue(), threading.Event(), 200
    made.release.set()
    made.url = f"http://127.0.0.1:{made.server_port}/apis/v1/jobs/tune"
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.release.set()
    made.shutdown()
    made.server_close()


def status(percent: int) -> TrainerStatus:
    return TrainerStatus(last_updated_time="2026-01-01T00:00:00Z", progress_percentage=percent)


def percent(received) -> int:
    return received[1]["trainerStatus"]["progressPercentage"]


def test_a_report_has_the_format_and_the_token_of_the_moment(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    endpoint = Endpoint(server.url, token, None)
    endpoint.post(status(7))
    token.write_text("renewed")
    endpoint.post(status(8))
    (headers, body), (later, _) = server.received.get(timeout=10), server.received.get(timeout=10)
    told = {"lastUpdatedTime": "2026-01-01T00:00:00Z", "progressPercentage": 7, "metrics": []}
    assert body == {"trainerStatus": told}
    assert (headers["Authorization"], later["Authorization"]) == ("Bearer first", "Bearer renewed")
    assert headers["Content-Type"] == "application/json"


def test_a_report_goes_over_tls_to_whom_the_given_authority_vouches_for(server, tmp_path):
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    Endpoint(url, None, certificate).post(status(7))
    assert percent(server.received.get(timeout=10)) == 7
    with pytest.raises(OSError, match="certificate verify failed"):
        Endpoint(url, None, None).post(status(8))
    assert server.received.empty()


def test_between_two_reports_there_is_an_interval_but_a_new_phase_does_not_wait(server):
    reporter = Reporter(Endpoint(server.url, None, None), interval=LONG)
    reporter.update(status(1))
    assert percent(server.received.get(timeout=10)) == 1
    reporter.update(status(2))
    reporter.update(status(3), at_once=True)
    assert percent(server.received.get(timeout=10)) == 3
    reporter.close()
    assert server.received.empty()


def test_the_last_report_is_sent_before_the_end(server):
    reporter = Reporter(Endpoint(server.url, None, None), interval=LONG)
    reporter.update(status(1))
    server.received.get(timeout=10)
    reporter.update(status(99))
    reporter.update(status(100))
    reporter.close()
    assert percent(server.received.get(timeout=0.1)) == 100
    assert server.received.empty()


def test_a_slow_endpoint_holds_nobody_up_and_gets_the_newest(server):
    server.release.clear()
    reporter = Reporter(Endpoint(server.url, None, None), interval=0)
    reporter.update(status(1))
    server.received.get(timeout=10)
    for number in range(2, 50):
        reporter.update(status(number))
    assert server.received.empty()
    server.release.set()
    assert percent(server.received.get(timeout=10)) == 49
    reporter.close()


def test_what_was_not_taken_is_sent_again_when_the_next_is_due_unless_there_is_a_newer_one(server):
    reporter = Reporter(Endpoint(server.url, None, None), interval=0.05)
    server.status = 503
    reporter.update(status(1))
    assert percent(server.received.get(timeout=10)) == percent(server.received.get(timeout=10)) == 1
    reporter.update(status(2))
    while percent(server.received.get(timeout=10)) != 2:
        pass
    server.status = 200
    assert percent(server.received.get(timeout=10)) == 2
    reporter.close()
    assert {percent(one) for one in server.received.queue} <= {2}


@pytest.mark.parametrize("fault", ["refused", "error", "no token", "no url"])
def test_a_fault_is_said_once_and_stops_nothing(server, tmp_path, caplog, fault):
    server.status = 500 if fault == "error" else 200
    url = {"refused": "http://127.0.0.1:1/", "no url": "ftp://127.0.0.1/"}.get(fault, server.url)
    reporter = Reporter(Endpoint(url, tmp_path / "none" if fault == "no token" else None, None), interval=0)
    for number in range(3):
        reporter.update(status(number), at_once=True)
    reporter.close()
    assert [record.message for record in caplog.records if "cannot be reported" in record.message]
    assert len(caplog.records) == 1


def test_without_an_endpoint_nothing_happens():
    reporter = Reporter(None)
    reporter.update(status(1))
    reporter.close()


def step(number: int, total: int = 4, tokens: int = 100) -> StepDone:
    return StepDone(number, total, number / 2, loss=1.5, learning_rate=1e-4, tokens=tokens)


class Recorder(Reporter):
    def __init__(self):
        super().__init__(None)
        self.seen: list[TrainerStatus] = []

    def update(self, status, at_once=False):
        self.seen.append(Report.model_validate_json(Report(trainer_status=status).to_json()).trainer_status)


def test_progress_covers_the_whole_run_and_never_goes_back():
    now = [0.0]
    recorder = Recorder()
    progress = Progress(recorder, clock=lambda: now[0])
    progress.plan(2 * 150 + 4 * TRAINING_COST * 100)  # 1,500
    progress.evaluated(150)
    for number in range(1, 5):
        now[0] += 10
        progress.trained(step(number))
    progress.enter(Phase.EVALUATING)
    progress.evaluated(150)
    progress.enter(Phase.PUBLISHING)
    progress.finish()
    percents = [status.progress_percentage for status in recorder.seen]
    assert percents == [0, 9, 29, 49, 68, 88, 88, 98, 98, 100]
    phases = [status.metric("phase") for status in recorder.seen]
    assert phases == ["Running"] * 6 + ["Evaluating"] * 2 + ["Publishing"] * 2


def test_a_run_that_goes_on_begins_where_it_was_and_judges_by_its_own_speed():
    now = [0.0]
    recorder = Recorder()
    progress = Progress(recorder, clock=lambda: now[0])
    progress.plan(150 + 4 * TRAINING_COST * 100 + 150, 150 + 2 * TRAINING_COST * 100, step(2))
    now[0] = 6.0
    progress.trained(step(3))
    before, after = recorder.seen
    assert (before.progress_percentage, before.estimated_remaining_seconds) == (49, None)
    assert (before.number("current_step"), before.number("resumed_at_step")) == (2, 2)
    assert (after.progress_percentage, after.estimated_remaining_seconds) == (68, 9)  # 300 took 6 s, 450 are left
    assert after.number("resumed_at_step") == 2


def test_the_newest_checkpoint_is_told():
    recorder = Recorder()
    progress = Progress(recorder)
    progress.saved("00000003-01234567")
    assert recorder.seen[-1].metric("checkpoint") == "00000003-01234567"


def test_a_report_tells_the_step_and_the_time_left():
    now = [0.0]
    recorder = Recorder()
    progress = Progress(recorder, clock=lambda: now[0])
    progress.plan(4 * TRAINING_COST * 100)
    now[0] = 2.0
    progress.begin_training()
    now[0] = 6.0
    progress.trained(step(1))
    told = recorder.seen[-1]
    assert told.estimated_remaining_seconds == 18  # a quarter took 6 s
    assert {metric.name: metric.value for metric in told.metrics} == {
        "phase": "Running",
        "loss": "1.5",
        "learning_rate": "0.0001",
        "current_step": "1",
        "total_steps": "4",
        "current_epoch": "0.5",
        "tokens_per_second": "25",
    }
