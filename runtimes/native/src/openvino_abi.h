// As much of OpenVINO's C interface as is used, declared by hand. Functions are found by name; tests/check_openvino_abi.cpp compares their
// types with the published headers. Numbers of element types are not among it: they have changed between releases.
#pragma once

#include <cstddef>
#include <cstdint>

namespace genin::ov {

struct Core;
struct Model;
struct Compiled;
struct Request;
struct Array;  // ov_tensor_t

using Status = int;  // 0 is good
using ElementType = unsigned;

struct Version {
    const char *build, *description;
};

struct Shape {
    int64_t rank;
    int64_t *dims;
};

#if defined(_WIN32)
#define GENIN_OV_CALL __cdecl
#else
#define GENIN_OV_CALL
#endif

// X(field, name in the library, type)
#define GENIN_OV_FUNCTIONS(X)                                                                                                           \
    X(get_version, ov_get_openvino_version, Status, (Version *))                                                                        \
    X(free_version, ov_version_free, void, (Version *))                                                                                 \
    X(last_error, ov_get_last_err_msg, const char *, ())                                                                                \
    X(free_text, ov_free, void, (const char *))                                                                                         \
    X(create_core, ov_core_create, Status, (Core **))                                                                                   \
    X(read_model, ov_core_read_model, Status, (const Core *, const char *, const char *, Model **))                                     \
    X(read_model_from_memory, ov_core_read_model_from_memory_buffer, Status, (const Core *, const char *, size_t, const Array *, Model **)) \
    X(free_model, ov_model_free, void, (Model *))                                                                                       \
    X(compile, ov_core_compile_model, Status, (const Core *, const Model *, const char *, size_t, Compiled **, ...))                    \
    X(free_compiled, ov_compiled_model_free, void, (Compiled *))                                                                        \
    X(create_request, ov_compiled_model_create_infer_request, Status, (const Compiled *, Request **))                                   \
    X(free_request, ov_infer_request_free, void, (Request *))                                                                           \
    X(get_tensor, ov_infer_request_get_tensor, Status, (const Request *, const char *, Array **))                                       \
    X(get_output, ov_infer_request_get_output_tensor_by_index, Status, (const Request *, size_t, Array **))                             \
    X(start, ov_infer_request_start_async, Status, (Request *))                                                                         \
    X(wait, ov_infer_request_wait, Status, (Request *))                                                                                 \
    X(cancel, ov_infer_request_cancel, Status, (Request *))                                                                             \
    X(create_tensor, ov_tensor_create_from_host_ptr, Status, (ElementType, Shape, void *, Array **))                                    \
    X(set_shape, ov_tensor_set_shape, Status, (Array *, Shape))                                                                         \
    X(get_bytes, ov_tensor_get_byte_size, Status, (const Array *, size_t *))                                                            \
    X(get_data, ov_tensor_data, Status, (const Array *, void **))                                                                       \
    X(free_tensor, ov_tensor_free, void, (Array *))

}  // namespace genin::ov
