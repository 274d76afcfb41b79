"""Results of trainings on disk, each in a file of its own that appears as a whole.

A result counts only under its own key, so that other settings, texts or code run again.
"""

from pathlib import Path

from carousel_training.studies.comparison.jobs import Job, JobResult
from carousel_training.studies.results import load_figures, make_directory, save_figures


class JobStore:
    """The results under `directory` for the text with this digest."""

    def __init__(self, directory: Path, text_sha256: str) -> None:
        self._directory = directory
        self._text_sha256 = text_sha256

    def __repr__(self) -> str:
        return f"JobStore({self._directory})"

    def find(self, job: Job) -> JobResult | None:
        known = load_figures(self._path(job))
        if known is None or known.get("key") != job.key(self._text_sha256):
            return None
        try:
            return JobResult.from_json(known["result"])
        except (KeyError, TypeError):
            return None

    def save(self, job: Job, result: JobResult) -> None:
        path = self._path(job)
        make_directory(path.parent)
        save_figures(path, {"key": job.key(self._text_sha256), "result": result.as_json()})

    def _path(self, job: Job) -> Path:
        return self._directory / f"{job.name}.json"
