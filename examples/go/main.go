package main

import (
	"fmt"
	"log"
	"os"

	bnbundle "github.com/bn-export/bn-export/runtimes/go"
)

func main() {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	layers, err := bnbundle.Load(data)
	if err != nil {
		log.Fatal(err)
	}
	x := []float32{0.5, -0.25, 1, 2}
	if err := bnbundle.Apply(layers["head_bn"], x, []int{1, 4}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(x[0], x[1], x[2], x[3])
}
