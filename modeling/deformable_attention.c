// Deformable attention on a CPU: forward and backward of equation 3 of Deformable DETR (arXiv:2010.04159).
//
// B images, Q queries, S tokens, H heads, L levels, P points, C channels a head; N = L * P points of a query.
// A task is one head of one image, so no two threads add to the same gradient. It works on a copy of the head's values,
// (S, C): with the heads interleaved, rows are H * C apart and use an eighth of the cache's sets. Few queries do not
// pay for the copy and read the values where they lie.
//
// Sums are kept in vectors, since compilers spill an array of floats to memory. GNU C (gcc 9, clang 12, zig) without
// PyTorch's headers; of the C library it needs memcpy and memset.

#include <stdint.h>

#define INTERFACE 1  // ops_c.py refuses a library with another layout of Work
#define AHEAD 2      // queries: a head's rows are H rows apart, which the hardware does not foresee

// gcc keeps a vector that is wider than a register in memory. SSE has 16 registers, too few for two sums of 32 channels.
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
#define EXPORT __attribute__((visibility("default")))
#define COPY __builtin_memcpy
#define CLEAR(to, size) __builtin_memset(to, 0, size)

enum { FLOAT32, BFLOAT16, FLOAT16 };  // how value, output and grad_output are stored

typedef struct {
    int64_t images, queries, tokens, heads, points, channels;  // points: N
    int64_t padded;          // channels, rounded up to whole vectors
    int64_t type;
    int64_t direct;          // 1: no copy; needs channels == padded
    const void *value;       // (B, S, H, C)
    const int32_t *width;    // (N) of the point's level, in pixels
    const int32_t *height;   // (N)
    const int32_t *start;    // (N) the level's first token
    const float *locations;  // (B, Q, H, N, 2)
    const float *weights;    // (B, Q, H, N)
    void *output;            // (B, Q, H, C)
    const void *grad_output; // (B, Q, H, C)
    float *grad_value;       // (B, S, H, C), zeros when direct
    float *grad_locations, *grad_weights;
    int64_t next_task;       // below B * H; taken by whichever thread is free
} Work;

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

// Storage types

INLINE int64_t size_of(int type) { return type == FLOAT32 ? 4 : 2; }

INLINE floats load(const void *from, int type) {
    if (type == FLOAT32) return *(const any_floats *)from;
    words bits = __builtin_convertvector(*(const any_halves *)from, words);
    if (type == BFLOAT16) return (floats)(bits << 16);
    // The product moves the exponent's bias and normalises subnormal numbers.
    words magnitude = (bits & 0x7fff) << 13;
    words special = (words)((ints)magnitude > 0x0f7fffff) & 0x7f800000;
    return (floats)((words)((floats)magnitude * 0x1p112f) | special | (bits & 0x8000) << 16);
}

