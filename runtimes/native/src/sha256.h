// SHA-256 (FIPS 180-4), for the hashes in a bundle's manifest.
#pragma once

#include <cstddef>
#include <string>

namespace genin {

// 64 lower-case hexadecimal digits.
std::string sha256(const void *data, size_t bytes);

}  // namespace genin
