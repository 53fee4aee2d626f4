/* softmax(q k^T / scale) v in eight-bit products, a block of keys at a time (Dao et al. 2022, FlashAttention).
 *
 * As in SageAttention (Zhang et al. 2024), keys lose their mean, which moves all of a query's logits alike, and are
 * rounded in blocks; values lose theirs, which the shares (they add up to one) give back. Shares are rounded against
 * the greatest of their own block of 64 keys, so that broad attention keeps its small ones.
 */
#include <stdlib.h>
#include <string.h>

#include "vector.h"

#define ROWS 6
#define KEYS 64
#define GROUPS 16 /* groups of rows a thread takes at a time */

typedef struct {
    int64_t batch, heads, queries, keys, depth;
    int64_t q_stride, k_stride, v_stride, out_stride; /* floats from a row to the next */
    float scale;
} Attention;

typedef struct {
    int8_t *keys;    /* [blocks][depth/4][64][4] */
    int32_t *offset; /* [blocks*64]: -128 times the sum of a key, for the queries' zero point */
    float *scale;    /* [blocks] */
    int8_t *values;  /* [blocks*16][wide/16][16][4] */
    float *value_scale, *value_mean; /* [wide] */
} Head;

/* 2^x for x <= 0, relative error 1e-4: its results are rounded to 255 steps. */
static inline __m512 share_ps(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(0.0551716687f);
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.2426111222f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.6932609855f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.9999280735f));
    return _mm512_scalef_ps(y, whole);
}

static void pack_head(const Attention *s, const float *k, const float *v, Head *head, float *mean) {
    const int64_t blocks = (s->keys + KEYS - 1) / KEYS, deep = (s->depth + 3) / 4 * 4, wide = (s->depth + 15) / 16 * 16;
    memset(mean, 0, (size_t)s->depth * 4);
    memset(head->value_mean, 0, (size_t)wide * 4);
    memset(head->value_scale, 0, (size_t)wide * 4);
    for (int64_t i = 0; i < s->keys; i++)
        for (int64_t c = 0; c < s->depth; c++) {
            mean[c] += k[i * s->k_stride + c];
            head->value_mean[c] += v[i * s->v_stride + c];
        }
    for (int64_t c = 0; c < s->depth; c++) mean[c] /= s->keys, head->value_mean[c] /= s->keys;
    for (int64_t i = 0; i < s->keys; i++)
        for (int64_t c = 0; c < s->depth; c++) {
            const float off = __builtin_fabsf(v[i * s->v_stride + c] - head->value_mean[c]);
            head->value_scale[c] = off > head->value_scale[c] ? off : head->value_scale[c];
        }
    float inverse[wide];
    for (int64_t c = 0; c < wide; c++) {
        head->value_scale[c] /= 127.0f;
        inverse[c] = head->value_scale[c] > 0 ? 1.0f / head->value_scale[c] : 0.0f;
    }
    memset(head->keys, 0, (size_t)(blocks * KEYS * deep));
    memset(head->values, 0, (size_t)(blocks * KEYS * wide));
    memset(head->offset, 0, (size_t)(blocks * KEYS) * 4);
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = block * KEYS, end = begin + KEYS < s->keys ? begin + KEYS : s->keys;
        float most = 0;
        for (int64_t i = begin; i < end; i++)
            for (int64_t c = 0; c < s->depth; c++) {
                const float off = __builtin_fabsf(k[i * s->k_stride + c] - mean[c]);
                most = off > most ? off : most;
            }
        const float step = most > 0 ? most / 127.0f : 1.0f, rate = 1.0f / step;
        head->scale[block] = step;
        for (int64_t i = begin; i < end; i++) {
            int32_t sum = 0;
            for (int64_t c = 0; c < s->depth; c++) {
                const int8_t key = (int8_t)__builtin_rintf((k[i * s->k_stride + c] - mean[c]) * rate);
                sum += key;
                head->keys[(block * deep + c / 4 * 4) * KEYS + (i - begin) * 4 + (c & 3)] = key;
                const float value = (v[i * s->v_stride + c] - head->value_mean[c]) * inverse[c];
                head->values[(i / 4 * wide + c) * 4 + (i & 3)] = (int8_t)__builtin_rintf(value);
            }
            head->offset[i] = -128 * sum;
        }
    }
}

/* Adds a block's shares of `vectors` times 16 channels of the values to the running sums. */
static inline __attribute__((always_inline)) void mix(const uint8_t shares[ROWS][KEYS], const int8_t *values, int64_t wide,
                                                      float *sums, const float *fade, const float *rise,
                                                      const int vectors) {
    __m512i whole[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) whole[r][j] = _mm512_setzero_si512();
#pragma GCC unroll 1
    for (int k = 0; k < KEYS; k += 4) {
        __m512i w[4];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) w[j] = _mm512_loadu_si512(values + k * wide + j * 64);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            __builtin_memcpy(&four, shares[r] + k, 4);
            const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) whole[r][j] = _mm512_dpbusd_epi32(whole[r][j], x, w[j]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            float *to = sums + r * wide + j * 16;
            const __m512 old = _mm512_mul_ps(_mm512_load_ps(to), _mm512_set1_ps(fade[r]));
            _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[r][j]), _mm512_set1_ps(rise[r]), old));
        }
}

