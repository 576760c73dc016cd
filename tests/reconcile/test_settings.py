"""Settings from the environment."""

import os
import socket
import subprocess
import sys

import pytest

from finetune_operator.settings import PREFIX, InvalidSetting, Settings, documentation


def test_nothing_set_means_defaults():
    assert Settings.from_environment({"PATH": "/bin"}) == Settings()


def test_every_kind_of_setting_is_read():
    given = {"WATCH_NAMESPACES": "a, b,", "LEADER_ELECTION": "False", "WORKERS": "3", "PROGRESS_INTERVAL": "0.5"}
    found = Settings.from_environment({f"{PREFIX}{name}": value for name, value in given.items()})
    assert found.watch_namespaces == ("a", "b")
    assert (found.leader_election, found.workers, found.progress_interval) == (False, 3, 0.5)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORKERS", "none", "a number, 1 or more"),
        ("WORKERS", "0", "a number, 1 or more"),
        ("PROGRESS_INTERVAL", "nan", "a number"),
        ("LEASE_DURATION", "inf", "a number"),
        ("LEADER_ELECTION", "yes", "true or false"),
        ("IMAGE_PULL_POLICY", "Sometimes", "Always, IfNotPresent or Never"),
        ("LOG_LEVEL", "loud", "DEBUG"),
        ("LEASE_DURATION", "5", "lease_renew_deadline < lease_duration"),
        ("REPORTS_URL", "http://operator/v1/reports", "found 'http://operator/v1/reports', expected an https:// URL"),
        ("REPORTS_URL", "https://operator", "with the path /v1/reports"),
        ("REPORTS_URL", "https://operator/v1/reports/", "found 'https://operator/v1/reports/', expected an https://"),
        ("REPORTS_URL", "https://operator/v2/reports", "such as https://host:9443/v1/reports"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_is_expected(name, value, expected):
    with pytest.raises(InvalidSetting) as refused:
        Settings.from_environment({f"{PREFIX}{name}": value})
    assert expected in str(refused.value)
    assert PREFIX in str(refused.value)


def test_a_misspelt_setting_is_refused_with_the_list_of_all():
    with pytest.raises(InvalidSetting, match=f"{PREFIX}TRAINER_IMAGES is not a setting.*{PREFIX}TRAINER_IMAGE"):
        Settings.from_environment({f"{PREFIX}TRAINER_IMAGES": "x"})


KUBECONFIG = """
{clusters: [{name: a, cluster: {server: "http://127.0.0.1:9"}}], contexts: [{name: a, context: {cluster: a, user: a}}],
 users: [{name: a, user: {token: t}}], current-context: a}
"""


def refusal_to_start(**environment: str) -> str:
    """The line that the operator's process says as it ends."""
    command = [sys.executable, "-m", "finetune_operator"]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path):
    assert "KUBECONFIG=/nonexistent" in refusal_to_start(KUBECONFIG="/nonexistent")
    assert f"{PREFIX}WORKERS: found 'many'" in refusal_to_start(**{f"{PREFIX}WORKERS": "many"})
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert f"KUBECONFIG={broken}: while parsing" in refusal_to_start(KUBECONFIG=str(broken))


def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path):
    config = tmp_path / "config"
    config.write_text(KUBECONFIG)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {f"{PREFIX}HEALTH_BIND": "127.0.0.1", f"{PREFIX}HEALTH_PORT": port}
        said = refusal_to_start(KUBECONFIG=str(config), **given)
    assert f"{PREFIX}HEALTH_PORT: found {port}, expected a free port of 127.0.0.1" in said
    assert "address already in use" in said


def test_every_setting_is_documented():
    assert all(name.startswith(PREFIX) and about.endswith(".") for name, _, about in documentation())
