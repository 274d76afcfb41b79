"""The errors of a run, each described in one sentence. This module knows no exit codes."""


class TrainingError(Exception):
    """Base of all expected errors. Its message is for the user."""


class SettingsError(TrainingError):
    """A setting is unknown, out of range or contradicts another. The message names it."""


class CorpusError(TrainingError):
    """A text is missing, unreadable, empty, not UTF-8, or too short to train on. The message names the file."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or does not fit the vocabulary, the corpus or the settings."""


class StudyInterrupted(TrainingError):
    """The user asked to stop. Finished work is kept, and the same command continues."""
