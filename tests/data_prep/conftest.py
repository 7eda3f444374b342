"""The servers of the backends' tests serve labelling, too."""

import sys
from pathlib import Path

# With --import-mode=importlib the helpers of another folder are found nowhere else.
sys.path.append(str(Path(__file__).parent.parent / "backends"))
