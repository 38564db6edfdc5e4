/* Batch normalization in inference, C99, header only:

       y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta

   Use with a header of layers that bn-export writes (bn-export model.h5 layers.h). Include this file first, then layers.h gives
   bn_layers[bn_layer_count]. Nothing is allocated, nothing is read from a file. Needs <math.h> (sqrt) only. */
#ifndef BATCHNORM_H
#define BATCHNORM_H

#include <float.h>
#include <math.h>
#include <stddef.h>

#define BN_MOST_AXES 8

typedef enum { BN_FLOAT16, BN_BFLOAT16, BN_FLOAT32, BN_FLOAT64 } bn_dtype;

/* One layer. The arrays hold float, or double where dtype is BN_FLOAT64; gamma and beta are null where the layer has none. */
typedef struct {
    const char *path;
    bn_dtype dtype;                        /* what the model stored */
    size_t channels;                       /* length of each array: the product of shape */
    size_t axes;                           /* entries of axis and shape; 1 in nearly all models */
    int axis[BN_MOST_AXES];                /* the axis of the input that each dimension of shape runs along; -1 is the last */
    size_t shape[BN_MOST_AXES];
    double epsilon;
    const void *gamma, *beta, *moving_mean, *moving_variance;
    const void *input, *output;            /* test vectors: rows * channels numbers, or null */
    size_t rows;
    size_t ndim;                           /* rank of the input that the model gives the layer, or 0 where it is not known */
} bn_layer;

/* Number i of one of the layer's arrays, or `otherwise` where the array is null. */
static inline double bn_number(const bn_layer *layer, const void *array, size_t i, double otherwise) {
    if (!array) return otherwise;
    return layer->dtype == BN_FLOAT64 ? ((const double *)array)[i] : (double)((const float *)array)[i];
}

/* The formula for one number of one channel, in double. */
static inline double bn_one(const bn_layer *layer, size_t channel, double x) {
    double gamma = bn_number(layer, layer->gamma, channel, 1.0), beta = bn_number(layer, layer->beta, channel, 0.0);
    double mean = bn_number(layer, layer->moving_mean, channel, 0.0);
    double variance = bn_number(layer, layer->moving_variance, channel, 1.0);
    return gamma * (x - mean) / sqrt(variance + layer->epsilon) + beta;
}

/* The constants of bn_run, 3 * channels floats: scale, moving_mean, beta. Do it once, not for every input. Returns 1, or 0 where a scale leaves
   the range in which float keeps its precision (a gamma of 1e-40, say) or the layer holds doubles: use bn_one for such a layer. */
static inline int bn_prepare(const bn_layer *layer, float *constants) {
    int usable = layer->dtype != BN_FLOAT64;
    for (size_t c = 0; c < layer->channels; c++) {
        double root = sqrt(bn_number(layer, layer->moving_variance, c, 1.0) + layer->epsilon);
        double scale = bn_number(layer, layer->gamma, c, 1.0) / root;
        usable = usable && (scale == 0.0 || (fabs(scale) >= FLT_MIN && fabs(scale) <= FLT_MAX));
        constants[c] = usable ? (float)scale : 0.0f;
        constants[layer->channels + c] = usable ? (float)bn_number(layer, layer->moving_mean, c, 0.0) : 0.0f;
        constants[2 * layer->channels + c] = usable ? (float)bn_number(layer, layer->beta, c, 0.0) : 0.0f;
    }
    return usable;
}

/* The loop, in place and in float: x is outer * channels * inner numbers in row-major order. Channels last: inner is 1. */
static inline void bn_run(const float *restrict constants, size_t outer, size_t channels, size_t inner, float *restrict x) {
    const float *scale = constants, *mean = constants + channels, *beta = constants + 2 * channels;
    for (size_t o = 0; o < outer; o++) {
        if (inner == 1) {
            for (size_t c = 0; c < channels; c++) x[c] = scale[c] * (x[c] - mean[c]) + beta[c];
            x += channels;
            continue;
        }
        for (size_t c = 0; c < channels; c++, x += inner) {
            float a = scale[c], m = mean[c], b = beta[c];
            for (size_t i = 0; i < inner; i++) x[i] = a * (x[i] - m) + b;
        }
    }
}

/* Which axis of an input of this rank dimension d of the parameters runs along; rank where it does not fit. */
static inline size_t bn_axis(const bn_layer *layer, size_t d, size_t rank) {
    int axis = layer->axis[d] < 0 ? layer->axis[d] + (int)rank : layer->axis[d];
    if (layer->axis[d] > 0 && layer->ndim && layer->ndim != rank) return rank; /* 3 of 4 axes is not 3 of 5 */
    return axis < 0 || (size_t)axis >= rank ? rank : (size_t)axis;
}

/* Whether an input of this shape, with so many numbers, fits the layer: ask it of any shape that was not written into the program. */
static inline int bn_fits(const bn_layer *layer, const size_t *shape, size_t rank, size_t count) {
    size_t product = 1;
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] && product > (size_t)-1 / shape[i]) return 0;
        product *= shape[i];
    }
    for (size_t d = 0; d < layer->axes; d++) {
        size_t axis = bn_axis(layer, d, rank);
        if (axis == rank || shape[axis] != layer->shape[d]) return 0;
        for (size_t e = 0; e < d; e++)
            if (bn_axis(layer, e, rank) == axis) return 0;
    }
    return product == count;
}

/* outer and inner of bn_run for an input of this shape. Returns 1, or 0 where the shape does not fit the layer or its axes do not stand
   together in order: use bn_channel then. */
static inline int bn_layout(const bn_layer *layer, const size_t *shape, size_t rank, size_t *outer, size_t *inner) {
    size_t first = bn_axis(layer, 0, rank);
    for (size_t d = 0; d < layer->axes; d++)
        if (first + d >= rank || bn_axis(layer, d, rank) != first + d || shape[first + d] != layer->shape[d]) return 0;
    *outer = *inner = 1;
    for (size_t i = 0; i < first; i++) *outer *= shape[i];
    for (size_t i = first + layer->axes; i < rank; i++) *inner *= shape[i];
    return 1;
}

/* The channel of number i of an input of this shape, which has to fit (bn_fits), whichever its axes. */
static inline size_t bn_channel(const bn_layer *layer, const size_t *shape, size_t rank, size_t i) {
    size_t channel = 0;
    for (size_t d = 0; d < layer->axes; d++) {
        size_t axis = bn_axis(layer, d, rank), after = 1;
        for (size_t a = axis + 1; a < rank; a++) after *= shape[a];
        channel = channel * layer->shape[d] + i / after % shape[axis];
    }
    return channel;
}

#endif
