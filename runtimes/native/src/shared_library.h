// An engine's shared library, found at run time.
#pragma once

#include <string>

namespace genin {

class SharedLibrary {
public:
    // Throws Failure (GENIN_E_ENGINE) with what the system says.
    explicit SharedLibrary(std::string path);
    ~SharedLibrary();
    SharedLibrary(SharedLibrary &&other) noexcept;
    SharedLibrary &operator=(SharedLibrary &&) = delete;

    void *symbol(const char *name) const;
    const std::string &path() const { return path_; }

private:
    std::string path_;
    void *handle_ = nullptr;
};

// `path` if it is given, else GENIN_ENGINE_PATH, else the library beside this one, else where the system looks.
SharedLibrary open_engine_library(const std::string &path, const std::string &engine);

}  // namespace genin
