"""Assembles a finished comparison as the value of its JSON. It trains nothing and concludes nothing."""

from collections.abc import Sequence
from typing import Any

from carousel_training.studies.comparison.courses import Course
from carousel_training.studies.comparison.figures import (
    Figures,
    block_tokens,
    build_model,
    course_figures,
    machine_figures,
)
from carousel_training.studies.comparison.page import VERSION
from carousel_training.studies.comparison.search import rung_sizes
from carousel_training.studies.comparison.serving import ServingSpeed, serving_of
from carousel_training.studies.comparison.study import Study, Workers
from carousel_training.studies.comparison.study_text import TextFacts


def assemble(
    study: Study,
    courses: Sequence[Course],
    text: TextFacts,
    workers: Workers,
    num_parameters: int,
    serving_speed: ServingSpeed | None,
) -> Figures:
    """Returns everything but the analysis, which follows from it."""
    every = [_entry(study, course, text, serving_speed) for course in courses]
    twins = [figures for figures, course in zip(every, courses, strict=True) if course.entry.is_twin]
    return {
        "version": VERSION,
        "num_parameters": num_parameters,
        "plan": _plan(study, courses[0].unit_steps),
        "text": text.as_json(),
        "machine": machine_figures(workers.num_workers),
        "wall_seconds": sum(result.wall_seconds for result in study.results),
        "block_tokens": block_tokens(study.plan.reading, text.num_tokens["test"]),
        "cells": [figures for figures in every if figures not in twins],
        "twin": twins[0] if twins else None,
    }


def _entry(study: Study, course: Course, text: TextFacts, serving_speed: ServingSpeed | None) -> Figures:
    model = build_model(course, text.vocabulary_size)
    place = study.directory / "runs" / course.entry.name / "serving.json"
    serving = serving_of(model, study.text_directory, place, serving_speed)
    return course_figures(course, study.find, model) | {"serving": serving}


def _plan(study: Study, unit_steps: int) -> dict[str, Any]:
    plan, tokens_per_step = study.plan, study.tokens_per_step
    sizes = rung_sizes(plan.num_trials, len(plan.rungs)) if plan.has_search else []
    steps = plan.search_steps(unit_steps)[: len(sizes)]
    batch = study.entries[0].settings.batch
    return {
        "name": plan.name,
        "num_trials": plan.num_trials,
        "num_seeds": plan.num_seeds,
        "space": plan.as_json()["space"],
        "reading": plan.as_json()["reading"],
        "batch": batch.model_dump(mode="json"),
        "search_tokens": [[size, step * tokens_per_step] for size, step in zip(sizes, steps, strict=True)],
        "mark_tokens": [step * tokens_per_step for step in plan.mark_steps(unit_steps)],
    }
