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
#define WIDTH 8      // floats in a vector
#define VECTORS 4    // of a row that are summed at once: 32 channels
#define CHUNK 16     // points whose corners are worked out at once
#define AHEAD 2      // queries: a head's rows are H rows apart, which the hardware does not foresee

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef floats any_floats __attribute__((aligned(4), may_alias));
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

// `count` is below WIDTH at the end of a row whose channels do not fill whole vectors.
INLINE floats load_some(const void *from, int64_t count, int type) {
    if (count >= WIDTH) return load(from, type);
    float whole[WIDTH] = {0};
    COPY(whole, from, count * size_of(type));
    return load(whole, type);
}

INLINE void store_some(void *to, floats x, int64_t count, int type) {
    if (count >= WIDTH) {
        store(to, x, type);
        return;
    }
    float whole[WIDTH];
    store(whole, x, type);
    COPY(to, whole, count * size_of(type));
}

// Corners of the points

typedef struct {
    int32_t row[4][CHUNK];     // token of the corner (top left, top right, bottom left, bottom right), or `outside`
    float share[4][CHUNK];     // bilinear, adds up to 1
    float dx[CHUNK], dy[CHUNK];  // from the left and the upper pixel's centre, 0..1
} Corners;

// A location that is not finite gets NaN shares and no pixel, as grid_sample has it. No branches, so that compilers make
// vectors of the loop.
INLINE void find_corners(Corners *c, const Work *work, const float *location, int64_t first, int n, int32_t outside) {
    for (int i = 0; i < n; i++) {
        int32_t width = work->width[first + i], height = work->height[first + i];
        float x = location[2 * i] * (float)width - 0.5f, y = location[2 * i + 1] * (float)height - 0.5f;
        float not_finite = (x - x) + (y - y);  // 0 or NaN
        // Within these bounds a conversion to an integer is defined; NaN becomes the upper one.
        x = x < (float)width ? x : (float)width;
        y = y < (float)height ? y : (float)height;
        x = x > -2 ? x : -2;
        y = y > -2 ? y : -2;
        int32_t left = (int32_t)x, top = (int32_t)y;
        left -= (float)left > x;
        top -= (float)top > y;
        float dx = x - (float)left + not_finite, dy = y - (float)top + not_finite;
        int in_left = (left >= 0) & (left < width), in_right = (left >= -1) & (left < width - 1);
        int in_top = (top >= 0) & (top < height), in_bottom = (top >= -1) & (top < height - 1);
        int32_t row = work->start[first + i] + top * width + left;
        c->row[0][i] = in_left & in_top ? row : outside;
        c->row[1][i] = in_right & in_top ? row + 1 : outside;
        c->row[2][i] = in_left & in_bottom ? row + width : outside;
        c->row[3][i] = in_right & in_bottom ? row + width + 1 : outside;
        c->share[0][i] = (1 - dx) * (1 - dy);
        c->share[1][i] = dx * (1 - dy);
        c->share[2][i] = (1 - dx) * dy;
        c->share[3][i] = dx * dy;
        c->dx[i] = dx;
        c->dy[i] = dy;
    }
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

// Forward

// Two sums for each vector of the row: one alone would wait for its own last addition.
INLINE void sum_points(floats *even, floats *odd, const Corners *c, const float *weights, const Rows *rows,
                       int64_t offset, int n, int vectors, int type, int direct) {
    for (int i = 0; i < n; i++) {
        const char *row[4];
        float share[4];
        for (int k = 0; k < 4; k++) {
            row[k] = value_row(rows, c->row[k][i], direct) + offset;
            share[k] = c->share[k][i] * weights[i];
        }
        for (int v = 0; v < vectors; v++) {
            int64_t at = v * WIDTH * size_of(type);
            even[v] += share[0] * load(row[0] + at, type);
            odd[v] += share[1] * load(row[1] + at, type);
            even[v] += share[2] * load(row[2] + at, type);
            odd[v] += share[3] * load(row[3] + at, type);
        }
    }
}

// `vectors` vectors of channels, from channel `first` on, of one query.
INLINE void query_forward(const Work *work, const Rows *rows, int64_t at, int64_t first, int vectors, int type,
                          int direct) {
    floats even[VECTORS] = {{0}}, odd[VECTORS] = {{0}};
    Corners corners;
    const float *locations = work->locations + at * work->points * 2, *weights = work->weights + at * work->points;
    int64_t size = size_of(type), point = 0;
    for (; point + CHUNK <= work->points; point += CHUNK) {
        find_corners(&corners, work, locations + 2 * point, point, CHUNK, rows->outside);
        sum_points(even, odd, &corners, weights + point, rows, first * size, CHUNK, vectors, type, direct);
    }
    if (point < work->points) {
        int n = (int)(work->points - point);
        find_corners(&corners, work, locations + 2 * point, point, n, rows->outside);
        sum_points(even, odd, &corners, weights + point, rows, first * size, n, vectors, type, direct);
    }
    char *output = (char *)work->output + (at * work->channels + first) * size;
    for (int v = 0; v < vectors; v++)
        store_some(output + v * WIDTH * size, even[v] + odd[v], work->channels - first - v * WIDTH, type);
}

INLINE void prefetch(const void *from, int64_t bytes, int to_write) {
    for (int64_t i = 0; i < bytes; i += 64) {
        if (to_write) __builtin_prefetch((const char *)from + i, 1);
        else __builtin_prefetch((const char *)from + i, 0);
    }
}

INLINE void head_forward(const Work *work, const Rows *rows, int64_t image, int64_t head, int type, int direct) {
    int64_t row = work->channels * size_of(type), points = work->points;
    for (int64_t query = 0; query < work->queries; query++) {
        int64_t at = (image * work->queries + query) * work->heads + head, ahead = at + AHEAD * work->heads;
        if (query + AHEAD < work->queries) {
            prefetch(work->locations + ahead * points * 2, points * 8, 0);
            prefetch(work->weights + ahead * points, points * 4, 0);
            prefetch((char *)work->output + ahead * row, row, 1);
        }
        int64_t first = 0;
        for (; first + WIDTH * VECTORS <= work->padded; first += WIDTH * VECTORS)
            query_forward(work, rows, at, first, VECTORS, type, direct);
        for (; first < work->padded; first += WIDTH) query_forward(work, rows, at, first, 1, type, direct);
    }
}

// Backward

// Adds to the gradient of the values and, per point and corner, a vector that adds up to gradient . value.
INLINE void spread_points(floats dots[4][CHUNK], const floats *gradient, const Corners *c, const float *weights,
                          const Rows *rows, int64_t first, int n, int vectors, int type, int direct) {
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 4; k++) {
            const char *value = value_row(rows, c->row[k][i], direct) + first * size_of(type);
            any_floats *sum = (any_floats *)(gradient_row(rows, c->row[k][i], direct) + first);
            float share = c->share[k][i] * weights[i];
            floats dot = first ? dots[k][i] : (floats){0};
            for (int v = 0; v < vectors; v++) {
                dot += gradient[v] * load(value + v * WIDTH * size_of(type), type);
                sum[v] += share * gradient[v];
            }
            dots[k][i] = dot;
        }
    }
}

