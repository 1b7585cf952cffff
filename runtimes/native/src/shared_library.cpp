#include "shared_library.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "failure.h"
#include "windows_text.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace genin {
namespace {

#if defined(_WIN32)
std::vector<std::string> names_of(const std::string &engine) { return {engine + ".dll"}; }

std::string folder_of_this_library() {
    HMODULE module = nullptr;
    std::wstring path(32768, L'\0');  // the longest that there is
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                       reinterpret_cast<LPCWSTR>(&folder_of_this_library), &module);
    path.resize(GetModuleFileNameW(module, path.data(), static_cast<DWORD>(path.size())));
    const size_t end = path.find_last_of(L'\\');
    return end == std::wstring::npos ? "." : narrow(path.substr(0, end));
}

std::string named_by_environment() {
    const wchar_t *named = _wgetenv(L"GENIN_ENGINE_PATH");
    return named ? narrow(named) : "";
}
#else
#if defined(__APPLE__)
std::vector<std::string> names_of(const std::string &engine) { return {"lib" + engine + ".dylib"}; }
#else
std::vector<std::string> names_of(const std::string &engine) { return {"lib" + engine + ".so.1", "lib" + engine + ".so"}; }
#endif

std::string folder_of_this_library() {
    Dl_info info{};
    if (!dladdr(reinterpret_cast<void *>(&folder_of_this_library), &info) || !info.dli_fname) return "";
    const std::string path = info.dli_fname;
    const size_t end = path.find_last_of('/');
    return end == std::string::npos ? "." : path.substr(0, end);
}

std::string named_by_environment() {
    const char *named = std::getenv("GENIN_ENGINE_PATH");
    return named ? named : "";
}
#endif

}  // namespace

#if defined(_WIN32)

SharedLibrary::SharedLibrary(std::string path) : path_(std::move(path)) {
    handle_ = LoadLibraryExW(widen(path_).c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH);
    if (!handle_) throw Failure(GENIN_E_ENGINE, path_ + ": cannot be loaded (Windows error " + std::to_string(GetLastError()) + ")");
}

SharedLibrary::~SharedLibrary() {}  // see below

void *SharedLibrary::symbol(const char *name) const { return reinterpret_cast<void *>(GetProcAddress(static_cast<HMODULE>(handle_), name)); }

#else

SharedLibrary::SharedLibrary(std::string path) : path_(std::move(path)) {
    // Engines keep memory for as long as the process lives: one that is unloaded and loaded again leaves it behind each time.
    handle_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle_) throw Failure(GENIN_E_ENGINE, std::string(dlerror()));
}

SharedLibrary::~SharedLibrary() {
    if (handle_) dlclose(handle_);
}

void *SharedLibrary::symbol(const char *name) const { return dlsym(handle_, name); }

#endif

SharedLibrary::SharedLibrary(SharedLibrary &&other) noexcept : path_(std::move(other.path_)), handle_(std::exchange(other.handle_, nullptr)) {}

SharedLibrary open_engine_library(const std::string &path, const std::string &engine) {
    if (!path.empty()) return SharedLibrary(path);
    if (std::string named = named_by_environment(); !named.empty()) return SharedLibrary(std::move(named));
    std::string tried;
    const std::string beside = folder_of_this_library();
    for (const std::string &name : names_of(engine)) {
        for (const std::string &place : {beside + "/" + name, name}) {
            try {
                return SharedLibrary(place);
            } catch (const Failure &failure) {
                tried += (tried.empty() ? "" : "; ") + failure.message;
            }
        }
    }
    throw Failure(GENIN_E_ENGINE, "no library of " + engine + " was found; put it beside genin's, or name it in engine_path or GENIN_ENGINE_PATH (" + tried + ")");
}

}  // namespace genin
