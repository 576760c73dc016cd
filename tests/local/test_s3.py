"""The S3 server of local mode."""

from pathlib import Path

import psutil
import pytest

from finetune_local.s3 import Bucketeer, S3Server


def test_files_and_directories_come_back_as_they_went(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "sub" / "weights").write_bytes(bytes(range(256)))

    with S3Server() as s3:
        files = Bucketeer(s3.endpoint_url, s3.access_key, s3.secret_key)
        files.create_bucket("models")
        files.create_bucket("models")
        files.put_directory("s3://models/base/", source)
        files.put_file("s3://models/base-2/other", source / "config.json")
        written = files.get_directory("s3://models/base", tmp_path / "out")

    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in written) == ["config.json", "sub/weights"]
    assert (tmp_path / "out" / "sub" / "weights").read_bytes() == bytes(range(256))


def test_the_server_is_on_loopback_and_gone_when_stopped() -> None:
    others = psutil.Process().children()
    with S3Server() as s3:
        assert s3.endpoint_url.startswith("http://127.0.0.1:")
        children = [child for child in psutil.Process().children() if child not in others]
        assert children

    assert not any(child.is_running() for child in children)
    with pytest.raises(RuntimeError, match="was not started"):
        _ = s3.endpoint_url
