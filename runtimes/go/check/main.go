// Command check runs the tests in a bundle: `go run ./check bundle.json`. Exit code 1 where a number is off by more than the bound.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"

	bnbundle "github.com/bn-export/bn-export/runtimes/go"
)

type document struct {
	Layers []struct {
		Path    string
		Vectors *struct{ Input, Output [][]float64 }
		Cases   []struct {
			Shape         []int
			Input, Output []float64
		}
	}
	Refuse, Accept []struct{ Why, Text string }
	RefuseInputs   []struct {
		Why, Layer string
		Shape      []int
		Count      int
	} `json:"refuse_inputs"`
}

var tests, numbers, wrong, worst = 0, 0, 0, 0.0

func main() {
	data, err := os.ReadFile(os.Args[1])
	must(err)
	layers, err := bnbundle.Load(data)
	must(err)
	var bundle document
	must(json.Unmarshal(data, &bundle))
	for _, entry := range bundle.Layers {
		layer := layers[entry.Path]
		if entry.Vectors != nil {
			var axis []int
			for d := range layer.Shape {
				axis = append(axis, d+1)
			}
			rows := layer.WithAxis(axis...)
			shape := append([]int{len(entry.Vectors.Input)}, layer.Shape...)
			run(rows, flat(entry.Vectors.Input), flat(entry.Vectors.Output), shape)
		}
		for _, test := range entry.Cases {
			run(layer, test.Input, test.Output, test.Shape)
		}
	}
	faults := faults(bundle, layers)
	fmt.Printf("go: %d layers, %d tests, %d numbers, %d wrong, worst %.2f ulp\n", len(layers), tests, numbers, wrong, worst)
	if wrong > 0 || faults > 0 || numbers == 0 {
		os.Exit(1)
	}
}

// faults counts the documents and inputs that were not refused, or not taken, as they have to be.
func faults(bundle document, layers map[string]bnbundle.Layer) (count int) {
	say := func(wrong bool, what, why string) {
		if wrong {
			count++
			fmt.Println(what, why)
		}
	}
	for _, entry := range bundle.Refuse {
		_, err := bnbundle.Load([]byte(entry.Text))
		say(err == nil, "not refused:", entry.Why)
	}
	for _, entry := range bundle.Accept {
		_, err := bnbundle.Load([]byte(entry.Text))
		say(err != nil, "not accepted:", entry.Why)
	}
	for _, entry := range bundle.RefuseInputs {
		err := bnbundle.Apply(layers[entry.Layer], make([]float32, entry.Count), entry.Shape)
		say(err == nil, "not refused:", entry.Why)
	}
	return
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func flat(rows [][]float64) (values []float64) {
	for _, row := range rows {
		values = append(values, row...)
	}
	return
}

func run(layer bnbundle.Layer, input, output []float64, shape []int) {
	x, want := rounded(input, layer.DType), rounded(output, layer.DType)
	got := append([]float64{}, x...)
	if layer.DType == "float64" {
		must(bnbundle.Apply(layer, got, shape))
	} else {
		narrow := make([]float32, len(x))
		for i, value := range x {
			narrow[i] = float32(value)
		}
		must(bnbundle.Apply(layer, narrow, shape))
		for i, value := range narrow {
			got[i] = float64(value)
		}
	}
	axes, err := layer.Axes(shape)
	must(err)
	for i := range x {
		compare(layer, layer.ChannelOf(i, shape, axes), x[i], got[i], want[i])
	}
	tests++
}

func rounded(values []float64, dtype string) []float64 {
	result := make([]float64, len(values))
	for i, value := range values {
		result[i], _ = bnbundle.RoundTo(value, dtype)
	}
	return result
}

func compare(layer bnbundle.Layer, c int, x, got, want float64) {
	unit := map[string]int{"float16": -11, "bfloat16": -8, "float32": -24, "float64": -53}[layer.DType]
	tiny := math.Ldexp(1, map[string]int{"float16": -14, "bfloat16": -126, "float32": -126, "float64": -1022}[layer.DType])
	a, distance := math.Abs(layer.Gamma[c])/layer.Root[c], math.Abs(got-want)
	size := a*math.Abs(x) + a*math.Abs(layer.MovingMean[c]) + math.Abs(layer.Beta[c])
	numbers++
	if !(distance <= math.Ldexp(size, 4+unit)+tiny) {
		wrong++
	}
	_, exponent := math.Frexp(math.Max(math.Abs(want), tiny))
	if layer.DType == "float32" {
		worst = math.Max(worst, math.Ldexp(distance, -unit-exponent))
	}
}
