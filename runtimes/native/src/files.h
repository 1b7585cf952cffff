// Where a bundle's files come from: a folder, a `.genin` archive (a zip whose members are stored), or the host's read functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "genin.h"

namespace genin {

using Bytes = std::vector<uint8_t>;

class Files {
public:
    virtual ~Files() = default;
    // The content of a member. Throws Failure (GENIN_E_BUNDLE) naming it if it is missing or cannot be read, or longer than `limit`.
    virtual Bytes read(const std::string &path, uint64_t limit) const = 0;
    // The path of a member in the file system, for engines that map weights; empty where it has none.
    virtual std::string local_path(const std::string &) const { return {}; }
};

// `path` names a folder, an archive, or, with `io`, what the host makes of it. Throws Failure (GENIN_E_BUNDLE).
std::unique_ptr<Files> open_files(const std::string &path, const genin_io *io);

// Whether a member's path stays inside: no "..", no backslash, no drive, not absolute.
bool is_inside(const std::string &path);

}  // namespace genin
