// The engine over ONNX Runtime, found at run time: nothing of it is needed to build this library.
#include <cstdlib>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "engines.h"
#include "failure.h"
#include "ort_abi.h"
#include "ort_memory.h"
#include "windows_text.h"

namespace genin {
namespace {

using namespace ort;

#if defined(_WIN32)
std::wstring native_path(const std::string &path) { return widen(path); }
#else
const std::string &native_path(const std::string &path) { return path; }
#endif

// Give freed memory back to the system, which glibc keeps otherwise.
void trim() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

class OnnxRuntime : public Engine {
public:
    OnnxRuntime(SharedLibrary library, const EngineOptions &options) : library_(std::move(library)), options_(options), account_(options.max_memory) {
        const auto base_of = reinterpret_cast<const ApiBase *(GENIN_ORT_CALL *)()>(library_.symbol("OrtGetApiBase"));
        const ApiBase *base = base_of();
        version_ = base->GetVersionString();
        api_ = static_cast<const void *const *>(base->GetApi(kApiVersion));
        if (!api_) throw Failure(GENIN_E_ENGINE, library_.path() + ": ONNX Runtime " + version_ + " is too old; 1.17 or newer is needed");
        check(call<CreateEnv>(kCreateEnv)(kLogFatal, "genin", &env_), "starting");
        check(call<CreateCpuMemoryInfo>(kCreateCpuMemoryInfo)(kArenaAllocator, kDefaultMemory, &memory_), "starting");
        check(call<Create>(kCreateRunOptions)(&run_options_), "starting");
        if (options.max_memory) count_memory();
    }

    ~OnnxRuntime() override {
        const Charged charged(charge());
        for (auto &[graph, loaded] : loaded_) release(kReleaseSession, loaded.session);
        release(kReleaseRunOptions, run_options_);
        release(kReleaseMemoryInfo, memory_);
        release(kReleaseEnv, env_);
        trim();  // else a program that opens bundles again and again grows
    }

    std::vector<std::string> formats() const override { return {"onnx"}; }

    void load(const Bundle &bundle, const Graph &graph) override {
        const Charged charged(charge());
        const std::string path = bundle.checked_path(graph);
        if (path.empty() && graph.files.size() > 1) throw Failure(GENIN_E_BUNDLE, graph.path + ": weights in a file of their own are read from a folder only; unpack the bundle");
        // Weights in the graph's own file are there twice while they are loaded, those of a file beside it are mapped; weights in half
        // precision are turned into single precision. A file that has no path is copied once more.
        const uint64_t half = graph.precision == "fp16", file = graph.bytes(), mapped = graph.files.size() > 1;
        const uint64_t afterwards = file * (half ? 2 : 1);
        const uint64_t while_loading = afterwards + (mapped ? 0 : file) + (half ? file / 4 : 0) + (path.empty() ? file : 0);
        if (!account_.begin_loading(while_loading)) throw too_large("to load " + graph.path);
        Loaded &loaded = loaded_[&graph];  // before there is a session, which would be lost without it
        try {
            const Bytes model = path.empty() ? bundle.read(graph.files[0]) : Bytes{};
            Status *status = open(path, model, true, &loaded.session);
            // Packed weights are faster, but while they are packed both are there.
            if (status && options_.max_memory && account_.was_refused()) {
                call<Release>(kReleaseStatus)(status);
                trim();
                status = open(path, model, false, &loaded.session);
            }
            check(status, "loading " + graph.path);
        } catch (...) {
            account_.give_back(account_.end_loading(0));
            loaded_.erase(&graph);
            throw;
        }
        if (options_.max_memory) trim();
        loaded.bytes = account_.end_loading(afterwards);
    }

    void unload(const Graph &graph) override {
        const Charged charged(charge());
        const Loaded loaded = loaded_.at(&graph);
        release(kReleaseSession, loaded.session);
        account_.give_back(loaded.bytes);
        loaded_.erase(&graph);
    }

    void run(const Graph &graph, const std::vector<Tensor> &inputs, void *output, size_t bytes) override {
        const Charged charged(charge());
        std::vector<const char *> names;
        std::vector<Handle *> values;
        Status *status = nullptr;
        for (const Tensor &input : inputs) {
            Handle *value = nullptr;
            if (!status) status = call<CreateTensorWithData>(kCreateTensorWithDataAsOrtValue)(memory_, const_cast<void *>(input.data), input.bytes(), input.shape.data(), input.shape.size(), number_of(input.type), &value);
            names.push_back(input.name);
            values.push_back(value);
        }
        const char *name = graph.output.c_str();
        Handle *result = nullptr, *info = nullptr;
        if (!status) status = call<Run>(kRun)(loaded_.at(&graph).session, run_options_, names.data(), values.data(), values.size(), &name, 1, &result);
        for (Handle *value : values) release(kReleaseValue, value);
        void *data = nullptr;
        size_t found = 0;
        int type = 0;
        if (!status) status = call<GetTensorTypeAndShape>(kGetTensorTypeAndShape)(result, &info);
        if (!status) status = call<GetTensorShapeElementCount>(kGetTensorShapeElementCount)(info, &found);
        if (!status) status = call<GetTensorElementType>(kGetTensorElementType)(info, &type);
        if (!status) status = call<GetTensorMutableData>(kGetTensorMutableData)(result, &data);
        found *= type == kFloat ? 4 : type == kUint8 ? 1 : 0;
        if (!status && found == bytes) std::memcpy(output, data, bytes);
        release(kReleaseTensorTypeAndShapeInfo, info);
        release(kReleaseValue, result);
        check(status, "running the " + graph.component);
        if (found != bytes) throw Failure(GENIN_E_BUNDLE, "the " + graph.component + " gave " + std::to_string(found) + " bytes, not " + std::to_string(bytes));
    }

