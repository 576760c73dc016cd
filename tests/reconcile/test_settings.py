"""Settings from the environment."""

import os
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
        ("REPORTS_URL", "http://operator/v1/reports", "an https:// URL"),
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


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KUBECONFIG": "/nonexistent"}, "KUBECONFIG=/nonexistent"),
        ({f"{PREFIX}WORKERS": "many"}, f"{PREFIX}WORKERS: found 'many'"),
    ],
)
def test_a_process_that_cannot_start_says_why_in_one_line(environment, said):
    command = [sys.executable, "-m", "finetune_operator"]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_setting_is_documented():
    assert all(name.startswith(PREFIX) and about.endswith(".") for name, _, about in documentation())
