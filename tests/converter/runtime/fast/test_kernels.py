"""The compiled kernels, each against PyTorch in double precision on the very numbers it was given."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from converter.runtime.fast import library
from converter.runtime.fast.kernels import COLUMNS, Kernels, Rounded, Weights, kernels
from converter.runtime.fast.library import NEEDED, cpu_flags, describe, kernel_library


@pytest.fixture(scope="module", autouse=True)
def _two_threads():
    """Have the kernels divide their work between threads, as other tests do not."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["vnni", "portable"])
def available(request) -> Kernels:
    """The kernels in either build; the portable one runs wherever there is a C compiler."""
    actual = kernels(request.param)
    if actual is None:
        pytest.skip(f"no {request.param} kernels for this machine")
    return actual


@pytest.mark.parametrize("build", ["vnni", "portable"])
def test_the_kernels_exist_if_the_cpu_and_a_compiler_do(build):
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("this machine cannot have them")
    assert (kernels(build) is not None) == (build == "portable" or cpu_flags() >= NEEDED)


def test_the_kernels_in_use_are_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(library, "built_library", lambda build="vnni": None)
    assert describe() == "not built"
    monkeypatch.setattr(library, "built_library", lambda build="vnni": "_kernels.so")
    for flags, words in ((NEEDED, "AVX-512 VNNI"), (NEEDED - {"avx512_vnni"}, "none (this CPU has no AVX-512 VNNI)")):
        kernel_library.cache_clear()
        monkeypatch.setattr(library, "cpu_flags", lambda flags=flags: flags)
        assert describe() == words
    kernel_library.cache_clear()


def results(c: Kernels) -> dict[str, torch.Tensor]:
    """What every kernel makes of the same numbers, sizes that fill no vector among them."""
    torch.manual_seed(6)
    rows, shift = torch.randn(2 * 63, 36) * 3 + 1, torch.randn(2, 36)
    gamma, beta, residual = torch.randn(36), torch.randn(36), torch.randn(2 * 63, 70)
    actual: dict[str, torch.Tensor | Rounded | Weights] = {
        "each image": c.round_rows(rows, 2),
        "each row": c.round_rows(rows, None),
        "halves": c.pack(torch.randn(70, 36, 3, 3).half().numpy(), torch.randn(70).numpy(), gated=False),
        "gated": c.pack(torch.randn(192, 36).numpy(), torch.randn(192).numpy(), gated=True),
        "channel norm": c.channel_norm(rows, 1e-5, gamma, beta),
        "channel norm, rounded": c.channel_norm(rows, 1e-5, gamma, beta, rounded=True),
    }
    for silu in (True, False):
        actual[f"group norm, {silu}"] = c.group_norm(rows, 2, 4, 1e-5, gamma, beta, shift, silu=silu)
        actual[f"group norm, rounded, {silu}"] = c.group_norm(
            rows, 2, 4, 1e-5, gamma, beta, shift, silu=silu, rounded=True
        )
    image = {"image": (2, 7, 9), "window": (3, 3), "pad": (1, 1), "columns": 70}
    actual["convolution"] = c.product(actual["each image"], actual["halves"], out=(7, 9), residual=residual, **image)
    actual["strided"] = c.product(actual["each image"], actual["halves"], out=(4, 5), stride=2, **image)
    actual["doubled"] = c.product(actual["each image"], actual["halves"], out=(14, 18), up=True, **image)
    actual["gelu"] = c.product(
        actual["each row"], actual["gated"], image=(1, 1, 126), out=(1, 126), window=(1, 1), columns=96, gated=True
    )
    for depth, sharpness in ((40, 1.0), (20, 30.0), (160, 4.0)):
        q, k, v = torch.randn(70, depth) * sharpness, torch.randn(130, depth) + 3, torch.randn(130, depth)
        actual[f"attention, {depth}"] = c.attention(q, k, v, 1, 1, depth**-0.5)
    tensors: dict[str, torch.Tensor] = {}
    for name, one in actual.items():
        fields = {"": one} if isinstance(one, torch.Tensor) else vars(one)
        tensors |= {f"{name} {field}": t for field, t in fields.items() if t is not None}
    return tensors


@pytest.mark.skipif(kernels() is None or kernels("portable") is None, reason="needs both builds")
def test_both_builds_compute_the_same_bits():
    vnni, portable = (results(kernels(build)) for build in ("vnni", "portable"))
    assert [name for name, tensor in vnni.items() if not torch.equal(tensor, portable[name])] == []
    assert len(vnni) > 30


