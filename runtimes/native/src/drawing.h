// One picture: prompt and seed => pixels, over networks. The same arithmetic as genin's Python pipeline, to the rounding.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "networks.h"
#include "starts.h"

namespace genin {

struct Picture {
    uint32_t width = 0, height = 0;
    std::vector<uint8_t> rgb;
};

struct Drawing {
    std::string prompt;
    uint64_t seed = 0;
    uint32_t steps = 0;         // 0: the bundle's own
    float guidance_scale = 0;   // 0: the bundle's own
    uint32_t previews = 0;      // 0: none; n: after every n-th step
    uint32_t width = 0, height = 0;  // 0: the bundle's own
    std::optional<StartImage> image;
};

struct Progress {
    // Called after a step that is previewed. Throws to end the drawing.
    std::function<void(uint32_t step, uint32_t steps, Picture preview)> preview;
    // Called before every network; throws to end the drawing.
    std::function<void()> before;
    // Called after every network, with the time that it took.
    std::function<void(uint64_t network_ns)> after;
    uint64_t engine_ns = 0;
};

// Throws Failure, and whatever `progress` throws.
Picture draw(const Bundle &bundle, const Tokenizer &tokenizer, Networks &networks, const Drawing &drawing, Progress &progress);

uint64_t now_ns();

}  // namespace genin
