"""What can go wrong in an export beyond a bad checkpoint. This module knows no exit codes."""


class ExportError(Exception):
    """Base of all expected errors; the message is for the person at the keyboard."""


class ParityFailed(ExportError):
    """The graphs do not compute what the trained model computes; the message has the figures."""


class TargetRefused(ExportError):
    """The place for the bundle is taken by something that is not a bundle, or cannot be written."""


class PrecisionRefused(ExportError):
    """The model's cell is not exported in the precision that was asked for."""


class NoHeldOutText(ExportError):
    """There is no text to compare perplexities on."""
