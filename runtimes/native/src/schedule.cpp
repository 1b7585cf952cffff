#include "schedule.h"

#include <algorithm>
#include <cmath>

#include "failure.h"

namespace genin {
namespace {

constexpr double kPi = 3.141592653589793;
constexpr double kSmallest = 1e-6;  // of alpha or sigma to divide by
constexpr double kLargest = 1e9;
constexpr long kMaxTrainingSteps = 100000;

double number_in(const json::Value &config, const char *name, double otherwise) {
    const double value = config.has(name) ? config[name].as_number("scheduler." + std::string(name)) : otherwise;
    if (std::fabs(value) > kLargest) throw Failure(GENIN_E_BUNDLE, "the bundle's scheduler." + std::string(name) + " is out of range");
    return value;
}

bool flag_in(const json::Value &config, const char *name, bool otherwise) {
    return config[name].is(json::Value::Type::boolean) ? config[name].boolean : otherwise;
}

std::string text_in(const json::Value &config, const char *name, const char *otherwise) {
    return config.has(name) ? config[name].as_string("scheduler." + std::string(name)) : otherwise;
}

[[noreturn]] void unknown(const char *what, const std::string &value) {
    throw Failure(GENIN_E_BUNDLE, "the bundle's scheduler has the unknown " + std::string(what) + " '" + value.substr(0, 40) + "'");
}

// As numpy.linspace gives them.
std::vector<double> linspace(double first, double last, long count) {
    std::vector<double> values(static_cast<size_t>(count), first);
    const double step = count > 1 ? (last - first) / static_cast<double>(count - 1) : 0;
    for (long i = 1; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<double>(i) * step + first;
    if (count > 1) values.back() = last;
    return values;
}

std::vector<double> betas_of(const json::Value &config) {
    const long count = static_cast<long>(number_in(config, "num_train_timesteps", 1000));
    if (count < 1 || count > kMaxTrainingSteps) throw Failure(GENIN_E_BUNDLE, "the bundle's num_train_timesteps is out of range");
    std::vector<double> betas;
    if (config.has("trained_betas")) {
        for (const json::Value &beta : config["trained_betas"].array) betas.push_back(beta.as_number("scheduler.trained_betas"));
    } else {
        const double first = number_in(config, "beta_start", 0.0001), last = number_in(config, "beta_end", 0.02);
        const std::string kind = text_in(config, "beta_schedule", "linear");
        if (kind == "linear") {
            betas = linspace(first, last, count);
        } else if (kind == "scaled_linear") {
            betas = linspace(std::sqrt(std::max(first, 0.0)), std::sqrt(std::max(last, 0.0)), count);
            for (double &beta : betas) beta *= beta;
        } else if (kind == "squaredcos_cap_v2") {
            const auto level = [count](long i) { return std::pow(std::cos((static_cast<double>(i) / static_cast<double>(count) + 0.008) / 1.008 * kPi / 2), 2); };
            for (long i = 0; i < count; ++i) betas.push_back(std::min(1 - level(i + 1) / level(i), 0.999));
        } else {
            unknown("beta_schedule", kind);
        }
    }
    const bool fits = static_cast<long>(betas.size()) == count && std::all_of(betas.begin(), betas.end(), [](double beta) { return beta >= 0 && beta < 1; });
    if (!fits) throw Failure(GENIN_E_BUNDLE, "the bundle's betas are not num_train_timesteps numbers in [0, 1)");
    return betas;
}

// The last timestep becomes pure noise (Lin et al. 2024, arXiv:2305.08891, algorithm 1); in and out are betas, as in the reference.
void rescale_to_zero_snr(std::vector<double> &betas) {
    std::vector<double> roots;
    double product = 1;
    for (double beta : betas) roots.push_back(std::sqrt(product *= 1 - beta));
    const double first = roots.front(), last = roots.back();
    if (roots.size() > 1) {
        for (double &root : roots) root = (root - last) * (first / (first - last));
    }
    double before = 0;
    for (size_t i = 0; i < roots.size(); ++i) {
        const double level = roots[i] * roots[i];
        betas[i] = 1 - (i ? level / before : level);
        before = level;
    }
}

}  // namespace

Schedule::Schedule(const json::Value &config) {
    std::vector<double> betas = betas_of(config);
    if (flag_in(config, "rescale_betas_zero_snr", false)) rescale_to_zero_snr(betas);
    double product = 1;
    for (double beta : betas) alphas_cumprod_.push_back(product *= 1 - beta);
    if (flag_in(config, "thresholding", false)) throw Failure(GENIN_E_BUNDLE, "the bundle's scheduler asks for dynamic thresholding, which is not supported");
    final_alpha_cumprod_ = flag_in(config, "set_alpha_to_one", true) ? 1 : alphas_cumprod_[0];
    const std::string prediction = text_in(config, "prediction_type", "epsilon");
    if (prediction == "v_prediction") prediction_ = Prediction::v;
    else if (prediction == "sample") prediction_ = Prediction::sample;
    else if (prediction != "epsilon") unknown("prediction_type", prediction);
    spacing_ = text_in(config, "timestep_spacing", "leading");
    if (spacing_ != "leading" && spacing_ != "trailing" && spacing_ != "linspace") unknown("timestep_spacing", spacing_);
    steps_offset_ = static_cast<long>(number_in(config, "steps_offset", 0));
    const bool clips = flag_in(config, "clip_sample", text_in(config, "_class_name", "DDIMScheduler") == "DDIMScheduler");
    if (clips) clip_ = static_cast<float>(number_in(config, "clip_sample_range", 1));
}

Schedule::Steps Schedule::steps(long count) const {
    const long total = static_cast<long>(alphas_cumprod_.size());
    if (count < 1 || count > total) throw Failure(GENIN_E_ARGUMENT, std::to_string(count) + " steps cannot be taken; choose from 1 to " + std::to_string(total));
    const long stride = total / count;
    Steps steps;
    for (long i = 0; i < count; ++i) {
        long t;
        if (spacing_ == "leading") {
            t = (count - 1 - i) * stride + steps_offset_;
        } else if (spacing_ == "trailing") {
            // numpy.arange(total, 0, -total / count): its second value fixes the step, so that ties round the same.
            const double all = static_cast<double>(total), step = (all - all / static_cast<double>(count)) - all;
            t = std::lrint(all + static_cast<double>(i) * step) - 1;
        } else {
            const std::vector<double> places = linspace(0, static_cast<double>(total - 1), count);
            t = std::lrint(places[static_cast<size_t>(count - 1 - i)]);
        }
        if (t >= total) throw Failure(GENIN_E_BUNDLE, "the bundle's steps_offset leaves the schedule");
        steps.emplace_back(t, std::max(t - stride, kEnd));
    }
    return steps;
}

Schedule::Steps Schedule::explicit_steps(const std::vector<long> &timesteps) const {
    Steps steps;
    for (size_t i = 0; i < timesteps.size(); ++i) {
        if (timesteps[i] < 0 || timesteps[i] >= static_cast<long>(alphas_cumprod_.size())) throw Failure(GENIN_E_BUNDLE, "the bundle's few_step_timesteps leave its schedule");
        steps.emplace_back(timesteps[i], i + 1 < timesteps.size() ? timesteps[i + 1] : kEnd);
    }
    return steps;
}

std::pair<double, double> Schedule::alpha_sigma(long timestep) const {
    const double level = timestep < 0 ? final_alpha_cumprod_ : alphas_cumprod_[static_cast<size_t>(timestep)];
    return {std::sqrt(level), std::sqrt(1 - level)};
}

// Coefficients are doubles that are rounded once, arithmetic is in float: as numpy does it.
void Schedule::step(const float *prediction, float *x, float *x0, size_t count, std::pair<long, long> times) const {
    const auto [alpha_now, sigma_now] = alpha_sigma(times.first);
    const auto [alpha_next, sigma_next] = alpha_sigma(times.second);
    const auto alpha = static_cast<float>(alpha_now), sigma = static_cast<float>(sigma_now);
    const auto by_alpha = static_cast<float>(1 / std::max(alpha_now, kSmallest)), by_sigma = static_cast<float>(1 / std::max(sigma_now, kSmallest));
    const auto next_alpha = static_cast<float>(alpha_next), next_sigma = static_cast<float>(sigma_next);
    for (size_t i = 0; i < count; ++i) {
        const float p = prediction[i];
        float picture, noise;
        switch (prediction_) {
            case Prediction::v:
                picture = alpha * x[i] - sigma * p;
                noise = alpha * p + sigma * x[i];
                break;
            case Prediction::epsilon:
                picture = (x[i] - sigma * p) * by_alpha;
                noise = p;
                break;
            default:
                picture = p;
                noise = (x[i] - alpha * p) * by_sigma;
        }
        if (clip_ > 0) picture = std::min(std::max(picture, -clip_), clip_);
        x0[i] = picture;
        x[i] = next_alpha * picture + next_sigma * noise;
    }
}

}  // namespace genin
