"""Each cell's `step` equals the equations of its docstring, written again in numpy, row by row."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import RecurrentStack, StackShape

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
X, H = 3, 4


def s(a: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-a)))


def library(w: Weights, num_gates: int, x: Array, h: Array) -> tuple[list[Array], list[Array]]:
    """W x + b and U h + b' of the gates, in torch's order."""
    from_input = w["layers.weight_ih_l0"] @ x + w["layers.bias_ih_l0"]
    from_state = w["layers.weight_hh_l0"] @ h + w["layers.bias_hh_l0"]
    return np.split(from_input, num_gates), np.split(from_state, num_gates)


def own(w: Weights, num_gates: int, x: Array, h: Array) -> list[Array]:
    """W x + U h + b of the gates of the bottom layer, in our order."""
    return np.split(w["layers.0.weight_ih"] @ x + w["layers.0.weight_hh"] @ h + w["layers.0.bias"], num_gates)


def elman(w: Weights, x: Array, h: Array) -> list[Array]:
    (a,), (b,) = library(w, 1, x, h)
    return [np.tanh(a + b)]


def lstm(w: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    wx, uh = library(w, 4, x, h)
    c = s(wx[1] + uh[1]) * c + s(wx[0] + uh[0]) * np.tanh(wx[2] + uh[2])
    return [s(wx[3] + uh[3]) * np.tanh(c), c]


def lstm_1997(w: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    o, i, g = own(w, 3, x, h)
    c = c + s(i) * np.tanh(g)
    return [s(o) * np.tanh(c), c]


def lstm_coupled(w: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    o, i, g = own(w, 3, x, h)
    c = (1 - s(i)) * c + s(i) * np.tanh(g)
    return [s(o) * np.tanh(c), c]


def lstm_peephole(w: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    o, i, f, g = own(w, 4, x, h)
    at_i, at_f = np.split(w["layers.0.peephole_if"], 2)
    c = s(f + at_f * c) * c + s(i + at_i * c) * np.tanh(g)
    return [s(o + w["layers.0.peephole_o"] * c) * np.tanh(c), c]


def lstm_peephole_dense(w: Weights, x: Array, h: Array, c: Array) -> list[Array]:
    o, i, f, g = own(w, 4, x, h)
    at_i, at_f = np.split(w["layers.0.weight_cif"], 2)
    c = s(f + at_f @ c) * c + s(i + at_i @ c) * np.tanh(g)
    return [s(o + w["layers.0.weight_co"] @ c) * np.tanh(c), c]


def lstm_depth_gated(w: Weights, x: Array, h0: Array, c0: Array, h1: Array, c1: Array) -> list[Array]:
    h0, c0 = lstm_peephole(w, x, h0, c0)
    sums = w["layers.1.weight_ih"] @ h0 + w["layers.1.weight_hh"] @ h1 + w["layers.1.bias"]
    o, i, f, g = np.split(sums, 4)
    at_i, at_f = np.split(w["layers.1.peephole_if"], 2)
    d = s(
        w["layers.1.weight_d"] @ h0 + w["layers.1.weight_cd"] * c1 + w["layers.1.weight_ld"] * c0 + w["layers.1.bias_d"]
    )
    c1 = s(f + at_f * c1) * c1 + s(i + at_i * c1) * np.tanh(g) + d * c0
    return [h0, c0, s(o + w["layers.1.peephole_o"] * c1) * np.tanh(c1), c1]


def gru(w: Weights, x: Array, h: Array) -> list[Array]:
    wx, uh = library(w, 3, x, h)
    r, z = s(wx[0] + uh[0]), s(wx[1] + uh[1])
    return [(1 - z) * np.tanh(wx[2] + r * uh[2]) + z * h]


def gru_2014(w: Weights, x: Array, h: Array) -> list[Array]:
    r, z, n = np.split(w["layers.0.weight_ih"] @ x + w["layers.0.bias"], 3)
    u_r, u_z, u_n = np.split(w["layers.0.weight_hh"], 3)
    r, z = s(r + u_r @ h), s(z + u_z @ h)
    return [(1 - z) * h + z * np.tanh(n + u_n @ (r * h))]


def clockwork(w: Weights, x: Array, h: Array, t: Array) -> list[Array]:
    """Two groups of two units, of periods 1 and 2; the second does not see the first."""
    recurrent = w["layers.0.weight_hh"].copy()
    recurrent[2:, :2] = 0.0
    new = np.tanh(w["layers.0.weight_ih"] @ x + recurrent @ h + w["layers.0.bias"])
    is_due = np.array([True, True, int(t) % 2 == 0, int(t) % 2 == 0])
    return [np.where(is_due, new, h), np.asarray((t + 1) % 2)]


def minlstm(w: Weights, x: Array, h: Array) -> list[Array]:
    f, i, n = np.split(w["layers.0.weight_ih"] @ x + w["layers.0.bias"], 3)
    return [s(f) / (s(f) + s(i)) * h + s(i) / (s(f) + s(i)) * n]


def mingru(w: Weights, x: Array, h: Array) -> list[Array]:
    z, n = np.split(w["layers.0.weight_ih"] @ x + w["layers.0.bias"], 2)
    return [(1 - s(z)) * h + s(z) * n]


def blocks(rows: Array, num_gates: int) -> list[Array]:
    """The whole matrices [H,H], zeros included, of two heads."""
    whole = [np.zeros((H, H)) for _ in range(num_gates)]
    for matrix, own_rows in zip(whole, np.split(rows, num_gates), strict=True):
        matrix[: H // 2, : H // 2], matrix[H // 2 :, H // 2 :] = np.split(own_rows, 2)
    return whole


def rg_lru(w: Weights, x: Array, h: Array) -> list[Array]:
    u = w["layers.0.weight_in"] @ x + w["layers.0.bias_in"]
    (v_r, v_i), (b_r, b_i) = blocks(w["layers.0.weight_gates"], 2), np.split(w["layers.0.bias_gates"], 2)
    a = s(w["layers.0.decay"]) ** (8 * s(v_r @ u + b_r))
    return [a * h + np.sqrt(1 - a**2) * (s(v_i @ u + b_i) * u)]


def slstm(w: Weights, x: Array, h: Array, c: Array, n: Array, m: Array) -> list[Array]:
    sums = np.split(w["layers.0.weight_ih"] @ x + w["layers.0.bias"], 4)
    z, i, f, o = (a + r @ h for a, r in zip(sums, blocks(w["layers.0.weight_hh"], 4), strict=True))
    m, before = np.maximum(np.log(s(f)) + m, i), m
    f, i = s(f) * np.exp(before - m), np.exp(i - m)
    c, n = f * c + i * np.tanh(z), f * n + i
    return [s(o) * c / n, c, n, m]


def mlstm(w: Weights, x: Array, c: Array, n: Array, m: Array) -> list[Array]:
    """Two heads of two values, with keys of one number. The output is not in the state; see below."""
    sums = w["layers.0.weight_ih"] @ x + w["layers.0.bias"]
    k, v, i, f = sums[2:4].reshape(2, 1), sums[4:8].reshape(2, 2), sums[12:14], sums[14:16]
    m, before = np.maximum(np.log(s(f)) + m, i), m
    f, i = s(f) * np.exp(before - m), np.exp(i - m)
    c = np.stack([f[head] * c[head] + i[head] * np.outer(k[head], v[head]) for head in (0, 1)])
    return [c, f[:, None] * n + i[:, None] * k, m]


EQUATIONS: dict[str, Callable[..., list[Array]]] = {
    "elman": elman,
    "lstm-1997": lstm_1997,
    "lstm": lstm,
    "lstm-peephole": lstm_peephole,
    "lstm-peephole-dense": lstm_peephole_dense,
    "lstm-coupled": lstm_coupled,
    "gru-2014": gru_2014,
    "gru": gru,
    "lstm-depth-gated": lstm_depth_gated,
    "clockwork": clockwork,
    "minlstm": minlstm,
    "mingru": mingru,
    "rg-lru": rg_lru,
    "slstm": slstm,
    "mlstm": mlstm,
}


def build(cell: str, num_layers: int = 1) -> RecurrentStack:
    torch.manual_seed(5)
    stack = CELLS[cell](StackShape(X, H, num_layers, 0.0, window=3, num_clocks=2, num_heads=2)).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return stack


@pytest.mark.parametrize("cell", EQUATIONS)
def test_a_step_is_the_cells_equations(cell: str) -> None:
    """Five steps of every lane, from nonzero states, equal the equations."""
    stack = build(cell, 2 if cell == "lstm-depth-gated" else 1)
    weights = {name: tensor.detach().numpy() for name, tensor in stack.named_parameters()}
    state = tuple(
        torch.randn(tensor.shape, dtype=torch.float64) if tensor.is_floating_point() else tensor
        for tensor in stack.initial_state(2, torch.device("cpu"))
    )
    for x_BX in torch.randn(5, 2, X, dtype=torch.float64):
        expected = [EQUATIONS[cell](weights, x_BX[lane].numpy(), *(t[lane].numpy() for t in state)) for lane in (0, 1)]
        _, state, _ = stack.step(x_BX[None], state)
        state = tuple(tensor.detach() for tensor in state)
        for lane in (0, 1):
            for found, wanted in zip(state, expected[lane], strict=True):
                np.testing.assert_allclose(found[lane], wanted, atol=1e-12)


@pytest.mark.parametrize("cell", ["slstm", "mlstm"])
def test_the_level_of_a_memory_changes_nothing(cell: str) -> None:
    """From a fresh state, outputs equal the papers' equations without m, if no power overflows."""
    stack = build(cell)
    w = {name: tensor.detach().numpy() for name, tensor in stack.named_parameters()}
    state = tuple(tensor.double() for tensor in stack.initial_state(1, torch.device("cpu")))
    h, c, n = np.zeros(H), np.zeros(H), np.zeros(H)
    matrices, normalizers = np.zeros((2, 1, 2)), np.zeros((2, 1))
    for x_1X in torch.randn(6, 1, X, dtype=torch.float64):
        output_1H, state, _ = stack.step(x_1X[None], state)
        sums = w["layers.0.weight_ih"] @ x_1X[0].numpy() + w["layers.0.bias"]
        if cell == "slstm":
            pairs = zip(np.split(sums, 4), blocks(w["layers.0.weight_hh"], 4), strict=True)
            z, i, f, o = (a + r @ h for a, r in pairs)
            c, n = s(f) * c + np.exp(i) * np.tanh(z), s(f) * n + np.exp(i)
            h = s(o) * c / n
        else:
            q, k, v, o, i, f = np.split(sums, np.cumsum([2, 2, 4, 4, 2]))
            f, i, v = s(f), np.exp(i), v.reshape(2, 2)
            matrices = np.stack([f[j] * matrices[j] + i[j] * np.outer(k[j], v[j]) for j in (0, 1)])
            normalizers = np.stack([f[j] * normalizers[j] + i[j] * k[[j]] for j in (0, 1)])
            heads = np.stack([matrices[j].T @ q[[j]] / max(abs(normalizers[j] @ q[[j]]), 1.0) for j in (0, 1)])
            heads /= np.sqrt(np.mean(heads**2, axis=1, keepdims=True) + 0.01)
            h = s(o) * w["layers.0.weight_norm"] * heads.flatten()
        np.testing.assert_allclose(output_1H[0].detach(), h, atol=1e-12)


