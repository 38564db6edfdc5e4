// Package bnbundle is the runtime under the import path of version 0.1, for programs inside a copy of this folder (see go.work).
package bnbundle

import runtime "github.com/bn-export/bn-export/runtimes/go"

// Layer is one layer.
type Layer = runtime.Layer

// Load gives the layers of a bundle by path.
func Load(data []byte) (map[string]Layer, error) { return runtime.Load(data) }

// Parse is the value of a strict JSON document.
func Parse(data []byte) (any, error) { return runtime.Parse(data) }

// Apply normalizes x, the numbers of an input of this shape in row-major order, in place.
func Apply[T float32 | float64](layer Layer, x []T, shape []int) error {
	return runtime.Apply(layer, x, shape)
}

// RoundTo is the number of dtype nearest to a float64; false for a dtype that is not known.
func RoundTo(value float64, dtype string) (float64, bool) { return runtime.RoundTo(value, dtype) }
