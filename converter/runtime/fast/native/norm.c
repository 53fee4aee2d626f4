/* Norms and rounding to u8, each a pass or two over rows of channels [rows][channels] in fp32. */
#include <stdlib.h>
#include <string.h>

#include "vector.h"

#define PART 256 /* rows a thread takes at a time; fp32 sums of so few lose nothing that matters */

typedef struct {
    int64_t images, pixels, channels, groups;
    float epsilon;
    int silu;
} GroupNorm;

/* For each image and channel: sum and sum of squares of x - x[first pixel], least and greatest of x. */
static void moments(const GroupNorm *s, const float *x, double *sum, double *square, float *low, float *high) {
    const int64_t parts = (s->pixels + PART - 1) / PART, channels = s->channels;
    float *found = aligned_alloc(64, (size_t)(s->images * parts * channels) * 16 + 64);
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t image = 0; image < s->images; image++)
        for (int64_t part = 0; part < parts; part++) {
            const float *rows = x + image * s->pixels * channels, *pivot = rows;
            float *to = found + (image * parts + part) * channels * 4;
            const int64_t begin = part * PART, end = begin + PART < s->pixels ? begin + PART : s->pixels;
            for (int64_t c = 0; c < channels; c += 32) {
                const __mmask16 m0 = first_lanes((int)(channels - c)),
                                m1 = channels - c > 16 ? first_lanes((int)(channels - c - 16)) : 0;
                const __m512 p0 = _mm512_maskz_loadu_ps(m0, pivot + c), p1 = _mm512_maskz_loadu_ps(m1, pivot + c + 16);
                __m512 s0 = _mm512_setzero_ps(), s1 = s0, q0 = s0, q1 = s0;
                __m512 l0 = _mm512_set1_ps(3e38f), l1 = l0, h0 = _mm512_set1_ps(-3e38f), h1 = h0;
                for (int64_t row = begin; row < end; row++) {
                    const float *at = rows + row * channels + c;
                    const __m512 v0 = _mm512_maskz_loadu_ps(m0, at), v1 = _mm512_maskz_loadu_ps(m1, at + 16);
                    const __m512 d0 = _mm512_sub_ps(v0, p0), d1 = _mm512_sub_ps(v1, p1);
                    s0 = _mm512_add_ps(s0, d0), s1 = _mm512_add_ps(s1, d1);
                    q0 = _mm512_fmadd_ps(d0, d0, q0), q1 = _mm512_fmadd_ps(d1, d1, q1);
                    l0 = _mm512_min_ps(l0, v0), l1 = _mm512_min_ps(l1, v1);
                    h0 = _mm512_max_ps(h0, v0), h1 = _mm512_max_ps(h1, v1);
                }
                _mm512_mask_storeu_ps(to + c, m0, s0), _mm512_mask_storeu_ps(to + channels + c, m0, q0);
                _mm512_mask_storeu_ps(to + 2 * channels + c, m0, l0), _mm512_mask_storeu_ps(to + 3 * channels + c, m0, h0);
                if (m1) {
                    const int64_t d = c + 16;
                    _mm512_mask_storeu_ps(to + d, m1, s1), _mm512_mask_storeu_ps(to + channels + d, m1, q1);
                    _mm512_mask_storeu_ps(to + 2 * channels + d, m1, l1), _mm512_mask_storeu_ps(to + 3 * channels + d, m1, h1);
                }
            }
        }
    for (int64_t image = 0; image < s->images; image++)
        for (int64_t c = 0; c < channels; c++) {
            const int64_t at = image * channels + c;
            sum[at] = square[at] = 0;
            low[at] = 3e38f, high[at] = -3e38f;
            for (int64_t part = 0; part < parts; part++) {
                const float *from = found + (image * parts + part) * channels * 4 + c;
                sum[at] += from[0], square[at] += from[channels];
                low[at] = from[2 * channels] < low[at] ? from[2 * channels] : low[at];
                high[at] = from[3 * channels] > high[at] ? from[3 * channels] : high[at];
            }
        }
    free(found);
}

static float silu(float x) { return x / (1.0f + __builtin_expf(-x)); }

/* Least of x/(1+e^-x), at x = -1.27846. */
#define SILU_LEAST -0.27846455f

