"""States of single sequences and batches of them are the same numbers, put together and taken apart."""

import json

import numpy as np
import pytest

from carousel.bundle.layout import StateLayout, StateTensor

LAYOUT = StateLayout(
    (StateTensor("h", (2, 3), "float32"), StateTensor("clock", (), "int64", initial=7), StateTensor("w", (4,), "int8"))
)


def test_initial_state_has_the_manifests_shapes_types_and_values() -> None:
    """Every row starts with each tensor's initial value."""
    h_B23, clock_B, w_B4 = map(np.asarray, LAYOUT.initial(5))
    assert (h_B23.shape, h_B23.dtype) == ((5, 2, 3), np.dtype(np.float32))
    assert (clock_B.tolist(), clock_B.dtype) == ([7] * 5, np.dtype(np.int64))
    assert (w_B4.shape, w_B4.dtype, bool(w_B4.any())) == ((5, 4), np.dtype(np.int8), False)


def test_stack_and_unstack_are_opposites() -> None:
    """Row b of the batch is the b-th state, and returns as a separate copy."""
    states = [tuple(part[0] + row for part in LAYOUT.initial(1)) for row in range(3)]
    batch = LAYOUT.stack(states)
    back = LAYOUT.unstack(batch)
    np.asarray(batch[0])[:] = -1
    for state, again in zip(states, back, strict=True):
        for one, other in zip(state, again, strict=True):
            np.testing.assert_array_equal(one, other)
            assert other.base is None


def test_states_with_another_number_of_tensors_do_not_stack() -> None:
    """Sequences of different layouts never become one batch."""
    whole = tuple(part[0] for part in LAYOUT.initial(1))
    with pytest.raises(ValueError, match="zip"):
        LAYOUT.stack([whole, whole[:2]])
    with pytest.raises(ValueError, match="zip"):
        LAYOUT.feed(LAYOUT.initial(1)[:2])


def test_feed_and_output_names_follow_the_tensors() -> None:
    """Inputs carry the tensors' names, outputs those with _next, both in order."""
    assert list(LAYOUT.feed(LAYOUT.initial(1))) == ["h", "clock", "w"]
    assert LAYOUT.output_names() == ["h_next", "clock_next", "w_next"]


def test_bytes_are_counted() -> None:
    """A sequence's raw state is the sum of its tensors, a scalar being one number."""
    assert [tensor.num_bytes for tensor in LAYOUT.tensors] == [24, 8, 4]
    assert LAYOUT.num_bytes == 36


def test_json_and_back_is_the_same_layout() -> None:
    """The manifest's form loses nothing."""
    assert StateLayout.from_json(json.loads(json.dumps(LAYOUT.as_json()))) == LAYOUT


@pytest.mark.parametrize(
    "broken",
    [
        {"name": None},
        {"shape": "x"},
        {"shape": [-1]},
        {"dtype": "float33"},
        {"dtype": "O"},
        {"dtype": None},
        {"initial": "x"},
    ],
)
def test_json_that_describes_no_tensor_is_refused(broken: dict[str, object]) -> None:
    """A shape, type or value that no array can have is a TypeError or ValueError, as is a missing key."""
    item = LAYOUT.as_json()[0]
    with pytest.raises((TypeError, ValueError)):
        StateLayout.from_json([item | broken])
    for key in item:
        with pytest.raises(KeyError):
            StateLayout.from_json([{k: v for k, v in item.items() if k != key}])
