/* Decoding of compressed weights: indices of 1, 2, 3, 4, 6 or 8 bits become the values of tables. */
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
