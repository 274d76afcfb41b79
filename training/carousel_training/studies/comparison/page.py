"""The page of a comparison: question, results, and what may be concluded from them. It uses the JSON alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carousel_training.checkpoint import write_atomically
from carousel_training.errors import TrainingError
from carousel_training.studies.comparison.analysis import analyse
from carousel_training.studies.comparison.page_tables import (
    final_table,
    lanes_table,
    search_table,
    seconds_table,
    tokens_table,
    with_interval,
)
from carousel_training.studies.comparison.pictures import plot_all
from carousel_training.studies.results import make_directory, plain_figures, save_figures

STUDY_FILE = "study.json"
PAGE_FILE = "index.md"
VERSION = 1
Study = Mapping[str, Any]
PICTURE_TEXTS = {
    "tiers.png": "test loss of every cell with its interval, coloured by tier",
    "pairs.png": "which cells can be told apart",
    "curves.png": "test loss over tokens and over seconds",
    "best_of.png": "expected best validation loss over the number of trials",
    "lanes.png": "test loss of every lane",
}


def write_page(study: Study, directory: Path) -> None:
    """Writes the JSON, the pictures and `index.md`, whose figures all come from the JSON."""
    make_directory(directory)
    study = _with_analysis(study)
    save_figures(directory / STUDY_FILE, study)
    plotted = plot_all(study, directory)
    write_atomically(directory / PAGE_FILE, page_text(study, plotted).encode())


def read_study(path: Path) -> Study:
    """Reads a study and repeats its analysis. Raises TrainingError for files that are not a study of this version."""
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        if study["version"] != VERSION:
            raise TrainingError(f"{path} is of version {study['version']}, and this program reads version {VERSION}")
        return _with_analysis(study)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise TrainingError(f"{path} is not a comparison's JSON: {type(error).__name__}: {error}") from error


def _with_analysis(study: Study) -> Study:
    """Adds the analysis, with values as a JSON has them: keys are words, lists are lists."""
    plain: Study = json.loads(json.dumps(plain_figures({**study, "analysis": None})))
    return {**plain, "analysis": json.loads(json.dumps(plain_figures(analyse(plain))))}


def page_text(study: Study, pictures: list[str]) -> str:
    """Returns Markdown."""
    parts = [
        f"# {len(study['cells'])} recurrent cells on equal terms\n",
        _terms(study),
        "## The final\n",
        _tier_text(study),
        _picture("tiers.png", pictures),
        final_table(study),
        _columns_text(),
        _picture("pairs.png", pictures),
        "## Equal tokens, equal seconds\n",
        _curves_text(study),
        _picture("curves.png", pictures),
        tokens_table(study),
        seconds_table(study),
        "## The search\n",
        _search_text(study),
        _picture("best_of.png", pictures),
        search_table(study),
        "## Lanes\n",
        _lanes_text(study),
        _picture("lanes.png", pictures),
        lanes_table(study),
        _conclusions(study),
        _again(study),
    ]
    return "\n".join(part for part in parts if part)


def _picture(name: str, pictures: list[str]) -> str:
    return f"![{PICTURE_TEXTS[name]}]({name})\n" if name in pictures else ""


def _terms(study: Study) -> str:
    text, plan, machine = study["text"], study["plan"], study["machine"]
    parts = ", ".join(f"{part} {count:,}" for part, count in text["num_characters"].items())
    return (
        f"Every cell has {study['num_parameters']:,} live parameters (within 2 %), the same text, the same tokens, the "
        f"same number of trials and {plan['num_seeds']} seeds. This page is written by `carousel-train compare` from "
        f"[{STUDY_FILE}]({STUDY_FILE}), plan `{plan['name']}`.\n\n"
        f"- **Text**: {text['source']}, {text['vocabulary']['kind']} tokens, vocabulary {text['vocabulary_size']:,}; "
        f"characters: {parts}. {_repeats_text(text)} sha256 of what is read: `{text['sha256']}`, of the files as they "
        f"are: `{text['raw_sha256']}`.\n"
        f"- **Parts**: the search reads training and validation alone. The test part ({sum(study['block_tokens']):,} "
        f"tokens of it, one stretch for each of {plan['reading']['num_lanes']} lanes) is read by the final alone.\n"
        f"- **Search**: {_search_terms(study)}\n"
        f"- **Final**: {plan['num_seeds']} seeds, {_marks_terms(study)}.\n"
        f"- **Machine**: {machine['processor']}, torch {machine['torch']}, Python {machine['python']}, "
        f"{machine['trainings_side_by_side']} trainings side by side with one thread each. The trainings' wall "
        f"times add up to {study['wall_seconds'] / 60.0:,.1f} minutes.\n"
    )


def _repeats_text(text: Mapping[str, Any]) -> str:
    shares = " and ".join(f"{share:.2%} of {part}" for part, share in text["share_repeated"].items())
    if not text["is_deduplicated"]:
        return f"**Not de-duplicated**: {shares} stand in the other parts, and without them nothing would be left."
    return (
        f"De-duplicated: {shares} stood in the parts before in matches of 50 or more characters, and the passages that "
        "hold them are left out."
    )


def _search_terms(study: Study) -> str:
    plan, space = study["plan"], study["plan"]["space"]
    if not plan["search_tokens"]:
        return "none; every cell runs with its own settings."
    rungs = ", then ".join(f"{count} of {tokens:,} tokens" for count, tokens in plan["search_tokens"])
    bounds = "; ".join(f"{name.replace('_', ' ')} {low:g} to {high:g}" for name, (low, high) in space.items())
    return (
        f"random, by successive halving: {rungs}, each a whole schedule. {bounds}. The warm-up is a share of the "
        "shortest rung; the gate shift is added to the bias of the gate that keeps the state."
    )


def _marks_terms(study: Study) -> str:
    marks = " ".join(f"{tokens:,}" for tokens in study["plan"]["mark_tokens"])
    return (
        f"each one training at a constant rate, with a cooldown over the last fifth that ends at each of these numbers "
        f"of tokens: {marks}. A cooldown is a branch: the training goes on from where it began"
    )


def _tier_text(study: Study) -> str:
    analysis = study["analysis"]
    if not analysis["tiers"]:
        return "There are too few seeds for intervals, so there are no tiers: the order below says nothing.\n"
    lines = [f"{number}. {', '.join(tier)}" for number, tier in enumerate(analysis["tiers"], start=1)]
    floor = analysis["noise_floor"]
    noise = "There is no twin in this plan, so nothing is known of the noise of a search."
    if floor is not None:
        noise = (
            f"**A/A**: `{floor['twin']}` is `{floor['of']}` under another name, with a search and seeds of its own. "
            f"They differ by {with_interval(floor)} nats, so that {floor['floor']:.4f} may be noise: the noise floor."
        )
    return (
        "Tiers, not ranks. A tier holds the best cell that is left and all that cannot be told apart from it:\n\n"
        + "\n".join(lines)
        + "\n\nTwo cells are told apart when their difference is beyond its interval (Welch's t over seeds, together "
        "with a bootstrap over blocks of the test part; 95 % for all pairs together, by Bonferroni) and beyond the "
        f"noise floor. {noise}\n"
    )


def _columns_text() -> str:
    return (
        "*test nats*: per token, the mean over the seeds with Student's 95 % interval. *text*: where 95 % of the means "
        "lie when blocks of the test part are drawn anew; it moves all cells alike and does not part them. *bits*: per "
        "token. *tokens/s*: of training, of one core. *serving*: tokens per second of the exported graphs at a batch "
        "of B. *state bytes*: what one session carries.\n"
    )


def _curves_text(study: Study) -> str:
    return (
        "Both are of the same trainings. Seconds are those of one core, so that other work of the machine does not "
        "count; the columns are the middle cell's seconds at each mark, and between marks a loss is straight in the "
        "logarithm of the seconds. A dash: nothing was measured on both sides.\n"
    )


def _search_text(study: Study) -> str:
    return (
        "What was chosen, and what the best of n trials may be expected to reach on the first rung (Dodge et al. "
        "2019): a cell whose curve is steep depends on its tuning. Trials that diverge count as even guessing.\n"
    )


def _lanes_text(study: Study) -> str:
    return (
        "Each lane starts as the server starts a session. *Largest excess*: nats of a lane above what all cells have "
        "there, given the run's mean. A state that is stuck, which a mean over lanes hides, would show as whole nats.\n"
    )


def _conclusions(study: Study) -> str:
    tokens = study["plan"]["mark_tokens"][-1]
    diverged = study["analysis"]["diverged"]
    lost = f"- Diverged in at least one seed, and so in no tier: {', '.join(diverged)}.\n" if diverged else ""
    return (
        "## What may be concluded\n\n"
        f"- Which pairs of cells are told apart, as the picture of pairs shows, *at {study['num_parameters']:,} "
        f"parameters, {tokens:,} tokens, this "
        "text and this search*.\n"
        "- How much a cell depends on its tuning, as far as this space and this number of trials show it.\n"
        "- Whether more tokens or more seconds change the order within the range that was measured.\n"
        f"{lost}\n"
        "## What may not be concluded\n\n"
        "- Any order within a tier. The last of one tier and the first of the next may be alike as well: a tier is "
        "measured against its best; the picture of pairs says who is told apart.\n"
        "- Anything about larger models, longer trainings, several layers, words, or other texts.\n"
        "- Anything about memory over long gaps: gradients go back one segment. `carousel-train recall` asks that.\n"
        "- That a cell's best settings were found. All cells had equal effort, not enough effort. Rates were chosen on "
        "shorter trainings than the final, which favours rates that are too high for it.\n"
        "- Seconds on other processors: some cells run on a library's kernels, others on loops written here.\n"
        "- That the noise floor is exact: it is one pair of one cell.\n"
    )


def _again(study: Study) -> str:
    text = "--text TEXT " if study["text"]["source"] else ""
    return (
        "## Again\n\n```\n"
        f"carousel-train compare --plan {study['plan']['name']} {text}--out runs/compare --page docs/study\n"
        f"carousel-train compare --redraw docs/study/{STUDY_FILE} --page docs/study  # the page alone\n"
        "```\n"
    )