/* y = silu?(group norm(x + shift)) as u8 with a scale and zero point for each image, or, where q is null, fp32.
 * shift: [images][channels] added to x first, or null. scale, zero: [images][pixels]. outside: [images][channels]. */
void group_norm(const GroupNorm *s, const float *x, const float *shift, const float *gamma, const float *beta, float *y,
                uint8_t *q, float *scale, float *zero, uint8_t *outside) {
    const int64_t channels = s->channels, wide = channels / s->groups, all = s->images * channels;
    double *sum = malloc((size_t)all * 16), *square = sum + all;
    float *low = aligned_alloc(64, (size_t)all * 16 + 64), *high = low + all, *a = high + all, *b = a + all;
    moments(s, x, sum, square, low, high);
    for (int64_t image = 0; image < s->images; image++) {
        const float *pivot = x + image * s->pixels * channels;
        float least = 0, most = 0;
        for (int64_t group = 0; group < s->groups; group++) {
            const int64_t begin = group * wide;
            double mean = 0, second = 0;
            for (int64_t c = begin; c < begin + wide; c++)
                mean += sum[image * channels + c] / s->pixels + pivot[c] + (shift ? shift[image * channels + c] : 0);
            mean /= wide;
            for (int64_t c = begin; c < begin + wide; c++) {
                const int64_t at = image * channels + c;
                const double own = sum[at] / s->pixels, off = own + pivot[c] + (shift ? shift[at] : 0) - mean;
                second += __builtin_fma(off, off, __builtin_fma(-own, own, square[at] / s->pixels));
            }
            const double rate = 1.0 / __builtin_sqrt(second / wide + s->epsilon);
            for (int64_t c = begin; c < begin + wide; c++) {
                const int64_t at = image * channels + c;
                a[at] = (float)(rate * gamma[c]);
                b[at] = (float)__builtin_fma(((shift ? shift[at] : 0) - mean) * rate, gamma[c], beta[c]);
                const float one = __builtin_fmaf(a[at], low[at], b[at]), two = __builtin_fmaf(a[at], high[at], b[at]);
                least = one < least ? one : least, least = two < least ? two : least;
                most = one > most ? one : most, most = two > most ? two : most;
            }
        }
        if (!q) continue;
        if (s->silu) {
            least = least < -1.27846f ? SILU_LEAST : silu(least);
            most = silu(most);
        }
        const Steps steps = steps_of(least, most);
        for (int64_t row = 0; row < s->pixels; row++)
            scale[image * s->pixels + row] = steps.scale, zero[image * s->pixels + row] = steps.zero;
        memset(outside + image * channels, (int)steps.zero, (size_t)channels);
    }
    const int64_t parts = (s->pixels + PART - 1) / PART;
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t image = 0; image < s->images; image++)
        for (int64_t part = 0; part < parts; part++) {
            const int64_t begin = part * PART, end = begin + PART < s->pixels ? begin + PART : s->pixels;
            const float *ia = a + image * channels, *ib = b + image * channels;
            const __m512 inverse = _mm512_set1_ps(q ? 1.0f / scale[image * s->pixels] : 1.0f);
            const __m512 add = _mm512_set1_ps(q ? zero[image * s->pixels] : 0.0f);
            for (int64_t row = image * s->pixels + begin; row < image * s->pixels + end; row++)
                for (int64_t c = 0; c < channels; c += 16) {
                    const __mmask16 mask = first_lanes((int)(channels - c));
                    __m512 v = _mm512_maskz_loadu_ps(mask, x + row * channels + c);
                    v = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(mask, ia + c), _mm512_maskz_loadu_ps(mask, ib + c));
                    if (s->silu) v = silu_ps(v);
                    if (q) _mm_mask_storeu_epi8(q + row * channels + c, mask, to_u8(v, inverse, add));
                    else _mm512_mask_storeu_ps(y + row * channels + c, mask, v);
                }
        }
    free(sum);
    free(low);
}

