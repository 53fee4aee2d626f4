/* What the kernels share: vectors of sixteen floats, and the functions the networks apply to them.
 *
 * The kernels are compiled twice, with AVX-512 VNNI and, where PORTABLE is defined, in plain C for any CPU; both compute
 * the same bits. Compilers must therefore join no product and sum of their own accord (-ffp-contract=off): where one
 * rounding is wanted for both, the code says so.
 */
#pragma once

#ifdef PORTABLE
#include "portable.h"
#else
#include <immintrin.h>
#endif
#include <stdint.h>

/* 2^x, relative error 4e-6 (a polynomial of degree 5 on [-1/2, 1/2], fitted at Chebyshev's points); 0 below -126. */
static inline __m512 exp2_ps(__m512 x) {
    const __m512 low = _mm512_set1_ps(-126.0f);
    const __m512 bounded = _mm512_min_ps(_mm512_max_ps(x, low), _mm512_set1_ps(127.0f));
    const __m512 whole = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(bounded, whole);
    __m512 y = _mm512_set1_ps(1.3400711e-3f);
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(9.6175311e-3f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(5.5503324e-2f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(2.4022648e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(6.9314720e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
    return _mm512_mask_scalef_ps(_mm512_setzero_ps(), _mm512_cmp_ps_mask(x, low, _CMP_GT_OQ), y, whole);
}

static inline __m512 exp_ps(__m512 x) { return exp2_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f))); }

/* x / (1 + e^-x) */
static inline __m512 silu_ps(__m512 x) {
    const __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x)));
    return _mm512_div_ps(x, below);
}

/* x Phi(x), the exact gelu; erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7. */
static inline __m512 gelu_ps(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_set1_ps(0.3275911f), z, one));
    __m512 y = _mm512_set1_ps(1.061405429f);
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-1.453152027f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(1.421413741f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.284496736f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(0.254829592f));
    y = _mm512_mul_ps(y, t);
    const __m512 tail = _mm512_mul_ps(y, exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(z, z))));
    /* tail = 1 - erf(|x|/sqrt 2); Phi is tail/2 left of zero and 1 - tail/2 right of it. */
    const __m512 half = _mm512_mul_ps(tail, _mm512_set1_ps(0.5f));
    const __mmask16 right = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mul_ps(x, _mm512_mask_sub_ps(half, right, one, half));
}

static inline __mmask16 first_lanes(int count) {
    return count >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << count) - 1u);
}

/* Rounds x rate + zero to u8; what lies outside saturates. */
static inline __m128i to_u8(__m512 x, __m512 rate, __m512 zero) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, rate, zero));
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
}

typedef struct {
    float scale, zero;
} Steps;

/* 256 steps that cover [low, high] and have 0 among them. */
static inline Steps steps_of(float low, float high) {
    low = low < 0 ? low : 0;
    high = high > 0 ? high : 0;
    const float scale = high - low > 1e-30f ? (high - low) / 255.0f : 1.0f;
    return (Steps){scale, __builtin_rintf(-low / scale)};
}
