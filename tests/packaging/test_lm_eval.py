"""lm-evaluation-harness, in an environment of its own, rates choices as Score does and finds what a model knows."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.packaging.animals import SOUNDS, Served, generate, install, rate, run

from carousel.client import Client

pytestmark = pytest.mark.packaging

_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
"""
_CHOICE = 'doc_to_text: "The {{animal}} says"\ndoc_to_choice: choices\ndoc_to_target: answer\n'
_ROLLING = 'doc_to_text: ""\ndoc_to_target: "The {{animal}} says {{choices[answer]}}"\n'
_FREE = (
    'doc_to_text: "The {{animal}} says"\ndoc_to_target: " {{choices[answer][:-1]}}"\n'
    'generation_kwargs: {until: ["."], do_sample: false, temperature: 0.0, max_gen_toks: 20}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
)
_TASKS = {
    "choice": ("multiple_choice", _CHOICE),
    "without_context": ("multiple_choice", 'doc_to_text: ""\ndoc_to_choice: choices\ndoc_to_target: answer\n'),
    "rolling": ("loglikelihood_rolling", _ROLLING),
    "free": ("generate_until", _FREE),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("lm_eval", tmp_path_factory.mktemp("lm_eval"))


def write_tasks(folder: Path) -> list[dict[str, Any]]:
    """Writes the tasks and the animals, each with its sound among three others. Returns the animals."""
    sounds = list(SOUNDS.values())
    rows = []
    for number, animal in enumerate(SOUNDS):
        choices = [sounds[(number + step) % 8] + "." for step in (0, 1, 3, 6)]
        answer = number % 4
        choices[0], choices[answer] = choices[answer], choices[0]
        rows.append({"animal": animal, "choices": choices, "answer": answer})
    (folder / "animals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, (kind, more) in _TASKS.items():
        task = _TASK.format(name=name, kind=kind, rows=folder / "animals.jsonl") + more
        (folder / f"{name}.yaml").write_text(task)
    return rows


@pytest.mark.parametrize("more", ["", ",num_concurrent=3", ",tokenized_requests=False"])
def test_its_figures_are_those_of_score(
    programs: Path, animals: Served, ours: Client, tmp_path: Path, more: str
) -> None:
    """Each log-likelihood is a sum of Score's, with ids and texts, alone, in lists and at once. Answers are right."""
    rows = write_tasks(tmp_path)
    model = f"model=animals,base_url={animals.openai_url}/completions,max_retries=1{more}"
    command = [str(programs / "lm_eval"), "run", "--model", "local-completions", "--model_args", model]
    command += ["--batch_size", "1" if more == "" else "5", "--include_path", ".", "--tasks", ",".join(_TASKS)]
    run(tmp_path, *command, "--log_samples", "--output_path", "out")
    (results,) = tmp_path.glob("out/*/results_*.json")
    figures = json.loads(results.read_text())["results"]
    assert figures["choice"]["acc,none"] == 1
    assert figures["free"]["exact_match,none"] == 1
    samples = {name: read_samples(tmp_path, name) for name in _TASKS}
    for number, row in enumerate(rows):
        begin, end = f"The {row['animal']} says", f" {row['choices'][row['answer']]}"
        ours_of = [sum(rate(ours, f"{begin} {choice}")[len(begin) :]) for choice in row["choices"]]
        assert rated(samples["choice"][number]) == pytest.approx(ours_of, abs=1e-4)
        # Without a context, it puts the text before that the server names: the line's end.
        ours_of = [sum(rate(ours, f"\n {choice}")[1:]) for choice in row["choices"]]
        assert rated(samples["without_context"][number]) == pytest.approx(ours_of, abs=1e-4)
        ((whole,),) = samples["rolling"][number]["resps"]
        assert float(whole) == pytest.approx(sum(rate(ours, f"\n{begin}{end}")[1:]), abs=1e-4)
        ((made,),) = samples["free"][number]["resps"]
        assert made + "." == generate(ours, begin, len(end), temperature=0)


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """Returns what was asked and answered, in the order of the rows."""
    (found,) = folder.glob(f"out/*/samples_{task}_*.jsonl")
    return sorted(map(json.loads, found.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def rated(sample: dict[str, Any]) -> list[float]:
    """Returns the log-likelihood of each choice."""
    return [float(log_likelihood) for log_likelihood, is_greedy in sample["filtered_resps"]]
