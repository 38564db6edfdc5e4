package bnbundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"unicode/utf8"
)

const maxDepth = 200 // arrays and objects inside each other

// Parse is the value of a strict JSON document, as encoding/json has it, numbers as json.Number: UTF-8, no key twice in one object,
// every number finite, at most 200 levels. Unlike Unmarshal into a struct it tells keys apart by case.
func Parse(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("this is not JSON: expected UTF-8")
	}
	var whole json.RawMessage // the grammar of the document; Token alone would take some that break it
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, fmt.Errorf("this is not JSON: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	value, err := parseValue(decoder, 0)
	if err != nil {
		return nil, fmt.Errorf("this is not the JSON of a bundle: %w", err)
	}
	return value, nil
}

func parseValue(decoder *json.Decoder, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch found := token.(type) {
	case json.Number:
		_, err := number(found)
		return found, err
	case json.Delim:
		if depth == maxDepth {
			return nil, fmt.Errorf("expected at most %d levels, got more", maxDepth)
		}
		if found == '[' {
			return parseList(decoder, depth+1)
		}
		return parseObject(decoder, depth+1)
	}
	return token, nil
}

func parseList(decoder *json.Decoder, depth int) (any, error) {
	values := []any{}
	for decoder.More() {
		value, err := parseValue(decoder, depth)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	_, err := decoder.Token()
	return values, err
}

func parseObject(decoder *json.Decoder, depth int) (any, error) {
	values := map[string]any{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name := key.(string)
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("the key %q occurs twice in one object", name)
		}
		if values[name], err = parseValue(decoder, depth); err != nil {
			return nil, err
		}
	}
	_, err := decoder.Token()
	return values, err
}

func number(value any) (float64, error) {
	found, ok := value.(json.Number)
	if !ok {
		return 0, fmt.Errorf("expected a number, got %v", value)
	}
	wide, err := found.Float64()
	if err != nil || math.IsInf(wide, 0) {
		return 0, fmt.Errorf("expected a number that fits a double, got %.40s", string(found))
	}
	return wide, nil
}

func integer(value any) (int, error) {
	wide, err := number(value)
	if err != nil || wide != math.Trunc(wide) || math.Abs(wide) > 1<<31 {
		return 0, fmt.Errorf("expected an integer, got %v", value)
	}
	return int(wide), nil
}

func integers(value any) ([]int, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("expected a list of integers")
	}
	result := make([]int, len(list))
	for i, value := range list {
		var err error
		if result[i], err = integer(value); err != nil {
			return nil, err
		}
	}
	return result, nil
}