/* A function of each width, so that the compiler keeps the sums of all in registers. */
#define MIX(vectors) \
    static __attribute__((noinline)) void mix##vectors(const uint8_t shares[ROWS][KEYS], const int8_t *values, int64_t wide, \
                                                       float *sums, const float *fade, const float *rise) { \
        mix(shares, values, wide, sums, fade, rise, vectors); \
    }
MIX(1)
MIX(2)
MIX(3)
MIX(4)

/* Six queries' logits against a block's keys, as integers. */
static __attribute__((noinline)) void meet(const uint8_t *queries, int64_t deep, const int8_t *keys,
                                                       const int32_t *offset, int32_t *logits) {
    __m512i sums[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sums[r][j] = _mm512_loadu_si512(offset + j * 16);
    for (int64_t k = 0; k < deep; k += 4, keys += KEYS * 4) {
        const __m512i w0 = _mm512_loadu_si512(keys), w1 = _mm512_loadu_si512(keys + 64), w2 = _mm512_loadu_si512(keys + 128),
                      w3 = _mm512_loadu_si512(keys + 192);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            __builtin_memcpy(&four, queries + r * deep + k, 4);
            const __m512i x = _mm512_set1_epi32(four);
            sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], x, w0);
            sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], x, w1);
            sums[r][2] = _mm512_dpbusd_epi32(sums[r][2], x, w2);
            sums[r][3] = _mm512_dpbusd_epi32(sums[r][3], x, w3);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) _mm512_store_si512(logits + r * KEYS + j * 16, sums[r][j]);
}

static void attend(const Attention *s, const Head *head, const float *q, float *out, int rows, float *sums, uint8_t *queries) {
    const int64_t deep = (s->depth + 3) / 4 * 4, wide = (s->depth + 15) / 16 * 16, blocks = (s->keys + KEYS - 1) / KEYS;
    int32_t logits[ROWS * KEYS] __attribute__((aligned(64)));
    uint8_t shares[ROWS][KEYS] __attribute__((aligned(64)));
    /* a lane for each row */
    float scale[16] __attribute__((aligned(64))) = {0}, shift[16] __attribute__((aligned(64)));
    float fade[16] __attribute__((aligned(64))), rise[16] __attribute__((aligned(64)));
    int32_t own[16] __attribute__((aligned(64))) = {0}, sum[16] __attribute__((aligned(64))) = {0};
    __m512 top = _mm512_set1_ps(-3e38f), total = _mm512_setzero_ps();
    memset(sums, 0, (size_t)(ROWS * wide) * 4);
    memset(queries, 128, (size_t)(ROWS * deep));
    for (int r = 0; r < rows; r++) {
        const float *from = q + r * s->q_stride;
        __m512 most = _mm512_setzero_ps();
        for (int64_t c = 0; c < s->depth; c += 16)
            most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(first_lanes((int)(s->depth - c)), from + c)));
        const float bound = _mm512_reduce_max_ps(most);
        const __m512 rate = _mm512_set1_ps(bound > 0 ? 127.0f / bound : 0.0f), zero = _mm512_set1_ps(128.0f);
        for (int64_t c = 0; c < s->depth; c += 16) {
            const __mmask16 mask = first_lanes((int)(s->depth - c));
            _mm_mask_storeu_epi8(queries + r * deep + c, mask, to_u8(_mm512_maskz_loadu_ps(mask, from + c), rate, zero));
        }
        scale[r] = bound / 127.0f * s->scale * 1.44269504f;
    }
    for (int64_t block = 0; block < blocks; block++) {
        meet(queries, deep, head->keys + block * KEYS * deep, head->offset + block * KEYS, logits);
        const int64_t left = s->keys - block * KEYS;
        __mmask16 live[4];
        for (int j = 0; j < 4; j++) live[j] = left > j * 16 ? first_lanes((int)(left - j * 16)) : 0;
        const __m512i none = _mm512_set1_epi32(INT32_MIN);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            __m512i most = none;
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                most = _mm512_mask_max_epi32(most, live[j], most, _mm512_load_si512(logits + r * KEYS + j * 16));
            own[r] = _mm512_reduce_max_epi32(most);
        }
        const __m512 rate = _mm512_mul_ps(_mm512_load_ps(scale), _mm512_set1_ps(head->scale[block]));
        const __m512 here = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(own)), rate);
        const __m512 most = _mm512_max_ps(top, here);
        float rates[16] __attribute__((aligned(64)));
        _mm512_store_ps(rates, rate);
        /* 255 shares at the block's greatest: log2(255) */
        _mm512_store_ps(shift, _mm512_sub_ps(_mm512_set1_ps(7.99435344f), here));
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            const __m512 x_rate = _mm512_set1_ps(rates[r]), x_shift = _mm512_set1_ps(shift[r]);
            __m512i count = _mm512_setzero_si512();
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const __m512 x = _mm512_cvtepi32_ps(_mm512_load_si512(logits + r * KEYS + j * 16));
                const __m512i whole = _mm512_maskz_cvtps_epi32(live[j], share_ps(_mm512_fmadd_ps(x, x_rate, x_shift)));
                count = _mm512_add_epi32(count, whole);
                _mm_store_si128((__m128i *)(shares[r] + j * 16), _mm512_cvtepi32_epi8(whole));
            }
            sum[r] = _mm512_reduce_add_epi32(count);
        }
        const __m512 old = exp2_ps(_mm512_sub_ps(top, most)), new = exp2_ps(_mm512_sub_ps(here, most));
        total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum)), new, _mm512_mul_ps(total, old));
        top = most;
        _mm512_store_ps(fade, old), _mm512_store_ps(rise, new);
        const int8_t *values = head->values + block * KEYS * wide;
        int64_t c = 0;
        for (; c + 64 <= wide; c += 64) mix4(shares, values + c * 4, wide, sums + c, fade, rise);
        if (wide - c == 48) mix3(shares, values + c * 4, wide, sums + c, fade, rise);
        if (wide - c == 32) mix2(shares, values + c * 4, wide, sums + c, fade, rise);
        if (wide - c == 16) mix1(shares, values + c * 4, wide, sums + c, fade, rise);
    }
    float totals[16] __attribute__((aligned(64)));
    _mm512_store_ps(totals, total);
    for (int r = 0; r < rows; r++) {
        const __m512 share = _mm512_set1_ps(1.0f / totals[r]);
        for (int64_t c = 0; c < s->depth; c += 16) {
            const __m512 v = _mm512_mul_ps(_mm512_load_ps(sums + r * wide + c), share);
            _mm512_mask_storeu_ps(out + r * s->out_stride + c, first_lanes((int)(s->depth - c)),
                                  _mm512_fmadd_ps(v, _mm512_loadu_ps(head->value_scale + c),
                                                  _mm512_loadu_ps(head->value_mean + c)));
        }
    }
}

