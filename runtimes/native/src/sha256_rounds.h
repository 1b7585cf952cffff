// SHA-256's rounds over whole blocks (FIPS 180-4, 6.2.2), with the processor's own instructions for them where it has any: a bundle's
// weights are hashed before the first picture, and those are five to ten times as fast.
#pragma once

#include <cstddef>
#include <cstdint>

namespace genin {

// Adds `count` blocks of 64 bytes to the state.
using Sha256Rounds = void (*)(uint32_t (&state)[8], const uint8_t *blocks, size_t count);

// On any processor.
void portable_rounds(uint32_t (&state)[8], const uint8_t *blocks, size_t count);

// The fastest that this processor has: x86's SHA extensions, ARMv8's, or the portable ones.
Sha256Rounds fastest_rounds();

}  // namespace genin
