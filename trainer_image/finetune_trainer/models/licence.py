"""The licence of a model, as its model card names it, beside those that the platform allows."""

from typing import Any

from finetune_api.run import ExitCode, ModelLocation
from finetune_trainer.errors import TrainerError, one_line

CARD = "README.md"
_LONGEST_HEAD = 64 * 1024


def require_licence(location: ModelLocation, named: str | None) -> None:
    """Refuses a model whose licence is not among ``location.licences``, before anything of it is downloaded.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    allowed = location.licences
    if allowed is None or (named or "").lower() in {licence.lower() for licence in allowed}:
        return
    found = f"has the licence {one_line(named, 100)}" if named else "names no licence on its model card"
    raise TrainerError(
        ExitCode.MODEL_INVALID,
        f"The model {location.uri} {found}, and the FineTuneProfile allows {', '.join(allowed) or 'none'}. Choose "
        "another model, or ask the platform team to allow the licence.",
    )


def licence_of_card(card: bytes) -> str | None:
    """What the head of a model card (YAML between lines of ``---``) names; of the licence ``other``, its own name."""
    import yaml  # comes with huggingface_hub

    head = card[:_LONGEST_HEAD].decode(errors="replace").replace("\r\n", "\n")
    if not head.startswith("---\n") or (end := head.find("\n---", 3)) < 0:
        return None
    try:
        return licence_of_data(yaml.safe_load(head[4:end]))
    except yaml.YAMLError:
        return None


def licence_of_data(data: Any) -> str | None:
    """The same of the head's data."""
    if not isinstance(data, dict):
        return None
    named = data.get("license")
    if named == "other" and isinstance(data.get("license_name"), str):
        named = data["license_name"]
    return named if isinstance(named, str) else None
