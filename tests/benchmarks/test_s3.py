"""The benchmark of S3 measures what it says, and its way to see a stopped loop sees one."""

import ctypes
import time
from functools import partial

from benchmarks.trainer import s3
from benchmarks.trainer.plain_s3 import serving


def test_every_kind_of_download_is_measured():
    with serving() as url:
        least = s3.measure_downloads(url, 1, processes=1)
    assert set(least) == set(s3.KINDS)
    assert all(0 < cpu < 1000 for cpu in least.values())


def test_a_download_over_tls_is_measured(tmp_path):
    with serving(authority := tmp_path / "ca.pem") as url:
        least = s3.measure_downloads(url, 1, 1, (s3.OURS,), AWS_CA_BUNDLE=str(authority))
    assert 0 < least[s3.OURS] < 1000


def test_an_upload_is_measured_beside_a_loop():
    with serving() as url:
        found = s3.measure_upload(url, 70)  # two parts
    assert found["seconds"] > 0
    assert found["cpu"] > 0.01
    assert -0.5 < found["share"] < 0.5


def test_a_loop_is_stopped_by_who_holds_pythons_lock_and_not_by_who_releases_it():
    def step() -> None:
        sum(range(1000))

    hold = ctypes.PyDLL(None).usleep  # in contrast to CDLL, it keeps the lock while it sleeps
    holding = s3.stopped(step, lambda: [hold(20_000) for _ in range(20)])
    releasing = s3.stopped(step, partial(time.sleep, 0.4))
    assert holding["share"] * holding["seconds"] > 0.25  # of the 0.4 s that it held the lock
    assert holding["longest"] > 0.015
    assert releasing["share"] * releasing["seconds"] < 0.1
