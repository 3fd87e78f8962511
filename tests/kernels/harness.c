// Every kernel on one odd shape, with buffers of exactly the sizes it may touch: for -fsanitize=address,undefined. Arguments:
// tokens, channels, threads. Prints a checksum, so that nothing is optimised away.
#include <stdio.h>
#include <stdlib.h>

enum { S = STREAMS, SS = S * S };
typedef struct {
  long N, C, P;
  int read, write;
  float read_eps, write_eps, norm_eps;
  int scales;
  float alpha;
  int threads;
} Spec;
typedef struct {
  long N;
  int start, iterations, rows_first, transposed, applied_transposed;
  float eps;
  int threads;
} Scaling;
int read_forward(const float *, const float *, long, long, long, int, float *);
int read_backward(const float *, const float *, const float *, const float *, long, long, long, int, float *, float *);
int write_forward(const float *, const float *, const float *, const float *, long, long, long, int, float *);
int write_backward(const float *, const float *, const float *, const float *, const float *, long, long, long, int, float *, float *,
                   float *, float *);
int predict_forward(const Spec *, const float *, const float *, const float *, const float *, float *, float *, float *, float *,
                    float *, float *);
int predict_backward(const Spec *, const float *, const float *, const float *, const float *, const float *, const float *,
                     const float *, const float *, const float *, const float *, const float *, const float *, float *, float *,
                     float *, float *);
int sinkhorn_forward(const Scaling *, const float *, float *);
int sinkhorn_backward(const Scaling *, const float *, const float *, float *);

static float *numbers(long count) {
  float *made = malloc(sizeof(float) * (count ? count : 1));
  for (long i = 0; i < count; i++) made[i] = (float)rand() / RAND_MAX - .5f;
  return made;
}
static double sum;
static void done(float *buffer, long count) {
  for (long i = 0; i < count; i++) sum += buffer[i];
  free(buffer);
}

int main(int count, char **argument) {
  if (count != 4) return 2;
  long N = atol(argument[1]), C = atol(argument[2]), X = N * S * C;
  int threads = atoi(argument[3]), fine = 1;
  for (long step = 0; step < 2; step++) {
    long rows = step ? N : 1;
    float *x = numbers(X), *read = numbers(S * rows), *u = numbers(N * C), *dread = numbers(S * rows), *dx = numbers(X), *before = numbers(X);
    fine &= read_forward(x, read, N, C, step, threads, u) & read_backward(u, before, x, read, N, C, step, threads, dread, dx);
    fine &= read_backward(u, 0, x, read, N, C, step, threads, dread, dx);
    float *write = numbers(S * rows), *mix = numbers(SS * rows), *y = numbers(X), *df = numbers(N * C), *dwrite = numbers(S * rows),
          *dmix = numbers(SS * rows);
    fine &= write_forward(x, u, write, mix, N, C, step, threads, y) & write_forward(x, u, write, 0, N, C, step, threads, y);
    fine &= write_backward(y, x, u, write, mix, N, C, step, threads, df, dx, dwrite, dmix);
    fine &= write_backward(y, x, u, write, 0, N, C, step, threads, df, 0, dwrite, 0);
    done(x, X), done(read, S * rows), done(u, N * C), done(dread, S * rows), done(dx, X), done(before, X), done(write, S * rows);
    done(mix, SS * rows), done(y, X), done(df, N * C), done(dwrite, S * rows), done(dmix, SS * rows);
  }
  for (int logits = 0; logits <= SS; logits += SS) {
    long P = 2 * S + logits;
    Spec spec = {N, C, P, 1, 2, 0, 1e-6f, 1e-6f, logits ? 3 : 2, .01f, threads};
    float *x = numbers(X), *weight = numbers(P * S * C), *scale = numbers(spec.scales), *bias = numbers(P), *u = numbers(N * C),
          *read = numbers(S * N), *write = numbers(S * N), *z = numbers(logits * N), *normed = numbers(P * N), *inverse = numbers(N);
    float *dx = numbers(X), *dweight = numbers(P * S * C), *dscale = numbers(spec.scales), *dbias = numbers(P), *before = numbers(X);
    for (int whole = 0; whole < 2; whole++) {
      fine &= predict_forward(&spec, x, weight, scale, bias, whole ? u : 0, read, write, z, normed, inverse);
      fine &= predict_backward(&spec, x, weight, scale, read, write, normed, inverse, whole ? u : 0, whole ? read : 0, whole ? write : 0,
                               whole ? z : 0, whole ? before : 0, dx, dweight, dscale, dbias);
    }
    done(x, X), done(weight, P * S * C), done(scale, spec.scales), done(bias, P), done(u, N * C), done(read, S * N), done(write, S * N);
    done(z, logits * N), done(normed, P * N), done(inverse, N), done(dx, X), done(dweight, P * S * C), done(dscale, spec.scales);
    done(dbias, P), done(before, X);
  }
  for (int start = 0; start < 3; start++)
    for (int transposed = 0; transposed < 2; transposed++) {
      Scaling scaling = {N, start, start, start > 0, transposed, 1, start ? 1e-6f : 0, threads};
      float *z = numbers(SS * N), *mix = numbers(SS * N), *dz = numbers(SS * N);
      fine &= sinkhorn_forward(&scaling, z, mix) & sinkhorn_backward(&scaling, z, mix, dz);
      done(z, SS * N), done(mix, SS * N), done(dz, SS * N);
    }
  printf("%g\n", sum);
  return !fine;
}
