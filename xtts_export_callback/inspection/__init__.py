"""Report what a checkpoint or a run holds, from its structure alone: no tensor is read.

Neither numpy nor torch is imported, so that inspecting a 5.58 GB file takes as long as starting Python.
"""

from __future__ import annotations