def exact(x: Rounded) -> torch.Tensor:
    """The values that rounded rows stand for."""
    return (x.q.double() - x.zero.double()[:, None]) * x.scale.double()[:, None]


def unpacked(weights: Weights, shape: tuple[int, ...], gated: bool) -> torch.Tensor:
    """The values that packed weights stand for, [out, in, ...]."""
    out, channels = shape[:2]
    taps = int(np.prod(shape[2:]))
    panels = (
        weights.panels.reshape(-1, channels * taps // 4, COLUMNS, 4).permute(0, 2, 1, 3).reshape(-1, taps, channels)
    )
    whole = (panels.double() * weights.scale.double()[:, None, None]).permute(0, 2, 1)
    if gated:
        halves = whole.reshape(-1, 2, 32, channels, taps).permute(1, 0, 2, 3, 4)
        whole = halves.reshape(-1, channels, taps)
    return whole[:out].reshape(shape)


@pytest.mark.parametrize(
    ("channels", "out", "size", "window", "stride", "pad", "up"),
    [
        (32, 64, (7, 9), 3, 1, 1, False),
        (36, 70, (5, 6), 3, 1, 1, False),
        (64, 32, (8, 8), 3, 2, 1, False),
        (64, 33, (4, 5), 3, 1, 1, True),
        (32, 128, (6, 6), 1, 1, 0, False),
        (32, 40, (9, 9), 3, 2, 0, False),
        (320, 65, (3, 3), 5, 1, 2, False),
    ],
)
@pytest.mark.parametrize("half", [True, False])
def test_a_convolution_is_exactly_that_of_the_rounded_values(
    available, channels, out, size, window, stride, pad, up, half
):
    torch.manual_seed(0)
    x = torch.randn(2, *size, channels) + 0.3
    weight = torch.randn(out, channels, window, window).to(torch.float16 if half else torch.float32)
    bias, rows = torch.randn(out), x.reshape(-1, channels)
    rounded = available.round_rows(rows, 2)
    packed = available.pack(weight.numpy(), bias.numpy(), gated=False)
    image = exact(rounded).reshape(2, *size, channels).permute(0, 3, 1, 2)
    image = F.interpolate(image, scale_factor=2) if up else image
    values = unpacked(packed, tuple(weight.shape), gated=False)
    assert (values - weight.double()).abs().max() <= packed.scale.max() / 2 + 1e-6
    expected = F.conv2d(image, values, bias.double(), stride, pad)
    residual = torch.randn(expected.shape[0] * expected.shape[2] * expected.shape[3], out)
    actual = available.product(
        rounded,
        packed,
        image=(2, *size),
        out=tuple(expected.shape[2:]),
        window=(window, window),
        columns=out,
        stride=stride,
        pad=(pad, pad),
        up=up,
        residual=residual,
    )
    expected = expected.permute(0, 2, 3, 1).reshape(-1, out) + residual
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 6, 17, 400])
def test_a_gated_linear_is_one_half_times_the_gelu_of_the_other(available, rows):
    torch.manual_seed(1)
    x, weight, bias = torch.randn(rows, 48), torch.randn(192, 48) / 5, torch.randn(192)
    rounded, packed = available.round_rows(x, None), available.pack(weight.numpy(), bias.numpy(), gated=True)
    actual = available.product(
        rounded, packed, image=(1, 1, rows), out=(1, rows), window=(1, 1), columns=96, gated=True
    )
    kept, gate = F.linear(exact(rounded), unpacked(packed, (192, 48), gated=True), bias.double()).chunk(2, -1)
    torch.testing.assert_close(actual.double(), kept * F.gelu(gate), rtol=1e-4, atol=1e-4)


def test_rounding_is_to_the_nearest_of_256_steps_that_have_zero_among_them(available):
    x = torch.cat([torch.randn(5, 40) * torch.tensor([[1e-3], [1], [50], [1], [0]]), torch.full((1, 40), 3.0)])
    actual = available.round_rows(x, None)
    low, high = x.amin(1).clamp_max(0), x.amax(1).clamp_min(0)
    assert torch.all((exact(actual) - x).abs() <= (high - low)[:, None] / 255 * 0.501 + 1e-9)
    assert torch.all(actual.zero == actual.zero.round())


