// What a sublayer reads, where its output goes.
#include "lanes.h"

// u[N, C] = sum_s read_s x_s
int read_forward(const float *x, const float *read, long N, long C, long step, int threads, float *u) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long tile = 0; tile < N; tile += LANES) {
    V weights[S];
    load_tile(read, S, N, tile, step, weights);
    for (int t = 0; t < LANES && tile + t < N; t++) read_token(x + (tile + t) * S * C, weights, t, C, u + (tile + t) * C);
  }
  return 1;
}

INLINE void unread_at(const float *du, const float *before, const V *read, long C, long k, long left, float *dx) {
  V g = load(du + k, left);
  for (int s = 0; s < S; s++) {
    V sum = read[s] * g;
    if (before) sum += load(before + s * C + k, left);
    store(dx + s * C + k, sum, left);
  }
}

// out[i] = sum over threads of partial[thread][i]
static void add_threads(const float *partial, int threads, long count, float *out) {
  for (long i = 0; i < count; i++) {
    float sum = 0;
    for (int thread = 0; thread < threads; thread++) sum += partial[thread * count + i];
    out[i] = sum;
  }
}

// Adds up the vectors in `part`: into lane `lane` of `tokens`, or (step = 0) onto the thread's sums over all of its tokens.
INLINE void keep_sums(V *part, int count, int lane, long step, float *tokens, float *thread) {
  if (step) store_sums(part, count, tokens + lane, LANES);
  else {
    float total[S + SS];
    store_sums(part, count, total, 1);
    for (int i = 0; i < count; i++) thread[i] += total[i];
  }
  for (int i = 0; i < count; i++) part[i] = all(0);
}
INLINE void store_tile(const V *own, int count, long N, long tile, float *out) {
  for (int i = 0; i < count; i++) store(out + i * N + tile, own[i], N - tile);
}

// dread (like read) and dx[N, S, C] = before + read_s du; `before` may be null.
int read_backward(const float *du, const float *before, const float *x, const float *read, long N, long C, long step, int threads,
                  float *dread, float *dx) {
  float *partial = scratch((size_t)threads * S);
  if (!partial) return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long tile = 0; tile < N; tile += LANES) {
    int present = N - tile < LANES ? (int)(N - tile) : LANES;
    float *sum = partial + omp_get_thread_num() * S;
    V part[READ_PARTS] = {{0}}, weights[S], found[S] = {{0}};
    load_tile(read, S, N, tile, step, weights);
    for (int lane = 0; lane < present; lane++) {
      long t = tile + lane, k = 0;
      const float *earlier = before ? before + t * S * C : 0;
      V weight[S];
      for (int s = 0; s < S; s++) weight[s] = spread(weights + s, lane);
      for (; k + LANES <= C; k += LANES) unread_at(du + t * C, earlier, weight, C, k, LANES, dx + t * S * C);
      if (k < C) unread_at(du + t * C, earlier, weight, C, k, C - k, dx + t * S * C);
      dot_streams(x + t * S * C, du + t * C, C, part);
      if (step || lane == present - 1) keep_sums(part, S, lane, step, (float *)found, sum);
    }
    if (step) store_tile(found, S, N, tile, dread);
  }
  if (!step) add_threads(partial, threads, S, dread);
  free(partial);
  return 1;
}

INLINE void write_at(const float *x, const float *f, const V *write, const V *mix, int mixes, long C, long k, long left, float *y) {
  V own[S], added = load(f + k, left);
  for (int s = 0; s < S; s++) own[s] = load(x + s * C + k, left);
  for (int i = 0; i < S; i++) {
    V sum = write[i] * added;
    if (mixes)
      for (int j = 0; j < S; j++) sum += mix[i * S + j] * own[j];
    else sum += own[i];
    store(y + i * C + k, sum, left);
  }
}

// A tile of write_forward. What is constant has to be so outside of the parallel region: compilers make a function of that
// before they inline anything, and with `mixes` unknown the sums would not stay in registers.
INLINE void write_tile(const float *x, const float *f, const float *write, const float *mix, int mixes, long N, long C, long tile,
                       long step, float *y) {
  V weights[S + SS];
  load_tile(write, S, N, tile, step, weights);
  if (mixes) load_tile(mix, SS, N, tile, step, weights + S);
  for (int lane = 0; lane < LANES && tile + lane < N; lane++) {
    long t = tile + lane, k = 0;
    V w[S], h[SS];
    for (int i = 0; i < S; i++) w[i] = spread(weights + i, lane);
    for (int i = 0; mixes && i < SS; i++) h[i] = spread(weights + S + i, lane);
    for (; k + LANES <= C; k += LANES) write_at(x + t * S * C, f + t * C, w, h, mixes, C, k, LANES, y + t * S * C);
    if (k < C) write_at(x + t * S * C, f + t * C, w, h, mixes, C, k, C - k, y + t * S * C);
  }
}

