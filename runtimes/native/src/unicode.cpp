#include "unicode.h"

#include <algorithm>
#include <iterator>

namespace genin::unicode {
namespace {

struct Range {
    uint32_t first;
    uint8_t value;
};
struct Pair {
    uint32_t from, to;
};
struct Slice {
    uint32_t code, start, length;
};
struct Triple {
    uint32_t first, second, composed;
};

#include "unicode_tables.inc"

template <size_t N>
uint8_t value_at(const Range (&table)[N], char32_t code) {
    const Range *after = std::upper_bound(std::begin(table), std::end(table), static_cast<uint32_t>(code),
                                          [](uint32_t wanted, const Range &range) { return wanted < range.first; });
    return after == std::begin(table) ? 0 : (after - 1)->value;
}

enum Casing : uint8_t { neither = 0, cased = 1, ignored = 2 };

// Hangul syllables are composed by arithmetic (The Unicode Standard, section 3.12).
constexpr char32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr uint32_t kLeadingCount = 19, kVowelCount = 21, kTrailingCount = 28;
constexpr uint32_t kSyllableCount = kLeadingCount * kVowelCount * kTrailingCount;

void append_decomposed(Text &out, char32_t code) {
    const uint32_t syllable = code - kSyllables;
    if (code >= kSyllables && syllable < kSyllableCount) {
        out += kLeading + syllable / (kVowelCount * kTrailingCount);
        out += kVowels + syllable % (kVowelCount * kTrailingCount) / kTrailingCount;
        if (syllable % kTrailingCount) out += kTrailing + syllable % kTrailingCount;
        return;
    }
    const Slice *found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), static_cast<uint32_t>(code),
                                          [](const Slice &slice, uint32_t wanted) { return slice.code < wanted; });
    if (found == std::end(kDecompositions) || found->code != code) {
        out += code;
        return;
    }
    for (uint32_t i = 0; i < found->length; ++i) out += static_cast<char32_t>(kDecomposed[found->start + i]);
}

// Marks in the order of their combining classes; those of one class keep theirs.
void order_marks(Text &text) {
    size_t start = 0;
    while (start < text.size()) {
        if (value_at(kCombining, text[start]) == 0) {
            ++start;
            continue;
        }
        size_t end = start;
        while (end < text.size() && value_at(kCombining, text[end]) != 0) ++end;
        std::stable_sort(text.begin() + static_cast<std::ptrdiff_t>(start), text.begin() + static_cast<std::ptrdiff_t>(end),
                         [](char32_t a, char32_t b) { return value_at(kCombining, a) < value_at(kCombining, b); });
        start = end;
    }
}

// The character that two compose to, or 0.
char32_t composed(char32_t first, char32_t second) {
    if (first >= kLeading && first < kLeading + kLeadingCount && second >= kVowels && second < kVowels + kVowelCount) {
        return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailingCount;
    }
    const uint32_t syllable = first - kSyllables;
    if (first >= kSyllables && syllable < kSyllableCount && syllable % kTrailingCount == 0 && second > kTrailing &&
        second < kTrailing + kTrailingCount) {
        return first + (second - kTrailing);
    }
    const Triple wanted{static_cast<uint32_t>(first), static_cast<uint32_t>(second), 0};
    const Triple *found =
        std::lower_bound(std::begin(kCompositions), std::end(kCompositions), wanted, [](const Triple &a, const Triple &b) {
            return a.first != b.first ? a.first < b.first : a.second < b.second;
        });
    const bool is_pair = found != std::end(kCompositions) && found->first == wanted.first && found->second == wanted.second;
    return is_pair ? static_cast<char32_t>(found->composed) : 0;
}

Text compose(const Text &text) {
    Text out;
    size_t starter = Text::npos;
    uint8_t last_class = 0;
    for (char32_t code : text) {
        const uint8_t combining = value_at(kCombining, code);
        const bool adjacent = starter != Text::npos && starter + 1 == out.size();
        // A mark between the starter and this one blocks it, if that has the same class or a higher one.
        const bool blocked = !adjacent && (last_class == 0 || last_class >= combining);
        if (starter != Text::npos && !blocked) {
            if (const char32_t joined = composed(out[starter], code)) {
                out[starter] = joined;
                continue;
            }
        }
        if (combining == 0) starter = out.size();
        last_class = combining;
        out += code;
    }
    return out;
}

// A capital sigma is final if a cased letter stands before it and none behind, ignorable characters aside.
bool is_final_sigma(const Text &word, size_t at) {
    size_t before = at;
    while (before > 0 && value_at(kCasing, word[before - 1]) == ignored) --before;
    if (before == 0 || value_at(kCasing, word[before - 1]) != cased) return false;
    size_t behind = at + 1;
    while (behind < word.size() && value_at(kCasing, word[behind]) == ignored) ++behind;
    return behind == word.size() || value_at(kCasing, word[behind]) != cased;
}

}  // namespace

Kind kind_of(char32_t code) { return static_cast<Kind>(value_at(kKinds, code)); }

Text nfc(const Text &text) {
    Text decomposed;
    decomposed.reserve(text.size());
    for (char32_t code : text) append_decomposed(decomposed, code);
    order_marks(decomposed);
    return compose(decomposed);
}

Text lower(const Text &word) {
    constexpr char32_t kSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2, kDottedI = 0x130;
    Text out;
    out.reserve(word.size());
    for (size_t i = 0; i < word.size(); ++i) {
        if (word[i] == kSigma) {
            out += is_final_sigma(word, i) ? kFinalSigma : kSmallSigma;
        } else if (word[i] == kDottedI) {
            out += U"i\u0307";
        } else {
            const Pair *found = std::lower_bound(std::begin(kLower), std::end(kLower), static_cast<uint32_t>(word[i]),
                                                 [](const Pair &pair, uint32_t wanted) { return pair.from < wanted; });
            const bool has = found != std::end(kLower) && found->from == word[i];
            out += has ? static_cast<char32_t>(found->to) : word[i];
        }
    }
    return out;
}

bool decode(std::string_view utf8, Text &out) {
    out.clear();
    for (size_t i = 0; i < utf8.size();) {
        const auto byte = static_cast<uint8_t>(utf8[i]);
        const int more = byte < 0x80 ? 0 : byte >= 0xC2 && byte < 0xE0 ? 1 : byte >= 0xE0 && byte < 0xF0 ? 2 : byte >= 0xF0 && byte < 0xF5 ? 3 : -1;
        if (more < 0 || i + static_cast<size_t>(more) >= utf8.size()) return false;
        char32_t code = more == 0 ? byte : byte & (0x3Fu >> more);
        for (int k = 1; k <= more; ++k) {
            const auto next = static_cast<uint8_t>(utf8[i + static_cast<size_t>(k)]);
            if ((next & 0xC0) != 0x80) return false;
            code = code << 6 | (next & 0x3Fu);
        }
        constexpr char32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
        if (code < kLeast[more] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
        out += code;
        i += static_cast<size_t>(more) + 1;
    }
    return true;
}

void append_utf8(std::string &out, char32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        out += static_cast<char>(0xE0 | code >> 12);
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | code >> 18);
        out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    }
}

const char *version() { return GENIN_UNICODE_VERSION; }

}  // namespace genin::unicode
