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
from finetune_trainer.background import start
from finetune_trainer.check import check
from finetune_trainer.checkpoints.checkpoint import Fingerprint
from finetune_trainer.checkpoints.stored import Checkpoints
from finetune_trainer.config import Surroundings, prepare_libraries, process_count, read_run
from finetune_trainer.ending import run_to_end
from finetune_trainer.errors import writing
from finetune_trainer.models import fetch
from finetune_trainer.preparation import data
from finetune_trainer.progress import Progress
from finetune_trainer.publishing.publish import Publication, find_published
from finetune_trainer.quickimports import quick_imports
from finetune_trainer.recipes import entry_of
from finetune_trainer.report import Endpoint, Reporter
from finetune_trainer.scaling import launch
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.stopping import StopRequest
from finetune_trainer.storage.store import Store


def tune(
    config: RunConfig, scratch: Path, progress: Progress, stop: StopRequest | None = None, ranks: Ranks = ALONE
) -> RunResult:
    """Data and model → evaluation of the base → training → evaluation of the tuned model → publication.

    Where several processes train together they share all of it but the last, which is up to the first of them.
    """
    begun, stop = time.monotonic(), stop or StopRequest()
    prepare_libraries(config, scratch)
    store = Store(config.storage)
    checkpoints = Checkpoints(config, store)
    load = partial(data.load, config.data, entry_of(config).formats, config.training.seed, store, scratch / "data")
    published = start(partial(ranks.prepared, "published", partial(find_published, config, store)))
    dataset = start(partial(ranks.prepared, "data", load))
    files = start(partial(ranks.prepared, "model", partial(fetch.fetch_model, config.model, store, scratch / "model")))
    fingerprint = start(
        lambda: Fingerprint.of(config, dataset.result().files, files.result().whole_version, ranks.count)
    )
    checkpoint = start(lambda: checkpoints.find(scratch / "resumed", fingerprint.result) if ranks.first else None)

    with quick_imports():  # of torch and the other libraries, while the downloads run
        from finetune_trainer.checkpoints.savedtraining import begin, follow
        from finetune_trainer.checkpoints.saver import Saver
        from finetune_trainer.publishing.result import Outcome

    if (already := published.result()) is not None:
        if ranks.first:
            checkpoints.remove_all()
        return already
    records, model, resumed = dataset.result(), files.result(), checkpoint.result()
    tuning, base = begin(config, model, records, progress, resumed, ranks)
    if not ranks.first:
        return follow(tuning, stop, ranks)
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
        result = publication.publish(scratch / "result", records.files, result, model.lineage)
        progress.finish()
    ranks.leave()
    return result


def main() -> int:
    """Runs the run file named on the command line; returns the exit code of the contract."""
    gc.disable()  # until libraries and model are in: they make much and drop nothing (measured: 0.8 s of 4.7 s)
    parser = argparse.ArgumentParser(prog="finetune_trainer", description="Fine-tunes a model as a run file says.")
    parser.add_argument("--run", type=Path, default=Path(RUN_FILE), help="the run file (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="train nothing: say whether it could be begun")
    arguments = parser.parse_args()
    run_file = arguments.run
    surroundings = Surroundings.of_environment()
    processes = process_count(run_file)
    if not arguments.check and launch.wanted(processes):
        return launch.launch(run_file, processes, surroundings)
    ranks = Ranks.of_environment()
    who = "" if ranks.alone else f" [{ranks.rank}]"
    logging.basicConfig(stream=sys.stdout, format=f"%(asctime)s{who} %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("finetune_trainer").setLevel(logging.INFO if ranks.first else logging.ERROR)
    stop = StopRequest()
    stop.listen()
    endpoint = None
    if surroundings.reports_url and ranks.first and not arguments.check:
        endpoint = Endpoint(surroundings.reports_url, surroundings.reports_token, surroundings.reports_ca)
    reporter = Reporter(endpoint)

    def story() -> RunResult:
        try:
            config = read_run(run_file)
            with (
                tempfile.TemporaryDirectory(dir=surroundings.scratch, ignore_cleanup_errors=True) as scratch,
                writing("the data and other files of the run", Path(scratch)),
            ):
                if arguments.check:
                    return check(config, Path(scratch))
                return tune(config, Path(scratch), Progress(reporter), stop, ranks)
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
