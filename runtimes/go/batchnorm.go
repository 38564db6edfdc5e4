// Package bnbundle is batch normalization in inference from a bundle, on Go's standard library.
//
//	layers, err := bnbundle.Load(data)                            // data: the content of bundle.json
//	err = bnbundle.Apply(layers["encoder/bn_1"], x, shape)        // x: []float32 or []float64, row-major, changed in place
//
// The format is described in docs/format.md of bn-export.
package bnbundle

import (
	"errors"
	"fmt"
	"math"
)

const (
	formula = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta"
	maxAxes = 8
	anyRank = 32 // the largest rank that is assumed where the bundle has no ndim
)

// Layer is one layer. The slices have Channels numbers; an absent gamma is all 1, an absent beta all 0.
// For each entry of Shape, Axis has the axis of the input it runs along; NDim is the input's rank with its batch, 0: any.
type Layer struct {
	Path, DType                   string
	Axis, Shape                   []int
	NDim, Channels                int
	Epsilon                       float64
	Gamma, Beta, MovingMean, Root []float64
}

// Load gives the layers of a bundle by path.
func Load(data []byte) (map[string]Layer, error) {
	value, err := Parse(data)
	if err != nil {
		return nil, err
	}
	bundle, ok := value.(map[string]any)
	if !ok || bundle["format"] != "bn-bundle" {
		return nil, errors.New(`this is not a bundle: expected "format": "bn-bundle"`)
	}
	if version, err := integer(bundle["version"]); err != nil || version != 1 {
		return nil, fmt.Errorf("expected version 1 of the format, got %v", bundle["version"])
	}
	if bundle["formula"] != formula {
		return nil, errors.New("expected the formula " + formula)
	}
	_, producer := bundle["producer"].(map[string]any)
	_, source := bundle["source"].(map[string]any)
	_, digest := bundle["digest"].(string)
	entries, list := bundle["layers"].([]any)
	if !producer || !source || !digest || !list {
		return nil, errors.New("producer, source, digest or layers is missing or of another type")
	}
	layers := map[string]Layer{}
	for i, entry := range entries {
		layer, err := newLayer(entry)
		if err != nil {
			return nil, fmt.Errorf("layers[%d]: %w", i, err)
		}
		if _, twice := layers[layer.Path]; twice {
			return nil, fmt.Errorf("%s: this path occurs twice", layer.Path)
		}
		layers[layer.Path] = layer
	}
	return layers, nil
}

func newLayer(value any) (layer Layer, err error) {
	entry, ok := value.(map[string]any)
	if !ok {
		return layer, fmt.Errorf("expected an object, got %T", value)
	}
	for _, key := range []string{"path", "name", "class_name", "dtype"} {
		if _, ok := entry[key].(string); !ok {
			return layer, fmt.Errorf("%s: expected a string", key)
		}
	}
	layer.Path, layer.DType = entry["path"].(string), entry["dtype"].(string)
	if momentum, there := entry["momentum"]; !there || momentum != nil {
		if _, err := number(momentum); err != nil {
			return layer, fmt.Errorf("momentum: %w", err)
		}
	}
	if layer.Epsilon, err = number(entry["epsilon"]); err != nil || layer.Epsilon < 0 || layer.Epsilon > math.MaxFloat32 {
		return layer, fmt.Errorf("epsilon: expected a number of 0 or more that fits float32, got %v", entry["epsilon"])
	}
	if err := layer.readGeometry(entry); err != nil {
		return layer, err
	}
	var variance []float64
	for _, part := range []struct {
		to        *[]float64
		key       string
		otherwise float64 // for each number of an absent parameter; NaN: it may not be absent
	}{{&layer.MovingMean, "moving_mean", math.NaN()}, {&variance, "moving_variance", math.NaN()}, {&layer.Gamma, "gamma", 1}, {&layer.Beta, "beta", 0}} {
		values, there := entry[part.key]
		if there && values == nil && !math.IsNaN(part.otherwise) {
			*part.to = repeated(part.otherwise, layer.Channels)
		} else if *part.to, err = layer.numbers(values); err != nil {
			return layer, fmt.Errorf("%s: %w", part.key, err)
		}
	}
	for _, value := range variance {
		if !(value+layer.Epsilon > 0) {
			return layer, errors.New("expected moving_variance + epsilon above 0 in each channel")
		}
		layer.Root = append(layer.Root, math.Sqrt(value+layer.Epsilon))
	}
	if vectors, there := entry["vectors"]; there {
		return layer, layer.checkVectors(vectors)
	}
	return layer, nil
}

