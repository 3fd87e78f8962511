// Coefficients of a dynamic connection from its streams: RMS norm, projection, gates (arXiv:2512.24880 eq. 7-8, 14-16).
#include "lanes.h"

enum { BLOCK = 4, COLUMNS = 4, CHUNK = BLOCK * LANES, TOKENS = LANES / COLUMNS };
// Projections work on TOKENS x COLUMNS sums at once (they fill one vector in the end) and on chunks of BLOCK vectors.

// Where everything of a dynamic connection lies; mirrored by native._Spec.
typedef struct {
  long N, C, P;              // tokens, channels, coefficients: read S, write S, logits of the mixing P - 2S
  int read, write;           // 0 linear, 1 sigmoid, 2 twice the sigmoid
  float read_eps, write_eps; // added to the gates
  float norm_eps;
  int scales;   // learned scales: 3, or 2 if that of the logits is `alpha`
  float alpha;
  int threads;
} Spec;

// weight [P, K] with every stream cut into chunks: [S][chunks][P rounded up][CHUNK], zeros where there is nothing
static long padded(long count, long unit) { return (count + unit - 1) / unit * unit; }
static void pack(const float *weight, const Spec *spec, float *packed) {
  long C = spec->C, P = padded(spec->P, COLUMNS), chunks = padded(C, CHUNK) / CHUNK;
  for (long s = 0; s < S; s++)
    for (long chunk = 0; chunk < chunks; chunk++)
      for (long p = 0; p < spec->P; p++) {
        long k = chunk * CHUNK, size = C - k < CHUNK ? C - k : CHUNK;
        memcpy(packed + ((s * chunks + chunk) * P + p) * CHUNK, weight + (p * S + s) * C + k, sizeof(float) * size);
      }
}
static void unpack(const float *packed, const Spec *spec, float *weight) {
  long C = spec->C, P = padded(spec->P, COLUMNS), chunks = padded(C, CHUNK) / CHUNK;
  for (long s = 0; s < S; s++)
    for (long chunk = 0; chunk < chunks; chunk++)
      for (long p = 0; p < spec->P; p++) {
        long k = chunk * CHUNK, size = C - k < CHUNK ? C - k : CHUNK;
        memcpy(weight + (p * S + s) * C + k, packed + ((s * chunks + chunk) * P + p) * CHUNK, sizeof(float) * size);
      }
}

INLINE void square_at(const float *x, long left, V *sum) {
  for (int b = 0; b < BLOCK; b++)
    if (left > b * LANES) {
      V value = load(x + b * LANES, left - b * LANES);
      *sum += value * value;
    }
}
INLINE void project_at(const float *const *x, const float *packed, long k, long left, V *part) {
  for (int b = 0; b < BLOCK; b++) {
    if (left <= b * LANES) break;
    V value[TOKENS];
    for (int t = 0; t < TOKENS; t++) value[t] = load(x[t] + k + b * LANES, left - b * LANES);
    for (int c = 0; c < COLUMNS; c++) {
      V weight = *(const V *)(packed + c * CHUNK + b * LANES);
      for (int t = 0; t < TOKENS; t++) part[t * COLUMNS + c] += value[t] * weight;
    }
  }
}

// raw[P rounded up][LANES] = weight x and squares[LANES] = |x|^2 for the tokens of one tile; absent tokens repeat the last.
static void project(const float *x, long present, const float *packed, const Spec *spec, float *raw, float *squares) {
  long C = spec->C, P = padded(spec->P, COLUMNS);
  V square[LANES];
  for (int t = 0; t < LANES; t++) {
    const float *own = x + (t < present ? t : present - 1) * S * C;
    square[t] = all(0);
    long k = 0;
    for (; k + CHUNK <= S * C; k += CHUNK) square_at(own + k, CHUNK, square + t);
    if (k < S * C) square_at(own + k, S * C - k, square + t);
  }
  *(Unaligned *)squares = sums(square);
  for (int first = 0; first < LANES; first += TOKENS) {
    const float *own[TOKENS];
    for (int t = 0; t < TOKENS; t++) own[t] = x + (first + t < present ? first + t : present - 1) * S * C;
    for (long p = 0; p < P; p += COLUMNS) {
      V part[LANES];
      for (int i = 0; i < LANES; i++) part[i] = all(0);
      const float *block = packed + p * CHUNK;
      for (long s = 0; s < S; s++) {
        long k = 0;
        for (; k + CHUNK <= C; k += CHUNK, block += P * CHUNK) project_at(own, block, s * C + k, CHUNK, part);
        if (k < C) {
          project_at(own, block, s * C + k, C - k, part);
          block += P * CHUNK;
        }
      }
      V total = sums(part);
      for (int t = 0; t < TOKENS; t++)
        for (int c = 0; c < COLUMNS; c++) raw[(p + c) * LANES + first + t] = total[t * COLUMNS + c];
    }
  }
}

