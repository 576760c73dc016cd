"""Whether a place in S3 can be written to, in the way that a result is published."""

import logging
import secrets

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.store import Store

logger = logging.getLogger(__name__)


def require_writable(prefix: str, store: Store) -> None:
    """Writes an object below ``prefix``, which ends in ``/``, tries to write it again, which must not happen, and
    deletes it.

    Raises:
        TrainerError: STORAGE_REFUSED, also where a server does not know conditional writes; STORAGE_UNAVAILABLE.
    """
    uri, first = f"{prefix}check-{secrets.token_hex(8)}.json", b"{}"
    store.create(uri, first)
    try:
        store.create(uri, b"[]")
        if store.read(uri) != first:
            raise TrainerError(
                ExitCode.STORAGE_REFUSED,
                f"The S3 server that {prefix} lies on overwrites objects that are to be written only where there is "
                "none (If-None-Match: *), so that two pods could publish at once. Choose a server that knows "
                "conditional writes for spec.output.uri (AWS S3 does).",
            )
    finally:
        _remove(uri, store)


def _remove(uri: str, store: Store) -> None:
    """What cannot be removed stays: a result can be published without the right to delete."""
    try:
        store.remove_all([uri])
    except TrainerError as error:
        logger.warning("%s is left behind: %s", uri, error.message)
