#include "starts.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "failure.h"

namespace genin {
namespace {

constexpr double kDefaultStrength = 0.8;
constexpr double kSameStrength = 5e-4;  // 0.333 is a third

Raster on_white(const Raster &rgba) {
    Raster rgb{rgba.width, rgba.height, 3, std::vector<uint8_t>(size_t{3} * rgba.width * rgba.height)};
    bool seen = false;
    for (size_t i = 0, count = size_t{rgba.width} * rgba.height; i < count; ++i) {
        const uint8_t *from = &rgba.samples[4 * i];
        const unsigned alpha = from[3];
        seen |= alpha > 0;
        for (size_t c = 0; c < 3; ++c) rgb.samples[3 * i + c] = static_cast<uint8_t>((from[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
    if (!seen) throw Failure(GENIN_E_ARGUMENT, "the image is fully transparent; give it an alpha of 255");
    return rgb;
}

// The least strength at which `count` of so many steps are taken.
double least_strength(uint32_t count, uint32_t steps) {
    const double share = static_cast<double>(count) / steps;
    return static_cast<uint32_t>(steps * share) == count ? share : std::nextafter(share, 2);
}

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    for (char &sign : text) {
        if (sign == ',') sign = '.';  // the host's locale
    }
    return text;
}

}  // namespace

Start::Start(const StartImage &given, uint32_t width, uint32_t height)
    : image_(fit(on_white(given.rgba), width, height, Filter::lanczos)),
      mask_(given.mask.samples.empty() ? Raster{} : fit(given.mask, width, height, Filter::bilinear)) {}  // Lanczos would ring into what is kept

std::vector<float> Start::encoder_input() const {
    const size_t plane = size_t{image_.width} * image_.height;
    std::vector<float> out(3 * plane);
    for (size_t i = 0; i < plane; ++i) {
        for (size_t c = 0; c < 3; ++c) out[c * plane + i] = static_cast<float>(image_.samples[3 * i + c]) / 127.5f - 1.0f;
    }
    return out;
}

void Start::set_known(std::vector<float> latents, std::vector<float> noise, uint32_t latent_width, uint32_t latent_height) {
    latents_ = std::move(latents);
    noise_ = std::move(noise);
    if (mask_.samples.empty()) return;
    latent_mask_.resize(size_t{latent_width} * latent_height);
    const uint32_t pixels = image_.height / latent_height;
    for (size_t y = 0; y < mask_.height; ++y) {
        for (size_t x = 0; x < mask_.width; ++x) {
            float &most = latent_mask_[y / pixels * latent_width + x / pixels];
            most = std::max(most, static_cast<float>(mask_.samples[y * mask_.width + x]) / 255.0f);
        }
    }
}

std::vector<float> Start::at(const Schedule &schedule, long timestep) const {
    if (timestep == Schedule::kEnd) return latents_;
    const auto [alpha, sigma] = schedule.alpha_sigma(timestep);
    const auto a = static_cast<float>(alpha), s = static_cast<float>(sigma);
    std::vector<float> out(latents_.size());
    for (size_t i = 0; i < out.size(); ++i) out[i] = a * latents_[i] + s * noise_[i];
    return out;
}

void Start::keep(const Schedule &schedule, long timestep, std::vector<float> &x) const {
    if (latent_mask_.empty()) return;
    const std::vector<float> known = at(schedule, timestep);
    for (size_t i = 0; i < x.size(); ++i) {
        const float anew = latent_mask_[i % latent_mask_.size()];
        x[i] = anew * x[i] + (1.0f - anew) * known[i];
    }
}

void Start::composite(std::vector<uint8_t> &rgba) const {
    for (size_t i = 0; i < mask_.samples.size(); ++i) {
        const unsigned anew = mask_.samples[i];
        for (size_t c = 0; c < 3; ++c) {
            uint8_t &drawn = rgba[4 * i + c];
            drawn = static_cast<uint8_t>((drawn * anew + image_.samples[3 * i + c] * (255 - anew) + 127) / 255);
        }
    }
}

uint32_t steps_taken(double strength, uint32_t steps, bool few, bool masked) {
    if (strength == 0) {
        const double usual = masked || steps == 1 ? 1 : kDefaultStrength;
        const auto taken = static_cast<uint32_t>(steps * usual);
        return few ? std::max(taken, 1u) : taken;
    }
    uint32_t nearest = 1;
    for (uint32_t count = 2; count <= steps; ++count) {
        if (std::fabs(least_strength(count, steps) - strength) < std::fabs(least_strength(nearest, steps) - strength)) nearest = count;
    }
    const double known = least_strength(nearest, steps);
    if (few && std::fabs(known - strength) > kSameStrength) {
        throw Failure(GENIN_E_ARGUMENT, "strength " + shown(strength) + " does not exist for a student in " + std::to_string(steps) + " steps; the nearest is " + shown(known));
    }
    if (few) return nearest;
    if (steps * strength < 1) throw Failure(GENIN_E_ARGUMENT, "strength " + shown(strength) + " leaves none of " + std::to_string(steps) + " steps; the nearest is " + shown(least_strength(1, steps)));
    return std::min(static_cast<uint32_t>(steps * strength), steps);
}

}  // namespace genin