INLINE V gate(V z, int activation, float eps) {
  if (activation) z = (activation == 2 ? 2.f : 1.f) / (exponential(-z) + 1.f);
  return z + eps;
}
INLINE V gate_slope(V value, int activation, float eps) { // d gate / d z from the gate's value
  if (!activation) return all(1.f);
  value -= eps;
  return value * (1.f - value * (activation == 2 ? .5f : 1.f));
}
INLINE float scale_of(const Spec *spec, const float *scale, long p) {
  int part = p < S ? 0 : p < 2 * S ? 1 : 2;
  return part < spec->scales ? scale[part] : spec->alpha;
}

// read, write [S, N] and logits [P - 2S, N] from x; u[N, C] = sum_s read_s x_s unless null. For the backward pass:
// normed[P, N], the projection of the normalised x, and inverse[N], 1 / its root mean square.
int predict_forward(const Spec *spec, const float *x, const float *weight, const float *scale, const float *bias, float *u,
                    float *read, float *write, float *logits, float *normed, float *inverse) {
  long N = spec->N, C = spec->C, P = spec->P, chunks = padded(C, CHUNK) / CHUNK;
  float *packed = scratch((size_t)(S * chunks * padded(P, COLUMNS) * CHUNK));
  if (!packed) return 0;
  pack(weight, spec, packed);
  int short_of_memory = 0;
#pragma omp parallel num_threads(spec->threads) reduction(| : short_of_memory)
  {
    float *raw = scratch((size_t)(padded(P, COLUMNS) + 1) * LANES);
    short_of_memory = !raw;
#pragma omp for schedule(static)
    for (long tile = 0; tile < N; tile += LANES) {
      if (!raw) continue;
      long present = N - tile < LANES ? N - tile : LANES;
      float *squares = raw + padded(P, COLUMNS) * LANES;
      project(x + tile * S * C, present, packed, spec, raw, squares);
      for (int t = 0; t < LANES; t++) squares[t] = 1.f / sqrtf(squares[t] / (S * C) + spec->norm_eps);
      V factor = *(V *)squares;
      store(inverse + tile, factor, present);
      for (long p = 0; p < P; p++) {
        V value = *(V *)(raw + p * LANES) * factor;
        store(normed + p * N + tile, value, present);
        V z = value * scale_of(spec, scale, p) + bias[p];
        if (p < S) store(read + p * N + tile, gate(z, spec->read, spec->read_eps), present);
        else if (p < 2 * S) store(write + (p - S) * N + tile, gate(z, spec->write, spec->write_eps), present);
        else store(logits + (p - 2 * S) * N + tile, z, present);
      }
      V weights[S];
      load_tile(read, S, N, tile, 1, weights);
      for (int t = 0; u && t < present; t++) read_token(x + (tile + t) * S * C, weights, t, C, u + (tile + t) * C);
    }
    free(raw);
  }
  free(packed);
  return !short_of_memory;
}

