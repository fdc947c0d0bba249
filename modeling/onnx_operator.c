// Deformable attention as an operator of ONNX Runtime: domain deformable_detr_refine, DeformableAttention, version 1.
//
// Inputs are value (B, S, H, C) float, spatial_shapes (2 * L) int64 as h, w, h, w, ..., sampling_locations
// (B, Q, H, L, P, 2) float and attention_weights (B, Q, H, L, P) float; the output is (B, Q, H * C) float. See
// `deformable_attention` in ops.py.
//
// `RegisterCustomOps` is what SessionOptions.register_custom_ops_library looks for. The runtime hands over a table of
// its functions, to which later versions only add, so those used are named here by their places (onnxruntime_c_api.h of
// ONNX Runtime, version 17 of the interface and later). It computes in the runtime's own threads and memory.

#include <stddef.h>

#include "deformable_attention.h"

#define API_VERSION 17  // the first with ParallelFor
#define MOST_THREADS 16
#define MOST_POINTS 4096

typedef struct Status Status;  // null is success
typedef struct Value Value;
typedef struct Shape Shape;
typedef struct Context Context;
typedef struct Allocator Allocator;

// Of the table, in words.
enum {
    CREATE_STATUS = 0,
    CREATE_DOMAIN = 26,
    ADD_OPERATOR = 27,
    ADD_DOMAIN = 28,
    TENSOR_DATA = 51,
    COUNT_DIMENSIONS = 61,
    DIMENSIONS = 62,
    TENSOR_SHAPE = 65,
    ALLOCATE = 75,
    FREE = 76,
    DEFAULT_ALLOCATOR = 78,
    INPUT = 90,
    OUTPUT = 91,
    RELEASE_SHAPE = 99,
    PARALLEL_FOR = 274,
    FUNCTIONS
};
typedef struct {
    void *functions[FUNCTIONS];
} Api;
typedef struct {
    const Api *(*get)(uint32_t version);
    const char *(*version)(void);
} ApiBase;
enum { FAIL = 1, INVALID_ARGUMENT = 2 };
enum { FLOAT = 1, INT64 = 7 };  // types of elements

#define CALL(api, place, type) ((type)(api)->functions[place])
#define TRY(call)                            \
    do {                                     \
        Status *status = (call);             \
        if (status != NULL) return status;   \
    } while (0)

static Status *refuse(const Api *api, int code, const char *why) {
    return CALL(api, CREATE_STATUS, Status *(*)(int, const char *))(code, why);
}

typedef struct {
    const Value *value;
    void *data;
    int64_t sides[6];
    size_t rank;
} Tensor;

static Status *describe(const Api *api, Tensor *tensor) {
    Shape *shape = NULL;
    TRY(CALL(api, TENSOR_SHAPE, Status *(*)(const Value *, Shape **))(tensor->value, &shape));
    Status *status = CALL(api, COUNT_DIMENSIONS, Status *(*)(const Shape *, size_t *))(shape, &tensor->rank);
    if (status == NULL && tensor->rank <= 6)
        status = CALL(api, DIMENSIONS, Status *(*)(const Shape *, int64_t *, size_t))(shape, tensor->sides, tensor->rank);
    CALL(api, RELEASE_SHAPE, void (*)(Shape *))(shape);
    if (status != NULL) return status;
    return CALL(api, TENSOR_DATA, Status *(*)(const Value *, void **))(tensor->value, &tensor->data);
}

enum { VALUE, SHAPES, LOCATIONS, WEIGHTS, INPUTS };