INLINE float add_up(floats x) {
    return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}

INLINE void chunk_backward(const Work *work, const Rows *rows, int64_t at, int64_t point, int n, int type, int direct) {
    Corners corners;
    floats dots[4][CHUNK], gradient[VECTORS];
    int64_t from = at * work->points + point, size = size_of(type), first = 0;
    const float *weights = work->weights + from;
    const char *grad_output = (const char *)work->grad_output + at * work->channels * size;
    find_corners(&corners, work, work->locations + 2 * from, point, n, rows->outside);
    for (; first + WIDTH * VECTORS <= work->padded; first += WIDTH * VECTORS) {
        for (int v = 0; v < VECTORS; v++) {
            int64_t channel = first + v * WIDTH;
            gradient[v] = load_some(grad_output + channel * size, work->channels - channel, type);
        }
        spread_points(dots, gradient, &corners, weights, rows, first, n, VECTORS, type, direct);
    }
    for (; first < work->padded; first += WIDTH) {
        gradient[0] = load_some(grad_output + first * size, work->channels - first, type);
        spread_points(dots, gradient, &corners, weights, rows, first, n, 1, type, direct);
    }
    float dot[4][CHUNK];
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < n; i++) dot[k][i] = add_up(dots[k][i]);
    for (int i = 0; i < n; i++) {
        float dx = corners.dx[i], dy = corners.dy[i];
        float top = dot[1][i] - dot[0][i], bottom = dot[3][i] - dot[2][i];
        float left = dot[2][i] - dot[0][i], right = dot[3][i] - dot[1][i];
        work->grad_weights[from + i] = corners.share[0][i] * dot[0][i] + corners.share[1][i] * dot[1][i] +
                                       corners.share[2][i] * dot[2][i] + corners.share[3][i] * dot[3][i];
        work->grad_locations[2 * (from + i)] = weights[i] * work->width[point + i] * (top + dy * (bottom - top));
        work->grad_locations[2 * (from + i) + 1] = weights[i] * work->height[point + i] * (left + dx * (right - left));
    }
}

INLINE void head_backward(const Work *work, const Rows *rows, int64_t image, int64_t head, int type, int direct) {
    int64_t row = work->channels * size_of(type), points = work->points;
    for (int64_t query = 0; query < work->queries; query++) {
        int64_t at = (image * work->queries + query) * work->heads + head, ahead = at + AHEAD * work->heads, point = 0;
        if (query + AHEAD < work->queries) {
            prefetch(work->locations + ahead * points * 2, points * 8, 0);
            prefetch(work->weights + ahead * points, points * 4, 0);
            prefetch((const char *)work->grad_output + ahead * row, row, 0);
            prefetch(work->grad_locations + ahead * points * 2, points * 8, 1);
            prefetch(work->grad_weights + ahead * points, points * 4, 1);
        }
        for (; point + CHUNK <= points; point += CHUNK) chunk_backward(work, rows, at, point, CHUNK, type, direct);
        if (point < points) chunk_backward(work, rows, at, point, (int)(points - point), type, direct);
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