// Adds sum_p g_p weight_p + centre x + read du + before into dx for TOKENS tokens and one chunk.
INLINE void input_gradient_at(const float *const *x, const float *const *du, const float *const *before, const float *g,
                              const float *centre, const V *read, int first, int s, long C, long k, long left, long P,
                              const float *packed, float *const *dx) {
  V part[TOKENS][BLOCK];
  for (int t = 0; t < TOKENS; t++)
    for (int b = 0; b < BLOCK; b++) {
      if (left <= b * LANES) continue;
      long at = k + b * LANES, rest = left - b * LANES;
      part[t][b] = load(x[t] + s * C + at, rest) * centre[first + t];
      if (before[t]) part[t][b] += load(before[t] + s * C + at, rest);
      if (du[t]) part[t][b] += load(du[t] + at, rest) * spread(read + s, first + t);
    }
  for (long p = 0; p < P; p++) {
    V weight[BLOCK];
    for (int b = 0; b < BLOCK; b++) weight[b] = *(const V *)(packed + p * CHUNK + b * LANES);
    for (int t = 0; t < TOKENS; t++)
      for (int b = 0; b < BLOCK; b++) part[t][b] += weight[b] * g[p * LANES + first + t];
  }
  for (int t = 0; t < TOKENS; t++)
    for (int b = 0; b < BLOCK; b++)
      if (left > b * LANES) store(dx[t] + s * C + k + b * LANES, part[t][b], left - b * LANES);
}

// Adds sum_t g_p[t] x_t over the tile's tokens to COLUMNS rows of one chunk.
INLINE void weight_gradient_at(const float *x, long present, const float *g, long K, long left, float *packed) {
  V part[COLUMNS][BLOCK];
  for (int c = 0; c < COLUMNS; c++)
    for (int b = 0; b < BLOCK; b++) part[c][b] = all(0);
  for (long t = 0; t < present; t++)
    for (int b = 0; b < BLOCK; b++) {
      if (left <= b * LANES) break;
      V value = load(x + t * K + b * LANES, left - b * LANES);
      for (int c = 0; c < COLUMNS; c++) part[c][b] += value * g[c * LANES + t];
    }
  for (int c = 0; c < COLUMNS; c++)
    for (int b = 0; b < BLOCK; b++) *(V *)(packed + c * CHUNK + b * LANES) += part[c][b];
}

typedef struct {
  const float *x, *scale, *read, *write, *normed, *inverse, *du, *dread, *dwrite, *dlogits, *before;
} Saved;

// g[P rounded up][LANES]: the gradient of the projection before the norm; centre[LANES]: what the norm adds per x. Adds to
// dscale[3] and dbias[P], lane by lane.
static void coefficient_gradient(const Spec *spec, const Saved *in, long tile, long present, float *g, float *centre, V *dscale,
                                 V *dbias) {
  long N = spec->N, C = spec->C, P = spec->P, K = S * C;
  V factor = load(in->inverse + tile, present), along = all(0), dread[S];
  for (int s = 0; s < S; s++) dread[s] = load_or_zero(in->dread, s * N + tile, present);
  for (long t = 0; in->du && t < present; t++) {
    V part[READ_PARTS] = {{0}};
    float total[S];
    dot_streams(in->x + (tile + t) * K, in->du + (tile + t) * C, C, part);
    store_sums(part, S, total, 1);
    for (int s = 0; s < S; s++) dread[s][t] += total[s];
  }
  for (long p = 0; p < P; p++) {
    V dz, value = load(in->normed + p * N + tile, present);
    if (p < S) dz = dread[p] * gate_slope(load(in->read + p * N + tile, present), spec->read, spec->read_eps);
    else if (p < 2 * S) {
      long q = (p - S) * N + tile;
      dz = load_or_zero(in->dwrite, q, present) * gate_slope(load(in->write + q, present), spec->write, spec->write_eps);
    } else dz = load_or_zero(in->dlogits, (p - 2 * S) * N + tile, present);
    dbias[p] += dz;
    dscale[p < S ? 0 : p < 2 * S ? 1 : 2] += dz * value;
    V own = dz * scale_of(spec, in->scale, p);
    along += own * value;
    *(V *)(g + p * LANES) = own * factor;
  }
  *(V *)centre = -along * factor * factor / (float)K;
  for (long t = present; t < LANES; t++) { // what works on several tokens at once repeats the last one
    centre[t] = centre[present - 1];
    for (long p = 0; p < P; p++) g[p * LANES + t] = g[p * LANES + present - 1];
  }
}