// readGeometry reads axis, shape and ndim. Channels is the length of a list in the file before anything of this size is made.
func (l *Layer) readGeometry(entry map[string]any) (err error) {
	if l.Axis, err = integers(entry["axis"]); err != nil {
		return fmt.Errorf("axis: %w", err)
	}
	if l.Shape, err = integers(entry["shape"]); err != nil {
		return fmt.Errorf("shape: %w", err)
	}
	rank, there := entry["ndim"]
	if !there || rank != nil {
		if l.NDim, err = integer(rank); err != nil || l.NDim < 1 {
			return fmt.Errorf("ndim: expected a rank or null, got %v", rank)
		}
	}
	if len(l.Axis) != len(l.Shape) || len(l.Axis) < 1 || len(l.Axis) > maxAxes {
		return errors.New("axis and shape: expected two lists of one length")
	}
	limit, seen := l.NDim, map[int]bool{}
	if limit == 0 {
		limit = anyRank
	}
	for _, axis := range l.Axis {
		if axis == 0 || axis >= limit || axis <= -limit {
			return fmt.Errorf("axis %d does not fit an input of rank %d; axis 0 is the batch", axis, limit)
		}
		if l.NDim > 0 && axis < 0 {
			axis += l.NDim
		}
		if seen[axis] {
			return fmt.Errorf("axis %v names one axis twice", l.Axis)
		}
		seen[axis] = true
	}
	given, _ := entry["moving_mean"].([]any)
	l.Channels = 1
	for _, size := range l.Shape {
		if size < 1 || size > len(given)/l.Channels {
			return fmt.Errorf("shape %v does not fit the %d numbers of moving_mean", l.Shape, len(given))
		}
		l.Channels *= size
	}
	return nil
}

func (l *Layer) numbers(value any) ([]float64, error) {
	found, ok := value.([]any)
	if !ok || len(found) != l.Channels {
		return nil, fmt.Errorf("expected a list of %d numbers", l.Channels)
	}
	result := make([]float64, l.Channels)
	for i, value := range found {
		wide, err := number(value)
		if err != nil {
			return nil, err
		}
		narrow, known := RoundTo(wide, l.DType)
		if !known || math.IsInf(narrow, 0) {
			return nil, fmt.Errorf("%v is not a number of dtype %q", value, l.DType)
		}
		result[i] = narrow
	}
	return result, nil
}

func (l *Layer) checkVectors(value any) error {
	vectors, _ := value.(map[string]any)
	input, _ := vectors["input"].([]any)
	output, _ := vectors["output"].([]any)
	if len(input) != len(output) || len(input) == 0 {
		return fmt.Errorf("vectors: expected as many rows of output as of input, got %d and %d", len(output), len(input))
	}
	for _, rows := range [][]any{input, output} {
		for _, row := range rows {
			if _, err := l.numbers(row); err != nil {
				return fmt.Errorf("vectors: %w", err)
			}
		}
	}
	return nil
}

// WithAxis is a copy of the layer for inputs with the channels along other axes, of any rank.
func (l Layer) WithAxis(axis ...int) Layer {
	l.Axis, l.NDim = axis, 0
	return l
}

