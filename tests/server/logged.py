"""What was logged and should not have been."""

import logging

import pytest


def problems_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Returns the records without those of grpc, which may still tell the event loop of an earlier test something."""
    return [record for record in caplog.records if "PollerCompletionQueue" not in record.getMessage()]
