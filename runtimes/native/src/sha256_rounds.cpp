#include "sha256_rounds.h"

#if defined(__x86_64__) || defined(_M_X64)
#define GENIN_SHA_X86
#include <immintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#define GENIN_SHA_TARGET
#else
#include <cpuid.h>
#define GENIN_SHA_TARGET __attribute__((target("sha,sse4.1")))
#endif
#elif defined(__aarch64__) && (defined(__linux__) || defined(__APPLE__))
#define GENIN_SHA_ARM
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#define GENIN_SHA_TARGET __attribute__((target("sha2")))
#else
#define GENIN_SHA_TARGET __attribute__((target("+crypto")))
#endif
#endif

namespace genin {
namespace {

constexpr size_t kBlock = 64;
constexpr int kGroups = 16;  // of four rounds

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

void portable_block(uint32_t (&state)[8], const uint8_t *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
        w[i] = static_cast<uint32_t>(block[4 * i]) << 24 | static_cast<uint32_t>(block[4 * i + 1]) << 16 |
               static_cast<uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
    }
    for (int i = 16; i < 64; ++i) {
        const uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        const uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
        const uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
        const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

#if defined(GENIN_SHA_X86)

// `w` holds the last 16 words of the message schedule, four a register; the state is in two registers, as the instructions want it:
// a, b, e, f and c, d, g, h, from the highest lane.
GENIN_SHA_TARGET void x86_rounds(uint32_t (&state)[8], const uint8_t *blocks, size_t count) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const auto lanes = [&state](int highest, int high, int low, int lowest) {
        const auto word = [&state](int i) { return static_cast<int>(state[i]); };
        return _mm_set_epi32(word(highest), word(high), word(low), word(lowest));
    };
    __m128i abef = lanes(0, 1, 4, 5), cdgh = lanes(2, 3, 6, 7);
    for (; count; --count, blocks += kBlock) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(blocks) + i), big_endian);
        for (int group = 0; group < kGroups; ++group) {
            __m128i &words = w[group % 4];
            if (group >= 4) {
                const __m128i last = w[(group + 3) % 4], before_last = w[(group + 2) % 4];
                const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(words, w[(group + 1) % 4]), _mm_alignr_epi8(last, before_last, 4));
                words = _mm_sha256msg2_epu32(sum, last);
            }
            const __m128i added = _mm_add_epi32(words, _mm_load_si128(reinterpret_cast<const __m128i *>(kRound) + group));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, added);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(added, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    alignas(16) uint32_t found[8];  // f, e, b, a, h, g, d, c
    _mm_store_si128(reinterpret_cast<__m128i *>(found), abef);
    _mm_store_si128(reinterpret_cast<__m128i *>(found) + 1, cdgh);
    constexpr int kPlace[8] = {3, 2, 7, 6, 1, 0, 5, 4};
    for (int i = 0; i < 8; ++i) state[i] = found[kPlace[i]];
}

bool has_instructions() {
    unsigned first[4] = {}, extended[4] = {};
#if defined(_MSC_VER)
    __cpuid(reinterpret_cast<int *>(first), 0);
    if (first[0] < 7) return false;
    __cpuid(reinterpret_cast<int *>(first), 1);
    __cpuidex(reinterpret_cast<int *>(extended), 7, 0);
#else
    if (!__get_cpuid(1, &first[0], &first[1], &first[2], &first[3])) return false;
    if (!__get_cpuid_count(7, 0, &extended[0], &extended[1], &extended[2], &extended[3])) return false;
#endif
    const bool ssse3 = first[2] >> 9 & 1, sse41 = first[2] >> 19 & 1, sha = extended[1] >> 29 & 1;
    return ssse3 && sse41 && sha;
}

#elif defined(GENIN_SHA_ARM)

GENIN_SHA_TARGET void arm_rounds(uint32_t (&state)[8], const uint8_t *blocks, size_t count) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; count; --count, blocks += kBlock) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t w[4];
        for (int i = 0; i < 4; ++i) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * i)));
        for (int group = 0; group < kGroups; ++group) {
            uint32x4_t &words = w[group % 4];
            if (group >= 4) words = vsha256su1q_u32(vsha256su0q_u32(words, w[(group + 1) % 4]), w[(group + 2) % 4], w[(group + 3) % 4]);
            const uint32x4_t added = vaddq_u32(words, vld1q_u32(kRound + 4 * group)), abcd_old = abcd;
            abcd = vsha256hq_u32(abcd, efgh, added);
            efgh = vsha256h2q_u32(efgh, abcd_old, added);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

bool has_instructions() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 6 & 1;  // HWCAP_SHA2
#else
    return true;  // all of Apple's have them
#endif
}

#endif

}  // namespace

void portable_rounds(uint32_t (&state)[8], const uint8_t *blocks, size_t count) {
    for (; count; --count, blocks += kBlock) portable_block(state, blocks);
}

Sha256Rounds fastest_rounds() {
#if defined(GENIN_SHA_X86)
    static const bool has = has_instructions();
    if (has) return x86_rounds;
#elif defined(GENIN_SHA_ARM)
    static const bool has = has_instructions();
    if (has) return arm_rounds;
#endif
    return portable_rounds;
}

}  // namespace genin
