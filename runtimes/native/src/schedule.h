// Deterministic DDIM on the schedule of a bundle's sampler (docs/bundle.md, "Drawing a picture, step by step").
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "json.h"

namespace genin {

class Schedule {
public:
    static constexpr long kEnd = -1;  // as a timestep: sampling is over
    using Steps = std::vector<std::pair<long, long>>;

    // A diffusers scheduler_config.json. Throws Failure (GENIN_E_BUNDLE) naming the entry that is wrong.
    explicit Schedule(const json::Value &config);

    // The pairs (t, t_next) of so many steps. Throws Failure (GENIN_E_ARGUMENT) outside of 1 to the training's steps.
    Steps steps(long count) const;
    // The same through given timesteps, each to the next one. Throws Failure (GENIN_E_BUNDLE) for one off the schedule.
    Steps explicit_steps(const std::vector<long> &timesteps) const;

    // One step: x becomes the state at the next timestep, and x0 the present estimate of the picture, all of `count` values.
    void step(const float *prediction, float *x, float *x0, size_t count, std::pair<long, long> times) const;

    // The square roots of the share of picture and of noise in a state at that timestep.
    std::pair<double, double> alpha_sigma(long timestep) const;

private:
    enum class Prediction { v, epsilon, sample };

    std::vector<double> alphas_cumprod_;
    double final_alpha_cumprod_ = 1;
    Prediction prediction_ = Prediction::epsilon;
    std::string spacing_ = "leading";
    long steps_offset_ = 0;
    float clip_ = 0;  // 0: none
};

}  // namespace genin
