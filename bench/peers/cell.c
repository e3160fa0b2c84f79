/* The cell as plain loops that a compiler turns into vector instructions: the floor.
 *
 * The exponential is 2^n 2^r with n the nearest whole number and a polynomial for 2^r, good to
 * about 1e-7, so that the loops over gates need no vector library. Names are long because the C
 * library of GNU has a `step` of its own, which would be called instead. */

#include <stddef.h>
#include <stdint.h>

#define H 32

static inline float exponential(float x)
{
    float y = x * 1.44269504f;
    y = y < -126.0f ? -126.0f : y;
    y = y > 126.0f ? 126.0f : y;
    int32_t n = (int32_t)(y + 128.5f) - 128;
    float r = (y - (float)n) * 0.693147181f;
    float e = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24
              + r * (1.0f / 120 + r * (1.0f / 720))))));
    union { int32_t i; float f; } power = { .i = (n + 127) << 23 };
    return e * power.f;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

/* Moves state, h (H) and c (H), by one element and returns p; kernel is (H + 2, 4H). */
float lstm_step(const float *restrict kernel, const float *restrict head,
                float *restrict state, float x)
{
    float z[4 * H], *h = state, *c = state + H;
    for (int j = 0; j < 4 * H; j++)
        z[j] = kernel[(H + 1) * 4 * H + j] + x * kernel[j];
    for (int k = 0; k < H; k++)
        for (int j = 0; j < 4 * H; j++)
            z[j] += h[k] * kernel[(k + 1) * 4 * H + j];
    for (int j = 0; j < H; j++) {
        c[j] = sigmoid(z[H + j]) * c[j] + sigmoid(z[j]) * tangent(z[2 * H + j]);
        h[j] = sigmoid(z[3 * H + j]) * tangent(c[j]);
    }
    float logit = head[H];
    for (int j = 0; j < H; j++)
        logit += h[j] * head[j];
    return sigmoid(logit);
}

void lstm_sequence(const float *restrict kernel, const float *restrict head,
                   float *restrict state, const float *restrict xs, float *restrict p, size_t count)
{
    for (size_t t = 0; t < count; t++)
        p[t] = lstm_step(kernel, head, state, xs[t]);
}
