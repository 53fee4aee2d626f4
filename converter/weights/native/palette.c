/* The palette of a weight: exact k-means of its values in one dimension, and the indices that store it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FASTEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTEST
#endif

/* Counts how often each of the 65,536 fp16 values occurs. */
void count_values(const uint16_t *values, int64_t n, int64_t *counts) {
    /* Equal neighbors would wait for each other's sums in one table. */
    uint32_t *tables = calloc(2 * 65536, sizeof(uint32_t));
    int64_t i = 0;
    for (; i + 1 < n; i += 2) {
        tables[values[i]]++;
        tables[65536 + values[i + 1]]++;
    }
    if (i < n) tables[values[i]]++;
    for (int64_t v = 0; v < 65536; v++) counts[v] = (int64_t)tables[v] + tables[65536 + v];
    free(tables);
}

typedef struct {
    const double *weight, *sum, *square; /* totals of the first j values */
    const double *before;                /* the least error of the first j values in one cluster less */
    const int32_t *first_before;         /* where its last cluster begins */
    double *error, *trial;
    int32_t *first;
} Layer;

/* The errors of values 0 to j whose last cluster begins at each of from, from + 1, ... */
FASTEST static void errors_of(const Layer *layer, int64_t from, int64_t count, int64_t j, double *trial) {
    const double *weight = layer->weight + from, *sum = layer->sum + from, *square = layer->square + from;
    const double *before = layer->before + from;
    const double all_weight = layer->weight[j], all_sum = layer->sum[j], all_square = layer->square[j];
    for (int64_t i = 0; i < count; i++) {
        const double s = all_sum - sum[i];
        trial[i] = before[i] + ((all_square - square[i]) - s * s / (all_weight - weight[i]));
    }
}

/* Where the last cluster begins never decreases with j, so each half is searched on its own side of the middle's; nor
 * does it decrease with the number of clusters. */
static void search(const Layer *layer, int64_t low, int64_t high, int64_t first_low, int64_t first_high) {
    while (low <= high) {
        const int64_t j = (low + high) / 2, last = first_high < j - 1 ? first_high : j - 1;
        const int64_t from = first_low > layer->first_before[j] ? first_low : layer->first_before[j];
        errors_of(layer, from, last - from + 1, j, layer->trial);
        int64_t best = 0;
        for (int64_t i = 1; i <= last - from; i++)
            if (layer->trial[i] < layer->trial[best]) best = i;
        layer->error[j] = layer->trial[best];
        best += from;
        layer->first[j] = (int32_t)best;
        search(layer, low, j - 1, first_low, best);
        low = j + 1;
        first_low = best;
    }
}

/* Splits n sorted values, each with a weight, into k clusters of least squared error; k <= n.
 * begins: [k], the index of each cluster's first value. Returns 0, or -1 if there is no memory. */
int cluster(const double *values, const double *weights, int64_t n, int64_t k, int64_t *begins) {
    double *totals = malloc((size_t)(6 * (n + 1)) * sizeof(double));
    int32_t *firsts = calloc((size_t)(k * (n + 1)), sizeof(int32_t));
    if (!totals || !firsts) {
        free(totals);
        free(firsts);
        return -1;
    }
    double *weight = totals, *sum = weight + n + 1, *square = sum + n + 1;
    double *before = square + n + 1, *error = before + n + 1, *trial = error + n + 1;
    weight[0] = sum[0] = square[0] = 0;
    for (int64_t j = 0; j < n; j++) {
        weight[j + 1] = weight[j] + weights[j];
        sum[j + 1] = sum[j] + weights[j] * values[j];
        square[j + 1] = square[j] + weights[j] * values[j] * values[j];
    }
    before[0] = 0;
    for (int64_t j = 1; j <= n; j++) before[j] = square[j] - sum[j] * sum[j] / weight[j];
    for (int64_t clusters = 2; clusters <= k; clusters++) {
        int32_t *first = firsts + (clusters - 1) * (n + 1);
        const Layer layer = {weight, sum, square, before, first - (n + 1), error, trial, first};
        search(&layer, clusters, n, clusters - 1, n - 1);
        double *other = before;
        before = error;
        error = other;
    }
    for (int64_t end = n, clusters = k; clusters > 1; clusters--) {
        begins[clusters - 1] = firsts[(clusters - 1) * (n + 1) + end];
        end = begins[clusters - 1];
    }
    begins[0] = 0;
    free(totals);
    free(firsts);
    return 0;
}

/* Writes the index of each fp16 value, table[value], in so many bits, the first in the lowest bits of the first byte. */
void pack_indices(const uint16_t *values, int64_t n, const uint8_t *table, int bits, uint8_t *packed) {
    uint32_t held = 0;
    int filled = 0;
    for (int64_t i = 0; i < n; i++) {
        held |= (uint32_t)table[values[i]] << filled;
        for (filled += bits; filled >= 8; filled -= 8) {
            *packed++ = (uint8_t)held;
            held >>= 8;
        }
    }
    if (filled) *packed = (uint8_t)held;
}