    void interrupt() override {
        if (Status *status = call<Mark>(kRunOptionsSetTerminate)(run_options_)) call<Release>(kReleaseStatus)(status);
    }

    void proceed() override { check(call<Mark>(kRunOptionsUnsetTerminate)(run_options_), "resuming"); }

    std::string version() const override { return "onnxruntime " + version_; }

    Memory memory() const override { return {account_.now(), account_.peak()}; }

private:
    struct Loaded {
        Handle *session = nullptr;
        uint64_t bytes = 0;  // of its weights
    };

    // A session of the graph at `path`, or else in `model`.
    Status *open(const std::string &path, const Bytes &model, bool packed, Handle **session) const {
        // Threads that spin after their work take the game's processors for milliseconds.
        std::vector<std::pair<const char *, const char *>> entries = {{"session.intra_op.allow_spinning", "0"}, {"session.inter_op.allow_spinning", "0"}};
        if (options_.max_memory) entries.emplace_back("session.use_env_allocators", "1");
        if (!packed) entries.emplace_back("session.disable_prepacking", "1");
        Handle *settings = nullptr;
        Status *status = call<Create>(kCreateSessionOptions)(&settings);
        if (!status) status = call<SetInt>(kSetSessionLogSeverityLevel)(settings, kLogFatal);
        if (!status) status = call<SetInt>(kSetIntraOpNumThreads)(settings, static_cast<int>(options_.threads));
        if (!status) status = call<SetInt>(kSetInterOpNumThreads)(settings, 1);
        for (const auto &[key, value] : entries) {
            if (!status) status = call<AddConfigEntry>(kAddSessionConfigEntry)(settings, key, value);
        }
        if (!status) {
            status = path.empty() ? call<CreateSessionFromArray>(kCreateSessionFromArray)(env_, model.data(), model.size(), settings, session)
                                  : call<CreateSession>(kCreateSession)(env_, native_path(path).c_str(), settings, session);
        }
        release(kReleaseSessionOptions, settings);
        return status;
    }

    // Where memory has no limit, ONNX Runtime's own arena is faster.
    void count_memory() {
        static std::mutex mutex;
        static Handle *info = nullptr;  // as long as the allocator: for ever
        const std::lock_guard<std::mutex> lock(mutex);
        if (!info) check(call<CreateCpuMemoryInfo>(kCreateCpuMemoryInfo)(kDeviceAllocator, kDefaultMemory, &info), "starting");
        // An error says that the processor's memory has an allocator already: ours, or one of the host's, which counts nothing.
        if (Status *status = call<RegisterAllocator>(kRegisterAllocator)(env_, counting_allocator(info))) call<Release>(kReleaseStatus)(status);
    }

    Account *charge() { return options_.max_memory ? &account_ : nullptr; }

    static int number_of(Type type) { return type == Type::int64 ? kInt64 : type == Type::uint8 ? kUint8 : kFloat; }

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

    void check(Status *status, const std::string &what) {
        if (!status) return;
        const std::string message = call<GetErrorMessage>(kGetErrorMessage)(status);
        call<Release>(kReleaseStatus)(status);
        if (account_.was_refused()) throw too_large(what);
        if (account_.was_exhausted() || says_no_memory(message)) throw Failure(GENIN_E_MEMORY, what + ": the system has no memory left");
        throw Failure(GENIN_E_ENGINE, "ONNX Runtime " + version_ + " failed while " + what + ": " + message.substr(0, 400));
    }

    Failure too_large(const std::string &what) {
        account_.was_refused();
        return {GENIN_E_MEMORY, what + " takes more memory than max_memory, " + std::to_string(account_.limit() >> 20) + " MiB"};
    }

    SharedLibrary library_;
    EngineOptions options_;
    std::string version_;
    const void *const *api_ = nullptr;
    Account account_;
    Handle *env_ = nullptr, *memory_ = nullptr, *run_options_ = nullptr;
    std::map<const Graph *, Loaded> loaded_;
};

}  // namespace

std::unique_ptr<Engine> open_onnxruntime(SharedLibrary library, const EngineOptions &options) { return std::make_unique<OnnxRuntime>(std::move(library), options); }

}  // namespace genin
