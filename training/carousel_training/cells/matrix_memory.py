"""This module is the fast pass of the mLSTM, one chunk of steps at a time, with a hand-written backward pass.

With l_ts = log f_{s+1} + ... + log f_t, a head that starts the chunk with the memory C_0, n_0 at the level m_0 computes

m_t = max(l_t0 + m_0, max over s <= t of l_ts + i_s),  E_ts = exp(l_ts + i_s - m_t),  e_t = exp(l_t0 + m_0 - m_t)
[C_t' q_t, n_t' q_t] = sum over s <= t of E_ts (q_t k_s) [v_s, 1]  +  e_t [C_0' q_t, n_0' q_t]

With chunks as long as a head is wide, the products between steps cost no more than those with the memory. Outputs do
not depend on the level m, as in `scalar_memory.py`. Legend: B lanes, N heads, T steps of a chunk (S: seen from
another), K width of keys, D of values, V = D + 1: values with a 1 at the end, a memory with its normaliser as last
column.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

Tensor = torch.Tensor
CHUNK = 64


class Gates(NamedTuple):
    """Holds log f and the input gate's sum, [B,N,T]."""

    log_f: Tensor
    a_i: Tensor


class Reading(NamedTuple):
    """C' q [B,N,T,D], n' q [B,N,T] and the level m [B,N,T] of both."""

    values: Tensor
    weights: Tensor
    m: Tensor


def run_matrix_memory(
    q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: tuple[Tensor, Tensor, Tensor]
) -> tuple[Reading, tuple[Tensor, Tensor, Tensor]]:
    """Returns the reading at every step, and the state after the last.

    `q` and `k` [B,N,T,K], `v` [B,N,T,D]; `state` is C [B,N,K,D], n [B,N,K], m [B,N] in the type of the gates.
    """
    c, n, m = state
    memory, readings, levels = torch.cat([c, n[..., None]], dim=3), list[Tensor](), list[Tensor]()
    for start in range(0, q.shape[2], CHUNK):
        cut = slice(start, start + CHUNK)
        ones = v.new_ones(v[:, :, cut, :1].shape)
        arguments = (q[:, :, cut], k[:, :, cut], torch.cat([v[:, :, cut], ones], dim=3))
        read_BNTV, m_BNT, memory, m = _Chunk.apply(  # type: ignore[no-untyped-call]
            *arguments, gates.log_f[:, :, cut], gates.a_i[:, :, cut], memory, m
        )
        readings.append(read_BNTV)
        levels.append(m_BNT)
    values, weights = torch.cat(readings, dim=2).split_with_sizes([v.shape[3], 1], dim=3)
    reading = Reading(values, weights[..., 0], torch.cat(levels, dim=2))
    return reading, (memory[..., :-1], memory[..., -1], m)


class _Chunk(torch.autograd.Function):
    """Large products have the type of q, everything else that of the gates."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, a_i: Tensor, memory: Tensor, m: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        narrow, wide = q.dtype, memory.dtype
        fade_BNT = log_f.double().cumsum(2)  # float32 would leave too few digits of the differences below
        carried_BNT = (fade_BNT + m[..., None]).to(wide)
        share_BNTS = _log_shares(fade_BNT, a_i)
        m_BNT = torch.maximum(share_BNTS.amax(3), carried_BNT)
        share_BNTS.sub_(m_BNT[..., None]).exp_()
        carried_BNT.sub_(m_BNT).exp_()
        seen_BNTS = (q @ k.transpose(2, 3)).to(wide).mul_(share_BNTS)
        read_BNTV = (q @ memory.to(narrow)).to(wide).mul_(carried_BNT[..., None])
        read_BNTV += seen_BNTS.to(narrow) @ v
        written = (k * share_BNTS[:, :, -1, :, None].to(narrow)).transpose(2, 3) @ v
        after = torch.addcmul(written.to(wide), memory, carried_BNT[:, :, -1, None, None])
        ctx.mark_non_differentiable(m_BNT)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, memory, share_BNTS, carried_BNT, seen_BNTS, after)
        return read_BNTV, m_BNT, after, m_BNT[:, :, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_read: Tensor | None, _: None, grad_after: Tensor | None, grad_m: Tensor | None
    ) -> tuple[Tensor, ...]:
        chunk = _Saved(*ctx.saved_tensors)
        if grad_read is None:
            grad_read = torch.zeros_like(chunk.v, dtype=chunk.memory.dtype)
        grads = _through_reading(chunk, grad_read.to(chunk.q.dtype))
        if grad_after is not None:
            _through_writing(chunk, grad_after, grads)
        if grad_after is not None or grad_m is not None:
            _follow_maximum(chunk, grad_after, grad_m, grads)
        d_i = grads.log_share.sum(2)
        # The step j fades what is shared between s and t for every s < j <= t.
        d_log_f = (grads.log_share.sum(3) + grads.log_carried - d_i).flip(2).cumsum(2).flip(2)
        return grads.q, grads.k, grads.v, d_log_f, d_i, grads.memory, grads.log_carried.sum(2)


class _Saved(NamedTuple):
    """The forward pass's values: `share` is E, `carried` e, `seen` E times the scores q k, `after` the memory."""

    q: Tensor
    k: Tensor
    v: Tensor
    memory: Tensor
    share: Tensor
    carried: Tensor
    seen: Tensor
    after: Tensor


