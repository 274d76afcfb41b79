"""How fast a comparison's cell serves, measured by a registered function: this package knows no server.

Each cell is measured once: speeds and sizes do not depend on weights, so the measurement needs no training.
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
    """Returns the function that the export package registers, or None without its libraries."""
    for entry in entry_points(group=SERVING_GROUP):
        try:
            measure: ServingSpeed = entry.load()
            return measure
        except ImportError:
            continue
    return None


def serving_of(model: RecurrentLM, text_directory: Path, path: Path, measure: ServingSpeed | None) -> Serving:
    """Returns tokens per second by batch size, from `path` or measured now, or why the cell cannot be served."""
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
    except Exception as error:  # an exporter may raise anything for a model that it cannot write
        return f"not measured: {type(error).__name__}: {error}"
    serving = {str(size): speed for size, speed in speeds.items()}
    make_directory(path.parent)
    save_figures(path, {"key": key, "serving": serving})
    return serving
