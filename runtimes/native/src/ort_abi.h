// As much of ONNX Runtime's C interface as is used, declared by hand: a table of function pointers that is only ever appended to, so that
// a function's number never changes. tests/check_ort_abi.cpp compares these numbers with the published header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace genin::ort {

constexpr uint32_t kApiVersion = 17;  // the oldest that has all of these

enum Slot : size_t {
    kGetErrorMessage = 2,
    kCreateEnv = 3,
    kCreateSession = 7,
    kCreateSessionFromArray = 8,
    kRun = 9,
    kCreateSessionOptions = 10,
    kSetSessionLogSeverityLevel = 22,
    kSetIntraOpNumThreads = 24,
    kSetInterOpNumThreads = 25,
    kCreateRunOptions = 39,
    kRunOptionsSetTerminate = 46,
    kRunOptionsUnsetTerminate = 47,
    kCreateTensorWithDataAsOrtValue = 49,
    kGetTensorMutableData = 51,
    kGetTensorElementType = 60,
    kGetTensorShapeElementCount = 64,
    kGetTensorTypeAndShape = 65,
    kCreateCpuMemoryInfo = 69,
    kReleaseEnv = 92,
    kReleaseStatus = 93,
    kReleaseMemoryInfo = 94,
    kReleaseSession = 95,
    kReleaseValue = 96,
    kReleaseRunOptions = 97,
    kReleaseTensorTypeAndShapeInfo = 99,
    kReleaseSessionOptions = 100,
    kAddSessionConfigEntry = 130,
    kRegisterAllocator = 176,
};

constexpr int kLogFatal = 4, kFloat = 1, kUint8 = 2, kInt64 = 7, kDeviceAllocator = 0, kArenaAllocator = 1, kDefaultMemory = 0;

#if defined(_WIN32)
#define GENIN_ORT_CALL __stdcall
using PathChar = wchar_t;
#else
#define GENIN_ORT_CALL
using PathChar = char;
#endif

struct ApiBase {
    const void *(GENIN_ORT_CALL *GetApi)(uint32_t version);
    const char *(GENIN_ORT_CALL *GetVersionString)();
};

using Status = void;
using Handle = void;

// A host's own allocator. The last three may be null, and were added later than 1.17.
struct Allocator {
    uint32_t version;
    void *(GENIN_ORT_CALL *Alloc)(Allocator *, size_t bytes);
    void(GENIN_ORT_CALL *Free)(Allocator *, void *block);
    const Handle *(GENIN_ORT_CALL *Info)(const Allocator *);
    void *(GENIN_ORT_CALL *Reserve)(Allocator *, size_t bytes);
    void *later[3];
};

using GetErrorMessage = const char *(GENIN_ORT_CALL *)(const Status *);
using CreateEnv = Status *(GENIN_ORT_CALL *)(int level, const char *name, Handle **out);
using CreateSession = Status *(GENIN_ORT_CALL *)(const Handle *env, const PathChar *path, const Handle *options, Handle **out);
using CreateSessionFromArray = Status *(GENIN_ORT_CALL *)(const Handle *env, const void *data, size_t bytes, const Handle *options, Handle **out);
using Run = Status *(GENIN_ORT_CALL *)(Handle *session, const Handle *run_options, const char *const *inputs, const Handle *const *values, size_t count,
                                      const char *const *outputs, size_t output_count, Handle **results);
using Create = Status *(GENIN_ORT_CALL *)(Handle **out);
using SetInt = Status *(GENIN_ORT_CALL *)(Handle *options, int value);
using Mark = Status *(GENIN_ORT_CALL *)(Handle *run_options);
using CreateTensorWithData = Status *(GENIN_ORT_CALL *)(const Handle *info, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, Handle **out);
using GetTensorMutableData = Status *(GENIN_ORT_CALL *)(Handle *value, void **out);
using GetTensorElementType = Status *(GENIN_ORT_CALL *)(const Handle *info, int *out);
using GetTensorTypeAndShape = Status *(GENIN_ORT_CALL *)(const Handle *value, Handle **out);
using GetTensorShapeElementCount = Status *(GENIN_ORT_CALL *)(const Handle *info, size_t *out);
using CreateCpuMemoryInfo = Status *(GENIN_ORT_CALL *)(int allocator, int memory, Handle **out);
using RegisterAllocator = Status *(GENIN_ORT_CALL *)(Handle *env, Allocator *allocator);
using AddConfigEntry = Status *(GENIN_ORT_CALL *)(Handle *options, const char *key, const char *value);
using Release = void(GENIN_ORT_CALL *)(Handle *);

}  // namespace genin::ort