@dataclass(slots=True)
class _Gradients:
    """The gradients by the inputs and by the logarithms of E and e."""

    q: Tensor
    k: Tensor
    v: Tensor
    memory: Tensor
    log_share: Tensor
    log_carried: Tensor


def _log_shares(fade_BNT: Tensor, a_i: Tensor) -> Tensor:
    """Returns l_ts + i_s, and -inf (nothing) for the steps s after t."""
    share_BNTS = (fade_BNT[..., None] - fade_BNT[..., None, :]).to(a_i.dtype) + a_i[..., None, :]
    num_steps = a_i.shape[2]
    is_later_TS = torch.ones(num_steps, num_steps, dtype=torch.bool, device=a_i.device).triu_(1)
    return share_BNTS.masked_fill_(is_later_TS, -torch.inf)


def _through_reading(chunk: _Saved, grad: Tensor) -> _Gradients:
    """Adds the gradient by the reading, [B,N,T,V]: through the chunk's steps, and through the memory before."""
    narrow, wide = grad.dtype, chunk.memory.dtype
    d_seen = (grad @ chunk.v.transpose(2, 3)).to(wide)
    log_share = d_seen * chunk.seen
    d_scores = d_seen.mul_(chunk.share).to(narrow)
    faded = grad * chunk.carried[..., None].to(narrow)
    at_q = faded @ chunk.memory.to(narrow).transpose(2, 3)
    return _Gradients(
        q=d_scores @ chunk.k + at_q,
        k=d_scores.transpose(2, 3) @ chunk.q,
        v=chunk.seen.to(narrow).transpose(2, 3) @ grad,
        memory=(chunk.q.transpose(2, 3) @ faded).to(wide),
        log_share=log_share,
        log_carried=(at_q * chunk.q).sum(3).to(wide),
    )


def _through_writing(chunk: _Saved, grad_after: Tensor, grads: _Gradients) -> None:
    """Adds the gradient by the memory after the last step."""
    narrow, new_BNS, kept_BN = chunk.q.dtype, chunk.share[:, :, -1], chunk.carried[:, :, -1]
    at_v, at_k = chunk.k @ grad_after.to(narrow), chunk.v @ grad_after.to(narrow).transpose(2, 3)
    grads.v += at_v * new_BNS[..., None].to(narrow)
    grads.k += at_k * new_BNS[..., None].to(narrow)
    grads.log_share[:, :, -1] += (at_v * chunk.v).sum(3).to(new_BNS.dtype) * new_BNS
    at_memory = grad_after * kept_BN[..., None, None]
    grads.log_carried[:, :, -1] += (at_memory * chunk.memory).sum((2, 3))
    grads.memory += at_memory


def _follow_maximum(chunk: _Saved, grad_after: Tensor | None, grad_m: Tensor | None, grads: _Gradients) -> None:
    """Passes the last m's own gradient, beyond that of the memory, to the maximum of the last step."""
    new_BNS, kept_BN = chunk.share[:, :, -1], chunk.carried[:, :, -1]
    beyond_BN = torch.zeros_like(kept_BN) if grad_m is None else grad_m
    if grad_after is not None:
        beyond_BN = beyond_BN - (grad_after * chunk.after).sum((2, 3))
    is_kept_BN = (kept_BN == 1.0).to(beyond_BN.dtype)
    winner_BNS = functional.one_hot(new_BNS.argmax(2), new_BNS.shape[2]).to(beyond_BN.dtype)
    grads.log_carried[:, :, -1] += beyond_BN * is_kept_BN
    grads.log_share[:, :, -1] += winner_BNS * (beyond_BN * (1 - is_kept_BN))[..., None]
