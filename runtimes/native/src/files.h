// Where a bundle's files come from: a folder or a `.genin` archive (a zip whose members are stored), on disk or through the host's read
// functions, or an archive in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "genin.h"

namespace genin {

using Bytes = std::vector<uint8_t>;

// Where a bundle lies: in the file system, or in what the host's read functions have, as `path`; or in memory, as an archive, where
// `path` is its name in messages.
struct Place {
    std::string path;
    bool has_io = false;
    genin_io io{};
    const void *data = nullptr;  // not null: in memory, as long as the bundle is open
    uint64_t bytes = 0;
};

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

// Throws Failure (GENIN_E_BUNDLE).
std::unique_ptr<Files> open_files(const Place &place);

// As the working folder is now: who changes it later, as Windows' file dialogs do, changes nothing that is open.
std::string absolute_path(const std::string &path);

// Whether a member's path stays inside: no "..", no backslash, no drive, not absolute.
bool is_inside(const std::string &path);

}  // namespace genin
