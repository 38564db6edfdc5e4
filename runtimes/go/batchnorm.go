// Package bnbundle is batch normalisation in inference from a bundle, on Go's standard library.
//
//	layers, err := bnbundle.Load(data)                            // data: the content of bundle.json
//	err = bnbundle.Apply(layers["encoder/bn_1"], x, shape)        // x: []float32 or []float64, row-major, changed in place
//
// The format is described in docs/format.md of bn-export.
package bnbundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Layer is one layer. The slices have Channels numbers; an absent gamma is all 1, an absent beta all 0.
type Layer struct {
	Path, DType                   string
	Axis, Shape                   []int
	Channels                      int
	Epsilon                       float64
	Gamma, Beta, MovingMean, Root []float64
}

type entry struct {
	Path           *string
	DType          string
	Axis, Shape    []int
	Epsilon        *float64
	Gamma, Beta    json.RawMessage // raw: encoding/json takes a missing key and a null for the same
	MovingMean     json.RawMessage `json:"moving_mean"`
	MovingVariance json.RawMessage `json:"moving_variance"`
}

// Load gives the layers of a bundle by path.
func Load(data []byte) (map[string]Layer, error) {
	var bundle struct {
		Format  string
		Version json.Number
		Layers  []entry
	}
	if err := json.Unmarshal(data, &bundle); err != nil {
		return nil, fmt.Errorf("this is not JSON of a bundle: %w", err)
	}
	if bundle.Format != "bn-bundle" {
		return nil, errors.New("this is not a bundle")
	}
	if bundle.Version != "1" {
		return nil, fmt.Errorf("version %s of the format is not known", bundle.Version)
	}
	layers := map[string]Layer{}
	if bundle.Layers == nil {
		return nil, errors.New("a bundle without layers")
	}
	for i, found := range bundle.Layers {
		layer, err := found.layer()
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

func (e entry) layer() (Layer, error) {
	channels := 1
	for _, size := range e.Shape {
		channels *= size
	}
	if e.Path == nil {
		return Layer{}, errors.New("path is missing")
	}
	if len(e.Axis) != len(e.Shape) || len(e.Shape) == 0 || channels < 1 || e.Epsilon == nil || !(*e.Epsilon >= 0) {
		return Layer{}, errors.New("axis, shape or epsilon is missing or not possible")
	}
	for _, axis := range e.Axis {
		if axis == 0 {
			return Layer{}, errors.New("axis 0 is the batch")
		}
	}
	layer := Layer{Path: *e.Path, DType: e.DType, Axis: e.Axis, Shape: e.Shape, Channels: channels, Epsilon: *e.Epsilon}
	var variance []float64
	for _, part := range []struct {
		to        *[]float64
		from      json.RawMessage
		otherwise float64
	}{{&layer.Gamma, e.Gamma, 1}, {&layer.Beta, e.Beta, 0}, {&layer.MovingMean, e.MovingMean, math.NaN()}, {&variance, e.MovingVariance, math.NaN()}} {
		var err error
		if *part.to, err = numbers(part.from, part.otherwise, channels, e.DType); err != nil {
			return Layer{}, err
		}
	}
	for _, value := range variance {
		if !(value+layer.Epsilon > 0) {
			return Layer{}, errors.New("moving_variance + epsilon is not above 0")
		}
		layer.Root = append(layer.Root, math.Sqrt(value+layer.Epsilon))
	}
	return layer, nil
}

// numbers gives a parameter's numbers; otherwise stands for each of an absent one, NaN: it may not be absent.
func numbers(text json.RawMessage, otherwise float64, channels int, dtype string) ([]float64, error) {
	var found []*float64
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, err
	}
	result := make([]float64, channels)
	if found == nil && !math.IsNaN(otherwise) {
		for i := range result {
			result[i] = otherwise
		}
		return result, nil
	}
	if len(found) != channels {
		return nil, fmt.Errorf("%d numbers where the shape asks for %d", len(found), channels)
	}
	for i, value := range found {
		if value == nil {
			return nil, errors.New("null among the numbers")
		}
		number, known := RoundTo(*value, dtype)
		if !known || math.IsInf(number, 0) {
			return nil, fmt.Errorf("%v is not a number of dtype %q", *value, dtype)
		}
		result[i] = number
	}
	return result, nil
}

// Apply normalises x, the numbers of an input of this shape in row-major order, in place: in float64, rounded once.
func Apply[T float32 | float64](layer Layer, x []T, shape []int) error {
	axes, err := layer.Axes(shape)
	if err != nil {
		return err
	}
	if len(x) != product(shape) {
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
	inner := product(shape[axes[0]+len(axes):])
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
	axes := make([]int, len(l.Axis))
	for d, axis := range l.Axis {
		if axis < 0 {
			axis += len(shape)
		}
		if axis < 0 || axis >= len(shape) || shape[axis] != l.Shape[d] {
			return nil, fmt.Errorf("%s: shape %v does not have %v channels along axis %v", l.Path, shape, l.Shape, l.Axis)
		}
		axes[d] = axis
	}
	return axes, nil
}

// ChannelOf is the channel of number i of an input of this shape.
func (l Layer) ChannelOf(i int, shape, axes []int) int {
	channel := 0
	for _, axis := range axes {
		channel = channel*shape[axis] + i/product(shape[axis+1:])%shape[axis]
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

func product(sizes []int) int {
	result := 1
	for _, size := range sizes {
		result *= size
	}
	return result
}
