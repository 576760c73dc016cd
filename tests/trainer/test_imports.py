"""What a run imports: libraries that it has no use for take time and memory."""

import subprocess
import sys

STORY = """
import sys
from finetune_trainer import imports
imports.hide()
import finetune_trainer.tuning
assert not [name for name in ("scipy", "sklearn") if sys.modules.get(name)], "imported at the start"
imports.show()
from sklearn.metrics import f1_score
assert f1_score([1], [1]) == 1
"""


def test_libraries_for_metrics_are_imported_when_metrics_are_computed_and_not_at_the_start():
    subprocess.run([sys.executable, "-c", STORY], check=True)
