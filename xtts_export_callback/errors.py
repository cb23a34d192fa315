"""Every error this package raises on purpose, in one tree.

The command line turns each of them into one line on stderr and exit code 2; the callback turns each of them into one
log line. Each message is therefore one line: which file, which key, expected against found, what to do next.
"""

from __future__ import annotations


class XttsExportError(Exception):
    """Base of every error raised on purpose."""


class CheckpointError(XttsExportError):
    """A checkpoint file is damaged, hostile or of a kind that cannot be read."""


class DamagedError(CheckpointError):
    """A checkpoint file is certainly damaged: truncated, without its zip directory, or with a wrong checksum."""


class IncompatibleError(XttsExportError):
    """Checkpoints to combine differ in keys, shapes or vocabulary."""


class OutputExistsError(XttsExportError):
    """The output exists, and the caller did not ask to replace it."""


class ConfigError(XttsExportError):
    """A configuration, a recipe or an option has a value that cannot be used."""


class MissingExtraError(XttsExportError, ImportError):
    """A task needs packages that an extra of this package installs, and they are not there."""


class VerificationError(XttsExportError):
    """The data read back from disk differs from the data written."""
