"""A disk that is full while models, data and results are written: a real one, where the kernel lets us make it."""

import json
import subprocess
import sys

import pytest

from finetune_api.run import ExitCode
from tests import small_disk, tiny

FETCH = """
import sys
from pathlib import Path
from finetune_api.run import ModelLocation
from finetune_api.spec import Storage
from finetune_trainer.models import modelfiles
from finetune_trainer.ending import run_to_end
from finetune_trainer.models.fetch import fetch_model
from finetune_trainer.storage.store import Store
uri, endpoint, scratch, log = sys.argv[1:]
modelfiles._require_room = lambda *_: None  # others fill the disk in the meantime
story = lambda: fetch_model(ModelLocation(uri=uri), Store(Storage(endpoint_url=endpoint)), Path(scratch) / "model")
sys.exit(run_to_end(story, Path(log)))
"""
EXEC = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


if small_disk.can_be_made():

    def test_a_model_that_fills_the_disk_is_told_with_the_room_there_is(s3, model_uri, tmp_path):
        scratch, log = tmp_path / "scratch", tmp_path / "log"
        scratch.mkdir()
        program = small_disk.command(scratch, 64 << 10, sys.executable, "-c", FETCH)
        done = subprocess.run([*program, model_uri, s3.url, str(scratch), str(log)], timeout=60, check=False)
        error = json.loads(log.read_bytes())["error"]
        assert (done.returncode, error["reason"]) == (ExitCode.DISK_FULL, "DiskFull")
        assert f"The disk has no room for the model {model_uri}: " in error["message"]
        assert "of 0.1 MiB are free at " in error["message"]
        assert "Free room on the node" in error["message"]

    @pytest.mark.long
    @pytest.mark.parametrize(("part", "what"), [("data", "the data and other files of the run"), ("", "the result")])
    def test_a_run_on_a_disk_that_fills_up_publishes_nothing(s3, trainer, model_directory, part, what):
        """Data and model fit, or do not quite; the tuned model, as large as its base, does not."""
        content = tiny.json_lines(*tiny.PAIRS) * 100
        held = sum(path.stat().st_size for path in model_directory.iterdir())
        config = trainer.config(data=trainer.data(content), method={"adapter": "none"})
        size = len(content) // 2 if part == "data" else len(content) + held * 3 // 2
        program = small_disk.command(trainer.directory / "scratch", size, sys.executable, "-m", "finetune_trainer")
        ended = trainer.finish(trainer.start(config, ("-c", EXEC, *program)), config)
        assert (ended.code, ended.result.error.reason) == (ExitCode.DISK_FULL, "DiskFull"), ended.message
        assert f"The disk has no room for {what}" in ended.message
        assert ended.err == f"DiskFull: {ended.message}\n"
        assert s3.names(config.output_prefix) == []
