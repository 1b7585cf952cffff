#include "drawing.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "failure.h"
#include "noise.h"

namespace genin {
namespace {

int32_t bits_of(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// From [-1, 1] to the nearest of 0 to 255, halves to even as numpy's rint does. What is added to the level leaves no bits for a fraction,
// so that the sum's bits count up from its own; in whole numbers, compilers do many at a time.
uint8_t to_byte(float value) {
    constexpr float kNoFraction = 12582912.0f;
    constexpr int32_t kZero = 0x4B400000;  // its bits
    const int32_t bits = bits_of(value * 127.5f + 127.5f + kNoFraction);
    return static_cast<uint8_t>(std::min(std::max(bits, kZero), kZero + 255) - kZero);
}

// Magnitudes are in the order of their bits, with infinity and NaN at the end.
bool all_finite(const std::vector<float> &values) {
    constexpr int32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
    int32_t largest = 0;
    for (const float value : values) largest = std::max(largest, bits_of(value) & kMagnitude);
    return largest < kInfinity;
}

// A single graph's pixels (H, W, 3) => a picture's.
void with_alpha(const std::vector<uint8_t> &rgb, const Size &size, Picture &picture) {
    const size_t pixels = size_t{size.width} * size.height;
    picture.width = size.width, picture.height = size.height;
    picture.rgba.resize(4 * pixels);
    for (size_t i = 0; i < pixels; ++i) {
        for (size_t c = 0; c < 3; ++c) picture.rgba[4 * i + c] = rgb[3 * i + c];
        picture.rgba[4 * i + 3] = 255;
    }
}

// One drawing on its way.
class Painting {
public:
    Painting(const Bundle &bundle, const Tokenizer &tokenizer, Networks &networks, const Drawing &drawing, Progress &progress)
        : bundle_(bundle), tokenizer_(tokenizer), networks_(networks), drawing_(drawing), progress_(progress), size_(bundle.size(drawing.width, drawing.height)) {
        scale_ = drawing.guidance_scale > 0 ? drawing.guidance_scale : bundle.guidance_scale;
        if (!bundle.guided && scale_ != 1) throw Failure(GENIN_E_ARGUMENT, "guidance is baked into this student's weights; leave guidance_scale at 0");
        count_ = drawing.steps ? drawing.steps : bundle.default_steps;
        steps_ = bundle.steps(count_);
        if (!drawing.image) return;
        if (!networks.takes_images()) throw Failure(GENIN_E_ARGUMENT, bundle.name + ": it has no vae_encoder graph, which an image needs; export it with one");
        const uint32_t taken = steps_taken(drawing.image->strength, count_, bundle.is_few(count_), !drawing.image->mask.samples.empty());
        steps_.erase(steps_.begin(), steps_.end() - taken);
        start_.emplace(*drawing.image, size_.width, size_.height);
    }

    void draw(Picture &picture) {
        if (!start_ && !drawing_.previews && size_ == bundle_.image && networks_.has_single(count_, scale_)) return at_once(picture);
        const std::vector<float> states = embed();
        std::vector<float> x = noise(), x0(x.size());
        if (start_) x = begin(std::move(x));
        const Schedule &schedule = bundle_.schedule();
        for (size_t i = 0; i < steps_.size(); ++i) {
            const std::vector<float> prediction = predict(x, steps_[i].first, states);
            schedule.step(prediction.data(), x.data(), x0.data(), x.size(), steps_[i]);
            if (start_) start_->keep(schedule, steps_[i].second, x);
            const bool shown = drawing_.previews && (i + 1) % drawing_.previews == 0 && i + 1 < steps_.size();
            if (!shown || !progress_.preview) continue;
            if (start_) start_->keep(schedule, Schedule::kEnd, x0);
            decode(x0, preview_);  // at most noise, there may be numbers out of range in it
            progress_.preview(static_cast<uint32_t>(i + 1), static_cast<uint32_t>(steps_.size()), preview_);
        }
        if (!decode(std::move(x), picture)) throw Failure(GENIN_E_BUNDLE, bundle_.name + ": it drew NaN or infinity; its weights are damaged");
    }

private:
    // Also of a network that was ended early, or failed: it has taken its time.
    struct Timed {
        Progress &progress;
        const uint64_t start = now_ns();

        ~Timed() {
            const uint64_t spent = now_ns() - start;
            progress.engine_ns += spent;
            progress.after(spent);
        }
    };

    template <class Network>
    auto timed(Network &&network) {
        progress_.before();
        const Timed time{progress_};
        return network();
    }

    std::vector<float> noise() const {
        const Size latents = bundle_.latents(size_);
        std::vector<float> values(size_t{bundle_.channels} * latents.height * latents.width);
        philox_normal(drawing_.seed, 0, values.size(), values.data());
        return values;
    }

    void at_once(Picture &picture) {
        const std::vector<int64_t> ids = tokenizer_(drawing_.prompt);
        const std::vector<float> start = noise();
        with_alpha(timed([&] { return networks_.draw(count_, ids, start); }), size_, picture);
    }

    // States of the prompt; where guidance needs them, those of the empty prompt before.
    std::vector<float> embed() {
        std::vector<int64_t> ids = tokenizer_(drawing_.prompt);
        const bool guided = scale_ != 1, both = guided && !drawing_.prompt.empty();
        if (both) {
            const std::vector<int64_t> empty = tokenizer_("");
            ids.insert(ids.end(), empty.begin(), empty.end());
        }
        std::vector<float> states = timed([&] { return networks_.encode(ids); });
        if (both) std::rotate(states.begin(), states.begin() + static_cast<std::ptrdiff_t>(states.size() / 2), states.end());
        if (guided && !both) states.insert(states.end(), states.begin(), states.end());
        return states;
    }

    // From the image's latents, noised to the first timestep.
    std::vector<float> begin(std::vector<float> noise) {
        const std::vector<float> image = start_->encoder_input();
        std::vector<float> latents = timed([&] { return networks_.encode_picture(image, size_); });
        for (float &value : latents) value *= bundle_.scaling;
        const Size size = bundle_.latents(size_);
        start_->set_known(std::move(latents), std::move(noise), size.width, size.height);
        return start_->at(bundle_.schedule(), steps_[0].first);
    }

    // Classifier-free guidance (Ho & Salimans 2022): both branches in one batch, u + s(c - u).
    std::vector<float> predict(const std::vector<float> &x, long timestep, const std::vector<float> &states) {
        const Size size = bundle_.latents(size_);
        if (scale_ == 1) return timed([&] { return networks_.predict(x, size, timestep, states); });
        std::vector<float> twice = x;
        twice.insert(twice.end(), x.begin(), x.end());
        std::vector<float> prediction = timed([&] { return networks_.predict(twice, size, timestep, states); });
        for (size_t i = 0; i < x.size(); ++i) prediction[i] += scale_ * (prediction[x.size() + i] - prediction[i]);
        prediction.resize(x.size());
        return prediction;
    }

    // Whether the picture is of numbers alone.
    bool decode(std::vector<float> latents, Picture &picture) {
        for (float &value : latents) value *= bundle_.to_decoder;
        const std::vector<float> image = timed([&] { return networks_.decode(latents, size_); });
        const bool finite = to_pixels(image, size_, picture);
        if (start_) start_->composite(picture.rgba);
        return finite;
    }

    const Bundle &bundle_;
    const Tokenizer &tokenizer_;
    Networks &networks_;
    const Drawing &drawing_;
    Progress &progress_;
    const Size size_;
    uint32_t count_ = 1;  // steps as asked for; with an image fewer are taken
    float scale_ = 1;
    Schedule::Steps steps_;
    std::optional<Start> start_;
    Picture preview_;
};

}  // namespace

bool to_pixels(const std::vector<float> &planes, const Size &size, Picture &picture) {
    const size_t pixels = size_t{size.width} * size.height;
    picture.width = size.width, picture.height = size.height;
    picture.rgba.resize(4 * pixels);
    const float *red = planes.data(), *green = red + pixels, *blue = green + pixels;
    uint8_t *to = picture.rgba.data();
    for (size_t i = 0; i < pixels; ++i) {
        to[4 * i] = to_byte(red[i]);
        to[4 * i + 1] = to_byte(green[i]);
        to[4 * i + 2] = to_byte(blue[i]);
        to[4 * i + 3] = 255;
    }
    return all_finite(planes);
}

uint64_t now_ns() {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

void draw(const Bundle &bundle, const Tokenizer &tokenizer, Networks &networks, const Drawing &drawing, Progress &progress, Picture &picture) {
    Painting(bundle, tokenizer, networks, drawing, progress).draw(picture);
}

}  // namespace genin
