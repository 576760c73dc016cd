"""Which manager set which fields of an object."""
from .calls import Call
from .store import Object, clone
from .patch import merge_patch
def track(old: Object, obj: Object, call: Call, is_apply: bool) -> None:
    return
def apply(old: Object, applied: Object, call: Call) -> Object:
    return clone(merge_patch(old, applied))