/* q [batch][queries], k and v [batch][keys], out [batch][queries]: rows of heads*depth floats. */
void attention(const Attention *s, const float *q, const float *k, const float *v, float *out) {
    const int64_t blocks = (s->keys + KEYS - 1) / KEYS, deep = (s->depth + 3) / 4 * 4, wide = (s->depth + 15) / 16 * 16;
    const int64_t all = s->batch * s->heads;
    const size_t room = (size_t)(blocks * KEYS) * (size_t)(deep + wide + 4) + (size_t)(blocks + 2 * wide) * 4;
    const size_t each = (room + 63) / 64 * 64;
    uint8_t *memory = aligned_alloc(64, each * (size_t)all);
    Head *heads = malloc((size_t)all * sizeof(Head));
    const int64_t chunk = ROWS * GROUPS, chunks = (s->queries + chunk - 1) / chunk;
#pragma omp parallel
    {
        float *sums = aligned_alloc(64, (size_t)(ROWS * wide) * 4);
        uint8_t *queries = aligned_alloc(64, (size_t)(ROWS * deep + 63) / 64 * 64);
        float *mean = malloc((size_t)wide * 4);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < all; i++) {
            uint8_t *at = memory + each * (size_t)i;
            Head *head = heads + i;
            head->keys = (int8_t *)at, at += blocks * KEYS * deep;
            head->values = (int8_t *)at, at += blocks * KEYS * wide;
            head->offset = (int32_t *)at, at += blocks * KEYS * 4;
            head->value_scale = (float *)at, at += wide * 4;
            head->value_mean = (float *)at, at += wide * 4;
            head->scale = (float *)at;
            const int64_t batch = i / s->heads, column = i % s->heads * s->depth;
            pack_head(s, k + batch * s->keys * s->k_stride + column, v + batch * s->keys * s->v_stride + column, head, mean);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t i = 0; i < all; i++)
            for (int64_t part = 0; part < chunks; part++) {
                const int64_t end = (part + 1) * chunk < s->queries ? (part + 1) * chunk : s->queries;
                for (int64_t row = part * chunk; row < end; row += ROWS) {
                    const int64_t at = i / s->heads * s->queries + row, column = i % s->heads * s->depth;
                    attend(s, heads + i, q + at * s->q_stride + column, out + at * s->out_stride + column,
                           (int)(end - row < ROWS ? end - row : ROWS), sums, queries);
                }
            }
        free(sums);
        free(queries);
        free(mean);
    }
    free(heads);
    free(memory);
}
