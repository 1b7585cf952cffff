// SHA-256 (FIPS 180-4), for the hashes in a bundle's manifest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "sha256_rounds.h"

namespace genin {

class Sha256 {
public:
    explicit Sha256(Sha256Rounds rounds = fastest_rounds()) : rounds_(rounds) {}

    void add(const void *data, size_t bytes);
    // 64 lower-case hexadecimal digits of all that was added; once.
    std::string digest();

private:
    Sha256Rounds rounds_;
    uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t block_[64];
    size_t used_ = 0;  // of the block
    uint64_t bytes_ = 0;
};

std::string sha256(const void *data, size_t bytes);

}  // namespace genin
