"""A gateway under way, with servers behind it that do as they are told."""

import sys
from pathlib import Path

# With --import-mode=importlib the helpers beside the tests are found nowhere else.
sys.path.append(str(Path(__file__).parent))
