// The engine over OpenVINO's C library, found at run time, on the CPU. Arithmetic is held at fp32 whatever the weights are stored in: left
// alone, OpenVINO computes in bf16 on processors that have it, and the same seed would draw another picture there.
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

#include "engines.h"
#include "failure.h"
#include "openvino_abi.h"

namespace genin {
namespace {

using namespace ov;

struct Functions {
#define GENIN_FIELD(field, name, result, arguments) result(GENIN_OV_CALL *field) arguments = nullptr;
    GENIN_OV_FUNCTIONS(GENIN_FIELD)
#undef GENIN_FIELD
};

Functions functions_of(const SharedLibrary &library) {
    Functions found;
    const auto find = [&library](auto &function, const char *name) {
        void *symbol = library.symbol(name);
        if (!symbol) throw Failure(GENIN_E_ENGINE, library.path() + ": OpenVINO is too old (it lacks " + name + ")");
        std::memcpy(&function, &symbol, sizeof symbol);
    };
#define GENIN_FIND(field, name, result, arguments) find(found.field, #name);
    GENIN_OV_FUNCTIONS(GENIN_FIND)
#undef GENIN_FIND
    return found;
}

// One in a process, and never freed: on Linux a Core moves the main thread's alternate signal stack to memory of its own and restores
// the previous one when it is freed, so that of two that are freed in the order in which they were made, the second restores memory that
// is gone (openvino 2026.4).
Core *shared_core(const Functions &api) {
    static std::mutex mutex;
    static std::map<void *, Core *> cores;  // by the library that made them
    const std::lock_guard<std::mutex> lock(mutex);
    void *library;
    std::memcpy(&library, &api.create_core, sizeof library);
    Core *&core = cores[library];
    if (!core && api.create_core(&core) != 0) core = nullptr;
    return core;
}

class OpenVino : public Engine {
public:
    OpenVino(SharedLibrary library, const EngineOptions &options) : library_(std::move(library)), options_(options), api_(functions_of(library_)) {
        Version found{};
        if (api_.get_version(&found) == 0) {
            version_ = std::string(found.build).substr(0, std::string(found.build).find('-'));
            api_.free_version(&found);
        }
        core_ = shared_core(api_);
        if (!core_) check(-1, "starting");
    }

    ~OpenVino() override {
        while (!loaded_.empty()) release(loaded_.begin()->first);
    }

    std::vector<std::string> formats() const override { return {"openvino", "onnx"}; }

    void load(const Bundle &bundle, const Graph &graph) override {
        Loaded &loaded = loaded_[&graph];  // before there is a compiled model, which would be lost without it
        try {
            compile(bundle, graph, loaded);
        } catch (...) {
            release(&graph);
            throw;
        }
    }

    void unload(const Graph &graph) override { release(&graph); }

    void run(const Graph &graph, const std::vector<Tensor> &inputs, void *output, size_t bytes) override {
        Request *request = loaded_.at(&graph).request;
        for (const Tensor &input : inputs) feed(request, input, graph);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            running_ = request;
        }
        Status status = interrupted_ ? -1 : api_.start(request);
        // Cancelling before the start has no effect: whoever sets the flag cancels after that, or else it is seen here.
        if (status == 0 && interrupted_) api_.cancel(request);
        if (status == 0) status = api_.wait(request);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            running_ = nullptr;
        }
        check(status, "running the " + graph.component);
        Array *result = nullptr;
        status = graph.output.empty() ? api_.get_output(request, 0, &result) : api_.get_tensor(request, graph.output.c_str(), &result);
        check(status, "reading the " + graph.component);
        size_t found = 0;
        void *data = nullptr;
        if (api_.get_bytes(result, &found) == 0 && found == bytes && api_.get_data(result, &data) == 0) std::memcpy(output, data, bytes);
        api_.free_tensor(result);
        if (!data) throw Failure(GENIN_E_BUNDLE, "the " + graph.component + " gave " + std::to_string(found) + " bytes, not " + std::to_string(bytes));
    }

    void interrupt() override {
        interrupted_ = true;
        const std::lock_guard<std::mutex> lock(mutex_);
        if (running_) api_.cancel(running_);
    }

    void proceed() override { interrupted_ = false; }

    std::string version() const override { return "openvino " + version_; }

private:
    struct Loaded {
        Compiled *compiled = nullptr;
        Request *request = nullptr;
        Bytes weights;  // the model may refer to them
    };

