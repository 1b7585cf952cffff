// The noise contract (docs/noise.md): Philox 4x32-10, keyed by the seed and indexed by (step, element); normals by Box-Muller in double
// precision, rounded once. Words are the same everywhere; so are normals, as far as log, sin and cos agree to half an ulp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace genin {

// Words `first` to `first + count` of (seed, step).
void philox_words(uint64_t seed, uint32_t step, uint64_t first, size_t count, uint32_t *out);

// The first `count` standard normals of (seed, step).
void philox_normal(uint64_t seed, uint32_t step, size_t count, float *out);

}  // namespace genin
