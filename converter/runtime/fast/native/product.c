/* Products of eight-bit integers: convolutions and linear layers as one kernel.
 *
 * Activations are u8 rows of channels with a scale and zero point for each row, weights s8 with a scale for each output
 * channel. Six rows by 64 columns of sums stay in registers; a convolution reads its rows where they lie, tap by tap,
 * and rows outside the image from a row of zero points. What follows the product (bias, a residual, gelu gating) is
 * done on the sums before they leave the registers.
 */
#include <stdlib.h>
#include <string.h>

#include "vector.h"

#define ROWS 6
#define COLUMNS 64

typedef struct {
    /* input: images of in_h x in_w rows of channels; up: 1 where the image is doubled first (nearest) */
    int64_t images, in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride, pad_top, pad_left, up;
    /* output channels; for gated ones, half of the weights' */
    int64_t columns, gated;
    int64_t out_stride, residual_stride;
} Shape;

/* Weights [out][channels][taps] of fp16 (half) or fp32 to s8 panels [columns/64][taps*channels/4][64][4].
 * gated: column j of the first half and column j of the second share a panel, 32 and 32. scale, total: [padded columns] */
void pack_weights(const void *weights, int half, int64_t out, int64_t channels, int64_t taps, int64_t gated,
                  int8_t *packed, float *scale, float *total) {
    const int64_t depth = channels * taps, panels = (out + COLUMNS - 1) / COLUMNS;
#pragma omp parallel
    {
        float *row = aligned_alloc(64, ((size_t)depth * 4 + 127) / 64 * 64);
        int8_t *whole = malloc((size_t)depth);
#pragma omp for schedule(dynamic)
        for (int64_t panel = 0; panel < panels; panel++) {
            int8_t *to = packed + panel * COLUMNS * depth;
            for (int64_t column = 0; column < COLUMNS; column++) {
                const int64_t at = panel * COLUMNS + column;
                int64_t source = at;
                if (gated) {
                    const int64_t j = panel * 32 + (column & 31);
                    source = j < out / 2 ? j + (column >= 32 ? out / 2 : 0) : out;
                }
                if (source >= out) {
                    for (int64_t k = 0; k < depth; k += 4) memset(to + (k / 4) * COLUMNS * 4 + column * 4, 0, 4);
                    scale[at] = total[at] = 0;
                    continue;
                }
                __m512 most = _mm512_setzero_ps();
                for (int64_t k = 0; k < depth; k += 16) {
                    const __mmask16 mask = first_lanes((int)(depth - k));
                    const __m512 v =
                        half ? _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)weights + source * depth + k))
                             : _mm512_maskz_loadu_ps(mask, (const float *)weights + source * depth + k);
                    most = _mm512_max_ps(most, _mm512_abs_ps(v));
                    _mm512_mask_storeu_ps(row + k, mask, v);
                }
                const float top = _mm512_reduce_max_ps(most);
                const float step = top > 0 ? top / 127.0f : 1.0f;
                const __m512 inverse = _mm512_set1_ps(1.0f / step);
                for (int64_t k = 0; k < depth; k += 16) {
                    const __mmask16 mask = first_lanes((int)(depth - k));
                    const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + k), inverse));
                    _mm_mask_storeu_epi8(whole + k, mask, _mm512_cvtsepi32_epi8(v));
                }
                int64_t sum = 0;
                for (int64_t t = 0; t < taps; t++)
                    for (int64_t c = 0; c < channels; c++) {
                        const int64_t k = t * channels + c;
                        const int8_t v = whole[c * taps + t];
                        sum += v;
                        to[(k / 4) * COLUMNS * 4 + column * 4 + (k & 3)] = v;
                    }
                scale[at] = step;
                total[at] = (float)sum;
            }
        }
        free(row);
        free(whole);
    }
}

/* Adds rows' products over one tap. */
static inline __attribute__((always_inline)) void add_tap(__m512i sums[ROWS][4], const uint8_t *const from[ROWS],
                                                          const int8_t *weights, int64_t channels, const int rows) {
    for (int64_t k = 0; k < channels; k += 4) {
        const __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 64),
                      w2 = _mm512_loadu_si512(weights + 128), w3 = _mm512_loadu_si512(weights + 192);
        weights += COLUMNS * 4;
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t four;
            __builtin_memcpy(&four, from[r] + k, 4);
            const __m512i x = _mm512_set1_epi32(four);
            sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], x, w0);
            sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], x, w1);
            sums[r][2] = _mm512_dpbusd_epi32(sums[r][2], x, w2);
            sums[r][3] = _mm512_dpbusd_epi32(sums[r][3], x, w3);
        }
    }
}

typedef struct {
    const uint8_t *x, *outside;
    const float *x_scale, *x_zero; /* for each row of x */
    const int8_t *weights;
    const float *scale, *total, *bias, *residual;
    float *out;
} Job;

