// Sinkhorn-Knopp (arXiv:2512.24880 eq. 9, and the convention of DeepSeek-V4).
#include "lanes.h"

// The matrix is diag(u) k diag(v): k is the first one, then columns and rows are normalised in turns, every sum + eps.
// With order = columns_last all of it happens on the transposed matrix, so that rows always come last.
enum { START_EXP, START_COLUMN_SOFTMAX, START_ROW_SOFTMAX };
typedef struct {
  long N;
  int start, iterations; // exp (one whole iteration, eps = 0) or DeepSeek's softmax + eps; then so many iterations
  int rows_first;        // one more normalisation of the rows before the iterations (DeepSeek)
  int transposed, applied_transposed; // all of it on the transposed matrix; the result transposed
  float eps;
  int threads;
} Scaling;

// p = weight exp(z - shift) over its sum along columns (step = S) or rows (step = 1); shift and weight belong to the entry's
// place in that line. top and sum (each may be null): the largest z - shift of every line, the sum of weight exp(.. - top).
INLINE void softmax(const V *z, const V *shift, const V *weight, int step, V *top, V *sum, V *p) {
  const int line = step == 1 ? S : 1;
  for (int l = 0; l < S; l++) {
    V largest = z[l * line] - shift[0], total = all(0);
    for (int i = 1; i < S; i++) largest = larger(largest, z[l * line + i * step] - shift[i]);
    for (int i = 0; i < S; i++)
      total += p[l * line + i * step] = weight[i] * exponential(z[l * line + i * step] - shift[i] - largest);
    for (int i = 0; i < S; i++) p[l * line + i * step] /= total;
    if (top) top[l] = largest, sum[l] = total;
  }
}

// d z of a softmax p, in place of d p: p (dp - sum p dp) along columns (step = S) or rows (step = 1).
INLINE void softmax_backward(const V *p, int step, V *dp) {
  const int line = step == 1 ? S : 1;
  for (int l = 0; l < S; l++) {
    V sum = all(0);
    for (int i = 0; i < S; i++) sum += p[l * line + i * step] * dp[l * line + i * step];
    for (int i = 0; i < S; i++) dp[l * line + i * step] = p[l * line + i * step] * (dp[l * line + i * step] - sum);
  }
}

// First matrix k from logits z, and the softmax that it comes from. start = exp: columns, then rows. A row of the columns'
// softmax may be too small for a float, so the rows are a softmax too; from there on every sum lies between 1/S and S.
INLINE void first_matrix(const V *z, int start, float eps, V *softmaxed, V *k) {
  V zero[S], one[S], top[S], sum[S];
  for (int i = 0; i < S; i++) zero[i] = all(0), one[i] = all(1);
  softmax(z, zero, one, start == START_ROW_SOFTMAX ? 1 : S, top, sum, softmaxed);
  if (start == START_EXP) {
    for (int j = 0; j < S; j++) sum[j] = 1.f / sum[j];
    softmax(z, top, sum, 1, 0, 0, k);
  } else
    for (int i = 0; i < SS; i++) k[i] = softmaxed[i] + eps;
}
INLINE void first_matrix_backward(const V *softmaxed, const V *k, int start, V *d) { // d k becomes d z
  if (start == START_EXP) softmax_backward(k, 1, d);
  if (start != START_EXP) softmax_backward(softmaxed, start == START_ROW_SOFTMAX ? 1 : S, d);
  else
    for (int j = 0; j < S; j++) { // of a logarithm of a softmax: d - p sum d
      V sum = d[j];
      for (int i = 1; i < S; i++) sum += d[i * S + j];
      for (int i = 0; i < S; i++) d[i * S + j] -= softmaxed[i * S + j] * sum;
    }
}

// One normalisation of lines: own[l] <- own[l] / (own[l] sum_i k other[i] + eps); rows have step = 1, columns step = S.
INLINE void normalise(const V *k, const V *other, int step, float eps, const V *before, V *after) {
  const int line = step == 1 ? S : 1;
  for (int l = 0; l < S; l++) {
    V sum = k[l * line] * other[0];
    for (int i = 1; i < S; i++) sum += k[l * line + i * step] * other[i];
    if (eps == 0) after[l] = 1.f / sum;
    else after[l] = before[l] / (before[l] * sum + eps);
  }
}
// Its gradient: down[l] from d after to d before; adds to d k and to d other.
INLINE void normalise_backward(const V *k, const V *other, int step, float eps, const V *before, const V *after, V *down, V *dk,
                               V *dother) {
  const int line = step == 1 ? S : 1;
  for (int l = 0; l < S; l++) {
    V dsum = -down[l] * after[l] * after[l];
    for (int i = 0; i < S; i++) {
      dk[l * line + i * step] += dsum * other[i];
      dother[i] += dsum * k[l * line + i * step];
    }
    if (eps == 0) down[l] = all(0);
    else down[l] *= after[l] / before[l] * (after[l] / before[l]) * eps;
  }
}

