"""The harness of `make faults`, and the shortest form of what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Run, torn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, setsid and /proc")
