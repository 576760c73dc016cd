"""``python -m finetune_trainer``: the whole story of a run."""

import argparse
import gc
import logging
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from finetune_api.conditions import Phase
from finetune_api.run import RUN_FILE, RunConfig, RunResult
from finetune_trainer import data, fetch
from finetune_trainer.background import start
from finetune_trainer.checkpoint import Fingerprint
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.config import Surroundings, prepare_libraries, read_run
from finetune_trainer.ending import run_to_end
from finetune_trainer.errors import writing
from finetune_trainer.progress import Progress
from finetune_trainer.publish import Publication, find_published
from finetune_trainer.report import Endpoint, Reporter
from finetune_trainer.stopping import StopRequest
from finetune_trainer.storage import Store


def tune(config: RunConfig, scratch: Path, progress: Progress, stop: StopRequest | None = None) -> RunResult:
    """Data and model → evaluation of the base → training → evaluation of the tuned model → publication."""
    begun, stop = time.monotonic(), stop or StopRequest()
    prepare_libraries(config, scratch)
    store = Store(config.storage)
    checkpoints = Checkpoints(config, store)
    published = start(partial(find_published, config, store))
    dataset = start(partial(data.load, config.data, config.training.seed, store, scratch / "data"))
    files = start(partial(fetch.fetch_model, config.model, store, scratch / "model"))
    fingerprint = start(lambda: Fingerprint.of(config, dataset.result().files, files.result().version))
    checkpoint = start(partial(checkpoints.find, scratch / "resumed", fingerprint.result))

    from finetune_trainer.result import Outcome  # these bring torch in, while the downloads run
    from finetune_trainer.savedtraining import begin
    from finetune_trainer.saver import Saver

    if (already := published.result()) is not None:
        checkpoints.remove_all()
        return already
    records, model, resumed = dataset.result(), files.result(), checkpoint.result()
    tuning, base = begin(config, model, records, progress, resumed)
    there = scratch / "checkpoints"
    with Saver(config, checkpoints, fingerprint.result(), there, base, resumed, stop, progress) as saver:
        with stop.deferred():
            trained = tuning.train(saver, stop.asked)
        stop.obey()

        progress.enter(Phase.EVALUATING)
        tuned = tuning.measure_tuned()

        progress.enter(Phase.PUBLISHING)
        outcome = Outcome(config, records, tuning, base, trained, tuned, tuning.gpu_seconds(time.monotonic() - begun))
        publication = Publication.begin(config, store)
        result = outcome.run_result(publication.location)
        stop.defer()
        with writing("the result", scratch):
            outcome.write(scratch / "result")
        result = publication.publish(scratch / "result", records.files, result)
        progress.finish()
    return result


def main() -> int:
    """Runs the run file named on the command line; returns the exit code of the contract."""
    gc.disable()  # until libraries and model are in: they make much and drop nothing (measured: 0.8 s of 4.7 s)
    parser = argparse.ArgumentParser(prog="finetune_trainer", description="Fine-tunes a model as a run file says.")
    parser.add_argument("--run", type=Path, default=Path(RUN_FILE), help="the run file (default: %(default)s)")
    run_file = parser.parse_args().run
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("finetune_trainer").setLevel(logging.INFO)
    surroundings = Surroundings.of_environment()
    stop = StopRequest()
    stop.listen()
    endpoint = None
    if surroundings.reports_url:
        endpoint = Endpoint(surroundings.reports_url, surroundings.reports_token, surroundings.reports_ca)
    reporter = Reporter(endpoint)

    def story() -> RunResult:
        try:
            config = read_run(run_file)
            with (
                tempfile.TemporaryDirectory(dir=surroundings.scratch, ignore_cleanup_errors=True) as scratch,
                writing("the data and other files of the run", Path(scratch)),
            ):
                return tune(config, Path(scratch), Progress(reporter), stop)
        finally:
            stop.ignore()

    code = run_to_end(story, surroundings.termination_log)
    reporter.close()
    return code


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # at once: nobody waits for a download that is no longer needed
