"""What every server must answer before it is timed: greedy traces of raw onnxruntime, each sequence alone."""

from pathlib import Path

import numpy as np
from bench.peers.client import first_token
from bench.peers.conversation import NUM_CANDIDATES

from carousel.bundle.manifest import Bundle
from carousel.engine.model import OnnxModel

Answers = list[list[list[int]]]  # of each sequence, after each token: candidates, likeliest first

NUM_SEQUENCES, NUM_TOKENS = 12, 24


def golden_answers(bundle: Path) -> Answers:
    """12 sequences of 24 tokens. Raises ValueError where two are alike: they could not tell mixed-up states."""
    loaded = Bundle.load(bundle)
    model = OnnxModel(loaded)
    answers = [_decode(model, loaded.manifest.start_id, first_token(number)) for number in range(NUM_SEQUENCES)]
    if len({str(sequence) for sequence in answers}) < NUM_SEQUENCES:
        raise ValueError(f"{bundle.name}: two golden sequences are alike")
    return answers


def find_difference(answers: Answers, golden: Answers) -> str:
    """Empty when every answer is the golden one, or its first candidates where a server gives fewer."""
    for number, (ours, theirs) in enumerate(zip(answers, golden, strict=True)):
        if len(ours) != len(theirs):
            return f"sequence {number} has {len(ours)} answers instead of {len(theirs)}"
        for step, (candidates, expected) in enumerate(zip(ours, theirs, strict=True)):
            if not candidates or candidates != expected[: len(candidates)]:
                return f"sequence {number}, token {step}: {candidates} instead of {expected}"
    return ""


def _decode(model: OnnxModel, start_id: int, token: int) -> list[list[int]]:
    length_B = np.ones(1, np.int32)
    _, state = model.core(np.array([[start_id]]), length_B, model.layout.initial(1))
    answers = []
    for _ in range(NUM_TOKENS):
        hidden_B1H, state = model.core(np.array([[token]]), length_B, state)
        answers.append(model.candidates(hidden_B1H[:, 0], NUM_CANDIDATES).ids_NK[0].tolist())
        token = answers[-1][0]
    return answers