    void compile(const Bundle &bundle, const Graph &graph, Loaded &loaded) {
        Model *model = nullptr;
        const std::string path = bundle.checked_path(graph);
        Status status = path.empty() ? read_from_memory(bundle, graph, loaded, &model) : api_.read_model(core_, path.c_str(), nullptr, &model);
        if (status == 0) {
            const std::string threads = std::to_string(options_.threads);
            status = api_.compile(core_, model, "CPU", 8, &loaded.compiled, "PERFORMANCE_HINT", "LATENCY", "INFERENCE_PRECISION_HINT", "f32",
                                  "INFERENCE_NUM_THREADS", threads.c_str(), "ENABLE_CPU_PINNING", "NO");
        }
        if (model) api_.free_model(model);
        if (status == 0) status = api_.create_request(loaded.compiled, &loaded.request);
        check(status, "loading " + graph.path);
    }

    // An IR's weights are a file of their own; other graphs are one file.
    Status read_from_memory(const Bundle &bundle, const Graph &graph, Loaded &loaded, Model **model) {
        Bytes text;
        for (const FileEntry &file : graph.files) (file.path == graph.path ? text : loaded.weights) = bundle.read(file);
        if (graph.files.size() > 2 || (graph.files.size() > 1 && graph.format != "openvino")) {
            throw Failure(GENIN_E_BUNDLE, graph.path + ": weights in a file of their own are read from a folder only; unpack the bundle");
        }
        Array *weights = loaded.weights.empty() ? nullptr : bytes_tensor(loaded.weights);
        const Status status = api_.read_model_from_memory(core_, reinterpret_cast<const char *>(text.data()), text.size(), weights, model);
        if (weights) api_.free_tensor(weights);
        return status;
    }

    // Bytes are the element type from 9 on of which so many take so many bytes: 14, 16 or 17, as the release numbers them.
    Array *bytes_tensor(Bytes &bytes) const {
        int64_t count = static_cast<int64_t>(bytes.size());
        for (ElementType type = 9; type < 24; ++type) {
            Array *tensor = nullptr;
            size_t taken = 0;
            if (api_.create_tensor(type, {1, &count}, bytes.data(), &tensor) != 0) continue;
            if (api_.get_bytes(tensor, &taken) == 0 && taken == bytes.size()) return tensor;
            api_.free_tensor(tensor);
        }
        return nullptr;
    }

    void feed(Request *request, const Tensor &input, const Graph &graph) {
        Array *tensor = nullptr;
        std::vector<int64_t> dims = input.shape;
        check(api_.get_tensor(request, input.name, &tensor), "feeding the " + graph.component);
        Status status = api_.set_shape(tensor, {static_cast<int64_t>(dims.size()), dims.data()});
        size_t bytes = 0;
        void *data = nullptr;
        if (status == 0) status = api_.get_bytes(tensor, &bytes);
        if (status == 0) status = api_.get_data(tensor, &data);
        const bool fits = status == 0 && bytes == input.bytes();
        if (fits) std::memcpy(data, input.data, bytes);
        api_.free_tensor(tensor);
        if (!fits) throw failed("feeding the " + graph.component);
    }

    void release(const Graph *graph) {
        const auto found = loaded_.find(graph);
        if (found == loaded_.end()) return;
        if (found->second.request) api_.free_request(found->second.request);
        if (found->second.compiled) api_.free_compiled(found->second.compiled);
        loaded_.erase(found);
    }

    Failure failed(const std::string &what) const {
        std::string message;
        if (const char *text = api_.last_error()) {
            message = std::string(text).substr(0, 400);
            api_.free_text(text);
        }
        if (says_no_memory(message)) return {GENIN_E_MEMORY, what + ": the system has no memory left"};
        for (char &sign : message) {
            if (sign == '\n') sign = ' ';
        }
        return {GENIN_E_ENGINE, "OpenVINO " + version_ + " failed while " + what + ": " + message};
    }

    void check(Status status, const std::string &what) const {
        if (status != 0) throw failed(what);
    }

    SharedLibrary library_;
    EngineOptions options_;
    Functions api_;
    std::string version_;
    Core *core_ = nullptr;
    std::map<const Graph *, Loaded> loaded_;
    std::atomic<bool> interrupted_{false};
    std::mutex mutex_;  // of the running request, which another thread may cancel
    Request *running_ = nullptr;
};

}  // namespace

std::unique_ptr<Engine> open_openvino(SharedLibrary library, const EngineOptions &options) { return std::make_unique<OpenVino>(std::move(library), options); }

}  // namespace genin
