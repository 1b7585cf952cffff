// What runs the three networks of a bundle. One thread uses an engine; `interrupt` alone may be called from another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace genin {

struct EngineOptions {
    std::string library, precision;
    uint32_t threads = 1;
};

class Engine {
public:
    virtual ~Engine() = default;

    // Open one network. Throws Failure; loading is three such calls, so that it can be cancelled in between.
    virtual void load(const Bundle &bundle, const std::string &component) = 0;
    // Token ids (1, length) => states (1, length, hidden).
    virtual std::vector<float> encode(const std::vector<int64_t> &ids) = 0;
    // Latents (rows, C, h, w), one timestep, states (rows, length, hidden) => the UNet's output, like the latents.
    virtual std::vector<float> predict(const std::vector<float> &latents, long timestep, const std::vector<float> &states, uint32_t rows) = 0;
    // Latents (1, C, h, w) => a picture (1, 3, H, W) in [-1, 1].
    virtual std::vector<float> decode(const std::vector<float> &latents) = 0;

    // End the run that is going on, and every later one until `proceed`.
    virtual void interrupt() = 0;
    virtual void proceed() = 0;
    virtual std::string version() const = 0;
};

// ONNX Runtime from its shared library. Throws Failure (GENIN_E_ENGINE) naming what was tried.
std::unique_ptr<Engine> open_onnxruntime(const EngineOptions &options);

}  // namespace genin