// y_i = sum_j mix_ij x_j + write_i f; mix may be null for the identity
int write_forward(const float *x, const float *f, const float *write, const float *mix, long N, long C, long step, int threads,
                  float *y) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long tile = 0; tile < N; tile += LANES) {
    if (mix) write_tile(x, f, write, mix, 1, N, C, tile, step, y);
    else write_tile(x, f, write, mix, 0, N, C, tile, step, y);
  }
  return 1;
}

INLINE void unwrite_at(const float *dy, const V *write, const V *mix, int mixes, long C, long k, long left, float *df, float *dx) {
  V g[S];
  for (int i = 0; i < S; i++) g[i] = load(dy + i * C + k, left);
  V sum = write[0] * g[0];
  for (int i = 1; i < S; i++) sum += write[i] * g[i];
  store(df + k, sum, left);
  for (int j = 0; mixes && j < S; j++) {
    sum = mix[j] * g[0];
    for (int i = 1; i < S; i++) sum += mix[i * S + j] * g[i];
    store(dx + j * C + k, sum, left);
  }
}

// Rows [from, to) of <dy_i, f> into part[i] and of <dy_i, x_j> into part[S + i S + j].
INLINE void outer_at(const float *dy, const float *x, const float *f, int from, int to, int mixes, long C, long k, long left, V *part) {
  V g[S], added = load(f + k, left);
  for (int i = from; i < to; i++) {
    g[i] = load(dy + i * C + k, left);
    part[i] += g[i] * added;
  }
  for (int j = 0; mixes && j < S; j++) {
    V own = load(x + j * C + k, left);
    for (int i = from; i < to; i++) part[S + i * S + j] += g[i] * own;
  }
}

enum { OUTER_ROWS = S <= 4 ? S : 20 / (S + 1) }; // as many as keep their sums in registers

enum { WRITE_PARTS = (S + SS + LANES - 1) / LANES * LANES };

// A tile of write_backward; sum[count] are the thread's sums if step = 0.
INLINE void write_backward_tile(const float *dy, const float *x, const float *f, const float *write, const float *mix, int mixes,
                                long N, long C, long tile, long step, float *sum, float *df, float *dx, float *dwrite, float *dmix) {
  const int count = mixes ? S + SS : S, present = N - tile < LANES ? (int)(N - tile) : LANES;
  V part[WRITE_PARTS] = {{0}}, weights[S + SS], found[S + SS] = {{0}};
  load_tile(write, S, N, tile, step, weights);
  if (mixes) load_tile(mix, SS, N, tile, step, weights + S);
  for (int lane = 0; lane < present; lane++) {
    long t = tile + lane, k = 0;
    const float *g = dy + t * S * C, *own = x + t * S * C, *added = f + t * C;
    V w[S], h[SS];
    for (int i = 0; i < S; i++) w[i] = spread(weights + i, lane);
    for (int i = 0; mixes && i < SS; i++) h[i] = spread(weights + S + i, lane);
    for (; k + LANES <= C; k += LANES) unwrite_at(g, w, h, mixes, C, k, LANES, df + t * C, dx + t * S * C);
    if (k < C) unwrite_at(g, w, h, mixes, C, k, C - k, df + t * C, dx + t * S * C);
#pragma GCC unroll 8
    for (int from = 0; from < S; from += OUTER_ROWS) {
      int to = from + OUTER_ROWS < S ? from + OUTER_ROWS : S;
      for (k = 0; k + LANES <= C; k += LANES) outer_at(g, own, added, from, to, mixes, C, k, LANES, part);
      if (k < C) outer_at(g, own, added, from, to, mixes, C, k, C - k, part);
    }
    if (step || lane == present - 1) keep_sums(part, count, lane, step, (float *)found, sum);
  }
  if (step) store_tile(found, S, N, tile, dwrite);
  if (step && mixes) store_tile(found + S, SS, N, tile, dmix);
}

// Gradients of write_forward. mix, dx and dmix are null for the identity, whose dx is dy.
int write_backward(const float *dy, const float *x, const float *f, const float *write, const float *mix, long N, long C, long step,
                   int threads, float *df, float *dx, float *dwrite, float *dmix) {
  const int count = mix ? S + SS : S;
  float *partial = scratch((size_t)(threads * count));
  if (!partial) return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long tile = 0; tile < N; tile += LANES) {
    float *sum = partial + omp_get_thread_num() * count;
    if (mix) write_backward_tile(dy, x, f, write, mix, 1, N, C, tile, step, sum, df, dx, dwrite, dmix);
    else write_backward_tile(dy, x, f, write, mix, 0, N, C, tile, step, sum, df, dx, dwrite, dmix);
  }
  if (!step) {
    float total[S + SS];
    add_threads(partial, threads, count, total);
    memcpy(dwrite, total, sizeof(float) * S);
    if (mix) memcpy(dmix, total + S, sizeof(float) * SS);
  }
  free(partial);
  return 1;
}