// Rounds to nearest, ties to even.
INLINE void store(void *to, floats x, int type) {
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

// The first `count` of a vector, at the end of a row that does not fill whole ones.
INLINE floats load_some(const void *from, int64_t count, int type) {
    if (count >= WIDTH) return load(from, type);
    float whole[WIDTH] = {0};
    if (count > 0)     COPY(whole, from, count * size_of(type));
    return load(whole, type);
}

INLINE void store_some(void *to, floats x, int64_t count, int type) {
    if (count >= WIDTH) {
        store(to, x, type);
        return;
    }
    float whole[WIDTH];
    store(whole, x, type);
    if (count > 0) COPY(to, whole, count * size_of(type));
}

// Corners

// Of WIDTH points: top left, top right, bottom left, bottom right.
typedef struct {
    ints row[4];      // token, or `outside`
    floats share[4];  // of the query's output: bilinear times attention
    floats dx, dy;    // from the left and the upper pixel's centre, 0..1
    floats weight, width, height;
} Corners;

// A location that is not finite gets NaN shares and no pixel, as grid_sample has it.
INLINE void find_corners(Corners *c, const Work *work, int64_t at, int64_t point, int32_t outside) {
    int64_t from = at * work->points + point, count = work->points - point;
    ints width = *(const any_ints *)(work->width + point), height = *(const any_ints *)(work->height + point);
    ints start = *(const any_ints *)(work->start + point);
    floats pairs = load_some(work->locations + 2 * from, 2 * count, FLOAT32);
    floats more = load_some(work->locations + 2 * from + WIDTH, 2 * count - WIDTH, FLOAT32);
    c->weight = load_some(work->weights + from, count, FLOAT32);
    c->width = __builtin_convertvector(width, floats);
    c->height = __builtin_convertvector(height, floats);
    floats x = EVEN(pairs, more) * c->width - 0.5f;
    floats y = ODD(pairs, more) * c->height - 0.5f;
    floats not_finite = (x - x) + (y - y);  // 0 or NaN
    // Between these bounds a conversion to integers is defined; NaN becomes the upper one.
    floats lowest = (floats){0} - 2;
    x = choose(x < c->width, x, c->width);
    y = choose(y < c->height, y, c->height);
    x = choose(x > lowest, x, lowest);
    y = choose(y > lowest, y, lowest);
    ints left = __builtin_convertvector(x, ints), top = __builtin_convertvector(y, ints);
    left += __builtin_convertvector(left, floats) > x;  // true is -1
    top += __builtin_convertvector(top, floats) > y;
    floats dx = x - __builtin_convertvector(left, floats) + not_finite;
    floats dy = y - __builtin_convertvector(top, floats) + not_finite;
    ints in_left = (left >= 0) & (left < width), in_right = (left >= -1) & (left < width - 1);
    ints in_top = (top >= 0) & (top < height), in_bottom = (top >= -1) & (top < height - 1);
    ints row = start + top * width + left, nowhere = (ints){0} + outside;
    ints in[4] = {in_top & in_left, in_top & in_right, in_bottom & in_left, in_bottom & in_right};
    ints rows[4] = {row, row + 1, row + width, row + width + 1};
    for (int k = 0; k < 4; k++) c->row[k] = (rows[k] & in[k]) | (nowhere & ~in[k]);
    c->share[0] = c->weight * (1 - dx) * (1 - dy);
    c->share[1] = c->weight * dx * (1 - dy);
    c->share[2] = c->weight * (1 - dx) * dy;
    c->share[3] = c->weight * dx * dy;
    c->dx = dx;
    c->dy = dy;
}

// Where a head's rows are: a corner outside reads `zeros` (and adds to a row that nobody reads).
typedef struct {
    const char *values;
    float *gradients;
    int64_t value_step, gradient_step;  // bytes, floats
    const char *zeros;
    float *discarded;
    int32_t outside;
} Rows;

INLINE const char *value_row(const Rows *rows, int32_t row, int direct) {
    return direct && row < 0 ? rows->zeros : rows->values + row * rows->value_step;
}

INLINE float *gradient_row(const Rows *rows, int32_t row, int direct) {
    return direct && row < 0 ? rows->discarded : rows->gradients + row * rows->gradient_step;
}

INLINE void prefetch(const void *from, int64_t bytes, int to_write) {
    for (int64_t i = 0; i < bytes; i += 64) {
        if (to_write) __builtin_prefetch((const char *)from + i, 1);
        else __builtin_prefetch((const char *)from + i, 0);
    }
}

// Forward

// `vectors` vectors of channels, from channel `first` on, of one query.
INLINE void query_forward(const Work *work, const Rows *rows, int64_t at, int64_t first, int vectors, int type,
                          int direct) {
    // More than one sum for each vector of the row, where registers allow: one alone would wait for its own last addition.
    floats sum[SUMS][VECTORS];
    for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < vectors; v++) sum[k][v] = (floats){0};
    int64_t size = size_of(type), offset = first * size;
    for (int64_t point = 0; point < work->points; point += WIDTH) {
        Corners c;
        find_corners(&c, work, at, point, rows->outside);
        int count = work->points - point < WIDTH ? (int)(work->points - point) : WIDTH;
        for (int i = 0; i < count; i++) {
            const char *row[4];
            for (int k = 0; k < 4; k++) row[k] = value_row(rows, c.row[k][i], direct) + offset;
            for (int v = 0; v < vectors; v++) {
                int64_t skip = v * WIDTH * size;
                for (int k = 0; k < 4; k++) sum[k % SUMS][v] += c.share[k][i] * load(row[k] + skip, type);
            }
        }
    }
    char *output = (char *)work->output + (at * work->channels + first) * size;
    for (int v = 0; v < vectors; v++)
        store_some(output + v * WIDTH * size, SUMS == 2 ? sum[0][v] + sum[1][v] : sum[0][v], work->channels - first - v * WIDTH, type);
}

