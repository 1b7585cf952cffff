// What runs the networks of a bundle. One thread uses an engine; `interrupt` alone may be called from another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace genin {

struct EngineOptions {
    std::string engine, library;  // both may be empty
    uint32_t threads = 1;
    uint64_t max_memory = 0;  // bytes; 0: no limit
};

enum class Type { float32, int64, uint8 };

// An array in memory of the caller's.
struct Tensor {
    const char *name;
    Type type;
    std::vector<int64_t> shape;
    const void *data;

    size_t bytes() const;
};

struct Memory {
    uint64_t now = 0, peak = 0;  // bytes; 0 where an engine does not say
};

class Engine {
public:
    virtual ~Engine() = default;

    // The formats of graphs that it runs, best first.
    virtual std::vector<std::string> formats() const = 0;
    // Open one network. Throws Failure.
    virtual void load(const Bundle &bundle, const Graph &graph) = 0;
    virtual void unload(const Graph &graph) = 0;
    // Run a network that is loaded; its output, of so many bytes, goes to `output`. Throws Failure.
    virtual void run(const Graph &graph, const std::vector<Tensor> &inputs, void *output, size_t bytes) = 0;

    // End the run that is going on, and every later one until `proceed`.
    virtual void interrupt() = 0;
    virtual void proceed() = 0;
    virtual std::string version() const = 0;  // "onnxruntime 1.32.0"
    virtual Memory memory() const { return {}; }  // from any thread
};

// The engine that the options name, or whichever `library` is. Throws Failure (GENIN_E_ENGINE) naming what was tried.
std::unique_ptr<Engine> open_engine(const EngineOptions &options);

}  // namespace genin
