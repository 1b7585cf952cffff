// The engine over ONNX Runtime, found at run time: nothing of it is needed to build this library.
#include <cstring>
#include <map>
#include <utility>

#include "engine.h"
#include "failure.h"
#include "ort_abi.h"
#include "shared_library.h"
#include "windows_text.h"

namespace genin {
namespace {

using namespace ort;

constexpr const char *kComponents[] = {"text_encoder", "unet", "vae_decoder"};

#if defined(_WIN32)
std::wstring native_path(const std::string &path) { return widen(path); }
#else
const std::string &native_path(const std::string &path) { return path; }
#endif

class OnnxRuntime : public Engine {
public:
    explicit OnnxRuntime(const EngineOptions &options) : library_(open_engine_library(options.library, "onnxruntime")), options_(options) {
        const auto base_of = reinterpret_cast<const ApiBase *(GENIN_ORT_CALL *)()>(library_.symbol("OrtGetApiBase"));
        if (!base_of) throw Failure(GENIN_E_ENGINE, library_.path() + ": not ONNX Runtime (no OrtGetApiBase)");
        const ApiBase *base = base_of();
        version_ = base->GetVersionString();
        api_ = static_cast<const void *const *>(base->GetApi(kApiVersion));
        if (!api_) throw Failure(GENIN_E_ENGINE, library_.path() + ": ONNX Runtime " + version_ + " is too old; 1.17 or newer is needed");
        check(call<CreateEnv>(kCreateEnv)(kLogFatal, "genin", &env_), "starting");
        check(call<CreateCpuMemoryInfo>(kCreateCpuMemoryInfo)(kArenaAllocator, kDefaultMemory, &memory_), "starting");
        check(call<Create>(kCreateRunOptions)(&run_options_), "starting");
    }

    ~OnnxRuntime() override {
        for (auto &[component, loaded] : sessions_) release(kReleaseSession, loaded.session);
        release(kReleaseRunOptions, run_options_);
        release(kReleaseMemoryInfo, memory_);
        release(kReleaseEnv, env_);
    }

    void load(const Bundle &bundle, const std::string &component) override {
        bundle_ = &bundle;
        const Graph &graph = bundle.graph(component, options_.precision);
        Handle *settings = nullptr, *session = nullptr;
        check(call<Create>(kCreateSessionOptions)(&settings), "loading");
        // Threads that spin after their work take the game's processors for milliseconds.
        const std::pair<const char *, const char *> entries[] = {{"session.intra_op.allow_spinning", "0"}, {"session.inter_op.allow_spinning", "0"}};
        Status *status = call<SetInt>(kSetSessionLogSeverityLevel)(settings, kLogFatal);
        if (!status) status = call<SetInt>(kSetIntraOpNumThreads)(settings, static_cast<int>(options_.threads));
        if (!status) status = call<SetInt>(kSetInterOpNumThreads)(settings, 1);
        for (const auto &[key, value] : entries) {
            if (!status) status = call<AddConfigEntry>(kAddSessionConfigEntry)(settings, key, value);
        }
        std::string path;
        Bytes model;
        try {
            path = bundle.checked_path(graph);
            if (path.empty()) {
                if (graph.files.size() > 1) throw Failure(GENIN_E_BUNDLE, graph.path + ": weights in a file of their own are read from a folder only; unpack the bundle");
                model = bundle.read(graph.files[0]);
            }
        } catch (...) {
            release(kReleaseSessionOptions, settings);
            throw;
        }
        if (!status) {
            status = path.empty() ? call<CreateSessionFromArray>(kCreateSessionFromArray)(env_, model.data(), model.size(), settings, &session)
                                  : call<CreateSession>(kCreateSession)(env_, native_path(path).c_str(), settings, &session);
        }
        release(kReleaseSessionOptions, settings);
        check(status, ("loading " + graph.path).c_str());
        sessions_[component] = {session, graph.output};
    }

    std::vector<float> encode(const std::vector<int64_t> &ids) override {
        const Tensor input{"input_ids", const_cast<int64_t *>(ids.data()), ids.size() * sizeof(int64_t), {1, static_cast<int64_t>(ids.size())}, kInt64};
        return run(kComponents[0], {input}, bundle_->text.max_length * bundle_->text.hidden_size);
    }