static float lane_sum(const float *vector) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += vector[i];
  return sum;
}

// Gradients of predict_forward. du, dread, dwrite, dlogits and `before` (a gradient of x from elsewhere, which is added) may
// be null.
int predict_backward(const Spec *spec, const float *x, const float *weight, const float *scale, const float *read,
                     const float *write, const float *normed, const float *inverse, const float *du, const float *dread,
                     const float *dwrite, const float *dlogits, const float *before, float *dx, float *dweight, float *dscale,
                     float *dbias) {
  const Saved in = {x, scale, read, write, normed, inverse, du, dread, dwrite, dlogits, before};
  long N = spec->N, C = spec->C, P = padded(spec->P, COLUMNS), K = S * C, chunks = padded(C, CHUNK) / CHUNK;
  long weights = S * chunks * P * CHUNK, own_size = weights + (P + 3) * LANES, tile_size = (P + 1) * LANES;
  float *packed = scratch((size_t)weights), *partial = scratch((size_t)(spec->threads * (own_size + tile_size)));
  if (!packed || !partial) return free(packed), free(partial), 0;
  pack(weight, spec, packed);
#pragma omp parallel num_threads(spec->threads)
  {
    float *own = partial + omp_get_thread_num() * own_size;
    float *g = partial + spec->threads * own_size + omp_get_thread_num() * tile_size, *centre = g + P * LANES;
    V *own_scale = (V *)(own + weights), *own_bias = own_scale + 3;
#pragma omp for schedule(static)
    for (long tile = 0; tile < N; tile += LANES) {
      long present = N - tile < LANES ? N - tile : LANES;
      V weights_read[S];
      load_tile(read, S, N, tile, 1, weights_read);
      for (long t = present; t < LANES; t++) // as in coefficient_gradient
        for (int s = 0; s < S; s++) weights_read[s][t] = weights_read[s][present - 1];
      coefficient_gradient(spec, &in, tile, present, g, centre, own_scale, own_bias);
      for (int first = 0; first < present; first += TOKENS) {
        const float *own_x[TOKENS], *own_du[TOKENS], *own_before[TOKENS];
        float *own_dx[TOKENS];
        for (int i = 0; i < TOKENS; i++) { // absent tokens repeat the last one, and write the same
          long t = tile + (first + i < present ? first + i : present - 1);
          own_x[i] = x + t * K, own_du[i] = du ? du + t * C : 0, own_before[i] = before ? before + t * K : 0;
          own_dx[i] = dx + t * K;
        }
        const float *block = packed;
        for (int s = 0; s < S; s++) {
          long k = 0;
          for (; k + CHUNK <= C; k += CHUNK, block += P * CHUNK)
            input_gradient_at(own_x, own_du, own_before, g, centre, weights_read, first, s, C, k, CHUNK, spec->P, block, own_dx);
          if (k < C) {
            input_gradient_at(own_x, own_du, own_before, g, centre, weights_read, first, s, C, k, C - k, spec->P, block, own_dx);
            block += P * CHUNK;
          }
        }
      }
      float *block = own;
      for (int s = 0; s < S; s++)
        for (long k = 0; k < C; k += CHUNK, block += P * CHUNK)
          for (long p = 0; p < P; p += COLUMNS) {
            const float *from = x + tile * K + s * C + k;
            if (k + CHUNK <= C) weight_gradient_at(from, present, g + p * LANES, K, CHUNK, block + p * CHUNK);
            else weight_gradient_at(from, present, g + p * LANES, K, C - k, block + p * CHUNK);
          }
    }
  }
  for (int thread = 1; thread < spec->threads; thread++)
    for (long i = 0; i < own_size; i++) partial[i] += partial[thread * own_size + i];
  unpack(partial, spec, dweight);
  for (int i = 0; i < spec->scales; i++) dscale[i] = lane_sum(partial + weights + i * LANES);
  for (long p = 0; p < spec->P; p++) dbias[p] = lane_sum(partial + weights + (3 + p) * LANES);
  free(packed), free(partial);
  return 1;
}
