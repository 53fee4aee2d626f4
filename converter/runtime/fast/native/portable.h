/* The AVX-512 intrinsics that the kernels use, in plain C: any CPU computes the same bits as one that has them. */
#pragma once

#include <stdint.h>
#include <string.h>

#define PORTABLE_INLINE static inline
#define LANES(i) for (int i = 0; i < 16; i++)

typedef struct {
    float lane[16];
} __m512;

typedef struct {
    int32_t lane[16];
} __m512i;

typedef struct {
    uint16_t lane[16];
} __m256i;

typedef struct {
    uint8_t lane[16];
} __m128i;

typedef uint16_t __mmask16;

enum { _MM_FROUND_TO_NEAREST_INT = 0, _MM_FROUND_NO_EXC = 8, _CMP_GE_OQ = 29, _CMP_GT_OQ = 30 };

/* --- loads, stores and constants --- */

PORTABLE_INLINE __m512 _mm512_set1_ps(float x) {
    __m512 y;
    LANES(i) y.lane[i] = x;
    return y;
}

PORTABLE_INLINE __m512i _mm512_set1_epi32(int32_t x) {
    __m512i y;
    LANES(i) y.lane[i] = x;
    return y;
}

PORTABLE_INLINE __m512 _mm512_setzero_ps(void) { return _mm512_set1_ps(0); }
PORTABLE_INLINE __m512i _mm512_setzero_si512(void) { return _mm512_set1_epi32(0); }

PORTABLE_INLINE __m512 _mm512_loadu_ps(const void *from) {
    __m512 y;
    memcpy(&y, from, sizeof y);
    return y;
}

PORTABLE_INLINE __m512i _mm512_loadu_si512(const void *from) {
    __m512i y;
    memcpy(&y, from, sizeof y);
    return y;
}

PORTABLE_INLINE __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void *from) {
    __m512 y;
    LANES(i) y.lane[i] = mask >> i & 1 ? ((const float *)from)[i] : 0;
    return y;
}

PORTABLE_INLINE __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void *from) {
    __m256i y;
    LANES(i) y.lane[i] = mask >> i & 1 ? ((const uint16_t *)from)[i] : 0;
    return y;
}

PORTABLE_INLINE void _mm512_storeu_ps(void *to, __m512 x) { memcpy(to, &x, sizeof x); }
PORTABLE_INLINE void _mm512_store_si512(void *to, __m512i x) { memcpy(to, &x, sizeof x); }
PORTABLE_INLINE void _mm_store_si128(__m128i *to, __m128i x) { memcpy(to, &x, sizeof x); }

PORTABLE_INLINE void _mm512_mask_storeu_ps(void *to, __mmask16 mask, __m512 x) {
    LANES(i) if (mask >> i & 1) ((float *)to)[i] = x.lane[i];
}

PORTABLE_INLINE void _mm_mask_storeu_epi8(void *to, __mmask16 mask, __m128i x) {
    LANES(i) if (mask >> i & 1) ((uint8_t *)to)[i] = x.lane[i];
}

#define _mm512_load_ps _mm512_loadu_ps
#define _mm512_store_ps _mm512_storeu_ps
#define _mm512_load_si512 _mm512_loadu_si512

/* --- floats --- */

#define PORTABLE_BINARY(name, expression) \
    PORTABLE_INLINE __m512 name(__m512 x, __m512 y) { \
        LANES(i) { \
            const float a = x.lane[i], b = y.lane[i]; \
            x.lane[i] = expression; \
        } \
        return x; \
    }
PORTABLE_BINARY(_mm512_add_ps, a + b)
PORTABLE_BINARY(_mm512_sub_ps, a - b)
PORTABLE_BINARY(_mm512_mul_ps, a * b)
PORTABLE_BINARY(_mm512_div_ps, a / b)
PORTABLE_BINARY(_mm512_min_ps, a < b ? a : b)
PORTABLE_BINARY(_mm512_max_ps, a > b ? a : b)

PORTABLE_INLINE __m512 _mm512_abs_ps(__m512 x) {
    LANES(i) x.lane[i] = __builtin_fabsf(x.lane[i]);
    return x;
}

PORTABLE_INLINE __m512 _mm512_fmadd_ps(__m512 x, __m512 y, __m512 z) {
    LANES(i) z.lane[i] = __builtin_fmaf(x.lane[i], y.lane[i], z.lane[i]);
    return z;
}

PORTABLE_INLINE __m512 _mm512_fnmadd_ps(__m512 x, __m512 y, __m512 z) {
    LANES(i) z.lane[i] = __builtin_fmaf(-x.lane[i], y.lane[i], z.lane[i]);
    return z;
}

/* To the nearest integer, the one way that is used. */
PORTABLE_INLINE __m512 _mm512_roundscale_ps(__m512 x, int how) {
    (void)how;
    LANES(i) x.lane[i] = __builtin_rintf(x.lane[i]);
    return x;
}

/* x 2^y for whole y */
PORTABLE_INLINE __m512 _mm512_scalef_ps(__m512 x, __m512 y) {
    LANES(i) {
        const float power = y.lane[i] < -1000 ? -1000 : y.lane[i] > 1000 ? 1000 : y.lane[i];
        x.lane[i] = __builtin_ldexpf(x.lane[i], (int)power);
    }
    return x;
}

PORTABLE_INLINE __mmask16 _mm512_cmp_ps_mask(__m512 x, __m512 y, int how) {
    unsigned mask = 0;
    LANES(i) mask |= (unsigned)(how == _CMP_GT_OQ ? x.lane[i] > y.lane[i] : x.lane[i] >= y.lane[i]) << i;
    return (__mmask16)mask;
}

