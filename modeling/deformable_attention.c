// Deformable attention on a CPU, forward and backward: equation 3 of Deformable DETR (arXiv:2010.04159).
//
// B images, Q queries, S tokens, H heads, L levels, P points, C channels a head; N = L * P points of a query.
// A task is one head of one image, so no two threads add to the same gradient. It works on an fp32 copy (S, C) of the
// head's values: with the heads interleaved, rows are H * C apart and use an eighth of the cache's sets, and converting
// 16-bit values at each of their 64 uses costs more than the sums. Few queries on fp32 values do not pay for the copy
// and read the values where they lie (`direct`).
//
// Sums are kept in vectors, since compilers spill an array of floats to memory. GNU C for little-endian processors,
// tried with gcc 11 and 12, clang 14 and zig; of the C library it needs memcpy and memset, and nothing of PyTorch.

#include "deformable_attention.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define INTERFACE 5  // c_library.py refuses a library of another version
#define AHEAD 2      // queries to prefetch: rows of a head are H rows apart, which the hardware does not foresee

// gcc keeps a vector wider than a register in memory. SSE has 16 registers, too few for two sums of 32 channels.
#if defined(__AVX2__)
#define WIDTH 8
#define SUMS 2
#elif defined(__aarch64__)
#define WIDTH 4
#define SUMS 2
#else
#define WIDTH 4
#define SUMS 1
#endif
#define VECTORS (32 / WIDTH)  // of a row that are summed at once

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef floats any_floats __attribute__((aligned(4), may_alias));
typedef ints any_ints __attribute__((aligned(4), may_alias));
typedef halves any_halves __attribute__((aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define COPY __builtin_memcpy
#define CLEAR(to, bytes) __builtin_memset(to, 0, bytes)

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif

#if WIDTH == 8
#define EVEN(a, b) SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD(a, b) SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define ZIP_LOW(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LANES_EVEN(a, b) SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14)
#define LANES_ODD(a, b) SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15)
#else
#define EVEN(a, b) SHUFFLE(a, b, 0, 2, 4, 6)
#define ODD(a, b) SHUFFLE(a, b, 1, 3, 5, 7)
#define ZIP_LOW(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#define LANES_EVEN EVEN
#define LANES_ODD ODD
#endif

INLINE floats choose(ints which, floats yes, floats no) { return (floats)(((ints)yes & which) | ((ints)no & ~which)); }

// Storage

INLINE int64_t size_of(int64_t type) { return type == FLOAT32 ? 4 : 2; }

INLINE floats load(const void *from, int64_t type) {
    if (type == FLOAT32) return *(const any_floats *)from;
    words bits = __builtin_convertvector(*(const any_halves *)from, words);
    if (type == BFLOAT16) return (floats)(bits << 16);
    // The product moves the exponent's bias and normalises subnormal numbers.
    words magnitude = (bits & 0x7fff) << 13;
    words special = (words)((ints)magnitude > 0x0f7fffff) & 0x7f800000;
    return (floats)((words)((floats)magnitude * 0x1p112f) | special | (bits & 0x8000) << 16);
}

// Rounds to nearest, ties to even.
INLINE void store(void *to, floats x, int64_t type) {
    if (type == FLOAT32) {
        *(any_floats *)to = x;
        return;
    }
    words bits = (words)x, sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff, rounded;
    words is_nan = (words)((ints)magnitude > 0x7f800000);
    if (type == BFLOAT16) {
        rounded = sign | (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16;
    } else {
        words is_large = (words)((ints)magnitude > 0x477fefff);  // from 65520 on: infinity
        words is_small = (words)((ints)magnitude < 0x38800000);  // below 2^-14: subnormal, in units of 2^-24
        words small = (words)((floats)magnitude + 0.5f) - 0x3f000000;
        words normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
        rounded = (small & is_small) | (normal & ~is_small);
        rounded = sign | (rounded & ~is_large) | (is_large & 0x7c00);
    }
    rounded = (rounded & ~is_nan) | (is_nan & 0x7fff);
    *(any_halves *)to = __builtin_convertvector(rounded, halves);
}

// The first `count` of a vector, where a row may not fill whole ones.
INLINE floats load_some(const void *from, int64_t count, int64_t type) {
    if (count >= WIDTH) return load(from, type);
    float whole[WIDTH] = {0};
    if (count > 0) COPY(whole, from, count * size_of(type));
    return load(whole, type);
}

INLINE void store_some(void *to, floats x, int64_t count, int64_t type) {
    if (count >= WIDTH) {
        store(to, x, type);
        return;
    }
    float whole[WIDTH];
    store(whole, x, type);
    if (count > 0) COPY(to, whole, count * size_of(type));
}

INLINE void prefetch(const void *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i);
}

INLINE void prefetch_to_write(const void *to, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)to + i, 1);
}

