"""Servers for the backends' tests."""

import sys
from pathlib import Path

# With --import-mode=importlib the helpers beside the tests are found nowhere else.
sys.path.insert(0, str(Path(__file__).parent))

from vllm_server import vllm_server

__all__ = ["vllm_server"]
