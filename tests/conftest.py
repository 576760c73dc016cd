"""For all tests: what they import stays, so nobody looks through it for garbage."""

import gc

gc.disable()  # until everything is imported: it makes much and drops nothing (a quarter of the collection's time)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
