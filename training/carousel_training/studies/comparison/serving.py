"""How fast a cell of a comparison serves, by a function that is given, since this package knows no server.

Measured once for each cell and kept: speeds and sizes do not depend on weights, so none are trained for it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from carousel_training.checkpoint import TrainedModel
from carousel_training.model import RecurrentLM
from carousel_training.studies.comparison.jobs import code_digest
from carousel_training.studies.comparison.study_text import load_tokenizer
from carousel_training.studies.results import load_figures, make_directory, save_figures

ServingSpeed = Callable[[TrainedModel], Mapping[int, float]]
Serving = Mapping[str, float] | str
SERVING_GROUP = "carousel_training.serving_speed"


def find_serving_speed() -> ServingSpeed | None:
    """What the export package registers; None where its libraries are not installed."""
    for entry in entry_points(group=SERVING_GROUP):
        try:
            measure: ServingSpeed = entry.load()
            return measure
        except ImportError:
            continue
    return None


def serving_of(model: RecurrentLM, text_directory: Path, path: Path, measure: ServingSpeed | None) -> Serving:
    """Tokens per second by batch size, from `path` or measured now. What cannot be served says why."""
    if measure is None:
        return "not measured: carousel-export and its libraries are not installed"
    decided = json.dumps([model.config.as_json(), code_digest()], sort_keys=True)
    key = hashlib.sha256(decided.encode()).hexdigest()
    known = load_figures(path)
    if known is not None and known.get("key") == key:
        kept: Serving = known["serving"]
        return kept
    try:
        speeds = measure(TrainedModel(model, load_tokenizer(text_directory), {}))
    except Exception as error:  # whatever an exporter raises for a model that it cannot write
        return f"not measured: {type(error).__name__}: {error}"
    serving = {str(size): speed for size, speed in speeds.items()}
    make_directory(path.parent)
    save_figures(path, {"key": key, "serving": serving})
    return serving
