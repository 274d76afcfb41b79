"""Words that the fake server knows to be whole: it says so before it offers longer ones."""

from typing import Any

import pytest
from tests.server import fake_service

from carousel.v1 import language_model_pb2 as lm


def know_words(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Each is ten times as likely as a longer word that begins with it."""
    predict = fake_service._predict

    def predict_knowing(request: Any, position: int) -> Any:
        response = predict(request, position)
        if request.word_prefix in words:
            longer = list(response.words)
            del response.words[:]
            response.words.extend([lm.Word(text=request.word_prefix, log_probability=1.3), *longer])
        return response

    monkeypatch.setattr(fake_service, "_predict", predict_knowing)