// k, and u[iterations + 1][S], v[iterations + 1][S]: the scalings of rows and columns before and after every iteration.
INLINE void scale_matrix(const Scaling *spec, const V *z, V *softmaxed, V *k, V *u, V *v) {
  first_matrix(z, spec->start, spec->eps, softmaxed, k);
  for (int i = 0; i < S; i++) u[i] = v[i] = all(1);
  if (spec->rows_first) {
    V one[S];
    for (int i = 0; i < S; i++) one[i] = all(1);
    normalise(k, v, 1, spec->eps, one, u);
  }
  for (int n = 0; n < spec->iterations; n++, u += S, v += S) {
    normalise(k, u, S, spec->eps, v, v + S);
    normalise(k, v + S, 1, spec->eps, u, u + S);
  }
}

#define ENTRY(i, j) (spec->transposed ? (j) * S + (i) : (i) * S + (j))
#define APPLIED(i, j) (spec->transposed != spec->applied_transposed ? (j) * S + (i) : (i) * S + (j))

// mix[SS, N] from logits[SS, N].
int sinkhorn_forward(const Scaling *spec, const float *logits, float *mix) {
  long N = spec->N, size = 2 * (spec->iterations + 1) * S;
  float *memory = scratch((size_t)(spec->threads * size * LANES));
  if (!memory) return 0;
#pragma omp parallel for schedule(static) num_threads(spec->threads)
  for (long tile = 0; tile < N; tile += LANES) {
    long present = N - tile < LANES ? N - tile : LANES;
    V z[SS], softmaxed[SS], k[SS], *u = (V *)(memory + omp_get_thread_num() * size * LANES), *v = u + (spec->iterations + 1) * S;
    for (int i = 0; i < S; i++)
      for (int j = 0; j < S; j++) z[i * S + j] = load(logits + ENTRY(i, j) * N + tile, present);
    scale_matrix(spec, z, softmaxed, k, u, v);
    u += spec->iterations * S, v += spec->iterations * S;
    for (int i = 0; i < S; i++)
      for (int j = 0; j < S; j++) store(mix + APPLIED(i, j) * N + tile, u[i] * k[i * S + j] * v[j], present);
  }
  free(memory);
  return 1;
}

// dlogits[SS, N] from logits and dmix: every iteration is computed once more and then taken back, exactly.
int sinkhorn_backward(const Scaling *spec, const float *logits, const float *dmix, float *dlogits) {
  long N = spec->N, size = 2 * (spec->iterations + 1) * S;
  float *memory = scratch((size_t)(spec->threads * size * LANES));
  if (!memory) return 0;
#pragma omp parallel for schedule(static) num_threads(spec->threads)
  for (long tile = 0; tile < N; tile += LANES) {
    long present = N - tile < LANES ? N - tile : LANES;
    V z[SS], softmaxed[SS], k[SS], dk[SS], du[S], dv[S], one[S];
    V *u = (V *)(memory + omp_get_thread_num() * size * LANES), *v = u + (spec->iterations + 1) * S;
    for (int i = 0; i < S; i++)
      for (int j = 0; j < S; j++) z[i * S + j] = load(logits + ENTRY(i, j) * N + tile, present);
    scale_matrix(spec, z, softmaxed, k, u, v);
    u += spec->iterations * S, v += spec->iterations * S;
    for (int i = 0; i < S; i++) du[i] = dv[i] = all(0), one[i] = all(1);
    for (int i = 0; i < S; i++)
      for (int j = 0; j < S; j++) {
        V d = load(dmix + APPLIED(i, j) * N + tile, present), weighted = d * k[i * S + j];
        dk[i * S + j] = d * (u[i] * v[j]);
        du[i] += weighted * v[j];
        dv[j] += weighted * u[i];
      }
    for (int n = spec->iterations; n > 0; n--, u -= S, v -= S) {
      normalise_backward(k, v, 1, spec->eps, u - S, u, du, dk, dv);
      normalise_backward(k, u - S, S, spec->eps, v - S, v, dv, dk, du);
    }
    if (spec->rows_first) normalise_backward(k, one, 1, spec->eps, one, u, du, dk, dv);
    first_matrix_backward(softmaxed, k, spec->start, dk);
    for (int i = 0; i < S; i++)
      for (int j = 0; j < S; j++) store(dlogits + ENTRY(i, j) * N + tile, dk[i * S + j], present);
  }
  free(memory);
  return 1;
}
