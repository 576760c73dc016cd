"""The check before a training, on a pod without a GPU: all that can be known without the model's weights.

It goes the way of a training as far as that is possible, by the same code, so that it refuses for the same reasons.
"""

import logging
from functools import partial
from pathlib import Path

from finetune_api.run import RunConfig, RunResult
from finetune_trainer.background import start
from finetune_trainer.config import prepare_libraries
from finetune_trainer.models import fetch
from finetune_trainer.preparation import data
from finetune_trainer.quickimports import quick_imports
from finetune_trainer.recipes import entry_of
from finetune_trainer.storage.probe import require_writable
from finetune_trainer.storage.store import Store

logger = logging.getLogger(__name__)


def check(config: RunConfig, scratch: Path) -> RunResult:
    """Data, model and S3, as ``config`` names them.

    Raises:
        TrainerError: as a training would.
    """
    prepare_libraries(config, scratch)
    store = Store(config.storage)
    formats, seed = entry_of(config).formats, config.training.seed
    written = start(partial(require_writable, config.output_prefix, store))
    dataset = start(partial(data.load, config.data, formats, seed, store, scratch / "data"))
    files = start(partial(fetch.fetch_model, config.model, store, scratch / "model", False))
    with quick_imports():
        from finetune_trainer.tuning.foreseeing import foresee
    written.result()
    found = foresee(config, files.result(), dataset.result())
    logger.info("checked: %s", found.to_json())
    return RunResult(outcome="Succeeded", checked=found)
