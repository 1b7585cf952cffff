// The engines that `open_engine` chooses from.
#pragma once

#include <memory>

#include "engine.h"
#include "shared_library.h"

namespace genin {

constexpr const char *kOnnxRuntime = "onnxruntime", *kOpenVino = "openvino";

// Both throw Failure (GENIN_E_ENGINE) for a release that is too old.
std::unique_ptr<Engine> open_onnxruntime(SharedLibrary library, const EngineOptions &options);
std::unique_ptr<Engine> open_openvino(SharedLibrary library, const EngineOptions &options);

}  // namespace genin
