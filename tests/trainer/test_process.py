"""The trainer as a process: exit codes, signals, reports, and how soon it starts."""

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.trainer import startup
from finetune_api.run import ExitCode, Report

LISTING = """
import sys
from finetune_trainer.__main__ import main
code = main()
print("MODULES", *sorted(name for name in sys.modules if sys.modules[name] is not None))
sys.stdout.flush()
sys.exit(code)
"""
NOT_NEEDED = {"bitsandbytes", "datasets", "sklearn", "pandas", "tensorboard", "kubernetes", "aiohttp", "trl"}
LONG = {"maxSteps": 1_000_000, "maxLength": 64}


@pytest.fixture
def reports():
    """An endpoint that keeps what it is told."""
    told: list[tuple[str | None, Report]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.headers["Authorization"], Report.model_validate_json(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.told, server.url = told, f"http://127.0.0.1:{server.server_port}/apis/jobs/tune"
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_reports_publishes_and_imports_nothing_that_it_does_not_need(s3, trainer, reports, tmp_path):
    (tmp_path / "token").write_text("who-i-am")
    config = trainer.config(training={"maxSteps": 12, "learningRate": 1e-2, "maxLength": 64})
    process = trainer.start(
        config,
        ("-c", LISTING),
        KUBEFLOW_TRAINER_SERVER_URL=reports.url,
        KUBEFLOW_TRAINER_SERVER_TOKEN=str(tmp_path / "token"),
    )
    ended = trainer.finish(process, config)
    assert (ended.code, ended.err) == (0, "")
    assert ended.result.result.adapter_uri.startswith(config.output_prefix)
    assert s3.names(ended.location)
    assert "step 12/12" in ended.out
    modules = set(ended.out.partition("MODULES ")[2].split())
    assert not {module.partition(".")[0] for module in modules} & NOT_NEEDED
    assert {authorization for authorization, _ in reports.told} == {"Bearer who-i-am"}
    statuses = [report.trainer_status for _, report in reports.told]
    percents = [status.progress_percentage for status in statuses]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    phases = [status.metric("phase") for status in statuses]
    assert phases == sorted(phases, key=["Running", "Evaluating", "Publishing"].index)
    assert statuses[-1].number("total_steps") == 12
    assert list((tmp_path / "scratch").iterdir()) == []


def test_sigterm_ends_a_run_as_preempted_with_nothing_published_but_its_state_saved(s3, trainer, await_line):
    config = trainer.config(training=LONG)
    process = trainer.start(config)
    await_line(process, "step 1/")
    process.send_signal(signal.SIGTERM)
    ended = trainer.finish(process, config)
    assert ended.code == ExitCode.PREEMPTED
    assert ended.result.error.reason == "Preempted"
    assert ended.err.startswith("Preempted: The training pod was asked to stop")
    assert "is saved in s3://team-a/out/" in ended.message
    folders = {name.partition("/")[0] for name in s3.names(config.output_prefix)}
    assert folders == {"checkpoints"}


def test_a_run_that_was_killed_leaves_no_result_and_the_next_one_succeeds(s3, trainer, await_line):
    config = trainer.config(training=LONG)
    process = trainer.start(config)
    await_line(process, "step 1/")
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert s3.names(config.output_prefix) == []
    assert trainer.run().code == 0
    assert "manifest.json" in s3.names(config.output_prefix)


def test_another_contract_version_is_refused_before_torch_is_imported(trainer, tmp_path):
    content = json.loads(trainer.config().to_json()) | {"contract": 2}
    listing = LISTING.replace("sys.exit(code)", "import os; os._exit(code)")
    ended = trainer.finish(trainer.start(json.dumps(content), ("-c", listing)))
    assert (ended.code, ended.result.error.reason) == (ExitCode.CONTRACT_MISMATCH, "ContractMismatch")
    assert len(ended.err.splitlines()) == 1
    assert "torch" not in ended.out.partition("MODULES ")[2].split()


def test_the_first_step_comes_soon_after_what_it_takes_to_import_and_load():
    """CPU seconds, since they hardly change when other processes want the machine too."""
    measured = startup.measure(repetitions=1)
    assert measured.floor_ratio < 1.5, measured