static inline __attribute__((always_inline)) void tile(const Shape *s, const Job *job, int64_t first, int64_t panel,
                                                       const int rows, const int linear) {
    const int64_t pixels = s->out_h * s->out_w, depth = s->kernel_h * s->kernel_w * s->channels;
    const int8_t *weights = job->weights + panel * COLUMNS * depth;
    __m512i sums[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = _mm512_setzero_si512();
    int64_t at[ROWS]; /* the row of x whose scale and zero point hold for the sum */
    if (linear) {
        const uint8_t *from[ROWS];
        for (int r = 0; r < rows; r++) {
            at[r] = first + r;
            from[r] = job->x + at[r] * s->channels;
        }
        add_tap(sums, from, weights, s->channels, rows);
    } else {
        int64_t image[ROWS], y[ROWS], x[ROWS];
        for (int r = 0; r < rows; r++) {
            const int64_t m = first + r;
            image[r] = m / pixels;
            y[r] = (m % pixels) / s->out_w * s->stride - s->pad_top;
            x[r] = (m % pixels) % s->out_w * s->stride - s->pad_left;
            at[r] = image[r] * s->in_h * s->in_w;
        }
        const int64_t high = s->in_h << s->up, wide = s->in_w << s->up;
        for (int64_t ky = 0; ky < s->kernel_h; ky++)
            for (int64_t kx = 0; kx < s->kernel_w; kx++) {
                const uint8_t *from[ROWS];
                for (int r = 0; r < rows; r++) {
                    const int64_t iy = y[r] + ky, ix = x[r] + kx;
                    const int inside = iy >= 0 && iy < high && ix >= 0 && ix < wide;
                    const int64_t row = at[r] + (iy >> s->up) * s->in_w + (ix >> s->up);
                    from[r] = inside ? job->x + row * s->channels : job->outside + image[r] * s->channels;
                }
                add_tap(sums, from, weights, s->channels, rows);
                weights += COLUMNS * s->channels;
            }
    }
    /* By way of memory: were the sums themselves indexed below, the compiler would keep them there all along. */
    int32_t whole[ROWS * COLUMNS] __attribute__((aligned(64)));
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) _mm512_store_si512(whole + r * COLUMNS + j * 16, sums[r][j]);
    const int64_t column = panel * COLUMNS;
    for (int r = 0; r < rows; r++) {
        const __m512 x_scale = _mm512_set1_ps(job->x_scale[at[r]]), zero = _mm512_set1_ps(job->x_zero[at[r]]);
        __m512 y[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const int64_t c = column + j * 16;
            __m512 v = _mm512_cvtepi32_ps(_mm512_load_si512(whole + r * COLUMNS + j * 16));
            v = _mm512_fnmadd_ps(zero, _mm512_loadu_ps(job->total + c), v);
            const __m512 unit = _mm512_mul_ps(x_scale, _mm512_loadu_ps(job->scale + c));
            y[j] = _mm512_fmadd_ps(v, unit, _mm512_loadu_ps(job->bias + c));
        }
        int64_t c = column;
        int vectors = 4;
        if (s->gated) {
            y[0] = _mm512_mul_ps(y[0], gelu_ps(y[2]));
            y[1] = _mm512_mul_ps(y[1], gelu_ps(y[3]));
            c = panel * 32;
            vectors = 2;
        }
        for (int j = 0; j < vectors; j++, c += 16) {
            if (c >= s->columns) break;
            const __mmask16 mask = first_lanes((int)(s->columns - c));
            __m512 v = y[j];
            if (job->residual)
                v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, job->residual + (first + r) * s->residual_stride + c));
            _mm512_mask_storeu_ps(job->out + (first + r) * s->out_stride + c, mask, v);
        }
    }
}

/* A function of each kind, so that the compiler keeps the sums of all in registers. */
typedef void (*Tile)(const Shape *, const Job *, int64_t, int64_t);
#define TILE(name, rows, linear) \
    static __attribute__((noinline)) void name(const Shape *s, const Job *j, int64_t first, int64_t panel) { \
        tile(s, j, first, panel, rows, linear); \
    }
TILE(linear_rows, ROWS, 1)
TILE(linear_row, 1, 1)
TILE(convolve_rows, ROWS, 0)
TILE(convolve_row, 1, 0)

/* x u8 [images][in_h][in_w][channels] -> out fp32 [images][out_h][out_w][out_stride]; residual likewise, or null.
 * bias: [padded columns], gated like the weights. outside: a row of zero points for each image. */
void product(const Shape *s, const uint8_t *x, const uint8_t *outside, const float *x_scale, const float *x_zero,
             const int8_t *weights, const float *scale, const float *total, const float *bias, const float *residual,
             float *out) {
    const Job job = {x, outside, x_scale, x_zero, weights, scale, total, bias, residual, out};
    const int64_t rows = s->images * s->out_h * s->out_w;
    const int64_t panels = s->gated ? (s->columns + 31) / 32 : (s->columns + COLUMNS - 1) / COLUMNS;
    const int64_t chunk = 64 * ROWS, chunks = (rows + chunk - 1) / chunk;
    const int linear = s->kernel_h * s->kernel_w == 1 && s->stride == 1 && !s->up;
    const Tile many = linear ? linear_rows : convolve_rows, one = linear ? linear_row : convolve_row;
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t part = 0; part < chunks; part++) {
            const int64_t end = (part + 1) * chunk < rows ? (part + 1) * chunk : rows;
            int64_t m = part * chunk;
            for (; m + ROWS <= end; m += ROWS) many(s, &job, m, panel);
            for (; m < end; m++) one(s, &job, m, panel);
        }
}
