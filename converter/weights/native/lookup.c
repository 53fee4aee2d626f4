/* Decoding of compressed weights: indices of 1, 2, 3, 4, 6 or 8 bits become the values of tables, and integers become
 * numbers by a scale and an offset for each group. */
#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *packed;
    int bits;
    int64_t nbytes;
} Indices;

/* Eight indices fill as many bytes as each has bits, and are taken from one word of 64 bits, which may reach further. */
#define LOOK_UP(name, type) \
    static inline __attribute__((always_inline)) void name##_bits(const Indices *in, const int bits, int64_t first, \
                                                                  int64_t last, const type *table, type *out) { \
        const uint8_t *packed = in->packed; \
        const uint64_t mask = (1u << bits) - 1; \
        int64_t i = first; \
        while (i < last) { \
            if ((i & 7) == 0 && last - i >= 8 && i / 8 * bits + 8 <= in->nbytes) { \
                uint64_t word; \
                memcpy(&word, packed + i / 8 * bits, 8); \
                for (int j = 0; j < 8; j++) out[i + j] = table[word >> (j * bits) & mask]; \
                i += 8; \
            } else { \
                const int64_t bit = i * bits; \
                const unsigned beyond = (bit & 7) + bits > 8 ? packed[bit / 8 + 1] : 0u; \
                out[i] = table[((packed[bit / 8] | beyond << 8) >> (bit & 7)) & mask]; \
                i++; \
            } \
        } \
    } \
    static void name(const Indices *in, int64_t first, int64_t last, const type *table, type *out) { \
        switch (in->bits) { \
        case 1: name##_bits(in, 1, first, last, table, out); break; \
        case 2: name##_bits(in, 2, first, last, table, out); break; \
        case 3: name##_bits(in, 3, first, last, table, out); break; \
        case 4: name##_bits(in, 4, first, last, table, out); break; \
        case 6: name##_bits(in, 6, first, last, table, out); break; \
        case 8: name##_bits(in, 8, first, last, table, out); break; \
        } \
    }
LOOK_UP(bytes, uint8_t)
LOOK_UP(halves, uint16_t)
LOOK_UP(singles, uint32_t)

/* packed: runs x run indices, the first in the lowest bits of the first byte. tables: [...][1 << bits] values of 1, 2 or
 * 4 bytes; run r uses table[r]. Only the elements from begin to end are decoded, so that threads share an array. */
void look_up(const uint8_t *packed, int bits, int64_t runs, int64_t run, int64_t begin, int64_t end,
             const int32_t *table, const void *tables, int size, void *out) {
    const Indices in = {packed, bits, (runs * run * bits + 7) / 8};
    for (int64_t first = begin; first < end;) {
        const int64_t r = first / run, last = (r + 1) * run < end ? (r + 1) * run : end, at = (int64_t)table[r] << bits;
        if (size == 1) bytes(&in, first, last, (const uint8_t *)tables + at, out);
        if (size == 2) halves(&in, first, last, (const uint16_t *)tables + at, out);
        if (size == 4) singles(&in, first, last, (const uint32_t *)tables + at, out);
        first = last;
    }
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float number_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static const uint32_t SIGN = 0x80000000u, EXPONENT = 0x7f800000u;

/* The nearest number that fp16 has, ties to the even one, for numbers in its range: added to a power of two 13 places above its
 * own, a number loses the bits that fp16 does not have, of which 2^-24 is the least. Without branches, so that compilers do
 * several numbers at once. */
static inline float to_half_precision(float x) {
    const uint32_t sign = bits_of(x) & SIGN;
    const float size = number_of(bits_of(x) ^ sign), own = number_of(bits_of(x) & EXPONENT);
    const float above = (own > 0x1p-14f ? own : 0x1p-14f) * 0x1p13f;
    return number_of(bits_of((size + above) - above) | sign);
}

/* The bits in fp16 of a number that fp16 has. */
static inline uint16_t half_bits(float x) {
    const uint32_t sign = bits_of(x) & SIGN, bits = bits_of(x) ^ sign;
    const float size = number_of(bits);
    const uint32_t subnormal = (uint32_t)(int32_t)(size * 0x1p24f), normal = (bits - 0x38000000u) >> 13;
    return (uint16_t)((size < 0x1p-14f ? subnormal : normal) | sign >> 16);
}

/* Also compiled for processors with vectors of 8, where the C library can choose when the program starts. */
#if defined(__GLIBC__) && defined(__x86_64__)
#define EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define EACH_PROCESSOR
#endif

enum { CHUNK = 2048 };

/* packed: integers of 4 or 8 bits, signed if ``sign`` is the bit that says so and not 0; r-th of each ``run`` of them become
 * (integer - offsets[group[r]]) * scales[group[r]], rounded to fp16, whose range it must be in. out has fp32 (size 4) or fp16
 * (size 2). Only the elements from begin, an even one, to end are decoded. */
EACH_PROCESSOR void scale_integers(const uint8_t *packed, int bits, int sign, int64_t run, int64_t begin, int64_t end,
                                   const int32_t *group, const float *scales, const float *offsets, int size, void *out) {
    float chunk[CHUNK];
    int64_t r = begin / run, left = (r + 1) * run - begin;
    for (int64_t first = begin; first < end;) {
        const int count = end - first < CHUNK ? (int)(end - first) : CHUNK;
        if (bits == 8) {
            for (int i = 0; i < count; i++) chunk[i] = (float)((packed[first + i] ^ sign) - sign);
        } else {
            for (int i = 0; i < (count + 1) / 2; i++) {
                const int two = packed[first / 2 + i];
                chunk[2 * i] = (float)(((two & 15) ^ sign) - sign);
                chunk[2 * i + 1] = (float)((two >> 4 ^ sign) - sign);
            }
        }
        for (int i = 0; i < count;) {
            const int length = left < count - i ? (int)left : count - i;
            const float scale = scales[group[r]], offset = offsets[group[r]];
            for (int j = i; j < i + length; j++) chunk[j] = to_half_precision((chunk[j] - offset) * scale);
            i += length;
            left -= length;
            if (left == 0) {
                r++;
                left = run;
            }
        }
        if (size == 4) {
            memcpy((float *)out + first, chunk, count * sizeof(float));
        } else {
            uint16_t *halves_out = (uint16_t *)out + first;
            for (int i = 0; i < count; i++) halves_out[i] = half_bits(chunk[i]);
        }
        first += count;
    }
}
