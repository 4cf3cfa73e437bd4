"""Segment attention, dense and SDPA, against a float64 softmax written out with loops over heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from preftune.models import attention
from preftune.models.attention import SegmentMasks, segment_attention
from preftune.models.layout import Group, Layout, lay_out

WIDTH = 8
HEADS = pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
KERNELS = pytest.mark.parametrize("dense_length", [0, 1024], ids=["sdpa", "dense"])
WINDOWS = pytest.mark.parametrize("window", [None, 1, 4, 100])


@HEADS
@KERNELS
@WINDOWS
def test_outputs_and_gradients_equal_the_written_out_softmax(
    heads: int, groups: int, dense_length: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "DENSE_LENGTH", dense_length)
    layout = _layout()
    q, k, v = _queries_keys_values(layout, heads, groups)
    out, weights = segment_attention(
        nn.Identity(), q, k, v, None, segments=_masks(layout), sliding_window=window, scaling=0.3
    )
    wide = [tensor.detach().double().requires_grad_() for tensor in (q, k, v)]
    truth = _written_out(wide[0], wide[1], wide[2], layout, window, 0.3)
    direction = torch.randn(truth.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (out * direction.float()).sum().backward()
    (truth * direction).sum().backward()
    assert weights is None and out.shape == (1, layout.input_ids.shape[1], heads, WIDTH)
    assert torch.allclose(out.double(), truth, atol=2e-6)
    for ours, reference in zip((q, k, v), wide, strict=True):
        assert ours.grad is not None and reference.grad is not None
        assert (ours.grad.double() - reference.grad).norm() <= 3e-6 * (1 + reference.grad.norm())


@KERNELS
def test_scale_defaults_to_the_root_of_the_width(dense_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "DENSE_LENGTH", dense_length)
    layout = _layout()
    q, k, v = _queries_keys_values(layout, 4, 2)
    out, _ = segment_attention(nn.Identity(), q, k, v, None, segments=_masks(layout))
    truth = _written_out(q.double(), k.double(), v.double(), layout, None, WIDTH**-0.5)
    assert torch.allclose(out.double(), truth, atol=2e-6)


@KERNELS
def test_no_token_outside_a_segment_or_in_a_sibling_changes_it(
    dense_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "DENSE_LENGTH", dense_length)
    layout = lay_out(
        [Group([1, 2], ([3, 4, 5], [6, 7, 8])), Group([1], ([2, 3],))], share_prompt=True, pad_to_rows=False
    )  # tokens 0-1 prompt, 2-3 first completion, 4-5 second, 6-7 the other group
    q, k, v = _queries_keys_values(layout, 4, 2)
    before, _ = segment_attention(nn.Identity(), q, k, v, None, segments=_masks(layout))
    with torch.no_grad():
        k[:, :, 2:4], v[:, :, 2:4] = 9.0, 9.0
    after, _ = segment_attention(nn.Identity(), q, k, v, None, segments=_masks(layout))
    unchanged = [0, 1, 4, 5, 6, 7]
    assert torch.equal(before[0, unchanged], after[0, unchanged])
    assert not torch.isclose(before[0, 2:4], after[0, 2:4]).any()


@KERNELS
@pytest.mark.parametrize("inputs", ["bfloat16", "autocast", "mixed"])
def test_lower_precision_runs_backward_and_stays_near(
    dense_length: int, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if inputs == "mixed" and dense_length == 0:
        pytest.skip("SDPA takes one dtype only, as in transformers' own attention")
    monkeypatch.setattr(attention, "DENSE_LENGTH", dense_length)
    layout = _layout()
    wide = _queries_keys_values(layout, 4, 2)
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in wide]
    q, k, v = (wide[0], *narrow[1:]) if inputs == "mixed" else narrow
    mask_dtype = torch.bfloat16 if inputs == "bfloat16" else torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=inputs == "autocast"):
        segments = SegmentMasks(layout, mask_dtype, torch.device("cpu"))
        out, _ = segment_attention(nn.Identity(), q, k, v, None, segments=segments)
    out.float().sum().backward()
    truth = _written_out(*(tensor.double() for tensor in wide), layout, None, WIDTH**-0.5)
    assert torch.allclose(out.double(), truth, atol=0.05)
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in (q, k, v))


def test_dropout_leaves_the_mean_as_it_is() -> None:
    layout = _layout()
    q, k, v = _queries_keys_values(layout, 4, 2)
    torch.manual_seed(0)
    draws = [
        segment_attention(nn.Identity(), q, k, v, None, segments=_masks(layout), dropout=0.3)[0].detach()
        for _ in range(400)
    ]
    truth, _ = segment_attention(nn.Identity(), q, k, v, None, segments=_masks(layout))
    assert not torch.allclose(draws[0], truth, atol=0.1)
    assert (torch.stack(draws).mean(0) - truth).abs().max() < 0.35  # 6 standard errors of the widest element


@pytest.mark.parametrize(
    "variant", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1, 4, 9, 9)}]
)
def test_variants_that_are_not_computed_are_refused(variant: dict[str, object]) -> None:
    layout = _layout()
    q, k, v = _queries_keys_values(layout, 4, 2)
    with pytest.raises(NotImplementedError):
        segment_attention(nn.Identity(), q, k, v, None, segments=_masks(layout), **variant)  # type: ignore[arg-type]


def test_without_segments_it_is_causal_sdpa() -> None:
    layout = lay_out([Group([1, 2, 3], ([4, 5, 6],))], share_prompt=True, pad_to_rows=False)
    q, k, v = _queries_keys_values(layout, 4, 4)
    out, _ = segment_attention(nn.Identity(), q, k, v, None)
    truth = _written_out(q.double(), k.double(), v.double(), layout, None, WIDTH**-0.5)
    assert torch.allclose(out.double(), truth, atol=2e-6)


def test_masks_are_made_once_a_window() -> None:
    masks = _masks(_layout())
    assert masks.within(3) is masks.within(3)
    assert set(masks.by_window) == {3}


def _layout() -> Layout:
    groups = [
        Group([1, 2, 3], ([4, 5, 6, 7, 8], [9, 10])),
        Group([1], ([2], [3, 4], [5, 6, 7])),
        Group([1, 2, 3, 4, 5, 6, 7], ([8, 9, 10, 11],)),
    ]
    return lay_out(groups, share_prompt=True, pad_to_rows=False)


def _masks(layout: Layout) -> SegmentMasks:
    return SegmentMasks(layout, torch.float32, torch.device("cpu"))


def _queries_keys_values(layout: Layout, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(heads)
    tokens = layout.input_ids.shape[1]
    q, k, v = (torch.randn(1, count, tokens, WIDTH, generator=draw) for count in (heads, groups, groups))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def _written_out(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None, scale: float) -> Tensor:
    """(1, tokens, heads, width): each query token by itself over the keys it may see."""
    mask, positions = layout.attention_mask_4d()[0, 0], layout.position_ids[0]
    heads, per_group = q.shape[1], q.shape[1] // k.shape[1]
    rows = []
    for token in range(q.shape[2]):
        seen = mask[token] & (positions > positions[token] - (window or 10**6))
        rows.append(
            torch.stack(
                [
                    (k[0, head // per_group, seen] @ q[0, head, token] * scale).softmax(-1)
                    @ v[0, head // per_group, seen]
                    for head in range(heads)
                ]
            )
        )
    return torch.stack(rows)[None]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
def test_blocks_give_what_the_whole_segment_gives(
    heads: int, groups: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight completions of one prompt, forward and backward; with seven of them the segment is computed whole."""
    group = Group(list(range(1, 8)), tuple(tuple(range(1, 4 + i % 3)) for i in range(8)))
    layout = lay_out([group, group], share_prompt=True, pad_to_rows=False)
    n = layout.input_ids.shape[1]
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, count, n, 8, generator=draw) for count in (heads, groups, groups))
    found = {}
    for name, blocks in (("blocks", 4), ("whole", 99)):
        monkeypatch.setattr(attention, "BLOCKS", blocks)
        masks = attention.SegmentMasks(layout, torch.float32, torch.device("cpu"))
        assert bool(masks.within(window)[0].parts) == (name == "blocks")
        inputs = [one.clone().requires_grad_() for one in (q, k, v)]
        output, _ = attention.segment_attention(nn.Module(), *inputs, None, segments=masks, sliding_window=window)
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        found[name] = [output.detach(), *(one.grad for one in inputs)]
    for ours, theirs in zip(found["blocks"], found["whole"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_few_completions_and_empty_ones_are_not_cut_into_blocks() -> None:
    def is_cut(*completions: int) -> bool:
        return attention._is_worth_blocks(attention.Segment(0, 0, 40, completions))

    assert is_cut(*[16] * 8)
    assert not is_cut(16, 16)
    assert not is_cut(*[16] * 7, 0)
    assert not is_cut(*[2] * 5)  # the prompt's own scores are most of it
