"""Block-diagonal matrices, kept without their zeros, multiply as the whole ones do."""

import torch

from carousel_training.cells.heads import block_columns, block_product, from_heads, to_heads

B, N, D, GATES = 3, 2, 4, 3
H = N * D


def test_columns_and_the_written_product_are_the_whole_matrix() -> None:
    """For every gate, the product is that of a matrix [H,H] that is zero outside its blocks."""
    torch.manual_seed(0)
    weight, h_BH = torch.randn(GATES * H, D), torch.randn(B, H)
    whole = torch.zeros(GATES, H, H)
    for head in range(N):
        rows = slice(head * D, (head + 1) * D)
        whole[:, rows, rows] = weight.view(GATES, H, D)[:, rows]
    expected_BG = torch.cat([h_BH @ matrix.t() for matrix in whole], dim=1)
    torch.testing.assert_close(block_product(h_BH, weight, N, GATES), expected_BG)
    by_head_NBK = torch.bmm(to_heads(h_BH, N), block_columns(weight, N, GATES))
    torch.testing.assert_close(from_heads(by_head_NBK, GATES), expected_BG)


def test_heads_come_apart_and_together() -> None:
    """This holds for one gate and for several, with and without an axis of time in front."""
    for shape in ((B, GATES * H), (5, B, GATES * H)):
        values = torch.randn(*shape)
        by_head = to_heads(values, N, GATES)
        assert by_head.shape == (*shape[:-2], N, B, GATES * D)
        assert torch.equal(from_heads(by_head, GATES), values)
    assert to_heads(torch.arange(H)[None], N)[1, 0].tolist() == [4, 5, 6, 7]
