// What deformable_attention.c computes from, for those that call it: ops_c.py and onnx_operator.c.
#pragma once

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    int64_t images, queries, tokens, heads, points, channels;  // points: N
    int64_t padded;           // channels, rounded up to a multiple of 8
    int64_t type;             // of value, output and their gradients
    int64_t direct;           // 1: no copy; needs fp32 and channels == padded
    const void *value;        // (B, S, H, C)
    const int32_t *width;     // (N + 7) of the point's level, in pixels; like height and start, ends in seven zeros
    const int32_t *height;    // (N + 7)
    const int32_t *start;     // (N + 7) the level's first token
    const float *locations;   // (B, Q, H, N, 2)
    const float *weights;     // (B, Q, H, N)
    void *output;             // (B, Q, H, C)
    const void *grad_output;  // (B, Q, H, C)
    void *grad_value;         // (B, S, H, C), zeros when direct; null: forward
    float *grad_locations;    // (B, Q, H, N, 2)
    float *grad_weights;      // (B, Q, H, N)
    int64_t next_task;        // of B * H; taken by whichever thread is free
} Work;

// Takes tasks until none is left. `scratch` belongs to the calling thread and has, for each of S + 1 rows (2 when
// direct), `padded` floats, and twice that for backward.
EXPORT void deformable_attention_run(Work *work, float *scratch);

// Whether this processor runs the build with AVX2.
EXPORT int deformable_attention_has_avx2(void);
