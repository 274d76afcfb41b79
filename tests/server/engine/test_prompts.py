"""The scheduler feeds prompts in chunks that share a step, and that keep no stream waiting."""

from tests.bounds import make_bounds
from tests.server.engine.scheduled_turns import answers, generate, run_step, turn

from carousel.engine.jobs import Ask, Work
from carousel.engine.scheduler import Scheduler, _shape
from carousel.engine.step_budget import StepSeconds, StepShape
from carousel.turns import Ended, Generated, Predict, Score


def test_a_prompt_is_fed_in_order_in_bounded_chunks() -> None:
    """The chunks of a prompt are at most the bound long and together are the prompt; only the last asks."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=4))
    scheduler.submit(turn(10))
    works: list[Work] = []
    while (step := scheduler.plan()) is not None:
        works.extend(step.works)
        scheduler.commit(step, answers(step))
    assert [work.ids for work in works] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert [work.ask for work in works] == [Ask.NOTHING, Ask.NOTHING, Ask.CANDIDATES]
    assert [work.is_last for work in works] == [False, False, True]


def test_prompts_share_a_budget_and_nobody_starves() -> None:
    """Prompts alone divide the budget of a step evenly, within the bound of a chunk; every lane moves in every step."""
    bounds = make_bounds(max_lanes=6, max_chunk_tokens=8, max_prompt_tokens_per_step=15)
    scheduler = Scheduler(bounds)
    for _ in range(6):
        scheduler.submit(turn(20))
    while (step := scheduler.plan()) is not None:
        assert all(work.ids for work in step.works)
        assert sum(len(work.ids) for work in step.works) <= bounds.max_prompt_tokens_per_step
        scheduler.commit(step, answers(step))


def test_a_lone_prompt_is_not_held_back() -> None:
    """The last prompt gets what others leave of the budget, up to the bound of a chunk."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=8, max_prompt_tokens_per_step=10))
    scheduler.submit(turn(6))
    scheduler.submit(turn(30))
    sizes = []
    while (step := scheduler.plan()) is not None:
        sizes.append([len(work.ids) for work in step.works])
        scheduler.commit(step, answers(step))
    assert sizes[0] == [5, 5]
    assert sizes[-3:] == [[8], [8], [1]]


def test_a_long_prompt_does_not_keep_the_others() -> None:
    """While another lane waits for its next token, prompts share a smaller budget, and the others move every step."""
    scheduler = Scheduler(make_bounds(max_prompt_tokens_per_step=100))
    scheduler.submit(turn(1, generate(12)))
    run_step(scheduler)
    for _ in range(2):
        scheduler.submit(turn(120))
    for _ in range(11):
        step, deliveries = run_step(scheduler)
        assert [type(event) for _, event in deliveries] == [Generated]
        assert [len(work.ids) for work in step.works] == [1, 8, 8]
        assert [work.is_chunk for work in step.works] == [False, True, True]
    run_step(scheduler)  # the generation's last token
    step, _ = run_step(scheduler)
    assert [len(work.ids) for work in step.works] == [24, 24]


def test_prompts_beside_a_stream_get_what_the_steps_took() -> None:
    """Ten prompts of 2,000 tokens beside one stream are fed in 400 steps, not in 2,000, when a token of each costs a
    quarter of what the stream's own step does, and no step is two and a half times as long as that."""
    scheduler = Scheduler(make_bounds())
    scheduler.submit(turn(1, generate(10_000)))
    for _ in range(10):
        scheduler.submit(turn(2000, generate(0)))
    num_steps, ended = 0, 0
    while ended < 10:
        step = scheduler.plan()
        assert step is not None
        chunk = max(len(work.ids) for work in step.works)
        prompt_seconds = 0.25 * chunk if step.num_prompts else 0.0
        assert 1 + prompt_seconds < 2.5
        for _, event in scheduler.commit(step, answers(step), StepSeconds(prompt_seconds, 0, 1.0)):
            ended += isinstance(event, Ended)
        num_steps += 1
    assert 400 <= num_steps < 410


def test_prompts_that_are_rated_get_what_that_leaves() -> None:
    """Ratings cost time as well: chunks of Score turns are shorter beside a stream than those of others."""
    scheduler = Scheduler(make_bounds())
    scheduler.submit(turn(1, generate(10_000)))
    sizes = []
    for goal in (Score(), Predict(1)):
        job = scheduler.submit(turn(500, goal))
        for _ in range(6):
            step = scheduler.plan()
            assert step is not None
            chunk = len(step.works[-1].ids) * step.num_prompts
            rated = 0.25 * chunk if goal == Score() else 0.0
            scheduler.commit(step, answers(step), StepSeconds(0.125 * chunk, rated, 1.0))
        sizes.append(chunk)
        scheduler.cancel(job)
    assert sizes == [3, 11]


def test_the_longest_chunk_is_what_a_step_costs() -> None:
    """A prompt with a short rest does not make the others' tokens look expensive: all are padded to the longest."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=20))
    scheduler.submit(turn(30))
    scheduler.submit(turn(5))
    scheduler.submit(turn(1))
    step = scheduler.plan()
    assert step is not None
    assert _shape(step) == StepShape(num_answered=2, num_prompts=2, chunk=8)
