// Convolution with the filter's samples at every output pixel, along rows first, then along columns. Pillow's arithmetic: weights are
// doubles that are normalised and rounded to 22 bits after the point, sums are whole numbers, and each pass rounds to 8 bits.
#include "resample.h"

#include <algorithm>
#include <cmath>

namespace genin {
namespace {

constexpr int kBits = 22;
constexpr double kPi = 3.14159265358979323846;

double sinc(double x) { return x == 0 ? 1 : std::sin(x * kPi) / (x * kPi); }

double weight(Filter filter, double x) {
    if (filter == Filter::lanczos) return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
    return std::max(1 - std::fabs(x), 0.0);
}

// What goes into one sample of the output: whole-number weights of the input's samples from `first` on.
struct Kernel {
    int first = 0;
    std::vector<int32_t> weights;
};

// Of an output of `size` samples, which covers the input's samples from `low` to `high`.
std::vector<Kernel> kernels(int input, float low, float high, int size, Filter filter) {
    const double scale = static_cast<double>(high - low) / size, stretch = std::max(scale, 1.0);
    const double support = (filter == Filter::lanczos ? 3 : 1) * stretch;
    std::vector<Kernel> all(static_cast<size_t>(size));
    for (int i = 0; i < size; ++i) {
        Kernel &kernel = all[static_cast<size_t>(i)];
        const double centre = static_cast<double>(low) + (i + 0.5) * scale;
        kernel.first = std::max(static_cast<int>(centre - support + 0.5), 0);
        const int last = std::min(static_cast<int>(centre + support + 0.5), input);
        std::vector<double> exact;
        double sum = 0;
        for (int at = kernel.first; at < last; ++at) {
            exact.push_back(weight(filter, (at - centre + 0.5) * (1 / stretch)));
            sum += exact.back();
        }
        for (double value : exact) {
            if (sum != 0) value /= sum;
            kernel.weights.push_back(static_cast<int32_t>((value < 0 ? -0.5 : 0.5) + value * (1 << kBits)));
        }
    }
    return all;
}

// One pass; `step` is the distance between the samples that a kernel reads.
uint8_t convolved(const uint8_t *from, size_t step, const Kernel &kernel) {
    int32_t sum = 1 << (kBits - 1);
    from += static_cast<size_t>(kernel.first) * step;
    for (int32_t each : kernel.weights) sum += *from * each, from += step;
    return static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255));
}

Raster along_rows(const Raster &picture, const std::vector<Kernel> &columns) {
    const size_t channels = picture.channels;
    Raster out{static_cast<uint32_t>(columns.size()), picture.height, picture.channels, std::vector<uint8_t>(columns.size() * picture.height * channels)};
    uint8_t *to = out.samples.data();
    for (size_t y = 0; y < picture.height; ++y) {
        const uint8_t *row = &picture.samples[y * picture.width * channels];
        for (const Kernel &kernel : columns) {
            for (size_t c = 0; c < channels; ++c) *to++ = convolved(row + c, channels, kernel);
        }
    }
    return out;
}

Raster along_columns(const Raster &picture, const std::vector<Kernel> &rows) {
    const size_t length = size_t{picture.width} * picture.channels;
    Raster out{picture.width, static_cast<uint32_t>(rows.size()), picture.channels, std::vector<uint8_t>(length * rows.size())};
    uint8_t *to = out.samples.data();
    for (const Kernel &kernel : rows) {
        for (size_t at = 0; at < length; ++at) *to++ = convolved(&picture.samples[at], length, kernel);
    }
    return out;
}

}  // namespace

Raster fit(const Raster &picture, uint32_t width, uint32_t height, Filter filter) {
    if (picture.width == width && picture.height == height) return picture;
    const double own_width = picture.width, own_height = picture.height, ratio = static_cast<double>(width) / height;
    double covered_width = own_width, covered_height = own_height;
    if (own_width / own_height > ratio) covered_width = ratio * own_height;
    else if (own_width / own_height < ratio) covered_height = own_width / ratio;
    const double left = (own_width - covered_width) * 0.5, top = (own_height - covered_height) * 0.5;
    // Pillow hands the box on in single precision.
    const float x0 = static_cast<float>(left), x1 = static_cast<float>(left + covered_width);
    const float y0 = static_cast<float>(top), y1 = static_cast<float>(top + covered_height);
    const auto whole = [](uint32_t from, float low, float high, uint32_t to) { return from == to && low == 0 && high == static_cast<float>(to); };
    Raster out = picture;
    if (!whole(picture.width, x0, x1, width)) out = along_rows(out, kernels(static_cast<int>(picture.width), x0, x1, static_cast<int>(width), filter));
    if (!whole(picture.height, y0, y1, height)) out = along_columns(out, kernels(static_cast<int>(picture.height), y0, y1, static_cast<int>(height), filter));
    return out;
}

}  // namespace genin
