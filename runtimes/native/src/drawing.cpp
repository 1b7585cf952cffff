#include "drawing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "failure.h"
#include "noise.h"

namespace genin {
namespace {

// Halves are rounded to even, as numpy's rint does; values outside are clipped.
Picture picture_of(const Bundle &bundle, const std::vector<float> &image) {
    Picture picture{bundle.width, bundle.height, std::vector<uint8_t>(image.size())};
    const size_t plane = static_cast<size_t>(bundle.width) * bundle.height;
    for (size_t colour = 0; colour < 3; ++colour) {
        for (size_t i = 0; i < plane; ++i) {
            const float value = image[colour * plane + i];
            if (!std::isfinite(value)) throw Failure(GENIN_E_BUNDLE, bundle.name + ": it drew NaN or infinity; its weights are damaged");
            picture.rgb[3 * i + colour] = static_cast<uint8_t>(std::min(std::max(std::nearbyint(value * 127.5f + 127.5f), 0.0f), 255.0f));
        }
    }
    return picture;
}

}  // namespace

uint64_t now_ns() {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

Picture draw(const Bundle &bundle, const Tokenizer &tokenizer, Engine &engine, const Drawing &drawing, Progress &progress) {
    const auto timed = [&progress](auto &&work) {
        progress.before();
        const uint64_t start = now_ns();
        auto result = work();
        const uint64_t spent = now_ns() - start;
        progress.engine_ns += spent;
        progress.after(spent);
        return result;
    };
    const float scale = drawing.guidance_scale > 0 ? drawing.guidance_scale : bundle.guidance_scale;
    if (!bundle.guided && scale != 1) throw Failure(GENIN_E_ARGUMENT, "guidance is baked into this student's weights; leave guidance_scale at 0");
    const bool guided = scale != 1;
    const Schedule::Steps steps = bundle.steps(drawing.steps);
    const std::vector<int64_t> ids = tokenizer(drawing.prompt);

    std::vector<float> states;  // of the empty prompt, if guidance needs them, then of the prompt
    if (guided) states = timed([&] { return engine.encode(tokenizer("")); });
    const std::vector<float> own = timed([&] { return engine.encode(ids); });
    states.insert(states.end(), own.begin(), own.end());

    const size_t count = static_cast<size_t>(bundle.channels) * bundle.latent_height * bundle.latent_width;
    std::vector<float> x(count), x0(count), inputs;
    philox_normal(drawing.seed, 0, count, x.data());
    const auto decode = [&](std::vector<float> latents) {
        for (float &value : latents) value *= bundle.to_decoder;
        return picture_of(bundle, timed([&] { return engine.decode(latents); }));
    };
    for (size_t i = 0; i < steps.size(); ++i) {
        inputs = x;
        if (guided) inputs.insert(inputs.end(), x.begin(), x.end());
        std::vector<float> prediction = timed([&] { return engine.predict(inputs, steps[i].first, states, guided ? 2 : 1); });
        if (guided) {
            for (size_t k = 0; k < count; ++k) prediction[k] += scale * (prediction[count + k] - prediction[k]);
        }
        bundle.schedule().step(prediction.data(), x.data(), x0.data(), count, steps[i]);
        const bool shown = drawing.previews && (i + 1) % drawing.previews == 0 && i + 1 < steps.size();
        if (shown && progress.preview) progress.preview(static_cast<uint32_t>(i + 1), static_cast<uint32_t>(steps.size()), decode(x0));
    }
    return decode(x);
}

}  // namespace genin
