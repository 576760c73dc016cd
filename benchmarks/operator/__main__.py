"""See the package."""

import sys

from benchmarks.operator import SECTIONS
from benchmarks.sections import main

if __name__ == "__main__":
    sys.exit(main("benchmarks.operator", SECTIONS, "Measures the operator at scale."))