// Corners

// Of WIDTH points: top left, top right, bottom left, bottom right.
typedef struct {
    ints row[4];      // token, or `outside`
    floats share[4];  // of the query's output: bilinear times attention
    floats dx, dy;    // from the left and the upper pixel's centre, 0..1
    floats weight, width, height;
} Corners;

// The pixel whose centre is at or before `x` (0..1 from edge to edge of `size` pixels), and how far x lies beyond it.
// Rounding x * size could put x on the next pixel's centre, where the derivative is another: with x in two parts of
// 12 bits, products with up to 4096 pixels are exact.
INLINE ints pixel(floats x, floats size, floats *beyond) {
    // Beyond these bounds no corner is inside, and between them integers suffice; NaN becomes the upper one.
    x = choose(x < 2, x, (floats){0} + 2);
    x = choose(x > -1, x, (floats){0} - 1);
    ints towards_zero = __builtin_convertvector(x * size - 0.5f, ints);
    floats head = (floats)((ints)x & ~0xfff), centre = __builtin_convertvector(towards_zero, floats) + 0.5f;
    floats rest = head * size - centre + (x - head) * size;
    ints before = rest < 0;  // true is -1
    *beyond = rest - __builtin_convertvector(before, floats);
    return towards_zero + before;
}

// A location that is not finite gets NaN shares and no pixel, as grid_sample has it.
INLINE void find_corners(Corners *c, const Work *work, int64_t at, int64_t point, int32_t outside) {
    int64_t from = at * work->points + point, count = work->points - point;
    ints width = *(const any_ints *)(work->width + point), height = *(const any_ints *)(work->height + point);
    ints start = *(const any_ints *)(work->start + point);
    floats low = load_some(work->locations + 2 * from, 2 * count, FLOAT32);
    floats high = load_some(work->locations + 2 * from + WIDTH, 2 * count - WIDTH, FLOAT32);
    c->weight = load_some(work->weights + from, count, FLOAT32);
    c->width = __builtin_convertvector(width, floats);
    c->height = __builtin_convertvector(height, floats);
    floats x = EVEN(low, high), y = ODD(low, high), not_finite = (x - x) + (y - y);  // 0 or NaN
    ints left = pixel(x, c->width, &c->dx), top = pixel(y, c->height, &c->dy);
    floats dx = c->dx += not_finite, dy = c->dy += not_finite;
    ints in_left = (left >= 0) & (left < width), in_right = (left >= -1) & (left < width - 1);
    ints in_top = (top >= 0) & (top < height), in_bottom = (top >= -1) & (top < height - 1);
    ints inside[4] = {in_top & in_left, in_top & in_right, in_bottom & in_left, in_bottom & in_right};
    ints first = start + top * width + left, row[4] = {first, first + 1, first + width, first + width + 1};
    for (int k = 0; k < 4; k++) c->row[k] = (row[k] & inside[k]) | (outside & ~inside[k]);
    c->share[0] = c->weight * (1 - dx) * (1 - dy);
    c->share[1] = c->weight * dx * (1 - dy);
    c->share[2] = c->weight * (1 - dx) * dy;
    c->share[3] = c->weight * dx * dy;
}

// A head's rows, `step` floats apart. A corner outside reads `zeros` and adds to `discarded`.
typedef struct {
    const float *values;
    float *gradients, *zeros, *discarded;
    int64_t step;
    int32_t outside;  // a row of zeros behind the copy, or -1 when direct
} Rows;

INLINE const float *value_row(const Rows *rows, int32_t row, int direct) {
    return direct && row < 0 ? rows->zeros : rows->values + row * rows->step;
}

INLINE float *gradient_row(const Rows *rows, int32_t row, int direct) {
    return direct && row < 0 ? rows->discarded : rows->gradients + row * rows->step;
}

// Forward

// `vectors` vectors of channels, from channel `first` on, of one query.
INLINE void query_forward(const Work *work, const Rows *rows, int64_t at, int64_t first, int vectors, int direct) {
    // More than one sum for each vector of the row, where registers allow: one alone would wait for its last addition.
    floats sum[SUMS][VECTORS];
    for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < vectors; v++) sum[k][v] = (floats){0};
    for (int64_t point = 0; point < work->points; point += WIDTH) {
        Corners c;
        find_corners(&c, work, at, point, rows->outside);
        int count = work->points - point < WIDTH ? (int)(work->points - point) : WIDTH;
        for (int i = 0; i < count; i++) {
            const float *row[4];
            for (int k = 0; k < 4; k++) row[k] = value_row(rows, c.row[k][i], direct) + first;
            for (int v = 0; v < vectors; v++)
                for (int k = 0; k < 4; k++) sum[k % SUMS][v] += c.share[k][i] * load(row[k] + v * WIDTH, FLOAT32);
        }
    }
    int64_t size = size_of(work->type);
    char *output = (char *)work->output + (at * work->channels + first) * size;
    for (int v = 0; v < vectors; v++)
        store_some(output + v * WIDTH * size, SUMS == 2 ? sum[0][v] + sum[SUMS - 1][v] : sum[0][v],
                   work->channels - first - v * WIDTH, work->type);
}

