// Compares src/ort_abi.h with ONNX Runtime's published header, when it is compiled: cmake -DGENIN_ORT_HEADERS=DIR builds it.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort_abi.h"

#define SAME(name) static_assert(offsetof(OrtApi, name) == genin::ort::k##name * sizeof(void *), #name " has another number")

SAME(GetErrorMessage);
SAME(CreateEnv);
SAME(CreateSession);
SAME(CreateSessionFromArray);
SAME(Run);
SAME(CreateSessionOptions);
SAME(SetSessionLogSeverityLevel);
SAME(SetIntraOpNumThreads);
SAME(SetInterOpNumThreads);
SAME(CreateRunOptions);
SAME(RunOptionsSetTerminate);
SAME(RunOptionsUnsetTerminate);
SAME(CreateTensorWithDataAsOrtValue);
SAME(GetTensorMutableData);
SAME(GetTensorElementType);
SAME(GetTensorShapeElementCount);
SAME(GetTensorTypeAndShape);
SAME(CreateCpuMemoryInfo);
SAME(ReleaseEnv);
SAME(ReleaseStatus);
SAME(ReleaseMemoryInfo);
SAME(ReleaseSession);
SAME(ReleaseValue);
SAME(ReleaseRunOptions);
SAME(ReleaseTensorTypeAndShapeInfo);
SAME(ReleaseSessionOptions);
SAME(AddSessionConfigEntry);
SAME(RegisterAllocator);

static_assert(ORT_LOGGING_LEVEL_FATAL == genin::ort::kLogFatal);
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == genin::ort::kFloat);
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 == genin::ort::kInt64);
static_assert(OrtArenaAllocator == genin::ort::kArenaAllocator);
static_assert(OrtMemTypeDefault == genin::ort::kDefaultMemory);
static_assert(sizeof(ORTCHAR_T) == sizeof(genin::ort::PathChar));
static_assert(ORT_API_VERSION >= genin::ort::kApiVersion);
static_assert(offsetof(OrtApiBase, GetApi) == offsetof(genin::ort::ApiBase, GetApi));

int main() { return 0; }

#define SAME_FIELD(name) static_assert(offsetof(OrtAllocator, name) == offsetof(genin::ort::Allocator, name), #name " is elsewhere")
SAME_FIELD(Alloc);
SAME_FIELD(Free);
SAME_FIELD(Info);
SAME_FIELD(Reserve);
static_assert(sizeof(OrtAllocator) <= sizeof(genin::ort::Allocator), "OrtAllocator has grown");
