"""This module makes the Markdown tables of a comparison's page from its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from carousel_training.studies.comparison.pictures import ordered_names
from carousel_training.studies.tables import show

Study = Mapping[str, Any]
DASH = "-"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], num_text: int = 1) -> str:
    """Puts text columns first, and figures to the right of them."""
    rule = ["---"] * num_text + ["---:"] * (len(head) - num_text)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows]) + "\n"


def final_table(study: Study) -> str:
    """Shows tiers from the best down, diverged cells last, the twin at the end."""
    sizes = sorted(
        {int(size) for cell in study["cells"] if isinstance(cell["serving"], dict) for size in cell["serving"]}
    )
    head = ["tier", "cell", "width", "live parameters", "test nats", "text", "bits", "validation nats", "tokens/s"]
    head += [*(f"serving, B={size}" for size in sizes), "state bytes"]
    cells = {cell["name"]: cell for cell in [*study["cells"], *([study["twin"]] if study["twin"] else [])]}
    names = [*ordered_names(study), *study["analysis"]["diverged"]]
    names += [name for name in cells if name not in names]
    return markdown_table(head, [_final_row(study, cells[name], sizes) for name in names], num_text=2)


def tokens_table(study: Study) -> str:
    """Shows the test loss at every mark."""
    marks, table = study["plan"]["mark_tokens"], study["analysis"]["equal_tokens"]
    rows = []
    for name in ordered_names(study):
        points = [*table[name], *[None] * len(marks)][: len(marks)]
        rows.append([name, *(DASH if point is None else with_interval(point) for point in points)])
    return markdown_table(["cell", *(f"{tokens:,} tokens" for tokens in marks)], rows)


def seconds_table(study: Study) -> str:
    """Shows the same at equal seconds, with a dash outside of the measured range."""
    found = study["analysis"]["equal_seconds"]
    rows = [[name, *(show(nats, ".4f") for nats in found["nats"][name])] for name in ordered_names(study)]
    return markdown_table(["cell", *(f"{seconds:,.1f} s" for seconds in found["seconds"])], rows)


def search_table(study: Study) -> str:
    """Shows each search's choice."""
    head = ["cell", "rate", "warm-up", "gate shift", "dropout", "clip", "1 trial", "4 trials", "all trials"]
    rows = []
    for cell in [*study["cells"], *([study["twin"]] if study["twin"] else [])]:
        trial, curve = cell["trial"], study["analysis"]["best_of"].get(cell["name"], [])
        values = [f"{trial[key]:g}" for key in ("learning_rate", "warmup_share", "gate_shift", "dropout", "clip_norm")]
        if not cell["has_gate"]:
            values[2] = DASH
        expected = [show(curve[place], ".4f") if len(curve) > place else DASH for place in (0, 3)]
        rows.append([cell["name"], *values, *expected, show(curve[-1], ".4f") if curve else DASH])
    return markdown_table(head, rows)


def lanes_table(study: Study) -> str:
    """Shows the best, the middle and the worst lane of all seeds, and the lane that is the worst for its text."""
    rows = []
    for name in ordered_names(study):
        lanes = study["analysis"]["lanes"][name]
        where = f"seed {lanes['excess_seed']}, lane {lanes['excess_lane']}"
        rows.append([name, *(show(lanes[key], ".3f") for key in ("best", "median", "worst", "most_excess")), where])
    return markdown_table(["cell", "best lane", "middle lane", "worst lane", "largest excess", "where"], rows)


def with_interval(found: Mapping[str, Any], form: str = ".4f") -> str:
    mean, half_width = found["mean"], found["half_width"]
    return show(mean, form) if half_width is None else f"{show(mean, form)} ± {show(half_width, form)}"


def _final_row(study: Study, cell: Mapping[str, Any], sizes: Sequence[int]) -> list[str]:
    analysis, name = study["analysis"], cell["name"]
    final = analysis["finals"].get(name)
    tier = next((str(number + 1) for number, tier in enumerate(analysis["tiers"]) if name in tier), DASH)
    valid = [run["nats"] for run in cell["runs"] if run["nats"] is not None]
    speeds = [run["tokens"] / run["core_seconds"] for run in cell["runs"] if run["core_seconds"]]
    serving = cell["serving"] if isinstance(cell["serving"], dict) else {}
    served = {int(size): speed for size, speed in serving.items()}
    return [
        tier,
        name,
        f"{cell['hidden_size']:,}",
        f"{cell['num_parameters']:,}",
        "diverged" if final is None else with_interval(final),
        DASH if final is None else f"{final['text_low']:.3f} to {final['text_high']:.3f}",
        DASH if final is None else f"{final['mean'] / 0.6931471805599453:.3f}",
        show(sum(valid) / len(valid) if valid else None, ".4f"),
        show(sum(speeds) / len(speeds) if speeds else None, ",.0f"),
        *(show(served.get(size), ",.0f") for size in sizes),
        f"{cell['state_bytes']:,}",
    ]
