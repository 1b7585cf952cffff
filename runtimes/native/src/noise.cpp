#include "noise.h"

#include <cmath>

namespace genin {
namespace {

// Multipliers and key increments of Philox 4x32 (Salmon et al., SC 2011, table 2).
constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;
constexpr double kTwoPi = 6.283185307179586;

struct Block {
    uint32_t words[4];
};

Block philox(uint64_t seed, uint32_t step, uint64_t index) {
    uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32), c2 = step, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * c0, product1 = static_cast<uint64_t>(kMultiplier1) * c2;
        c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(product1);
        c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(product0);
        k0 += kWeyl0;
        k1 += kWeyl1;
    }
    return {{c0, c1, c2, c3}};
}

double uniform(uint32_t word) { return (static_cast<double>(word) + 1.0) * 0x1p-32; }

}  // namespace

void philox_words(uint64_t seed, uint32_t step, uint64_t first, size_t count, uint32_t *out) {
    Block block{};
    for (size_t i = 0; i < count; ++i) {
        const uint64_t word = first + i;
        if (i == 0 || word % 4 == 0) block = philox(seed, step, word / 4);
        out[i] = block.words[word % 4];
    }
}

void philox_normal(uint64_t seed, uint32_t step, size_t count, float *out) {
    for (size_t i = 0; i < count; i += 4) {
        const Block block = philox(seed, step, i / 4);
        for (size_t pair = 0; pair < 4 && i + pair < count; pair += 2) {
            const double radius = std::sqrt(-2.0 * std::log(uniform(block.words[pair])));
            const double angle = kTwoPi * uniform(block.words[pair + 1]);
            out[i + pair] = static_cast<float>(radius * std::cos(angle));
            if (i + pair + 1 < count) out[i + pair + 1] = static_cast<float>(radius * std::sin(angle));
        }
    }
}

}  // namespace genin