INLINE void head_forward(const Work *work, const Rows *rows, int64_t image, int64_t head, int type, int direct) {
    int64_t row = work->channels * size_of(type), points = work->points;
    for (int64_t query = 0; query < work->queries; query++) {
        int64_t at = (image * work->queries + query) * work->heads + head, ahead = at + AHEAD * work->heads, first = 0;
        if (query + AHEAD < work->queries) {
            prefetch(work->locations + ahead * points * 2, points * 8, 0);
            prefetch(work->weights + ahead * points, points * 4, 0);
            prefetch((char *)work->output + ahead * row, row, 1);
        }
        for (; first + WIDTH * VECTORS <= work->padded; first += WIDTH * VECTORS)
            query_forward(work, rows, at, first, VECTORS, type, direct);
        for (; first < work->padded; first += WIDTH) query_forward(work, rows, at, first, 1, type, direct);
    }
}

// Backward

// Adds to the gradient of the values and, per point and corner, a vector that adds up to gradient . value.
INLINE void spread(floats dots[4][WIDTH], const Work *work, const Rows *rows, const Corners *c, int64_t at,
                   int64_t first, int count, int vectors, int type, int direct) {
    int64_t size = size_of(type);
    const char *grad_output = (const char *)work->grad_output + (at * work->channels + first) * size;
    floats gradient[VECTORS];
    for (int v = 0; v < vectors; v++)
        gradient[v] = load_some(grad_output + v * WIDTH * size, work->channels - first - v * WIDTH, type);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 4; k++) {
            const char *value = value_row(rows, c->row[k][i], direct) + first * size;
            any_floats *sum = (any_floats *)(gradient_row(rows, c->row[k][i], direct) + first);
            floats dot = dots[k][i];
            for (int v = 0; v < vectors; v++) {
                dot += gradient[v] * load(value + v * WIDTH * size, type);
                sum[v] += c->share[k][i] * gradient[v];
            }
            dots[k][i] = dot;
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

INLINE void points_backward(const Work *work, const Rows *rows, int64_t at, int64_t point, int type, int direct) {
    Corners c;
    floats dots[4][WIDTH] = {{{0}}}, dot[4];
    int64_t from = at * work->points + point, count = work->points - point, first = 0;
    int n = count < WIDTH ? (int)count : WIDTH;
    find_corners(&c, work, at, point, rows->outside);
    for (; first + WIDTH * VECTORS <= work->padded; first += WIDTH * VECTORS)
        spread(dots, work, rows, &c, at, first, n, VECTORS, type, direct);
    for (; first < work->padded; first += WIDTH) spread(dots, work, rows, &c, at, first, n, 1, type, direct);
    for (int k = 0; k < 4; k++) dot[k] = add_up(dots[k]);
    floats top = dot[0] + c.dx * (dot[1] - dot[0]), bottom = dot[2] + c.dx * (dot[3] - dot[2]);
    floats left = dot[0] + c.dy * (dot[2] - dot[0]), right = dot[1] + c.dy * (dot[3] - dot[1]);
    floats grad_x = c.weight * c.width * (right - left), grad_y = c.weight * c.height * (bottom - top);
    store_some(work->grad_weights + from, top + c.dy * (bottom - top), count, FLOAT32);
    store_some(work->grad_locations + 2 * from, ZIP_LOW(grad_x, grad_y), 2 * count, FLOAT32);
    store_some(work->grad_locations + 2 * from + WIDTH, ZIP_HIGH(grad_x, grad_y), 2 * count - WIDTH, FLOAT32);
}

INLINE void head_backward(const Work *work, const Rows *rows, int64_t image, int64_t head, int type, int direct) {
    int64_t row = work->channels * size_of(type), points = work->points;
    for (int64_t query = 0; query < work->queries; query++) {
        int64_t at = (image * work->queries + query) * work->heads + head, ahead = at + AHEAD * work->heads;
        if (query + AHEAD < work->queries) {
            prefetch(work->locations + ahead * points * 2, points * 8, 0);
            prefetch(work->weights + ahead * points, points * 4, 0);
            prefetch((const char *)work->grad_output + ahead * row, row, 0);
            prefetch(work->grad_locations + ahead * points * 2, points * 8, 1);
            prefetch(work->grad_weights + ahead * points, points * 4, 1);
        }
        for (int64_t point = 0; point < points; point += WIDTH) points_backward(work, rows, at, point, type, direct);
    }
}

// Tasks

#define PER_TYPE(function, work, rows, image, head, direct)                                    \
    switch ((work)->type) {                                                                     \
        case FLOAT32: function(work, rows, image, head, FLOAT32, direct); break;                \
        case BFLOAT16: function(work, rows, image, head, BFLOAT16, direct); break;              \
        case FLOAT16: function(work, rows, image, head, FLOAT16, direct); break;                \
    }

static void copy_rows(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t count, int64_t bytes) {
    for (int64_t i = 0; i < count; i++, to += to_step, from += from_step) {
        prefetch(from + 16 * from_step, bytes, 0);
        if (bytes == 128) COPY(to, from, 128);
        else COPY(to, from, bytes);
    }
}

// Takes tasks until none is left. `scratch` is this thread's own: ops_c.py knows its size.
static void run(Work *work, char *scratch, int backward) {
    int64_t size = size_of((int)work->type), row = work->padded * size, direct = work->direct;
    int64_t value_bytes = direct ? 0 : work->tokens * row;
    Rows rows = {.zeros = scratch + value_bytes, .outside = direct ? -1 : (int32_t)work->tokens};
    CLEAR(scratch, value_bytes + row);
    float *gradients = (float *)(scratch + value_bytes + row);
    rows.discarded = gradients + (direct ? 0 : work->tokens * work->padded);
    int64_t task;
    while ((task = __atomic_fetch_add(&work->next_task, 1, __ATOMIC_RELAXED)) < work->images * work->heads) {
        int64_t image = task / work->heads, head = task % work->heads;
        int64_t start = (image * work->tokens * work->heads + head) * work->channels, step = work->heads * work->channels;
        const char *values = (const char *)work->value + start * size;
        if (direct) {
            rows.values = values, rows.value_step = step * size;
            rows.gradients = backward ? work->grad_value + start : 0, rows.gradient_step = step;
            if (backward) PER_TYPE(head_backward, work, &rows, image, head, 1)
            else PER_TYPE(head_forward, work, &rows, image, head, 1)
            continue;
        }
        rows.values = scratch, rows.value_step = row;
        copy_rows(scratch, row, values, step * size, work->tokens, work->channels * size);
        if (backward) {
            rows.gradients = gradients, rows.gradient_step = work->padded;
            CLEAR(gradients, work->tokens * work->padded * 4);
            PER_TYPE(head_backward, work, &rows, image, head, 0)
            copy_rows((char *)(work->grad_value + start), step * 4, (char *)gradients, work->padded * 4, work->tokens,
                      work->channels * 4);
        } else PER_TYPE(head_forward, work, &rows, image, head, 0)
    }
}

EXPORT void deformable_attention_forward(Work *work, char *scratch) { run(work, scratch, 0); }

EXPORT void deformable_attention_backward(Work *work, char *scratch) { run(work, scratch, 1); }

EXPORT int deformable_attention_interface(void) { return INTERFACE; }

// Whether this processor runs the build for x86-64-v3.
EXPORT int deformable_attention_has_v3(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}