PORTABLE_INLINE __m512 portable_blend(__mmask16 mask, __m512 where, __m512 elsewhere) {
    LANES(i) if (mask >> i & 1) elsewhere.lane[i] = where.lane[i];
    return elsewhere;
}

PORTABLE_INLINE __m512 _mm512_maskz_mov_ps(__mmask16 mask, __m512 x) {
    return portable_blend(mask, x, _mm512_setzero_ps());
}

PORTABLE_INLINE __m512 _mm512_mask_sub_ps(__m512 elsewhere, __mmask16 mask, __m512 x, __m512 y) {
    return portable_blend(mask, _mm512_sub_ps(x, y), elsewhere);
}

PORTABLE_INLINE __m512 _mm512_maskz_sub_ps(__mmask16 mask, __m512 x, __m512 y) {
    return _mm512_mask_sub_ps(_mm512_setzero_ps(), mask, x, y);
}

PORTABLE_INLINE __m512 _mm512_mask_scalef_ps(__m512 elsewhere, __mmask16 mask, __m512 x, __m512 y) {
    return portable_blend(mask, _mm512_scalef_ps(x, y), elsewhere);
}

/* One half onto the other until one lane is left: the order in which compilers add up the real ones. */
#define PORTABLE_REDUCE(name, vector, type, expression) \
    PORTABLE_INLINE type name(vector x) { \
        for (int half = 8; half; half /= 2) \
            for (int i = 0; i < half; i++) { \
                const type a = x.lane[i + half], b = x.lane[i]; \
                x.lane[i] = expression; \
            } \
        return x.lane[0]; \
    }
PORTABLE_REDUCE(_mm512_reduce_add_ps, __m512, float, a + b)
PORTABLE_REDUCE(_mm512_reduce_min_ps, __m512, float, a < b ? a : b)
PORTABLE_REDUCE(_mm512_reduce_max_ps, __m512, float, a > b ? a : b)
PORTABLE_REDUCE(_mm512_reduce_add_epi32, __m512i, int32_t, a + b)
PORTABLE_REDUCE(_mm512_reduce_max_epi32, __m512i, int32_t, a > b ? a : b)

/* --- integers --- */

PORTABLE_INLINE __m512i _mm512_add_epi32(__m512i x, __m512i y) {
    LANES(i) x.lane[i] += y.lane[i];
    return x;
}

PORTABLE_INLINE __m512i _mm512_max_epi32(__m512i x, __m512i y) {
    LANES(i) x.lane[i] = x.lane[i] > y.lane[i] ? x.lane[i] : y.lane[i];
    return x;
}

PORTABLE_INLINE __m512i _mm512_mask_max_epi32(__m512i elsewhere, __mmask16 mask, __m512i x, __m512i y) {
    LANES(i) if (mask >> i & 1) elsewhere.lane[i] = x.lane[i] > y.lane[i] ? x.lane[i] : y.lane[i];
    return elsewhere;
}

/* Adds to each lane the products of its four unsigned bytes of x and signed ones of y. */
PORTABLE_INLINE __m512i _mm512_dpbusd_epi32(__m512i sums, __m512i x, __m512i y) {
    const uint8_t *a = (const uint8_t *)x.lane;
    const int8_t *b = (const int8_t *)y.lane;
    LANES(i) for (int j = 0; j < 4; j++) sums.lane[i] += a[i * 4 + j] * b[i * 4 + j];
    return sums;
}

/* --- from one to the other --- */

PORTABLE_INLINE __m512 _mm512_cvtepi32_ps(__m512i x) {
    __m512 y;
    LANES(i) y.lane[i] = (float)x.lane[i];
    return y;
}

PORTABLE_INLINE __m512i _mm512_maskz_cvtps_epi32(__mmask16 mask, __m512 x) {
    __m512i y;
    LANES(i) {
        const float whole = __builtin_rintf(x.lane[i]);
        const int fits = whole >= -0x1p31f && whole < 0x1p31f;
        y.lane[i] = !(mask >> i & 1) ? 0 : fits ? (int32_t)whole : INT32_MIN;
    }
    return y;
}

PORTABLE_INLINE __m512i _mm512_cvtps_epi32(__m512 x) { return _mm512_maskz_cvtps_epi32(0xFFFF, x); }

#define PORTABLE_NARROW(name, expression) \
    PORTABLE_INLINE __m128i name(__m512i x) { \
        __m128i y; \
        LANES(i) { \
            const int32_t a = x.lane[i]; \
            y.lane[i] = (uint8_t)(expression); \
        } \
        return y; \
    }
PORTABLE_NARROW(_mm512_cvtepi32_epi8, a)
PORTABLE_NARROW(_mm512_cvtsepi32_epi8, a < -128 ? -128 : a > 127 ? 127 : a)
PORTABLE_NARROW(_mm512_cvtusepi32_epi8, (uint32_t)a > 255 ? 255 : a)

/* fp16 to fp32: a shift of exponent and fraction, and a product that puts the exponent's bias right. */
PORTABLE_INLINE __m512 _mm512_cvtph_ps(__m256i x) {
    __m512 y;
    LANES(i) {
        const uint32_t half = x.lane[i], sign = (half & 0x8000u) << 16, rest = (half & 0x7FFFu) << 13;
        float value;
        memcpy(&value, &rest, 4);
        value *= 0x1p112f;
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits = rest >= 0x0F800000u ? rest | 0x7F800000u : bits; /* infinities and no numbers */
        bits |= sign;
        memcpy(&y.lane[i], &bits, 4);
    }
    return y;
}
