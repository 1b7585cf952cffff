// The networks of a bundle by what they do, over any engine: arrays in, arrays out, any number of rows.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "engine.h"

namespace genin {

class Networks {
public:
    // Throws Failure for a precision that the bundle does not have.
    Networks(const Bundle &bundle, Engine &engine, const std::string &precision);

    // Open what drawing from text by default needs; the others are opened when they are first used. `check` is called in between, and
    // may throw to end it.
    void load(const std::function<void()> &check);

    // Token ids (rows, length) => states (rows, length, hidden).
    std::vector<float> encode(const std::vector<int64_t> &ids);
    // Latents (rows, C, h, w), one timestep, states (rows, length, hidden) => the UNet's output, like the latents.
    std::vector<float> predict(const std::vector<float> &latents, const Size &size, long timestep, const std::vector<float> &states);
    // Latents (C, h, w) => a picture (3, H, W) in [-1, 1].
    std::vector<float> decode(const std::vector<float> &latents, const Size &picture);
    // A picture (3, H, W) in [-1, 1] => latents (C, h, w). Throws Failure (GENIN_E_ARGUMENT) where the bundle has no encoder.
    std::vector<float> encode_picture(const std::vector<float> &image, const Size &picture);
    // The single graph of so many steps: token ids and noise (C, h, w) => pixels (H, W, 3).
    std::vector<uint8_t> draw(uint32_t steps, const std::vector<int64_t> &ids, const std::vector<float> &noise);

    // Whether a single graph draws so many steps with this guidance.
    bool has_single(uint32_t steps, float guidance_scale) const;
    bool takes_images() const { return selection_.components.count("vae_encoder") > 0; }
    const std::string &precision() const { return selection_.precision; }

private:
    // A row of an input, without its first dimension; `shared` where all rows have the same one value.
    struct Input {
        const char *name;
        Type type;
        std::vector<int64_t> row;
        const void *data;
        bool shared = false;
    };

    // Work on a network, all others unloaded and the work done again where it takes too much memory beside them.
    template <class Work>
    void with_room(const Graph &graph, Work &&work);
    void load_one(const Graph &graph);
    template <class T>
    std::vector<T> run(const Graph *graph, const std::vector<Input> &inputs, size_t rows, size_t values_a_row);
    const Graph *component(const char *name) const { return selection_.components.at(name); }

    const Bundle &bundle_;
    Engine &engine_;
    Selection selection_;
    std::set<const Graph *> loaded_;
};

}  // namespace genin
