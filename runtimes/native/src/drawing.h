// One picture: prompt and seed => pixels, over networks. The same arithmetic as genin's Python pipeline, to the rounding.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "networks.h"
#include "starts.h"

namespace genin {

// As it is given away: RGBA, 8 bits, rows without gaps.
struct Picture {
    uint32_t width = 0, height = 0;
    std::vector<uint8_t> rgba;
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
    // Called after a step that is previewed; may swap the picture for another one, which the next preview is drawn into. Throws to end
    // the drawing.
    std::function<void(uint32_t step, uint32_t steps, Picture &preview)> preview;
    // Called before every network; throws to end the drawing.
    std::function<void()> before;
    // Called after every network, also one that was ended early, with the time that it took. Does not throw.
    std::function<void(uint64_t network_ns)> after;
    uint64_t engine_ns = 0;
};

// Into `picture`, whose pixels' memory is used again. Throws Failure, and whatever `progress` throws.
void draw(const Bundle &bundle, const Tokenizer &tokenizer, Networks &networks, const Drawing &drawing, Progress &progress, Picture &picture);

// A decoder's planes (3, H, W) in [-1, 1] => pixels. Returns whether all values were finite.
bool to_pixels(const std::vector<float> &planes, const Size &size, Picture &picture);

uint64_t now_ns();

}  // namespace genin
