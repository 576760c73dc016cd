"""The quickstart as `make quickstart` runs it, on the same input, with fewer steps."""

import io
import json
import re
from pathlib import Path

import pytest
import yaml

from examples.quickstart import __main__ as module
from examples.quickstart.screen import Screen
from finetune_api.job import read_spec
from finetune_api.status import FineTuneJobStatus

YAMLS = Path(module.__file__).parent
pytestmark = pytest.mark.timeout(300)  # it trains a model from the start


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a run left, and what it printed."""
    root = tmp_path_factory.mktemp("quickstart")
    yamls = root / "examples" / "quickstart"
    yamls.mkdir(parents=True)
    for name in ("base.yaml", "tuned.yaml"):
        text, changed = re.subn(r"epochs: \S+", "maxSteps: 30", (YAMLS / name).read_text())
        assert changed == 1
        (yamls / name).write_text(text)
    printed = io.StringIO()
    module.quickstart(yamls, root / "build" / "quickstart", Screen(printed))
    return root / "build" / "quickstart", printed.getvalue()


def test_it_leaves_the_final_resource(ran: tuple[Path, str]) -> None:
    resource = yaml.safe_load((ran[0] / "finetunejob.yaml").read_text())
    read_spec(resource["spec"])
    status = FineTuneJobStatus.model_validate(resource["status"])
    assert status.phase == "Succeeded"
    assert status.metrics[0].baseline is not None
    assert status.metrics[0].value < status.metrics[0].baseline


def test_it_shows_base_and_tuned_beside_each_other_and_three_answers_of_each(ran: tuple[Path, str]) -> None:
    printed = ran[1]
    assert re.search(r"eval_loss +[\d.]+ +→ +[\d.]+", printed)
    for line in ("base  ", "tuned  ", "documentation  "):
        assert len(re.findall(rf"^ +{line}", printed, re.MULTILINE)) == 3


def test_the_adapter_answers_to_nothing_but_transformers_and_peft_and_names_the_base_beside_it(
    ran: tuple[Path, str],
) -> None:
    """That it answered is printed: a process asked it that cannot import any of our packages."""
    folder, printed = ran
    [(question, answer)] = re.findall(r"without a network\n +(What does .+)\n +(\S.*)", printed)
    assert question
    assert answer
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((folder / "base").resolve())
