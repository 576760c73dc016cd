"""``python -m examples.quickstart``: from Python's own documentation to an adapter, by two FineTuneJobs."""

import asyncio
import fcntl
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.quickstart import result
from examples.quickstart.jobs import run_jobs
from examples.quickstart.new_model import create_base
from examples.quickstart.prepare import write_records
from examples.quickstart.screen import Screen, answers, comparison, shown
from examples.quickstart.stdlib_docs import Corpus, read_standard_library
from finetune_local.cluster import ControlPlaneFailed
from finetune_local.run import documents, job

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "quickstart"
INTERRUPTED = 130


class AlreadyRunning(Exception):
    """Another quickstart uses the same folder; ``str()`` says which."""


FAILURES = (
    AlreadyRunning,
    OSError,
    ControlPlaneFailed,
    documents.InvalidDocument,
    job.RunFailed,
    result.ResultUnusable,
)
"""What can go wrong without being a bug; each says what, and what to do."""


def quickstart(yamls: Path, build: Path, screen: Screen) -> None:
    """The whole story. Begins by removing what an earlier run left in ``build``.

    Args:
        yamls: the folder of base.yaml and tuned.yaml, whose ``file://`` URIs name files of ``build``.

    Raises:
        FAILURES: see there.
    """
    with _alone(build):
        if build.exists():
            shutil.rmtree(build)
        _story(yamls, build, screen)


@contextmanager
def _alone(build: Path) -> Iterator[None]:
    """Holds a lock beside ``build`` for as long as this process works in it."""
    build.parent.mkdir(parents=True, exist_ok=True)
    with build.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another quickstart is at work in {shown(build)}; wait until it has ended") from None
        yield


def _story(yamls: Path, build: Path, screen: Screen) -> None:
    corpus = _prepare(build, screen)
    tuned = asyncio.run(run_jobs(yamls, build, screen))
    result.keep_resource(tuned, build / "finetunejob.yaml")
    result.point_at_base(build / "adapter", build / "base")

    screen.step("Compare base and adapter on functions that neither has seen")
    result.require_gain(tuned)
    screen.say(comparison(tuned["status"]["metrics"]))
    screen.say(f"\n{answers(result.samples_of(build / 'adapter'))}\n")
    screen.say("So small a model learns the manner of such sentences, hardly their truth. It is the way that is real.")

    screen.step("Load the adapter in another process, with transformers and PEFT alone and without a network")
    question = corpus.held_out[-1].record()["prompt"].strip()
    screen.say(f"{question}\n  {result.ask_alone(build / 'adapter', question)}")
    screen.end_step()
    _tell_what_next(build, question, screen)


def _prepare(build: Path, screen: Screen) -> Corpus:
    screen.step("Read what Python's standard library says of itself")
    corpus = read_standard_library()
    write_records(corpus, build / "input")
    screen.say(f"{sum(map(len, corpus.prose)):,} characters of prose to pre-train on")
    screen.say(f"{len(corpus.train):,} pairs, signature → description, to tune on; {len(corpus.held_out)} held out")
    screen.step("Make a base model that knows nothing yet")
    parameters = create_base(corpus.prose, build / "input" / "random-llama")
    screen.say(f"a Llama of {parameters:,} random weights, and a BPE tokenizer made for this prose")
    return corpus


def _tell_what_next(build: Path, question: str, screen: Screen) -> None:
    adapter, python = shown(build / "adapter"), shown(Path(sys.executable))
    screen.say(
        f"""
Done in {screen.seconds:.0f} s. There is now

  {shown(build / "finetunejob.yaml")}: the second FineTuneJob with its status
  {adapter}: the adapter, as published in S3, but its adapter_config.json names the local base, so that
    AutoPeftModelForCausalLM.from_pretrained("{adapter}") works offline with transformers and PEFT alone
  {shown(build / "base")}: that base

What next

  Ask the adapter        {python} {shown(result.ASK)} {adapter} "{question}"
  Run a job of your own  {python} -m finetune_local run job.yaml --out adapter
  Use kubectl            {python} -m finetune_local up"""
    )


def main() -> int:
    """The process; the answer is its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        quickstart(HERE, BUILD, Screen(sys.stdout))
    except FAILURES as e:
        print(f"\nThe quickstart failed: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