def test_fresh_real_gated_units_keep_what_the_paper_says() -> None:
    """s(L)^8 fills the range from 0.9 to 0.999 evenly."""
    torch.manual_seed(0)
    (layer,) = CELLS["rg-lru"](StackShape(X, 4000, 1, 0.0)).double().layers  # type: ignore[misc]
    kept_H = torch.sigmoid(layer.decay.detach()) ** 8
    assert 0.9 <= kept_H.min() <= kept_H.max() <= 0.999
    torch.testing.assert_close(torch.quantile(kept_H, 0.5).item(), 0.9495, atol=0.005, rtol=0.0)


@pytest.mark.parametrize("cell", ["slstm", "mlstm"])
def test_fresh_forget_gates_are_open_between_95_and_100_percent(cell: str) -> None:
    """Their biases are spread from 3 to 6, over the units of a head or over the heads."""
    stack = CELLS[cell](StackShape(X, 8, 1, 0.0))
    bias = dict(stack.named_parameters())["layers.0.bias"]
    forget = bias[16:24].view(4, 2) if cell == "slstm" else bias[-4:][None]
    assert forget.amin(1).tolist() == [3.0] * len(forget)
    assert forget.amax(1).tolist() == [6.0] * len(forget)


def test_a_time_delay_net_is_a_feed_forward_net_over_its_window() -> None:
    """Three embeddings side by side, a tanh layer, another on top of it."""
    stack = build("tdnn", 2)
    w = {name: tensor.detach().numpy() for name, tensor in stack.named_parameters()}
    x_SBX = torch.randn(3, 2, X, dtype=torch.float64)
    step = stack.step(x_SBX, ())
    for lane in (0, 1):
        lower = np.tanh(w["layers.0.weight"] @ x_SBX[:, lane].flatten().numpy() + w["layers.0.bias"])
        upper = np.tanh(w["layers.1.weight"] @ lower + w["layers.1.bias"])
        np.testing.assert_allclose(step.output_BH[lane].detach(), upper, atol=1e-12)


def test_a_window_remembers_the_last_tokens() -> None:
    """The state is the last n - 1 tokens, -1 before the first; what is embedded is the state and the new tokens."""
    stack = build("tdnn")
    state = stack.initial_state(1, torch.device("cpu"))
    ids_SB, state = stack.remember(torch.tensor([[7]]), state)
    assert ids_SB.t().tolist() == [[-1, -1, 7]]
    assert state[0].tolist() == [[-1, 7]]
    ids_SB, state = stack.remember(torch.tensor([[8], [9], [5]]), state)
    assert ids_SB.t().tolist() == [[-1, 7, 8, 9, 5]]
    assert state[0].tolist() == [[9, 5]]


def test_every_cell_has_its_equations_tested() -> None:
    """Every cell of the registry has a reference here."""
    assert set(EQUATIONS) | {"tdnn"} == set(CELLS)
