// The C library against plain loops in doubles, on random shapes: for processors on which no PyTorch runs here.
//
// `make targets` builds it for aarch64 and runs it under qemu. Prints one line per function; ends with 1 if one differs.
// Letters as in modeling/: B images, Q queries, S tokens, H heads, N points of all levels, C channels.

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// As in deformable_attention.c and fused_passes.c.
enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    int64_t images, queries, tokens, heads, points, channels, padded, type, direct;
    const void *value;
    const int32_t *width, *height, *start;
    const float *locations, *weights;
    void *output;
    const void *grad_output;
    void *grad_value;
    float *grad_locations, *grad_weights;
    int64_t next_task;
} Work;

typedef struct {
    uint64_t seed;
    uint32_t dropped;
    float scale;
} Dropout;

typedef struct {
    int64_t heads, levels, points, sides;
    const float *pixel;
} SamplingShape;

int deformable_attention_interface(void);
void deformable_attention_run(Work *, float *scratch);
void fused_dropout(float *x, int64_t first, int64_t rows, int64_t width, const Dropout *);
void fused_quantize(const float *x, uint8_t *out, int64_t count, float inverse_scale, float zero_point);
void fused_relu_backward(float *grad, const float *hidden, double *grad_bias, int64_t rows, int64_t width, float scale);
void fused_residual_norm(const float *x, const float *y, const float *gain, const float *bias, float *sum, float *out,
                         int64_t first, int64_t rows, int64_t width, float eps, const Dropout *);
void fused_residual_norm_backward(const float *grad, const float *sum, const float *gain, float *grad_x, float *grad_y,
                                  double *grad_gain, double *grad_bias, int64_t first, int64_t rows, int64_t width,
                                  float eps, const Dropout *);
void fused_sampling(const float *raw, const float *reference, float *locations, float *weights, float *memory,
                    int64_t first, int64_t rows, int64_t references, const SamplingShape *);
void fused_sampling_backward(const float *grad_locations, const float *grad_weights, const float *weights,
                             const float *reference, float *grad_raw, float *memory, int64_t first, int64_t rows,
                             int64_t references, const SamplingShape *);

// Random numbers (Steele's splitmix64), and memory that lasts for one case

static uint64_t state;

