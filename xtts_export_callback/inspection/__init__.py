"""What a checkpoint or a run holds, told from its structure alone: no tensor is read.

numpy and torch stay out of it, so that a look at a 5.58 GB file costs what starting Python costs.
"""

from __future__ import annotations
