"""See the package."""

import sys

from benchmarks.sections import main
from benchmarks.trainer import SECTIONS

if __name__ == "__main__":
    sys.exit(main("benchmarks.trainer", SECTIONS, "Measures the trainer."))
