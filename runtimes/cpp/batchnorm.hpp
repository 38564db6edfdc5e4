// Batch normalisation in inference from a bundle, C++17, header only, on nlohmann/json (https://github.com/nlohmann/json).
//
//     auto layers = bn::load(text);                            // text: the content of bundle.json
//     layers.at("encoder/bn_1").apply(x, {1, 28, 28, 64});     // x: float* or double*, row-major, changed in place
//
// The format is described in docs/format.md of bn-export.
#ifndef BATCHNORM_HPP
#define BATCHNORM_HPP

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace bn {

// A bundle that breaks the format.
struct bundle_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using sizes = std::vector<std::size_t>;

// The number of a dtype with so many bits of significand and such a smallest exponent that is nearest to a double, half to even.
inline double round_to_bits(double value, int bits, int lowest, double largest) {
    if (value == 0 || !std::isfinite(value)) return value;
    int exponent;
    std::frexp(value, &exponent);
    const int quantum = std::max(exponent - bits, lowest);
    const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -quantum)), quantum);
    return std::fabs(rounded) <= largest ? rounded : std::copysign(std::numeric_limits<double>::infinity(), value);
}

inline double round_to(double value, const std::string& dtype) {
    if (dtype == "float16") return round_to_bits(value, 11, -24, 65504.0);
    if (dtype == "bfloat16") return round_to_bits(value, 8, -133, std::ldexp(2 - std::ldexp(1.0, -7), 127));
    if (dtype == "float32") return round_to_bits(value, 24, -149, std::numeric_limits<float>::max());
    return value;
}

// One layer. The vectors have `channels` numbers; an absent gamma is all 1, an absent beta all 0.
struct layer {
    std::string path, dtype;
    std::vector<int> axis;
    sizes shape;
    std::size_t channels = 1;
    double epsilon = 0;
    std::vector<double> gamma, beta, moving_mean, moving_variance, root;

    explicit layer(const nlohmann::json& entry)
        : path(entry.at("path").get<std::string>()), dtype(entry.at("dtype").get<std::string>()),
          axis(entry.at("axis").get<std::vector<int>>()), shape(entry.at("shape").get<sizes>()) {
        for (const char* key : {"axis", "shape"})
            for (const auto& size : entry.at(key))
                if (!size.is_number_integer()) fail(std::string(key) + " holds something that is not an integer");
        for (std::size_t size : shape) channels *= size;
        if (!entry.at("epsilon").is_number()) fail("epsilon is not a number");
        epsilon = entry.at("epsilon").get<double>();
        if (dtype != "float16" && dtype != "bfloat16" && dtype != "float32" && dtype != "float64") fail("dtype " + dtype + " is not known");
        if (shape.empty() || axis.size() != shape.size()) fail("axis and shape do not have one length");
        if (std::count(axis.begin(), axis.end(), 0)) fail("axis 0 is the batch");
        gamma = numbers(entry, "gamma", 1.0), beta = numbers(entry, "beta", 0.0);
        moving_mean = numbers(entry, "moving_mean", NAN), moving_variance = numbers(entry, "moving_variance", NAN);
        for (double variance : moving_variance) {
            if (!(epsilon >= 0 && variance + epsilon > 0)) fail("moving_variance + epsilon is not above 0");
            root.push_back(std::sqrt(variance + epsilon));
        }
    }

    // Normalises x, the numbers of an input of this shape in row-major order, in place: in double, rounded once to Number.
    // Throws std::invalid_argument where the shape does not fit.
    template <typename Number>
    void apply(Number* x, const sizes& input_shape) const {
        const sizes after = after_axes(input_shape);
        const std::size_t count = product(input_shape, 0);
        if (!together(input_shape.size())) {
            for (std::size_t i = 0; i < count; i++) x[i] = static_cast<Number>(one(channel_of(i, input_shape, after), x[i]));
            return;
        }
        for (std::size_t at = 0; at < count;)
            for (std::size_t c = 0; c < channels; c++)
                for (const std::size_t end = at + after.back(); at < end; at++) x[at] = static_cast<Number>(one(c, x[at]));
    }

    // The formula for one number of one channel.
    double one(std::size_t c, double x) const { return gamma[c] * (x - moving_mean[c]) / root[c] + beta[c]; }

    // For each entry of axis the product of the input's sizes behind that axis.
    sizes after_axes(const sizes& input_shape) const {
        sizes after;
        for (std::size_t d = 0; d < axis.size(); d++) {
            const std::size_t a = position(d, input_shape.size());
            if (a >= input_shape.size() || input_shape[a] != shape[d]) throw std::invalid_argument(path + ": the shape of the input does not fit");
            after.push_back(product(input_shape, a + 1));
        }
        return after;
    }

    // The channel of number i of an input of this shape.
    std::size_t channel_of(std::size_t i, const sizes& input_shape, const sizes& after) const {
        std::size_t channel = 0;
        for (std::size_t d = 0; d < axis.size(); d++) channel = channel * shape[d] + i / after[d] % input_shape[position(d, input_shape.size())];
        return channel;
    }

private:
    [[noreturn]] void fail(const std::string& what) const { throw bundle_error(path + ": " + what); }

    std::size_t position(std::size_t d, std::size_t rank) const {
        return static_cast<std::size_t>(axis[d] < 0 ? axis[d] + static_cast<std::ptrdiff_t>(rank) : axis[d]);
    }

    bool together(std::size_t rank) const {
        for (std::size_t d = 1; d < axis.size(); d++)
            if (position(d, rank) != position(0, rank) + d) return false;
        return true;
    }

    static std::size_t product(const sizes& values, std::size_t from) {
        return std::accumulate(values.begin() + static_cast<std::ptrdiff_t>(from), values.end(), std::size_t{1}, std::multiplies<>());
    }

    // `otherwise` stands for an absent array; NaN: the array may not be absent.
    std::vector<double> numbers(const nlohmann::json& entry, const char* name, double otherwise) const {
        const auto& found = entry.at(name);
        if (found.is_null() && !std::isnan(otherwise)) return std::vector<double>(channels, otherwise);
        if (!found.is_array() || found.size() != channels) fail(std::string(name) + " is not " + std::to_string(channels) + " numbers");
        std::vector<double> values;
        for (const auto& value : found) {
            values.push_back(value.is_number() ? round_to(value.get<double>(), dtype) : NAN);
            if (!std::isfinite(values.back())) fail(std::string(name) + " holds something that is not a number of " + dtype);
        }
        return values;
    }
};

// The layers of a bundle by path. Throws bundle_error.
inline std::map<std::string, layer> load(const nlohmann::json& bundle) {
    try {
        if (bundle.at("format") != "bn-bundle") throw bundle_error("this is not a bundle");
        if (bundle.at("version") != 1) throw bundle_error("a version of the format that is not known");
        if (!bundle.at("layers").is_array()) throw bundle_error("a bundle without layers");
        std::map<std::string, layer> layers;
        for (const auto& entry : bundle.at("layers")) {
            layer found(entry);
            const std::string path = found.path;
            if (!layers.emplace(path, std::move(found)).second) throw bundle_error(path + ": this path occurs twice");
        }
        return layers;
    } catch (const nlohmann::json::exception& error) {
        throw bundle_error(error.what());
    }
}

inline nlohmann::json parse(const std::string& text) {
    try {
        return nlohmann::json::parse(text);
    } catch (const nlohmann::json::exception& error) {
        throw bundle_error(error.what());
    }
}

inline std::map<std::string, layer> load(const std::string& text) { return load(parse(text)); }

}  // namespace bn

#endif