// Check that the inputs fit together; a file may hold any.
static const char *fault(const Tensor *in) {
    const int64_t *v = in[VALUE].sides, *l = in[LOCATIONS].sides, *w = in[WEIGHTS].sides;
    if (in[VALUE].rank != 4 || in[SHAPES].rank != 1 || in[LOCATIONS].rank != 6 || in[WEIGHTS].rank != 5)
        return "DeformableAttention: expected value (B, S, H, C), spatial_shapes (2 * L), sampling_locations "
               "(B, Q, H, L, P, 2) and attention_weights (B, Q, H, L, P).";
    if (l[0] != v[0] || l[2] != v[2] || l[5] != 2 || in[SHAPES].sides[0] != 2 * l[3])
        return "DeformableAttention: sampling_locations do not fit value or spatial_shapes.";
    for (int i = 0; i < 5; i++)
        if (w[i] != l[i]) return "DeformableAttention: attention_weights do not fit sampling_locations.";
    if (l[3] * l[4] > MOST_POINTS || v[1] >= 1 << 28 || v[3] > 1 << 20)
        return "DeformableAttention: too many points, tokens or channels.";
    const int64_t *sides = in[SHAPES].data;
    int64_t tokens = 0;
    for (int64_t i = 0; i < l[3]; i++) {
        if (sides[2 * i] < 0 || sides[2 * i + 1] < 0 || sides[2 * i] >= 1 << 28 || sides[2 * i + 1] >= 1 << 28)
            return "DeformableAttention: a side in spatial_shapes is negative or too long.";
        tokens += sides[2 * i] * sides[2 * i + 1];
        if (tokens > v[1]) break;  // before the sum could overflow
    }
    return tokens == v[1] ? NULL : "DeformableAttention: spatial_shapes do not add up to value's tokens.";
}

typedef struct {
    Work work;
    float *scratch;
    int64_t floats;  // of a thread
} Job;

static void take_tasks(void *data, size_t thread) {
    Job *job = data;
    deformable_attention_run(&job->work, job->scratch + (int64_t)thread * job->floats);
}

static Status *compute(void *kernel, Context *context) {
    const Api *api = kernel;
    Tensor in[INPUTS];
    Value *output = NULL;
    for (size_t i = 0; i < INPUTS; i++) {
        TRY(CALL(api, INPUT, Status *(*)(const Context *, size_t, const Value **))(context, i, &in[i].value));
        TRY(describe(api, &in[i]));
    }
    const char *why = fault(in);
    if (why != NULL) return refuse(api, INVALID_ARGUMENT, why);

    const int64_t *v = in[VALUE].sides, *l = in[LOCATIONS].sides, *sides = in[SHAPES].data;
    int64_t sizes[3] = {v[0], l[1], v[2] * v[3]}, points = l[3] * l[4], padded = (v[3] + 7) / 8 * 8;
    TRY(CALL(api, OUTPUT, Status *(*)(Context *, size_t, const int64_t *, size_t, Value **))(context, 0, sizes, 3, &output));
    void *result;
    TRY(CALL(api, TENSOR_DATA, Status *(*)(Value *, void **))(output, &result));
    if (sizes[0] * sizes[1] * sizes[2] == 0) return NULL;
    if (v[1] == 0 || points == 0) {
        __builtin_memset(result, 0, (size_t)(sizes[0] * sizes[1] * sizes[2]) * sizeof(float));
        return NULL;
    }

    // As in ops_c.py: few reads of each token do not pay for a copy.
    int direct = padded == v[3] && 4 * l[1] * points < 2 * v[1];
    int64_t tasks = v[0] * v[2], threads = tasks < MOST_THREADS ? tasks : MOST_THREADS;
    int64_t column = points + 7, floats = ((direct ? 0 : v[1]) + 1) * padded;
    size_t bytes = (size_t)(threads * floats) * sizeof(float) + (size_t)(3 * column) * sizeof(int32_t);
    Allocator *allocator;
    void *memory = NULL;
    TRY(CALL(api, DEFAULT_ALLOCATOR, Status *(*)(Allocator **))(&allocator));
    TRY(CALL(api, ALLOCATE, Status *(*)(Allocator *, size_t, void **))(allocator, bytes, &memory));
    if (memory == NULL) return refuse(api, FAIL, "DeformableAttention: there is no memory.");

    Job job = {.scratch = memory, .floats = floats};
    int32_t *width = (int32_t *)(job.scratch + threads * floats), *height = width + column, *start = height + column;
    __builtin_memset(width, 0, (size_t)(3 * column) * sizeof(int32_t));
    int64_t first = 0, point = 0;
    for (int64_t level = 0; level < l[3]; level++) {
        for (int64_t i = 0; i < l[4]; i++, point++) {
            height[point] = (int32_t)sides[2 * level], width[point] = (int32_t)sides[2 * level + 1];
            start[point] = (int32_t)first;
        }
        first += sides[2 * level] * sides[2 * level + 1];
    }
    job.work = (Work){
        .images = v[0], .queries = l[1], .tokens = v[1], .heads = v[2], .points = points, .channels = v[3],
        .padded = padded, .type = FLOAT32, .direct = direct, .value = in[VALUE].data, .width = width, .height = height,
        .start = start, .locations = in[LOCATIONS].data, .weights = in[WEIGHTS].data, .output = result,
    };
    Status *status = CALL(api, PARALLEL_FOR, Status *(*)(const Context *, void (*)(void *, size_t), size_t, size_t, void *))(
        context, take_tasks, (size_t)threads, 0, &job);
    Status *freed = CALL(api, FREE, Status *(*)(Allocator *, void *))(allocator, memory);
    return status != NULL ? status : freed;
}

