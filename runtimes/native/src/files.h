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
    // Of a member. Both throw Failure (GENIN_E_BUNDLE) naming it if it is missing or cannot be read.
    virtual uint64_t size(const std::string &path) const = 0;
    virtual void read_at(const std::string &path, uint64_t offset, void *to, size_t bytes) const = 0;
    // The whole member. Throws Failure (GENIN_E_BUNDLE), also if it is longer than `limit`.
    Bytes read(const std::string &path, uint64_t limit) const;
    // The path of a member in the file system, for engines that map weights; empty where it has none.
    virtual std::string local_path(const std::string &) const { return {}; }
};

// `path` names a folder, an archive, or, with `io`, what the host makes of it. Throws Failure (GENIN_E_BUNDLE).
std::unique_ptr<Files> open_files(const std::string &path, const genin_io *io);

// Whether a member's path stays inside: no "..", no backslash, no drive, not absolute.
bool is_inside(const std::string &path);

}  // namespace genin