// Apply normalizes x, the numbers of an input of this shape in row-major order, in place: in float64, rounded once.
func Apply[T float32 | float64](layer Layer, x []T, shape []int) error {
	axes, err := layer.Axes(shape)
	if err != nil {
		return err
	}
	if count, err := product(shape); err != nil || len(x) != count {
		return fmt.Errorf("%s: %d numbers are not of shape %v", layer.Path, len(x), shape)
	}
	for d, axis := range axes {
		if axis == axes[0]+d {
			continue
		}
		for i := range x { // axes that do not stand together in order, as in axis=[1, 3]
			x[i] = T(layer.One(layer.ChannelOf(i, shape, axes), float64(x[i])))
		}
		return nil
	}
	inner := 1
	for _, size := range shape[axes[0]+len(axes):] {
		inner *= size
	}
	for at := 0; at < len(x); {
		for c := 0; c < layer.Channels; c++ {
			for end := at + inner; at < end; at++ {
				x[at] = T(layer.One(c, float64(x[at])))
			}
		}
	}
	return nil
}

// One is the formula for one number of one channel. The conversions keep the compiler from fusing the product and the sum.
func (l Layer) One(c int, x float64) float64 {
	return float64(float64(l.Gamma[c]*(x-l.MovingMean[c]))/l.Root[c]) + l.Beta[c]
}

// Axes are the axes of an input of this shape that the parameters run along, counted from 0.
func (l Layer) Axes(shape []int) ([]int, error) {
	axes, seen := make([]int, len(l.Axis)), map[int]bool{}
	for d, axis := range l.Axis {
		if axis > 0 && l.NDim > 0 && len(shape) != l.NDim {
			return nil, fmt.Errorf("%s: axis %v is that of an input of rank %d, got the shape %v; use WithAxis with the axis of its channels, e.g. -1",
				l.Path, l.Axis, l.NDim, shape)
		}
		if axis < 0 {
			axis += len(shape)
		}
		if axis < 0 || axis >= len(shape) || shape[axis] != l.Shape[d] || seen[axis] {
			return nil, fmt.Errorf("%s: expected %v channels along axis %v, got an input of shape %v", l.Path, l.Shape, l.Axis, shape)
		}
		axes[d], seen[axis] = axis, true
	}
	return axes, nil
}

// ChannelOf is the channel of number i of an input of this shape.
func (l Layer) ChannelOf(i int, shape, axes []int) int {
	channel := 0
	for _, axis := range axes {
		after := 1
		for _, size := range shape[axis+1:] {
			after *= size
		}
		channel = channel*shape[axis] + i/after%shape[axis]
	}
	return channel
}

// RoundTo is the number of dtype nearest to a float64, half to even, infinite where it overflows; false for a dtype that is not known.
func RoundTo(value float64, dtype string) (float64, bool) {
	switch dtype {
	case "float64":
		return value, true
	case "float32":
		return float64(float32(value)), true
	case "float16":
		return roundToBits(value, 11, -24, 65504), true
	case "bfloat16":
		return roundToBits(value, 8, -133, math.Ldexp(2-math.Ldexp(1, -7), 127)), true
	}
	return 0, false
}

func roundToBits(value float64, bits, lowest int, largest float64) float64 {
	_, exponent := math.Frexp(value)
	quantum := exponent - bits
	if quantum < lowest {
		quantum = lowest
	}
	result := math.Ldexp(math.RoundToEven(math.Ldexp(value, -quantum)), quantum)
	if math.Abs(result) > largest {
		return math.Inf(int(math.Copysign(1, value)))
	}
	return result
}

func repeated(value float64, count int) []float64 {
	result := make([]float64, count)
	for i := range result {
		result[i] = value
	}
	return result
}

// product is the count of numbers of a shape; an error for a negative size or where it overflows.
func product(sizes []int) (int, error) {
	result := 1
	for _, size := range sizes {
		if size < 0 || (size > 0 && result > math.MaxInt/size) {
			return 0, fmt.Errorf("the shape %v is not possible", sizes)
		}
		result *= size
	}
	return result, nil
}
