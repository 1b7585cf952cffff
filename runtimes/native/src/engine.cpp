#include "engine.h"

#include "engines.h"
#include "failure.h"

namespace genin {

std::unique_ptr<Engine> open_engine(const EngineOptions &options) {
    SharedLibrary library = open_engine_library(options.library, options.engine == kOpenVino ? "openvino_c" : kOnnxRuntime);
    const bool onnxruntime = library.symbol("OrtGetApiBase"), openvino = library.symbol("ov_core_create");
    if (options.engine.empty() ? !onnxruntime && !openvino : options.engine == kOpenVino ? !openvino : !onnxruntime) {
        throw Failure(GENIN_E_ENGINE, library.path() + ": not " + (options.engine.empty() ? "ONNX Runtime, and not OpenVINO's C library" : options.engine == kOpenVino ? "OpenVINO's C library" : "ONNX Runtime"));
    }
    if (!onnxruntime && options.max_memory) throw Failure(GENIN_E_ARGUMENT, "max_memory cannot be held on OpenVINO; leave it out, or use ONNX Runtime");
    return onnxruntime ? open_onnxruntime(std::move(library), options) : open_openvino(std::move(library), options);
}

}  // namespace genin
