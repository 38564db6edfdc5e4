// Runs the tests in a bundle: `c++ -std=c++17 -O2 check.cpp -o check && ./check bundle.json`. Exit code 1 where a number is off by more
// than the bound.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "batchnorm.hpp"

namespace {

struct totals {
    unsigned long tests = 0, numbers = 0, wrong = 0;
    double worst = 0;
};

void compare(const bn::layer& layer, std::size_t c, double x, double got, double want, totals& all) {
    const double u = layer.dtype == "float16" ? 0x1p-11 : layer.dtype == "bfloat16" ? 0x1p-8 : layer.dtype == "float32" ? 0x1p-24 : 0x1p-53;
    const double tiny = layer.dtype == "float16" ? 0x1p-14 : layer.dtype == "float64" ? 0x1p-1022 : 0x1p-126;
    const double a = std::fabs(layer.gamma[c]) / layer.root[c], error = std::fabs(got - want);
    all.numbers++;
    all.wrong += !(error <= 16 * u * (a * std::fabs(x) + a * std::fabs(layer.moving_mean[c]) + std::fabs(layer.beta[c])) + tiny);
    int exponent;
    std::frexp(std::max(std::fabs(want), tiny), &exponent);
    if (layer.dtype == "float32") all.worst = std::max(all.worst, error / std::ldexp(2 * u, exponent - 1));
}

template <typename Number>
void run(const bn::layer& layer, const nlohmann::json& input, const nlohmann::json& output, const bn::sizes& shape, totals& all) {
    std::vector<Number> x;
    for (const auto& value : input) x.push_back(static_cast<Number>(bn::round_to(value.get<double>(), layer.dtype)));
    std::vector<Number> y = x;
    layer.apply(y, shape);
    const bn::sizes after = layer.after_axes(shape);
    for (std::size_t i = 0; i < y.size(); i++)
        compare(layer, layer.channel_of(i, shape, after), x[i], y[i], bn::round_to(output.at(i).get<double>(), layer.dtype), all);
    all.tests++;
}

void run(const bn::layer& layer, const nlohmann::json& input, const nlohmann::json& output, const bn::sizes& shape, totals& all) {
    if (layer.dtype == "float64") run<double>(layer, input, output, shape, all);
    else run<float>(layer, input, output, shape, all);
}

void run_rows(const bn::layer& layer, const nlohmann::json& vectors, totals& all) {
    nlohmann::json input = nlohmann::json::array(), output = nlohmann::json::array();
    for (const auto& row : vectors.at("input")) input.insert(input.end(), row.begin(), row.end());
    for (const auto& row : vectors.at("output")) output.insert(output.end(), row.begin(), row.end());
    bn::sizes shape{vectors.at("input").size()};
    shape.insert(shape.end(), layer.shape.begin(), layer.shape.end());
    std::vector<int> axis;
    for (std::size_t d = 0; d < layer.axis.size(); d++) axis.push_back(static_cast<int>(d) + 1);
    run(layer.with_axis(axis), input, output, shape, all);
}

template <typename Refusal, typename Action>
bool accepts(const Action& action) {
    try {
        action();
        return true;
    } catch (const Refusal&) {
        return false;
    }
}

// Documents and inputs that have to be refused or taken; how many were not.
unsigned long faults(const nlohmann::json& bundle, const std::map<std::string, bn::layer>& layers) {
    unsigned long count = 0;
    const auto none = nlohmann::json::array();
    const auto say = [&count](bool wrong, const char* what, const nlohmann::json& entry) {
        if (!wrong) return;
        count++;
        std::printf("%s: %s\n", what, entry.at("why").get<std::string>().c_str());
    };
    const auto loads = [](const nlohmann::json& entry) {
        return accepts<bn::bundle_error>([&] { bn::load(entry.at("text").get<std::string>()); });
    };
    for (const auto& entry : bundle.value("refuse", none)) say(loads(entry), "not refused", entry);
    for (const auto& entry : bundle.value("accept", none)) say(!loads(entry), "not accepted", entry);
    for (const auto& entry : bundle.value("refuse_inputs", none)) {
        std::vector<float> x(entry.at("count").get<std::size_t>());
        const auto& layer = layers.at(entry.at("layer"));
        say(accepts<std::invalid_argument>([&] { layer.apply(x, entry.at("shape").get<bn::sizes>()); }), "not refused", entry);
    }
    return count;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    std::ifstream file(argv[1]);
    const auto bundle = bn::parse({std::istreambuf_iterator<char>(file), {}});
    const auto layers = bn::load(bundle);
    totals all;
    for (const auto& entry : bundle.at("layers")) {
        const auto& layer = layers.at(entry.at("path"));
        if (entry.contains("vectors")) run_rows(layer, entry.at("vectors"), all);
        if (!entry.contains("cases")) continue;
        for (const auto& test : entry.at("cases")) run(layer, test.at("input"), test.at("output"), test.at("shape"), all);
    }
    const unsigned long wrong = faults(bundle, layers);
    std::printf("c++: %zu layers, %lu tests, %lu numbers, %lu wrong, worst %.2f ulp\n", layers.size(), all.tests, all.numbers, all.wrong, all.worst);
    return all.wrong || wrong || !all.numbers;
}
