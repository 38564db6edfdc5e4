/* Runs the vectors of the layers in BN_LAYERS, a header that bn-export wrote, and the cases in BN_CASES if there is one.

       cc -std=c99 -O2 check.c -lm -o check && ./check
       cc -std=c99 -O2 -DBN_LAYERS='"other.h"' check.c -lm -o check && ./check
*/
#include "batchnorm.h"

#ifndef BN_LAYERS
#define BN_LAYERS "layers.h"
#endif
#include BN_LAYERS

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t layer, rank, shape[BN_MOST_AXES], count;
    const void *input, *output;
} bn_case;

#ifdef BN_CASES
#include BN_CASES
#else
enum { bn_case_count = 0, bn_refused_count = 0 };
static const bn_case bn_cases[1] = {{0, 0, {0}, 0, 0, 0}};
static const bn_case bn_refused[1] = {{0, 0, {0}, 0, 0, 0}}; /* inputs that do not fit their layer */
#endif

static const double unit[] = {0x1p-11, 0x1p-8, 0x1p-24, 0x1p-53}; /* unit roundoff and smallest normal number of each bn_dtype */
static const double tiny[] = {0x1p-14, 0x1p-126, 0x1p-126, 0x1p-1022};

static double worst;
static unsigned long numbers, wrong;

static void compare(const bn_layer *layer, size_t channel, double x, double got, double want) {
    double u = unit[layer->dtype], least = tiny[layer->dtype], size = fabs(want) > least ? fabs(want) : least;
    double a = bn_number(layer, layer->gamma, channel, 1.0) /
               sqrt(bn_number(layer, layer->moving_variance, channel, 1.0) + layer->epsilon);
    double beta = bn_number(layer, layer->beta, channel, 0.0), mean = bn_number(layer, layer->moving_mean, channel, 0.0);
    double error = fabs(got - want), bound = 16 * u * (fabs(a * x) + fabs(a * mean) + fabs(beta)) + least;
    int exponent;
    double ulps;
    (void)frexp(size, &exponent);
    ulps = error / ldexp(2 * u, exponent - 1);
    numbers++;
    if (layer->dtype == BN_FLOAT32 && ulps > worst) worst = ulps;
    if (!(error <= bound)) {
        wrong++;
        printf("%s: channel %zu: for %.9g got %.9g, want %.9g\n", layer->path, channel, x, got, want);
    }
}

/* One input: with bn_prepare and bn_run where they can do it, else with bn_one. Returns whether they could. */
static int check(const bn_layer *layer, const size_t *shape, size_t rank, size_t count, const void *input, const void *output) {
    size_t outer, inner;
    float *constants = malloc(sizeof(float) * 3 * layer->channels), *y = malloc(sizeof(float) * count);
    int fast = constants && y && bn_layout(layer, shape, rank, &outer, &inner) && bn_prepare(layer, constants);
    if (fast) {
        memcpy(y, input, sizeof(float) * count);
        bn_run(constants, outer, layer->channels, inner, y);
    }
    for (size_t i = 0; i < count; i++) {
        size_t channel = bn_channel(layer, shape, rank, i);
        double x = bn_number(layer, input, i, 0.0), want = bn_number(layer, output, i, 0.0);
        double got = fast ? (double)y[i] : bn_one(layer, channel, x);
        compare(layer, channel, x, layer->dtype == BN_FLOAT64 ? got : (double)(float)got, want);
    }
    free(constants), free(y);
    return fast;
}

int main(void) {
    const size_t cases = bn_case_count, refused = bn_refused_count;
    unsigned long tests = 0, fast = 0, taken = 0;
    for (size_t i = 0; i < bn_layer_count; i++) {
        bn_layer rows = bn_layers[i]; /* the vectors are rows: as if the parameters ran along all axes but the first */
        size_t shape[BN_MOST_AXES + 1] = {rows.rows};
        rows.ndim = 0;
        for (size_t d = 0; d < rows.axes; d++) rows.axis[d] = (int)d + 1, shape[d + 1] = rows.shape[d];
        if (rows.rows) tests++, fast += check(&rows, shape, rows.axes + 1, rows.rows * rows.channels, rows.input, rows.output);
    }
    for (size_t i = 0; i < cases; i++) {
        const bn_case *test = &bn_cases[i];
        if (!bn_fits(&bn_layers[test->layer], test->shape, test->rank, test->count)) {
            printf("not accepted: case %zu\n", i);
            return 1;
        }
        tests++, fast += check(&bn_layers[test->layer], test->shape, test->rank, test->count, test->input, test->output);
    }
    for (size_t i = 0; i < refused; i++) {
        const bn_case *test = &bn_refused[i];
        if (!bn_fits(&bn_layers[test->layer], test->shape, test->rank, test->count)) continue;
        taken++;
        printf("not refused: an input of %zu numbers for %s\n", test->count, bn_layers[test->layer].path);
    }
    printf("c: %d layers, %lu tests (%lu by bn_run), %lu numbers, %lu wrong, worst %.2f ulp\n", (int)bn_layer_count, tests, fast, numbers,
           wrong, worst);
    return wrong || taken || !numbers;
}
