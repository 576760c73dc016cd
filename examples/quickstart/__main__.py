"""``python -m examples.quickstart``: two FineTuneJobs on this machine, from Python's own documentation to an adapter."""

import asyncio
import logging
import shutil
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from examples.quickstart import result
from examples.quickstart.new_model import create_base
from examples.quickstart.prepare import write_records
from examples.quickstart.screen import Screen, answers, comparison
from examples.quickstart.stdlib_docs import Corpus, read_standard_library
from finetune_api import names
from finetune_local.client import ApiClient
from finetune_local.cluster import ControlPlaneFailed, LocalCluster
from finetune_local.connection import Addresses
from finetune_local.run import documents, job, table
from finetune_local.run.progress import Display

Object = dict[str, Any]

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "quickstart"
INTERRUPTED = 130

FAILURES = (
    OSError,
    ControlPlaneFailed,
    documents.InvalidDocument,
    job.RunFailed,
    result.ResultUnusable,
)
"""What can go wrong without being a bug; each says what, and what to do."""


def quickstart(yamls: Path, build: Path, screen: Screen) -> None:
    """The whole story. Begins with an empty ``build``.

    Args:
        yamls: the folder of base.yaml and tuned.yaml, whose ``file://`` URIs name files of ``build``.

    Raises:
        FAILURES: see there.
    """
    shutil.rmtree(build, ignore_errors=True)
    corpus = _prepare(build, screen)
    tuned = asyncio.run(_run_jobs(yamls, build, screen))
    result.keep_resource(tuned, build / "finetunejob.yaml")
    result.point_at_base(build / "adapter", build / "base")

    screen.step("Compare base and adapter on functions that neither has seen")
    screen.say(comparison(tuned["status"]["metrics"]))
    screen.say(f"\n{answers(result.samples_of(build / 'adapter'))}\n")

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


async def _run_jobs(yamls: Path, build: Path, screen: Screen) -> Object:
    """Both jobs in a local mode of their own, and their results on disk; the second one's final resource."""
    screen.step("Start local mode: Kubernetes API server, Job controller, node, S3 and operator")
    async with LocalCluster(build / "local") as cluster:
        screen.say(f"logs in {shown(cluster.directory)}")
        work = asyncio.create_task(_both(yamls, build, Addresses.of(cluster), screen))
        return await _unless_it_fails(work, cluster.watch())


async def _unless_it_fails(work: "asyncio.Task[Object]", watch: Coroutine[Any, Any, None]) -> Object:
    """What ``work`` returns; ``watch`` ends, by raising, only if local mode fails under it."""
    guard = asyncio.create_task(watch)
    try:
        await asyncio.wait({work, guard}, return_when=asyncio.FIRST_COMPLETED)
        if guard.done():
            guard.result()
        return await work
    finally:
        work.cancel()
        guard.cancel()


async def _both(yamls: Path, build: Path, addresses: Addresses, screen: Screen) -> Object:
    async with addresses.client() as client:
        screen.step("Pre-train: the first FineTuneJob trains all weights on the prose")
        base = await _one(yamls / "base.yaml", client, addresses, screen)
        await job.fetch(base, addresses, build / "base")
        screen.step("Tune: the second FineTuneJob trains an adapter for what the first one published")
        tuned = await _one(yamls / "tuned.yaml", client, addresses, screen)
        await job.fetch(tuned, addresses, build / "adapter")
        return tuned


async def _one(yaml: Path, client: ApiClient, addresses: Addresses, screen: Screen) -> Object:
    """One job to its end, with its YAML before and its row of ``kubectl get`` after.

    Raises:
        RunFailed: it did not succeed.
    """
    screen.say(f"{shown(yaml)}\n\n{yaml.read_text(encoding='utf-8')}")
    [document] = documents.read(yaml)
    display = Display(sys.stdout)
    done = await job.run(document, yaml, client, addresses, display)
    display.clear()
    if not job.succeeded(done):
        raise job.RunFailed(f"{await job.last_words(done, client)}{job.explanation(done)}")
    namespace = done["metadata"]["namespace"]
    path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
    screen.say(f"\n{table.render(await client.get(path, accept=table.ACCEPT))}\n")
    return done


def _tell_what_next(build: Path, question: str, screen: Screen) -> None:
    adapter = shown(build / "adapter")
    screen.say(
        f"""
Done in {screen.seconds:.0f} s. What is there now, and what next:

  {shown(build / "finetunejob.yaml")}   the FineTuneJob with its status: metrics, result, conditions
  {adapter}            the adapter, as published in S3 but for one line: its
                                    adapter_config.json names the local base, so that
                                    AutoPeftModelForCausalLM.from_pretrained("{adapter}")
                                    works with transformers and PEFT alone
  {shown(build / "base")}               the base model

  Ask it:               python examples/quickstart/ask.py {adapter} "{question}"
  Tune on your own:     python -m finetune_local run your-job.yaml
  Have it stay, with kubectl:  python -m finetune_local up"""
    )


def shown(path: Path) -> str:
    """A path as a user would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


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
