// What happens to the rows of tokens between two matrix products, each in one pass over memory: dropout, residual and
// layer norm, and the sampling of deformable attention. Forward and backward, fp32; fused_passes_reference.py specifies.
//
// Every function works on `rows` rows of `width` floats that lie one after another; `first` is the number of the first
// one, since threads take parts of the whole. Sums are in vectors, whose order compilers must otherwise keep.

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define LANES 8

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

INLINE floats load(const float *from) { return *(const floats *)from; }
INLINE void store(float *to, floats x) { *(floats *)to = x; }

INLINE float add_up(floats x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

// Dropout

// Whether an element is dropped depends on the seed and its number alone: backward asks again, and no mask is kept.
typedef struct {
    uint64_t seed;
    uint32_t dropped;  // of 2^32; 0: no dropout
    float scale;       // of what is kept
} Dropout;

typedef struct {
    uint32_t low, high, dropped;
    float scale;
} RowDropout;

INLINE RowDropout of_row(const Dropout *dropout, int64_t row, int64_t width) {
    uint64_t number = (uint64_t)row * width;
    return (RowDropout){(uint32_t)dropout->seed + (uint32_t)number,
                        (uint32_t)(dropout->seed >> 32) ^ (uint32_t)(number >> 32), dropout->dropped, dropout->scale};
}

// What column i of the row is multiplied with: 0 or the scale. The mixing is Wellons' triple32, with half of the seed
// before its first multiplication and half before the second.
INLINE float factor(RowDropout dropout, int64_t i) {
    uint32_t x = (uint32_t)i + dropout.low;
    x = (x ^ x >> 17) * 0xed5ad4bb;
    x = ((x ^ x >> 11) ^ dropout.high) * 0xac4c1b51;
    x = (x ^ x >> 15) * 0x31848bab;
    return (x ^ x >> 14) < dropout.dropped ? 0 : dropout.scale;
}

// In place.
EXPORT void fused_dropout(float *x, int64_t first, int64_t rows, int64_t width, const Dropout *dropout) {
    for (int64_t row = 0; row < rows; row++, x += width) {
        RowDropout drawn = of_row(dropout, first + row, width);
        for (int64_t i = 0; i < width; i++) x[i] *= factor(drawn, i);
    }
}

// From floats to uint8, for products in int8: rounds halves up, NaN to 0.
EXPORT void fused_quantize(const float *x, uint8_t *out, int64_t count, float inverse_scale, float zero_point) {
    for (int64_t i = 0; i < count; i++) {
        float y = x[i] * inverse_scale + zero_point + 0.5f;
        y = y > 0 ? y : 0;
        out[i] = (uint8_t)(int32_t)(y < 255 ? y : 255);
    }
}

// Of a hidden layer: `hidden` is what a ReLU and then dropout gave. `grad` is changed in place from the gradient of hidden
// to the gradient before both, and its columns are added to `grad_bias`.
EXPORT void fused_relu_backward(float *grad, const float *hidden, double *grad_bias, int64_t rows, int64_t width,
                                     float scale) {
    for (int64_t row = 0; row < rows; row++, grad += width, hidden += width)
        for (int64_t i = 0; i < width; i++) {
            grad[i] = hidden[i] <= 0 ? 0 : grad[i] * scale;
            grad_bias[i] += grad[i];
        }
}

// Residual, dropout and layer norm: out = norm(x + dropout(y)); width is a multiple of 8

INLINE void moments(const float *row, int64_t width, float eps, float *mean, float *inverse_deviation) {
    floats sum = {0}, squares = {0};
    for (int64_t i = 0; i < width; i += LANES) sum += load(row + i);
    *mean = add_up(sum) / width;
    for (int64_t i = 0; i < width; i += LANES) {
        floats centred = load(row + i) - *mean;
        squares += centred * centred;
    }
    *inverse_deviation = 1 / __builtin_sqrtf(add_up(squares) / width + eps);
}

// `sum` is what backward needs, x + dropout(y), or null.
EXPORT void fused_residual_norm(const float *x, const float *y, const float *gain, const float *bias, float *sum, float *out,
                            int64_t first, int64_t rows, int64_t width, float eps, const Dropout *dropout) {
    for (int64_t row = 0; row < rows; row++, x += width, y += width, out += width) {
        float *added = sum ? sum + row * width : out, mean, inverse_deviation;
        RowDropout drawn = of_row(dropout, first + row, width);
        if (drawn.dropped)
            for (int64_t i = 0; i < width; i++) added[i] = x[i] + y[i] * factor(drawn, i);
        else
            for (int64_t i = 0; i < width; i++) added[i] = x[i] + y[i];
        moments(added, width, eps, &mean, &inverse_deviation);
        for (int64_t i = 0; i < width; i += LANES)
            store(out + i, (load(added + i) - mean) * inverse_deviation * load(gain + i) + load(bias + i));
    }
}

// The gradient of y stands in grad_y only where there is dropout; else it is that of x. grad_gain and grad_bias are added
// to, in doubles: there are as many summands as rows.
EXPORT void fused_residual_norm_backward(const float *grad, const float *sum, const float *gain, float *grad_x,
                                     float *grad_y, double *grad_gain, double *grad_bias, int64_t first, int64_t rows,
                                     int64_t width, float eps, const Dropout *dropout) {
    for (int64_t row = 0; row < rows; row++, grad += width, sum += width, grad_x += width) {
        float mean, inverse_deviation;
        moments(sum, width, eps, &mean, &inverse_deviation);
        floats total = {0}, along = {0};
        for (int64_t i = 0; i < width; i += LANES) {
            floats normal = (load(sum + i) - mean) * inverse_deviation, scaled = load(grad + i) * load(gain + i);
            total += scaled;
            along += scaled * normal;
        }
        float mean_total = add_up(total) / width, mean_along = add_up(along) / width;
        for (int64_t i = 0; i < width; i++) {
            float normal = (sum[i] - mean) * inverse_deviation;
            grad_gain[i] += grad[i] * normal;
            grad_bias[i] += grad[i];
            grad_x[i] = (grad[i] * gain[i] - mean_total - normal * mean_along) * inverse_deviation;
        }
        if (!dropout->dropped) continue;
        RowDropout drawn = of_row(dropout, first + row, width);
        for (int64_t i = 0; i < width; i++) grad_y[row * width + i] = grad_x[i] * factor(drawn, i);
    }
}

// Sampling locations of deformable attention, and the samples' weights

typedef struct {
    int64_t heads, levels, points;
    int64_t sides;         // of a reference: 2, a point, or 4, a box
    const float *pixel;    // (L, 2) width and height of a level's pixel; for points
} SamplingShape;

// exp of x <= 0 to 1e-7, not below exp(-87); NaN stays.
INLINE floats exponential(floats x) {
    ints small = x < -87;
    x = (floats)(((ints)((floats){0} - 87) & small) | ((ints)x & ~small));
    floats whole = x * 1.44269504f + 12582912.0f - 12582912.0f;  // rounds
    floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    floats sum = (floats){0} + 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1;
    return sum * (floats)((__builtin_convertvector(whole, ints) + 127) << 23);
}

// What an offset is multiplied with and added to, (L, P, 2) each.
INLINE void frame(float *step, float *base, const float *reference, const SamplingShape *shape) {
    int64_t sides = shape->sides;
    for (int64_t level = 0; level < shape->levels; level++, reference += sides)
        for (int64_t i = 0; i < 2 * shape->points; i++) {
            *base++ = reference[i % 2];
            *step++ = sides == 2 ? shape->pixel[2 * level + i % 2] : reference[2 + i % 2] * (0.5f / shape->points);
        }
}

// A row of `raw` holds offsets (H, L, P, 2), then logits (H, L, P); reference: (L, 2 or 4) a row, the rows of several
// images may share it (`references` rows). `memory`: 4 N + H N + 8 floats.
EXPORT void fused_sampling(const float *raw, const float *reference, float *locations, float *weights, float *memory,
                             int64_t first, int64_t rows, int64_t references, const SamplingShape *shape) {
    int64_t heads = shape->heads, n = shape->levels * shape->points, all = heads * n;
    float *step = memory, *base = memory + 2 * n, *powers = memory + 4 * n;
    for (int64_t row = 0; row < rows; row++, raw += 3 * all, locations += 2 * all, weights += all) {
        frame(step, base, reference + (first + row) % references * shape->levels * shape->sides, shape);
        for (int64_t head = 0; head < heads; head++)
            for (int64_t i = 0; i < 2 * n; i++)
                locations[head * 2 * n + i] = base[i] + raw[head * 2 * n + i] * step[i];
        const float *logits = raw + 2 * all;
        for (int64_t head = 0; head < heads; head++) {
            float most = logits[head * n];
            for (int64_t i = 1; i < n; i++) most = logits[head * n + i] > most ? logits[head * n + i] : most;
            for (int64_t i = 0; i < n; i++) powers[head * n + i] = logits[head * n + i] - most;
        }
        store(powers + all, (floats){0});
        for (int64_t i = 0; i < all; i += LANES) store(powers + i, exponential(load(powers + i)));
        for (int64_t head = 0; head < heads; head++) {
            float sum = 0;
            for (int64_t i = 0; i < n; i++) sum += powers[head * n + i];
            for (int64_t i = 0; i < n; i++) weights[head * n + i] = powers[head * n + i] / sum;
        }
    }
}

EXPORT void fused_sampling_backward(const float *grad_locations, const float *grad_weights, const float *weights,
                                      const float *reference, float *grad_raw, float *memory, int64_t first,
                                      int64_t rows, int64_t references, const SamplingShape *shape) {
    int64_t heads = shape->heads, n = shape->levels * shape->points, all = heads * n;
    float *step = memory, *base = memory + 2 * n;
    for (int64_t row = 0; row < rows; row++, grad_raw += 3 * all) {
        frame(step, base, reference + (first + row) % references * shape->levels * shape->sides, shape);
        for (int64_t head = 0; head < heads; head++, grad_locations += 2 * n, grad_weights += n, weights += n) {
            float along = 0;
            for (int64_t i = 0; i < n; i++) along += grad_weights[i] * weights[i];
            for (int64_t i = 0; i < 2 * n; i++) grad_raw[head * 2 * n + i] = grad_locations[i] * step[i];
            for (int64_t i = 0; i < n; i++)
                grad_raw[2 * all + head * n + i] = weights[i] * (grad_weights[i] - along);
        }
    }
}