static uint64_t draw(void) {
    uint64_t x = state += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static int64_t between(int64_t low, int64_t high) { return low + (int64_t)(draw() % (uint64_t)(high - low + 1)); }
static double uniform(double low, double high) { return low + (high - low) * (double)(draw() >> 11) * 0x1p-53; }

static _Alignas(64) char memory[1 << 25];
static size_t used;

static void *take(int64_t count, size_t size) {
    size_t at = used;
    used = (used + (size_t)count * size + 63) & ~(size_t)63;
    if (used > sizeof memory) fprintf(stderr, "a case is too large\n"), exit(2);
    return memset(memory + at, 0, (size_t)count * size);
}

static float *floats(int64_t count) { return take(count, sizeof(float)); }
static double *doubles(int64_t count) { return take(count, sizeof(double)); }

static float *random_floats(int64_t count, double low, double high) {
    float *x = floats(count);
    for (int64_t i = 0; i < count; i++) x[i] = (float)uniform(low, high);
    return x;
}

static float *copy(const float *x, int64_t count) { return memcpy(floats(count), x, 4 * (size_t)count); }

// Comparison

static struct {
    const char *name;
    long long numbers;
    double worst;  // of the tolerance; 1 is too much
} checks[16];

static void compare_rounded(const char *name, double ours, double theirs, double tolerance, double rounding) {
    int i = 0;
    while (checks[i].name && strcmp(checks[i].name, name)) i++;
    checks[i].name = name;
    checks[i].numbers++;
    double error = fabs(ours - theirs) / (tolerance * (10 + fabs(theirs)) + rounding * fabs(theirs));
    if (isnan(error)) error = isnan(ours) && isnan(theirs) ? 0 : INFINITY;
    if (error > checks[i].worst) checks[i].worst = error;
}

static void compare(const char *name, double ours, double theirs, double tolerance) {
    compare_rounded(name, ours, theirs, tolerance, 0);
}

// Deformable attention

static double decode(const void *from, int64_t i, int64_t type) {
    float x;
    uint32_t bits;
    switch (type) {
        case FLOAT32: return ((const float *)from)[i];
        case FLOAT16: return ((const _Float16 *)from)[i];
        default: bits = (uint32_t)((const uint16_t *)from)[i] << 16; return memcpy(&x, &bits, 4), x;
    }
}

static void *random_values(int64_t count, int64_t type) {
    void *values = take(count, type == FLOAT32 ? 4 : 2);
    for (int64_t i = 0; i < count; i++) {
        float x = (float)uniform(-2, 2);
        if (type == FLOAT32) ((float *)values)[i] = x;
        if (type == FLOAT16) ((_Float16 *)values)[i] = (_Float16)x;
        if (type == BFLOAT16) memcpy((uint16_t *)values + i, (char *)&x + 2, 2);  // little-endian: the upper half
    }
    return values;
}

typedef struct {
    double *output, *grad_value, *grad_locations, *grad_weights;
} Expected;

// One point of one query and head: bilinear, zero outside, pixel centres at + 0.5.
static void point_reference(const Work *w, Expected *e, int64_t image, int64_t at, int64_t head, int64_t point) {
    int64_t C = w->channels, i = at * w->points + point, width = w->width[point], height = w->height[point];
    double x = w->locations[2 * i] * (double)width - 0.5, y = w->locations[2 * i + 1] * (double)height - 0.5;
    int finite = isfinite(x) && isfinite(y);
    double left = floor(x), top = floor(y), dx = x - left, dy = y - top, weight = w->weights[i];
    for (int64_t c = 0; c < C && !finite; c++) e->output[at * C + c] = NAN;
    if (!finite) e->grad_weights[i] = e->grad_locations[2 * i] = e->grad_locations[2 * i + 1] = NAN;
    for (int corner = 0; corner < 4 && finite; corner++) {
        int right = corner % 2, low = corner / 2;
        double column = left + right, row = top + low;
        if (column < 0 || row < 0 || column >= (double)width || row >= (double)height) continue;
        int64_t token = image * w->tokens + w->start[point] + (int64_t)row * width + (int64_t)column;
        double along_x = right ? dx : 1 - dx, along_y = low ? dy : 1 - dy;
        for (int64_t c = 0; c < C; c++) {
            int64_t from = (token * w->heads + head) * C + c;
            double value = decode(w->value, from, w->type), grad = decode(w->grad_output, at * C + c, w->type);
            e->output[at * C + c] += weight * along_x * along_y * value;
            e->grad_value[from] += weight * along_x * along_y * grad;
            e->grad_weights[i] += along_x * along_y * value * grad;
            e->grad_locations[2 * i] += weight * (double)width * (right ? 1 : -1) * along_y * value * grad;
            e->grad_locations[2 * i + 1] += weight * (double)height * (low ? 1 : -1) * along_x * value * grad;
        }
    }
}

static void check_attention(void) {
    static const int channels[] = {1, 3, 7, 8, 9, 16, 31, 32, 33, 40, 64, 72}, sides[] = {1, 2, 3, 5, 9, 17};
    int64_t L = between(1, 4), P = between(1, 5), N = L * P, S = 0, type = between(0, 2);
    int64_t B = between(1, 2), H = between(1, 5), Q = between(1, 20), C = channels[between(0, 11)];
    int32_t *width = take(N + 7, 4), *height = take(N + 7, 4), *start = take(N + 7, 4);
    for (int64_t level = 0; level < L; level++) {
        int w = sides[between(0, 5)], h = sides[between(0, 5)];
        for (int64_t i = level * P; i < (level + 1) * P; i++) width[i] = w, height[i] = h, start[i] = (int32_t)S;
        S += w * h;
    }
    int64_t samples = B * Q * H * N, outputs = B * Q * H * C, values = B * S * H * C, padded = (C + 7) / 8 * 8;
    float *locations = random_floats(2 * samples, -0.3, 1.3), *weights = random_floats(samples, 0, 1);
    if (between(0, 3) == 0)
        for (int64_t i = 0; i < 2 * samples; i += between(1, 200))
            locations[i] = ((float[]){NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 0, 1})[between(0, 6)];
    Work work = {.images = B, .queries = Q, .tokens = S, .heads = H, .points = N, .channels = C, .padded = padded};
    work.type = type, work.direct = type == FLOAT32 && C == padded && between(0, 1);
    work.value = random_values(values, type), work.grad_output = random_values(outputs, type);
    work.width = width, work.height = height, work.start = start, work.locations = locations, work.weights = weights;
    work.output = take(outputs, type == FLOAT32 ? 4 : 2);
    float *scratch = floats(2 * (S + 1) * padded);

    Expected e = {doubles(outputs), doubles(values), doubles(2 * samples), doubles(samples)};
    for (int64_t i = 0; i < samples; i++) point_reference(&work, &e, i / (Q * H * N), i / N, i / N % H, i % N);

    double rounding = type == FLOAT32 ? 0 : type == FLOAT16 ? 0x1p-11 : 0x1p-8;  // half of the last bit
    deformable_attention_run(&work, scratch);
    for (int64_t i = 0; i < outputs; i++)
        compare_rounded("deformable_attention_run", decode(work.output, i, type), e.output[i], 1e-6, rounding);
    work.next_task = 0, work.grad_value = take(values, type == FLOAT32 ? 4 : 2);
    work.grad_locations = floats(2 * samples), work.grad_weights = floats(samples);
    deformable_attention_run(&work, scratch);
    for (int64_t i = 0; i < values; i++)
        compare_rounded("deformable_attention_run", decode(work.grad_value, i, type), e.grad_value[i], 1e-6, rounding);
    for (int64_t i = 0; i < samples; i++)
        compare("deformable_attention_run", work.grad_weights[i], e.grad_weights[i], 1e-5);
    for (int64_t i = 0; i < 2 * samples; i++)
        compare("deformable_attention_run", work.grad_locations[i], e.grad_locations[i], 1e-4);
}

// Fused passes

// Wellons' triple32 of the element's number, with the seed's halves before its first and second multiplication.
static double factor(const Dropout *dropout, int64_t row, int64_t column, int64_t width) {
    uint64_t number = (uint64_t)row * (uint64_t)width;
    uint32_t x = (uint32_t)((uint64_t)column + number + dropout->seed);
    x = (x ^ x >> 17) * 0xed5ad4bb;
    x = (x ^ x >> 11 ^ (uint32_t)(dropout->seed >> 32) ^ (uint32_t)(number >> 32)) * 0xac4c1b51;
    x = (x ^ x >> 15) * 0x31848bab;
    return (x ^ x >> 14) < dropout->dropped ? 0 : dropout->scale;
}

static Dropout random_dropout(void) {
    double probability = between(0, 2) ? uniform(0.05, 0.6) : 0;
    return (Dropout){draw(), (uint32_t)(probability * 0x1p32), (float)(1 / (1 - probability))};
}

static void check_dropout_and_relu(void) {
    int64_t rows = between(1, 30), width = between(1, 70), first = between(0, 1) ? between(0, 100) : 1LL << 40;
    Dropout dropout = random_dropout();
    int64_t all = rows * width;
    float *x = random_floats(all, -2, 2), *dropped = copy(x, all), *grad = copy(x, all);
    fused_dropout(dropped, first, rows, width, &dropout);
    for (int64_t i = 0; i < all; i++)
        compare("fused_dropout", dropped[i], x[i] * factor(&dropout, first + i / width, i % width, width), 1e-7);

    float *hidden = random_floats(all, -1, 1);  // not above 0: nothing passed
    double *grad_bias = doubles(width), *sum = doubles(width);
    for (int64_t i = 0; i < width; i++) grad_bias[i] = sum[i] = uniform(-1, 1);
    fused_relu_backward(grad, hidden, grad_bias, rows, width, dropout.scale);
    for (int64_t i = 0; i < all; i++) {
        double expected = hidden[i] > 0 ? x[i] * (double)dropout.scale : 0;
        sum[i % width] += expected;
        compare("fused_relu_backward", grad[i], expected, 1e-7);
    }
    for (int64_t i = 0; i < width; i++) compare("fused_relu_backward", grad_bias[i], sum[i], 1e-6);
}

static void check_quantize(void) {
    int64_t count = between(1, 300), zero_point = between(0, 255);
    float inverse_scale = (float)uniform(1, 200), *x = random_floats(count, -2, 2);
    uint8_t *out = take(count, 1);
    fused_quantize(x, out, count, inverse_scale, (float)zero_point);
    for (int64_t i = 0; i < count; i++) {
        double exact = fmin(fmax((double)x[i] * inverse_scale + (double)zero_point, 0), 255);
        compare("fused_quantize", out[i] - exact, 0, 0.0501);  // half of one, and what float32 adds
    }
}

static void check_residual_norm(void) {
    int64_t rows = between(1, 30), width = 8 * between(1, 33), all = rows * width, first = between(0, 1000);
    Dropout dropout = random_dropout();
    float eps = 1e-5f, *x = random_floats(all, -2, 4), *y = random_floats(all, -2, 2), *grad = random_floats(all, -1, 1);
    float *gain = random_floats(width, 0.5, 2), *bias = random_floats(width, -1, 1), *kept = floats(all);
    float *sum = between(0, 1) ? floats(all) : NULL, *out = floats(all), *grad_x = floats(all), *grad_y = floats(all);
    double *grad_gain = doubles(width), *grad_bias = doubles(width), *of_gain = doubles(width), *of_bias = doubles(width);
    for (int64_t i = 0; i < width; i++) grad_gain[i] = of_gain[i] = uniform(-1, 1), grad_bias[i] = of_bias[i] = gain[i];
    for (int64_t i = 0; i < all; i++)
        kept[i] = (float)(x[i] + y[i] * factor(&dropout, first + i / width, i % width, width));
    fused_residual_norm(x, y, gain, bias, sum, out, first, rows, width, eps, &dropout);
    fused_residual_norm_backward(grad, kept, gain, grad_x, grad_y, grad_gain, grad_bias, first, rows, width, eps,
                                 &dropout);
    for (int64_t row = 0; row < rows; row++) {
        double mean = 0, variance = 0, along_one = 0, along_normal = 0;
        for (int64_t i = 0; i < width; i++) mean += kept[row * width + i] / (double)width;
        for (int64_t i = 0; i < width; i++) variance += pow(kept[row * width + i] - mean, 2) / (double)width;
        for (int64_t i = 0; i < width; i++) {
            int64_t j = row * width + i;
            double normal = (kept[j] - mean) / sqrt(variance + eps);
            along_one += grad[j] * gain[i] / (double)width;
            along_normal += grad[j] * gain[i] * normal / (double)width;
            of_gain[i] += grad[j] * normal;
            of_bias[i] += grad[j];
            if (sum) compare("fused_residual_norm", sum[j], kept[j], 1e-6);
            compare("fused_residual_norm", out[j], normal * gain[i] + bias[i], 1e-6);
        }
        for (int64_t i = 0; i < width; i++) {
            int64_t j = row * width + i;
            double normal = (kept[j] - mean) / sqrt(variance + eps);
            double expected = (grad[j] * (double)gain[i] - along_one - normal * along_normal) / sqrt(variance + eps);
            compare("fused_residual_norm_backward", grad_x[j], expected, 1e-6);
            expected *= factor(&dropout, first + row, i, width);
            if (dropout.dropped) compare("fused_residual_norm_backward", grad_y[j], expected, 1e-6);
        }
    }
    for (int64_t i = 0; i < width; i++) {
        compare("fused_residual_norm_backward", grad_gain[i], of_gain[i], 1e-6);
        compare("fused_residual_norm_backward", grad_bias[i], of_bias[i], 1e-6);
    }
}

static void check_sampling(void) {
    int64_t H = between(1, 8), L = between(1, 4), P = between(1, 5), N = L * P, rows = between(1, 20);
    int64_t sides = 2 * between(1, 2), references = between(1, 30), first = between(0, 40), all = rows * H * N;
    float *reference = random_floats(references * L * sides, 0, 1), *raw = random_floats(3 * all, -5, 5);
    SamplingShape shape = {H, L, P, sides, random_floats(2 * L, 0.01, 0.5)};
    float *locations = floats(2 * all), *weights = floats(all), *working = floats(4 * N + H * N + 8);
    float *grad_locations = random_floats(2 * all, -1, 1), *grad_weights = random_floats(all, -1, 1);
    float *grad_raw = floats(3 * all);
    fused_sampling(raw, reference, locations, weights, working, first, rows, references, &shape);
    fused_sampling_backward(grad_locations, grad_weights, weights, reference, grad_raw, working, first, rows, references,
                            &shape);
    for (int64_t group = 0; group < rows * H; group++) {  // a row's head
        int64_t row = group / H, head = group % H, at = group * N;
        const float *offsets = raw + row * 3 * H * N + 2 * head * N, *logits = raw + (row * 3 + 2) * H * N + head * N;
        const float *grad_offsets = grad_raw + (offsets - raw), *grad_logits = grad_raw + (logits - raw);
        double total = 0, along = 0;
        for (int64_t i = 0; i < N; i++) total += exp(logits[i]);
        for (int64_t i = 0; i < N; i++) along += exp(logits[i]) / total * grad_weights[at + i];
        for (int64_t i = 0; i < 2 * N; i++) {
            int64_t level = i / (2 * P);
            const float *box = reference + ((first + row) % references * L + level) * sides;
            double step = sides == 2 ? shape.pixel[2 * level + i % 2] : box[2 + i % 2] / 2.0 / (double)P;
            compare("fused_sampling", locations[2 * at + i], box[i % 2] + offsets[i] * step, 1e-6);
            compare("fused_sampling_backward", grad_offsets[i], grad_locations[2 * at + i] * step, 1e-6);
        }
        for (int64_t i = 0; i < N; i++) {
            double weight = exp(logits[i]) / total;
            compare("fused_sampling", weights[at + i], weight, 1e-6);
            compare("fused_sampling_backward", grad_logits[i], weight * (grad_weights[at + i] - along), 1e-6);
        }
    }
}

int main(int count, char **arguments) {
    int cases = count > 1 ? atoi(arguments[1]) : 100, differ = 0;
    for (int seed = 0; seed < cases; seed++) {
        void (*all[])(void) = {check_attention, check_dropout_and_relu, check_residual_norm, check_sampling,
                               check_quantize};
        for (int i = 0; i < 5; i++) state = (uint64_t)seed * 4 + (uint64_t)i, used = 0, all[i]();
    }
    for (int i = 0; checks[i].name; i++) {
        printf("%s: %.3f of the tolerance, of %lld numbers\n", checks[i].name, checks[i].worst, checks[i].numbers);
        differ |= checks[i].worst > 1;
    }
    return differ;
}