/* Layer norm of each row as u8 with a scale and zero point for each row, or, where q is null, fp32. */
void layer_norm(int64_t rows, int64_t channels, float epsilon, const float *x, const float *gamma, const float *beta,
                float *y, uint8_t *q, float *scale, float *zero) {
#pragma omp parallel
    {
        float *line = aligned_alloc(64, (size_t)channels * 4 + 128);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const float *from = x + row * channels;
            __m512 sum = _mm512_setzero_ps();
            for (int64_t c = 0; c < channels; c += 16)
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(first_lanes((int)(channels - c)), from + c));
            const float mean = _mm512_reduce_add_ps(sum) / channels;
            __m512 square = _mm512_setzero_ps();
            for (int64_t c = 0; c < channels; c += 16) {
                const __mmask16 mask = first_lanes((int)(channels - c));
                const __m512 d = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, from + c), _mm512_set1_ps(mean));
                square = _mm512_fmadd_ps(d, d, square);
            }
            const __m512 rate = _mm512_set1_ps(1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(square) / channels + epsilon));
            __m512 low = _mm512_setzero_ps(), high = low;
            float *to = q ? line : y + row * channels;
            for (int64_t c = 0; c < channels; c += 16) {
                const __mmask16 mask = first_lanes((int)(channels - c));
                __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, from + c), _mm512_set1_ps(mean));
                v = _mm512_mul_ps(v, rate);
                v = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(mask, gamma + c), _mm512_maskz_loadu_ps(mask, beta + c));
                v = _mm512_maskz_mov_ps(mask, v);
                low = _mm512_min_ps(low, v), high = _mm512_max_ps(high, v);
                _mm512_mask_storeu_ps(to + c, mask, v);
            }
            if (!q) continue;
            const Steps steps = steps_of(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high));
            scale[row] = steps.scale, zero[row] = steps.zero;
            const __m512 inverse = _mm512_set1_ps(1.0f / steps.scale), add = _mm512_set1_ps(steps.zero);
            for (int64_t c = 0; c < channels; c += 16) {
                const __mmask16 mask = first_lanes((int)(channels - c));
                _mm_mask_storeu_epi8(q + row * channels + c, mask,
                                     to_u8(_mm512_maskz_loadu_ps(mask, line + c), inverse, add));
            }
        }
        free(line);
    }
}

/* x [blocks][rows][channels] as u8, a scale and zero point for each block (rows 1: for each row).
 * outside: a row of zero points for each block, or null. */
void round_rows(int64_t blocks, int64_t rows, int64_t channels, const float *x, uint8_t *q, float *scale, float *zero,
                uint8_t *outside) {
    const int64_t size = rows * channels, part = 16384, parts = (size + part - 1) / part;
    float *lows = malloc((size_t)(blocks * parts) * 8), *highs = lows + blocks * parts;
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t p = 0; p < parts; p++) {
            const float *from = x + block * size;
            const int64_t end = (p + 1) * part < size ? (p + 1) * part : size;
            __m512 low = _mm512_setzero_ps(), high = low;
            for (int64_t i = p * part; i < end; i += 16) {
                const __m512 v = _mm512_maskz_loadu_ps(first_lanes((int)(end - i)), from + i);
                low = _mm512_min_ps(low, v), high = _mm512_max_ps(high, v);
            }
            lows[block * parts + p] = _mm512_reduce_min_ps(low), highs[block * parts + p] = _mm512_reduce_max_ps(high);
        }
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        float low = 0, high = 0;
        for (int64_t p = 0; p < parts; p++) {
            low = lows[block * parts + p] < low ? lows[block * parts + p] : low;
            high = highs[block * parts + p] > high ? highs[block * parts + p] : high;
        }
        const Steps steps = steps_of(low, high);
        for (int64_t row = 0; row < rows; row++) scale[block * rows + row] = steps.scale, zero[block * rows + row] = steps.zero;
        if (outside) memset(outside + block * channels, (int)steps.zero, (size_t)channels);
    }
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t p = 0; p < parts; p++) {
            const __m512 inverse = _mm512_set1_ps(1.0f / scale[block * rows]), add = _mm512_set1_ps(zero[block * rows]);
            const int64_t end = (p + 1) * part < size ? (p + 1) * part : size;
            for (int64_t i = p * part; i < end; i += 16) {
                const __mmask16 mask = first_lanes((int)(end - i));
                const __m512 v = _mm512_maskz_loadu_ps(mask, x + block * size + i);
                _mm_mask_storeu_epi8(q + block * size + i, mask, to_u8(v, inverse, add));
            }
        }
    free(lows);
}