    std::vector<float> predict(const std::vector<float> &latents, long timestep, const std::vector<float> &states, uint32_t rows) override {
        int64_t t = timestep;
        const Bundle &b = *bundle_;
        const std::vector<int64_t> shape{rows, b.channels, b.latent_height, b.latent_width};
        const std::vector<int64_t> text{rows, static_cast<int64_t>(b.text.max_length), static_cast<int64_t>(b.text.hidden_size)};
        return run(kComponents[1],
                   {floats("sample", latents, shape), Tensor{"timestep", &t, sizeof t, {1}, kInt64}, floats("encoder_hidden_states", states, text)},
                   latents.size());
    }

    std::vector<float> decode(const std::vector<float> &latents) override {
        const Bundle &b = *bundle_;
        return run(kComponents[2], {floats("latent_sample", latents, {1, b.channels, b.latent_height, b.latent_width})}, size_t{3} * b.height * b.width);
    }

    void interrupt() override {
        if (Status *status = call<Mark>(kRunOptionsSetTerminate)(run_options_)) call<Release>(kReleaseStatus)(status);
    }

    void proceed() override { check(call<Mark>(kRunOptionsUnsetTerminate)(run_options_), "resuming"); }

    std::string version() const override { return "onnxruntime " + version_; }

private:
    struct Loaded {
        Handle *session = nullptr;
        std::string output;
    };
    struct Tensor {
        const char *name;
        void *data;
        size_t bytes;
        std::vector<int64_t> shape;
        int type;
    };

    static Tensor floats(const char *name, const std::vector<float> &values, std::vector<int64_t> shape) {
        return {name, const_cast<float *>(values.data()), values.size() * sizeof(float), std::move(shape), kFloat};
    }

    template <class Function>
    Function call(Slot slot) const {
        Function function;
        static_assert(sizeof function == sizeof(void *));
        std::memcpy(&function, &api_[slot], sizeof function);
        return function;
    }

    void release(Slot slot, Handle *handle) const {
        if (handle) call<Release>(slot)(handle);
    }

    void check(Status *status, const char *what) const {
        if (!status) return;
        const std::string message = call<GetErrorMessage>(kGetErrorMessage)(status);
        call<Release>(kReleaseStatus)(status);
        throw Failure(GENIN_E_ENGINE, "ONNX Runtime " + version_ + " failed while " + what + ": " + message.substr(0, 400));
    }

    // The graph's output as `count` floats.
    std::vector<float> run(const char *component, const std::vector<Tensor> &inputs, size_t count) {
        const Loaded &loaded = sessions_.at(component);
        std::vector<const char *> names;
        std::vector<Handle *> values;
        Status *status = nullptr;
        for (const Tensor &input : inputs) {
            Handle *value = nullptr;
            if (!status) status = call<CreateTensorWithData>(kCreateTensorWithDataAsOrtValue)(memory_, input.data, input.bytes, input.shape.data(), input.shape.size(), input.type, &value);
            names.push_back(input.name);
            values.push_back(value);
        }
        const char *output = loaded.output.c_str();
        Handle *result = nullptr, *info = nullptr;
        if (!status) status = call<Run>(kRun)(loaded.session, run_options_, names.data(), values.data(), values.size(), &output, 1, &result);
        for (Handle *value : values) release(kReleaseValue, value);
        void *data = nullptr;
        size_t found = 0;
        if (!status) status = call<GetTensorTypeAndShape>(kGetTensorTypeAndShape)(result, &info);
        if (!status) status = call<GetTensorShapeElementCount>(kGetTensorShapeElementCount)(info, &found);
        if (!status) status = call<GetTensorMutableData>(kGetTensorMutableData)(result, &data);
        std::vector<float> out;
        if (!status && found == count) out.assign(static_cast<float *>(data), static_cast<float *>(data) + count);
        release(kReleaseTensorTypeAndShapeInfo, info);
        release(kReleaseValue, result);
        check(status, ("running the " + std::string(component)).c_str());
        if (found != count) throw Failure(GENIN_E_BUNDLE, "the " + std::string(component) + " gave " + std::to_string(found) + " values, not " + std::to_string(count));
        return out;
    }

    SharedLibrary library_;
    EngineOptions options_;
    std::string version_;
    const void *const *api_ = nullptr;
    Handle *env_ = nullptr, *memory_ = nullptr, *run_options_ = nullptr;
    std::map<std::string, Loaded> sessions_;
    const Bundle *bundle_ = nullptr;
};

}  // namespace

std::unique_ptr<Engine> open_onnxruntime(const EngineOptions &options) { return std::make_unique<OnnxRuntime>(options); }

}  // namespace genin