// The description of an operator, OrtCustomOp of version 16.
typedef struct Operator Operator;
struct Operator {
    uint32_t version;
    void *(*create)(const Operator *, const Api *, const void *);
    const char *(*name)(const Operator *);
    const char *(*provider)(const Operator *);
    int (*input_type)(const Operator *, size_t);
    size_t (*inputs)(const Operator *);
    int (*output_type)(const Operator *, size_t);
    size_t (*outputs)(const Operator *);
    void (*compute_without_status)(void *, Context *);
    void (*destroy)(void *);
    int (*input_characteristic)(const Operator *, size_t);
    int (*output_characteristic)(const Operator *, size_t);
    int (*input_memory)(const Operator *, size_t);
    void *variadic[4];
    Status *(*create_with_status)(const Operator *, const Api *, const void *, void **);
    Status *(*compute)(void *, Context *);
};

static Status *create(const Operator *self, const Api *api, const void *info, void **kernel) {
    (void)self, (void)info;
    *kernel = (void *)api;
    return NULL;
}
static void destroy(void *kernel) { (void)kernel; }
static const char *name(const Operator *self) { return (void)self, "DeformableAttention"; }
static const char *provider(const Operator *self) { return (void)self, NULL; }
static int input_type(const Operator *self, size_t index) { return (void)self, index == SHAPES ? INT64 : FLOAT; }
static size_t inputs(const Operator *self) { return (void)self, INPUTS; }
static int output_type(const Operator *self, size_t index) { return (void)self, (void)index, FLOAT; }
static size_t outputs(const Operator *self) { return (void)self, 1; }
static int zero(const Operator *self, size_t index) { return (void)self, (void)index, 0; }  // required; on the CPU

static const Operator OPERATOR = {
    .version = 16, .name = name, .provider = provider, .input_type = input_type, .inputs = inputs,
    .output_type = output_type, .outputs = outputs, .destroy = destroy, .input_characteristic = zero,
    .output_characteristic = zero, .input_memory = zero, .create_with_status = create, .compute = compute,
};

EXPORT Status *RegisterCustomOps(void *options, const ApiBase *base) {
    const Api *oldest = base->get(1), *api = base->get(API_VERSION);
    if (api == NULL) return refuse(oldest, FAIL, "DeformableAttention needs ONNX Runtime 1.17 or newer.");
#if defined(__AVX2__)
    if (!deformable_attention_has_avx2())
        return refuse(api, FAIL, "This build of DeformableAttention is for processors with AVX2.");
#endif
    void *domain = NULL;
    TRY(CALL(api, CREATE_DOMAIN, Status *(*)(const char *, void **))("deformable_detr_refine", &domain));
    TRY(CALL(api, ADD_OPERATOR, Status *(*)(void *, const Operator *))(domain, &OPERATOR));
    return CALL(api, ADD_DOMAIN, Status *(*)(void *, void *))(options, domain);  // stays, as the library does
}
