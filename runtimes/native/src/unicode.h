// What the tokenizer has to know of Unicode: classes of characters, NFC, lower case. The tables are generated, and their version is
// that of the Python that made them (tools/unicode_tables.py), so that all of genin's tokenizers agree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace genin::unicode {

using Text = std::u32string;

enum class Kind : uint8_t { other, letter, number, dropped, separator, white };

Kind kind_of(char32_t code);

// Normalisation form C (Unicode Standard Annex 15).
Text nfc(const Text &text);

// Full lower case of one word, as Python's str.lower: a capital sigma at the end of a word becomes a final one.
Text lower(const Text &word);

// UTF-8 => code points. False for anything that is not well-formed UTF-8.
bool decode(std::string_view utf8, Text &out);

void append_utf8(std::string &out, char32_t code);

const char *version();

}  // namespace genin::unicode