def test_each_image_has_steps_of_its_own_and_zero_outside_of_it(available):
    x = torch.randn(2, 30, 36) * torch.tensor([1.0, 100.0])[:, None, None]
    actual = available.round_rows(x.reshape(60, 36), 2)
    assert actual.scale[0] * 20 < actual.scale[-1]
    assert len(actual.scale[:30].unique()) == 1
    assert torch.equal(actual.outside.float(), actual.zero.reshape(2, 30)[:, :1].expand(2, 36))


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(("channels", "groups", "pixels"), [(64, 32, 700), (96, 3, 25), (40, 8, 1), (320, 32, 257)])
def test_group_norm_is_pytorchs(available, channels, groups, pixels, silu):
    torch.manual_seed(2)
    x = torch.randn(2, pixels, channels) * 3 + 20
    gamma, beta, shift = torch.randn(channels), torch.randn(channels), torch.randn(2, channels)
    rows = x.reshape(-1, channels)
    whole = (x + shift[:, None]).double().permute(0, 2, 1)
    expected = F.group_norm(whole, groups, gamma.double(), beta.double(), 1e-5)
    expected = (F.silu(expected) if silu else expected).permute(0, 2, 1).reshape(-1, channels)
    actual = available.group_norm(rows, 2, groups, 1e-5, gamma, beta, shift, silu=silu)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)
    rounded = available.group_norm(rows, 2, groups, 1e-5, gamma, beta, shift, silu=silu, rounded=True)
    assert torch.all((exact(rounded) - expected).abs() <= rounded.scale[:, None] * 0.51)
    spread = expected.reshape(2, -1).amax(1).clamp_min(0) - expected.reshape(2, -1).amin(1).clamp_max(0)
    assert torch.all(rounded.scale.reshape(2, -1)[:, 0] <= spread / 255 * 1.2)


@pytest.mark.parametrize("channels", [20, 64, 330])
def test_channel_norm_is_pytorchs_layer_norm(available, channels):
    torch.manual_seed(3)
    x, gamma, beta = torch.randn(13, channels) * 2 + 5, torch.randn(channels), torch.randn(channels)
    expected = F.layer_norm(x.double(), (channels,), gamma.double(), beta.double(), 1e-5)
    torch.testing.assert_close(available.channel_norm(x, 1e-5, gamma, beta).double(), expected, rtol=1e-4, atol=1e-4)
    rounded = available.channel_norm(x, 1e-5, gamma, beta, rounded=True)
    assert torch.all((exact(rounded) - expected).abs() <= rounded.scale[:, None] * 0.51)


def heads_of(x: torch.Tensor, batch: int, heads: int) -> torch.Tensor:
    return x.double().reshape(batch, -1, heads, x.shape[-1] // heads).transpose(1, 2)


@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "depth"),
    [
        (2, 3, 70, 77, 40),
        (1, 2, 64, 64, 64),
        (1, 1, 5, 200, 80),
        (2, 2, 13, 1, 20),
        (1, 1, 100, 130, 512),
        (1, 4, 9, 9, 160),
    ],
)
@pytest.mark.parametrize("sharpness", [0.5, 4.0])
def test_attention_is_pytorchs_to_a_hundredth(available, batch, heads, queries, keys, depth, sharpness):
    torch.manual_seed(4)
    width = heads * depth
    q, k, v = (
        torch.randn(batch * queries, width) * sharpness,
        torch.randn(batch * keys, width),
        torch.randn(batch * keys, width),
    )
    k, v = k + torch.randn(width) * 5, v + torch.randn(width) * 2
    expected = F.scaled_dot_product_attention(*(heads_of(x, batch, heads) for x in (q, k, v)), scale=depth**-0.5)
    expected = expected.transpose(1, 2).reshape(-1, width)
    actual = available.attention(q, k, v, batch, heads, depth**-0.5).double()
    error = (actual - expected).square().mean().sqrt() / v.std()
    assert error < 0.03
    assert (actual - expected).abs().max() < 0.35 * v.std()


def test_attention_reads_keys_and_values_among_wider_rows(available):
    torch.manual_seed(5)
    q, wide = torch.randn(20, 32), torch.randn(24, 96)
    apart = available.attention(q, wide[:, 32:64].contiguous(), wide[:, 64:].contiguous(), 1, 2, 0.25)
    assert torch.equal(available.attention(q, wide[:, 32:64], wide[:, 64:], 1, 2, 0.25), apart)
