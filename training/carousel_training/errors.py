"""This module defines the expected errors of a run. Each message is one sentence. It knows no exit codes."""


class TrainingError(Exception):
    """The base of all expected errors. The message is for the user."""


class SettingsError(TrainingError):
    """A setting is unknown, out of range or contradicts another. The message names it."""


class CorpusError(TrainingError):
    """A text is missing, unreadable, empty, not UTF-8, or too short to train on. The message names the file."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or does not fit the vocabulary, the corpus or the settings."""


class StudyInterrupted(TrainingError):
    """The user stopped the study. Finished work is kept, and the same command continues."""