INLINE void head_forward(const Work *work, const Rows *rows, int64_t image, int64_t head, int direct) {
    int64_t bytes = work->channels * size_of(work->type), points = work->points;
    for (int64_t query = 0; query < work->queries; query++) {
        int64_t at = (image * work->queries + query) * work->heads + head, ahead = at + AHEAD * work->heads, first = 0;
        if (query + AHEAD < work->queries) {
            prefetch(work->locations + ahead * points * 2, points * 8);
            prefetch(work->weights + ahead * points, points * 4);
            prefetch_to_write((char *)work->output + ahead * bytes, bytes);
        }
        for (; first + WIDTH * VECTORS <= work->padded; first += WIDTH * VECTORS)
            query_forward(work, rows, at, first, VECTORS, direct);
        for (; first < work->padded; first += WIDTH) query_forward(work, rows, at, first, 1, direct);
    }
}

// Backward

// Adds to the gradient of the values and, per point and corner, to a vector whose sum is gradient . value.
INLINE void spread(floats dots[4][WIDTH], const Work *work, const Rows *rows, const Corners *c, int64_t at,
                   int64_t first, int count, int vectors, int direct) {
    int64_t size = size_of(work->type);
    const char *grad_output = (const char *)work->grad_output + (at * work->channels + first) * size;
    floats gradient[VECTORS];
    for (int v = 0; v < vectors; v++)
        gradient[v] = load_some(grad_output + v * WIDTH * size, work->channels - first - v * WIDTH, work->type);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 4; k++) {
            const float *value = value_row(rows, c->row[k][i], direct) + first;
            float *sum = gradient_row(rows, c->row[k][i], direct) + first;
            for (int v = 0; v < vectors; v++) {
                dots[k][i] += gradient[v] * load(value + v * WIDTH, FLOAT32);
                store(sum + v * WIDTH, load(sum + v * WIDTH, FLOAT32) + c->share[k][i] * gradient[v], FLOAT32);
            }
        }
}

INLINE floats add_pairs(floats a, floats b) { return LANES_EVEN(a, b) + LANES_ODD(a, b); }

