"""The errors of an export, besides those of a bad checkpoint. This module knows no exit codes."""


class ExportError(Exception):
    """Base of all expected errors. Its message is for the user."""


class ParityFailed(ExportError):
    """The graphs do not compute what the trained model computes; the message has the figures."""


class TargetRefused(ExportError):
    """The bundle's target holds something that is not a bundle, or cannot be written."""


class PrecisionRefused(ExportError):
    """The model's cell has no export in the requested precision."""


class NoHeldOutText(ExportError):
    """There is no text to compare perplexities on."""


class ChatRefused(ExportError):
    """The chat template cannot be read, is broken, or leaves messages out."""
