#include "sha256.h"

#include <algorithm>
#include <cstring>

namespace genin {

void Sha256::add(const void *data, size_t bytes) {
    const auto *at = static_cast<const uint8_t *>(data);
    bytes_ += bytes;
    while (bytes) {
        if (used_ == 0 && bytes >= sizeof block_) {
            const size_t whole = bytes / sizeof block_;
            rounds_(state_, at, whole);
            at += whole * sizeof block_, bytes -= whole * sizeof block_;
            continue;
        }
        const size_t count = std::min(bytes, sizeof block_ - used_);
        std::memcpy(block_ + used_, at, count);
        at += count, bytes -= count, used_ += count;
        if (used_ == sizeof block_) rounds_(state_, block_, 1), used_ = 0;
    }
}

std::string Sha256::digest() {
    uint8_t end[72] = {0x80};  // then zeros up to eight bytes before the end of a block, and the length in bits
    const uint64_t bits = bytes_ * 8;
    const size_t zeros = (used_ < 56 ? 56 : 120) - used_;
    for (size_t i = 0; i < 8; ++i) end[zeros + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    add(end, zeros + 8);
    std::string hex;
    for (uint32_t word : state_) {
        for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
    }
    return hex;
}

std::string sha256(const void *data, size_t bytes) {
    Sha256 hash;
    hash.add(data, bytes);
    return hash.digest();
}

}  // namespace genin