// What each of WIDTH vectors adds up to.
INLINE floats add_up(const floats v[WIDTH]) {
    floats low = add_pairs(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
#if WIDTH == 8
    floats high = add_pairs(add_pairs(v[4], v[5]), add_pairs(v[6], v[7]));
    low = SHUFFLE(low, high, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
#endif
    return low;
}

INLINE void points_backward(const Work *work, const Rows *rows, int64_t at, int64_t point, int direct) {
    Corners c;
    floats dots[4][WIDTH], dot[4];
    int64_t from = at * work->points + point, count = work->points - point, first = 0;
    int n = count < WIDTH ? (int)count : WIDTH;
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < WIDTH; i++) dots[k][i] = (floats){0};
    find_corners(&c, work, at, point, rows->outside);
    for (; first + WIDTH * VECTORS <= work->padded; first += WIDTH * VECTORS)
        spread(dots, work, rows, &c, at, first, n, VECTORS, direct);
    for (; first < work->padded; first += WIDTH) spread(dots, work, rows, &c, at, first, n, 1, direct);
    for (int k = 0; k < 4; k++) dot[k] = add_up(dots[k]);
    floats top = dot[0] + c.dx * (dot[1] - dot[0]), bottom = dot[2] + c.dx * (dot[3] - dot[2]);
    floats left = dot[0] + c.dy * (dot[2] - dot[0]), right = dot[1] + c.dy * (dot[3] - dot[1]);
    floats grad_x = c.weight * c.width * (right - left), grad_y = c.weight * c.height * (bottom - top);
    store_some(work->grad_weights + from, top + c.dy * (bottom - top), count, FLOAT32);
    store_some(work->grad_locations + 2 * from, ZIP_LOW(grad_x, grad_y), 2 * count, FLOAT32);
    store_some(work->grad_locations + 2 * from + WIDTH, ZIP_HIGH(grad_x, grad_y), 2 * count - WIDTH, FLOAT32);
}

INLINE void head_backward(const Work *work, const Rows *rows, int64_t image, int64_t head, int direct) {
    int64_t bytes = work->channels * size_of(work->type), points = work->points;
    for (int64_t query = 0; query < work->queries; query++) {
        int64_t at = (image * work->queries + query) * work->heads + head, ahead = at + AHEAD * work->heads;
        if (query + AHEAD < work->queries) {
            prefetch(work->locations + ahead * points * 2, points * 8);
            prefetch(work->weights + ahead * points, points * 4);
            prefetch((const char *)work->grad_output + ahead * bytes, bytes);
            prefetch_to_write(work->grad_locations + ahead * points * 2, points * 8);
            prefetch_to_write(work->grad_weights + ahead * points, points * 4);
        }
        for (int64_t point = 0; point < points; point += WIDTH) points_backward(work, rows, at, point, direct);
    }
}

// Tasks

// Between value or grad_value, where a head's rows are `step` bytes apart, and a copy of `padded` floats a row.
INLINE void copy_in(const Work *work, float *to, const char *from, int64_t step, int64_t type) {
    for (int64_t token = 0; token < work->tokens; token++, from += step, to += work->padded) {
        if (token + 16 < work->tokens) prefetch(from + 16 * step, work->channels * size_of(type));
        for (int64_t i = 0; i < work->padded; i += WIDTH)
            store(to + i, load_some(from + i * size_of(type), work->channels - i, type), FLOAT32);
    }
}

INLINE void copy_out(const Work *work, char *to, const float *from, int64_t step, int64_t type) {
    for (int64_t token = 0; token < work->tokens; token++, from += work->padded, to += step) {
        if (token + 16 < work->tokens) prefetch_to_write(to + 16 * step, work->channels * size_of(type));
        for (int64_t i = 0; i < work->channels; i += WIDTH)
            store_some(to + i * size_of(type), load(from + i, FLOAT32), work->channels - i, type);
    }
}

// Each type has a copy loop of its own, without the question inside.
#define PER_TYPE(copy, work, to, from, step)                                \
    do {                                                                    \
        if ((work)->type == FLOAT32) copy(work, to, from, step, FLOAT32);   \
        if ((work)->type == BFLOAT16) copy(work, to, from, step, BFLOAT16); \
        if ((work)->type == FLOAT16) copy(work, to, from, step, FLOAT16);   \
    } while (0)

EXPORT void deformable_attention_run(Work *work, float *scratch) {
    int64_t row = work->padded, tokens = work->tokens, task;
    int64_t copied = work->direct ? 0 : tokens * row, step = work->heads * work->channels;
    Rows rows = {.zeros = scratch + copied, .discarded = scratch + 2 * copied + row};
    CLEAR(rows.zeros, row * 4);
    if (work->grad_value) CLEAR(rows.discarded, row * 4);
    while ((task = __atomic_fetch_add(&work->next_task, 1, __ATOMIC_RELAXED)) < work->images * work->heads) {
        int64_t image = task / work->heads, head = task % work->heads;
        int64_t start = image * tokens * step + head * work->channels;
        if (work->direct) {
            rows.values = (const float *)work->value + start, rows.step = step, rows.outside = -1;
            if (work->grad_value) {
                rows.gradients = (float *)work->grad_value + start;
                head_backward(work, &rows, image, head, 1);
            } else {
                head_forward(work, &rows, image, head, 1);
            }
            continue;
        }
        int64_t size = size_of(work->type);
        PER_TYPE(copy_in, work, scratch, (const char *)work->value + start * size, step * size);
        rows.values = scratch, rows.step = row, rows.outside = (int32_t)tokens;
        if (work->grad_value) {
            rows.gradients = scratch + copied + row;
            CLEAR(rows.gradients, copied * 4);
            head_backward(work, &rows, image, head, 0);
            PER_TYPE(copy_out, work, (char *)work->grad_value + start * size, rows.gradients, step * size);
        } else {
            head_forward(work, &rows, image, head, 0);
        }
    }
}

EXPORT int deformable_attention_interface(void) { return INTERFACE; }

// Whether this processor, and its system, run the build with AVX2. Asked here and not by __builtin_cpu_supports, whose
// answer zig's run-time library (0.17) leaves at no.
EXPORT int deformable_attention_has_avx2(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d, kept, high;
    const unsigned fma = 1 << 12, xgetbv = 1 << 27, avx = 1 << 28, avx2 = 1 << 5, registers = 6;
    if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & (fma | xgetbv | avx)) return 0;
    __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));  // what the system keeps when it switches between programs
    return !(~kept & registers) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & avx2;
#else
    return 0;
#endif
}
