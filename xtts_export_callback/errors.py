"""Every error this package raises on purpose, in one tree.

The command line turns each of them into one line on stderr and exit code 2; the callback turns each of them into one
log line. A message therefore says it all in one line: which file, which key, expected against found, what to do next.
"""

from __future__ import annotations


class XttsExportError(Exception):
    """Base of every error raised on purpose."""


class CheckpointError(XttsExportError):
    """A checkpoint file is damaged, hostile or of a kind that cannot be read."""


class DamagedError(CheckpointError):
    """A checkpoint file is proved to be damaged: truncated, without its zip directory, or with a wrong checksum."""


class IncompatibleError(XttsExportError):
    """Checkpoints that were to be combined differ in keys, shapes or vocabulary."""


class OutputExistsError(XttsExportError):
    """The output is there already and replacing it was not asked for."""


class ConfigError(XttsExportError):
    """A configuration, a recipe or an option has a value that cannot be used."""


class MissingExtraError(XttsExportError, ImportError):
    """A task needs packages that an extra of this package installs, and they are not there."""


class VerificationError(XttsExportError):
    """What was read back from disk is not what was written."""
