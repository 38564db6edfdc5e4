// Batch normalization in inference from a bundle, C++17, header only, on nlohmann/json (https://github.com/nlohmann/json).
//
//     auto layers = bn::load(text);                            // text: the content of bundle.json
//     layers.at("encoder/bn_1").apply(x, {1, 28, 28, 64});     // x: std::vector<float> or <double>, row-major, changed in place
//
// The format is described in docs/format.md of bn-export.
#ifndef BATCHNORM_HPP
#define BATCHNORM_HPP

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace bn {

// A bundle that breaks the format.
struct bundle_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using sizes = std::vector<std::size_t>;

constexpr const char* formula = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta";
constexpr int max_depth = 200;                  // arrays and objects inside each other
constexpr std::size_t max_axes = 8;
constexpr std::int64_t any_rank = 32;           // the largest rank that is assumed where the bundle has no ndim

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
    std::vector<int> axis;                      // for each entry of shape the axis of the input it runs along; -1 is the last
    sizes shape;
    std::size_t ndim = 0, channels = 1;         // ndim: rank of the input with its batch axis; 0: any
    double epsilon = 0;
    std::vector<double> gamma, beta, moving_mean, moving_variance, root;

    explicit layer(const nlohmann::json& entry)
        : path(entry.at("path").get<std::string>()), dtype(entry.at("dtype").get<std::string>()) {
        for (const char* key : {"name", "class_name"})
            if (!entry.at(key).is_string()) fail(std::string(key) + ": expected a string");
        if (!entry.at("momentum").is_null() && !entry.at("momentum").is_number()) fail("momentum: expected a number or null");
        if (dtype != "float16" && dtype != "bfloat16" && dtype != "float32" && dtype != "float64") fail("dtype " + dtype + " is not known");
        if (!entry.at("epsilon").is_number()) fail("epsilon: expected a number");
        epsilon = entry.at("epsilon").get<double>();
        if (!(epsilon >= 0 && epsilon <= std::numeric_limits<float>::max())) fail("expected an epsilon of 0 or more that fits float32");
        read_geometry(entry);
        moving_mean = numbers(entry, "moving_mean", NAN), moving_variance = numbers(entry, "moving_variance", NAN);
        gamma = numbers(entry, "gamma", 1.0), beta = numbers(entry, "beta", 0.0);
        for (double variance : moving_variance) {
            if (!(variance + epsilon > 0)) fail("expected moving_variance + epsilon above 0 in each channel");
            root.push_back(std::sqrt(variance + epsilon));
        }
        if (entry.contains("vectors")) check_vectors(entry.at("vectors"));
    }

    // A copy for inputs with the channels along other axes, of any rank.
    layer with_axis(std::vector<int> other) const {
        layer copy = *this;
        copy.axis = std::move(other), copy.ndim = 0;
        return copy;
    }

    // Normalizes x, the numbers of an input of this shape in row-major order, in place: in double, rounded once to Number.
    // Throws std::invalid_argument where the shape does not fit.
    template <typename Number>
    void apply(std::vector<Number>& x, const sizes& input_shape) const {
        if (x.size() != product(input_shape, 0)) throw std::invalid_argument(path + ": the shape asks for another count of numbers");
        apply(x.data(), input_shape);
    }

    // Likewise for an array that has as many numbers as the shape says.
    template <typename Number>
    void apply(Number* x, const sizes& input_shape) const {
        static_assert(std::is_floating_point_v<Number>, "the results have fractions: x has to point to float or double");
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

    // For each entry of axis the product of the input's sizes behind that axis. Throws std::invalid_argument where the shape does not fit.
    sizes after_axes(const sizes& input_shape) const {
        const std::size_t rank = input_shape.size();
        if (ndim && rank != ndim && std::any_of(axis.begin(), axis.end(), [](int a) { return a > 0; }))
            throw std::invalid_argument(path + ": the axis is that of an input of rank " + std::to_string(ndim) + ", got rank " + std::to_string(rank) +
                                        "; use with_axis with the axis of its channels, e.g. {-1}");
        sizes after;
        std::set<std::size_t> seen;
        for (std::size_t d = 0; d < axis.size(); d++) {
            const std::size_t a = position(d, rank);
            if (a >= rank || input_shape[a] != shape[d] || !seen.insert(a).second)
                throw std::invalid_argument(path + ": expected " + std::to_string(shape[d]) + " channels along axis " + std::to_string(axis[d]) +
                                            " of the input");
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
        std::size_t count = 1;
        for (std::size_t i = from; i < values.size(); i++) {
            if (values[i] && count > std::numeric_limits<std::size_t>::max() / values[i]) throw std::invalid_argument("a shape of too many numbers");
            count *= values[i];
        }
        return count;
    }

    std::int64_t integer(const nlohmann::json& value) const {
        const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX);
        if (!fits) fail("axis, shape and ndim: expected integers");
        return value.get<std::int64_t>();
    }

    // axis, shape, ndim and channels. The count of channels is that of the numbers in the file before anything of this size is made.
    void read_geometry(const nlohmann::json& entry) {
        const auto &axes = entry.at("axis"), &lengths = entry.at("shape"), &rank = entry.at("ndim");
        if (!axes.is_array() || !lengths.is_array() || axes.size() != lengths.size() || axes.empty() || axes.size() > max_axes)
            fail("axis and shape: expected two lists of one length");
        const std::int64_t limit = rank.is_null() ? any_rank : integer(rank);
        std::set<std::int64_t> seen;
        for (const auto& value : axes) {
            const std::int64_t a = integer(value);
            if (a == 0 || a >= limit || a <= -limit) fail("axis " + std::to_string(a) + " does not fit the input's rank; axis 0 is the batch");
            if (a > std::numeric_limits<int>::max() || a < std::numeric_limits<int>::min()) fail("an axis is out of range");
            if (!seen.insert(a < 0 && !rank.is_null() ? a + limit : a).second) fail("axis names one axis twice");
            axis.push_back(static_cast<int>(a));
        }
        ndim = rank.is_null() ? 0 : static_cast<std::size_t>(limit);
        const std::size_t given = entry.at("moving_mean").size();
        for (const auto& value : lengths) {
            const std::int64_t size = integer(value);
            if (size < 1 || static_cast<std::uint64_t>(size) > given / channels)
                fail("shape does not fit the " + std::to_string(given) + " numbers of moving_mean");
            shape.push_back(static_cast<std::size_t>(size));
            channels *= shape.back();
        }
    }

    // `otherwise` stands for an absent array; NaN: the array may not be absent.
    std::vector<double> numbers(const nlohmann::json& entry, const char* name, double otherwise) const {
        const auto& found = entry.at(name);
        if (found.is_null() && !std::isnan(otherwise)) return std::vector<double>(channels, otherwise);
        return numbers(found, name);
    }

    std::vector<double> numbers(const nlohmann::json& found, const char* name) const {
        if (!found.is_array() || found.size() != channels) fail(std::string(name) + ": expected " + std::to_string(channels) + " numbers");
        std::vector<double> values;
        for (const auto& value : found) {
            values.push_back(value.is_number() ? round_to(value.get<double>(), dtype) : NAN);
            if (!std::isfinite(values.back())) fail(std::string(name) + ": expected finite numbers of " + dtype);
        }
        return values;
    }

    void check_vectors(const nlohmann::json& vectors) const {
        for (const char* key : {"input", "output"}) {
            if (!vectors.at(key).is_array() || vectors.at(key).empty()) fail("vectors: expected rows of input and output");
            for (const auto& row : vectors.at(key)) numbers(row, key);
        }
        if (vectors.at("input").size() != vectors.at("output").size()) fail("vectors: expected as many rows of output as of input");
    }
};

// The layers of a bundle by path. Throws bundle_error. Of text, use the other `load`: it also sees keys that occur twice.
inline std::map<std::string, layer> load(const nlohmann::json& bundle) {
    try {
        if (bundle.at("format") != "bn-bundle") throw bundle_error("this is not a bundle: expected \"format\": \"bn-bundle\"");
        if (!bundle.at("version").is_number_integer() || bundle.at("version") != 1) throw bundle_error("expected version 1 of the format");
        if (bundle.at("formula") != formula) throw bundle_error(std::string("expected the formula ") + formula);
        if (!bundle.at("producer").is_object() || !bundle.at("source").is_object() || !bundle.at("digest").is_string())
            throw bundle_error("expected objects producer and source and a string digest");
        if (!bundle.at("layers").is_array()) throw bundle_error("layers: expected a list");
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

// The value of a strict JSON document: UTF-8, no key twice in one object, every number finite, at most 200 levels. Throws bundle_error.
inline nlohmann::json parse(const std::string& text) {
    std::vector<std::set<std::string>> keys;  // of each object that is open, by its depth
    const auto check = [&keys](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
        using kind = nlohmann::json::parse_event_t;
        if (event == kind::object_start || event == kind::array_start) {
            if (depth >= max_depth) throw bundle_error("expected JSON of at most " + std::to_string(max_depth) + " levels, got more");
            keys.resize(static_cast<std::size_t>(depth));
            keys.emplace_back();
        } else if (event == kind::key && !keys.at(static_cast<std::size_t>(depth) - 1).insert(parsed.get<std::string>()).second) {
            throw bundle_error("the key " + parsed.get<std::string>() + " occurs twice in one object");
        }
        return true;
    };
    // nlohmann/json takes a byte order mark, and a zero byte for the end.
    if (text.compare(0, 3, "\xef\xbb\xbf") == 0 || text.find('\0') != std::string::npos) throw bundle_error("this is not JSON in UTF-8");
    try {
        return nlohmann::json::parse(text, check);
    } catch (const nlohmann::json::exception& error) {
        throw bundle_error(error.what());
    }
}

inline std::map<std::string, layer> load(const std::string& text) { return load(parse(text)); }

}  // namespace bn

#endif
