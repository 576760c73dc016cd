"""What to do next about one FineTuneJob: a pure function of what is known.

No I/O, no clock, no randomness. Each check looks at one thing and answers with an outcome or an action, or leaves the
question to the next; their order is the order of ``CHECKS``. Nothing here needs to be told what was done before: the
same situation gives the same decision, so that a crash between any two calls is mended by looking again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from finetune_api.conditions import Phase
from finetune_operator.checks import beginning, ending, finished, leaving, running, stopping
from finetune_operator.events import EventText, event_for
from finetune_operator.observed import Observed, Raw
from finetune_operator.outcome import Action, Keep, Outcome, Situation
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from finetune_operator.status import merge_patch, next_status, touched


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do: first the actions, and then look again; or one write of the status, and then the events."""

    actions: tuple[Action, ...] = ()
    status: Raw | None = None
    """JSON merge patch of the status."""
    events: tuple[EventText, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again though nothing happens."""


Answer = Outcome | Action | Keep
Check = Callable[[Situation], Answer | None]

CHECKS: tuple[Check, ...] = (
    beginning.refused,
    running.taken,
    ending.completed,
    stopping.stopping,
    ending.failed,
    stopping.cancelled,
    stopping.past_deadline,
    stopping.suspended,
    stopping.stalled,
    stopping.given_up,
    running.queued,
    leaving.late,
    running.running,
    running.waiting,
    running.without_pod,
    running.ended,
    running.starting,
    ending.deleted,
    beginning.lingering,
    stopping.at_rest,
    beginning.invalid,
    beginning.backing_off,
    beginning.create,
)
FINISHED: tuple[Check, ...] = (finished.leftover, finished.outlived)


def plan(raw: Raw, observed: Observed, now: datetime, settings: Settings, reporting: Reporting | None) -> Decision:
    """The next step for one FineTuneJob."""
    situation = Situation(raw, observed, now, settings, reporting)
    phase = situation.raw_status.get("phase")
    if "deletionTimestamp" in situation.meta:
        return Decision()  # the garbage collector takes the children
    if phase and phase not in set(Phase):
        return Decision(status=touched(situation))  # one that only a newer version knows
    if phase and Phase(phase).terminal:
        found = _first(FINISHED, situation)
        decision = Decision(status=touched(situation))
    else:
        found = _first(CHECKS, situation)
        decision = Decision()
    if isinstance(found, Outcome):
        return _write(situation, found)
    if isinstance(found, Keep):
        return _within(_within(decision, found.look_again_after), stopping.next_look(situation))
    return Decision(actions=(found,)) if found else decision


def _first(checks: tuple[Check, ...], s: Situation) -> Answer | None:
    return next((answer for check in checks if (answer := check(s)) is not None), None)


def _write(s: Situation, outcome: Outcome) -> Decision:
    patch = merge_patch(s.raw_status, next_status(s, outcome))
    look = finished.first_look(s) if outcome.phase.terminal else stopping.next_look(s)
    if not patch:
        return _within(Decision(requeue_after=outcome.look_again_after), look)
    if outcome.patient and s.observed.written_at:
        since = (s.now - s.observed.written_at).total_seconds()
        if 0 <= since < s.settings.progress_interval:  # below 0 a clock was turned back
            return _within(Decision(requeue_after=s.settings.progress_interval - since), look)
    event = event_for(s, outcome)
    return _within(
        Decision(status=patch, events=(event,) if event else (), requeue_after=outcome.look_again_after), look
    )


def _within(decision: Decision, seconds: float | None) -> Decision:
    """The same decision, but with another look within so many seconds."""
    if seconds is None or (decision.requeue_after is not None and decision.requeue_after <= seconds):
        return decision
    return replace(decision, requeue_after=seconds)
