"""Kubernetes' two spellings of a point in time."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, with time zone."""
    return datetime.now(UTC)


def timestamp(at: datetime) -> str:
    """``metav1.Time``: RFC 3339 in whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """Reads either spelling."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
