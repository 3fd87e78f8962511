// Kernels of one connection of n streams, for CPUs: x' = H_res x + H_post^T F(H_pre x) (arXiv:2512.24880 eq. 3), forward and
// backward with the exact gradient. The specification is mhc_exp/topology/reference/streams.py, the callers are in native.py.
// - streams.c: what a sublayer reads, where its output goes; predict.c: coefficients from the streams; sinkhorn.c: the mixing.
//
// Compiled once per number of streams (-DSTREAMS=n, 2 to 8) with any C compiler that knows GNU vector extensions.
// Axes: N tokens, S streams, C channels, K = S*C, P coefficients. Streams are [N, S, C]; coefficients come tokens-last, [P, N].
// A tile is LANES tokens: one vector holds a coefficient of all of them. Threads get fixed tiles and add up in a fixed order,
// so results depend on the number of threads and on nothing else. A function that needs memory returns 0 if there is none.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

enum { S = STREAMS, SS = S * S };

typedef float V __attribute__((vector_size(4 * LANES), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));
typedef int32_t I __attribute__((vector_size(4 * LANES), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE V all(float value) { return (V){0} + value; }

// The first `left` lanes; the others are 0 (and stay untouched in memory). A constant `left` >= LANES costs nothing.
INLINE V load(const float *from, long left) {
  if (left >= LANES) return *(const Unaligned *)from;
  V value = {0};
  memcpy(&value, from, 4 * (size_t)left);
  return value;
}
INLINE V load_or_zero(const float *from, long at, long left) {
  if (from) return load(from + at, left);
  return all(0);
}
INLINE void store(float *to, V value, long left) {
  if (left >= LANES) *(Unaligned *)to = value;
  else memcpy(to, &value, 4 * (size_t)left);
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLEVECTOR
#endif
#endif
#ifdef HAS_SHUFFLEVECTOR
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif

// Lane i of the result is the sum of all lanes of part[i].
INLINE V sums(V *part) {
#if LANES == 16
  for (int i = 0; i < 8; i++)
    part[i] = SHUFFLE(part[2 * i], part[2 * i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
              SHUFFLE(part[2 * i], part[2 * i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  for (int i = 0; i < 4; i++)
    part[i] = SHUFFLE(part[2 * i], part[2 * i + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
              SHUFFLE(part[2 * i], part[2 * i + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  for (int i = 0; i < 2; i++)
    part[i] = SHUFFLE(part[2 * i], part[2 * i + 1], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
              SHUFFLE(part[2 * i], part[2 * i + 1], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  return SHUFFLE(part[0], part[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         SHUFFLE(part[0], part[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
#elif LANES == 8
  for (int i = 0; i < 4; i++)
    part[i] = SHUFFLE(part[2 * i], part[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
              SHUFFLE(part[2 * i], part[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  for (int i = 0; i < 2; i++)
    part[i] = SHUFFLE(part[2 * i], part[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
              SHUFFLE(part[2 * i], part[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  return SHUFFLE(part[0], part[1], 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(part[0], part[1], 4, 5, 6, 7, 12, 13, 14, 15);
#else
  for (int i = 0; i < 2; i++)
    part[i] = SHUFFLE(part[2 * i], part[2 * i + 1], 0, 4, 1, 5) + SHUFFLE(part[2 * i], part[2 * i + 1], 2, 6, 3, 7);
  return SHUFFLE(part[0], part[1], 0, 1, 4, 5) + SHUFFLE(part[0], part[1], 2, 3, 6, 7);
#endif
}

// Sums of `count` vectors to out[0], out[stride], ...; `part` has room for a multiple of LANES.
INLINE void store_sums(V *part, int count, float *out, long stride) {
  for (int i = 0; i < count; i += LANES) {
    const int filled = count - i < LANES ? count - i : LANES;
    for (int j = filled; j < LANES; j++) part[i + j] = all(0);
    V total = sums(part + i);
    for (int j = 0; j < filled; j++) out[(i + j) * stride] = total[j];
  }
}

INLINE V larger(V a, V b) { // a NaN in b stays
  I first = a > b;
  return (V)(((I)a & first) | ((I)b & ~first));
}

INLINE V exponential(V x) { // of the Cephes library: 2 ulp; below -87 a normal number near 1e-38, NaN stays NaN
  I low = x < -87.f, high = x > 88.f;
  x = (V)(((I)all(-87.f) & low) | ((I)all(88.f) & high) | ((I)x & ~(low | high)));
  V magic = all(12582912.f), n = (x * 1.44269504088896341f + magic) - magic;
  V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  I power = (__builtin_convertvector(n, I) + 127) << 23;
  return p * (V)power;
}

// -- memory, and what more than one file does with a token ------------------------------------------------------------

static float *scratch(size_t floats) {
  float *memory = aligned_alloc(64, (4 * floats + 63) / 64 * 64);
  if (memory) memset(memory, 0, 4 * floats);
  return memory;
}

// Coefficients of the tokens of a tile, [count][LANES] in `own`; `weights` is [count, N] (step = 1), or [count, 1] for all tokens
// alike (step = 0). (Row by row and not token by token: at a stride of N floats they would share a set of the cache.)
INLINE void load_tile(const float *weights, int count, long N, long tile, long step, V *own) {
  for (int i = 0; i < count; i++) {
    if (step) own[i] = load(weights + i * N + tile, N - tile);
    else own[i] = all(weights[i]);
  }
}
// The coefficient in lane `lane` of a vector, for all channels.
INLINE V spread(const V *own, int lane) { return all(((const float *)own)[lane]); }

INLINE void read_at(const float *x, const V *read, long C, long k, long left, float *u) {
  V sum = read[0] * load(x + k, left);
  for (int s = 1; s < S; s++) sum += read[s] * load(x + s * C + k, left);
  store(u + k, sum, left);
}
// u[C] = sum_s read_s x_s for the token in lane `lane`
INLINE void read_token(const float *x, const V *read, int lane, long C, float *u) {
  V weight[S];
  for (int s = 0; s < S; s++) weight[s] = spread(read + s, lane);
  long k = 0;
  for (; k + LANES <= C; k += LANES) read_at(x, weight, C, k, LANES, u);
  if (k < C) read_at(x, weight, C, k, C - k, u);
}

// Products <gradient, x_s> of one token, added up in part[S].
INLINE void dot_streams_at(const float *x, const float *gradient, long C, long k, long left, V *part) {
  V g = load(gradient + k, left);
  for (int s = 0; s < S; s++) part[s] += g * load(x + s * C + k, left);
}
INLINE void dot_streams(const float *x, const float *gradient, long C, V *part) {
  long k = 0;
  for (; k + LANES <= C; k += LANES) dot_streams_at(x, gradient, C, k, LANES, part);
  if (k < C) dot_streams_at(x, gradient, C, k, C - k, part);
}

enum { READ_PARTS = (S + LANES - 1) / LANES * LANES };
