// CLIP's byte-pair tokenizer, ids as genin's Python tokenizer gives them (docs/bundle.md, "Tokenizer").
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "added_tokens.h"

namespace genin {

struct TextConstants {
    size_t max_length = 0, hidden_size = 0;
    int64_t pad = 0, begin = 0, end = 0;
};

struct TokenizerFiles {
    std::string vocabulary, merges;  // the contents of vocab.json and merges.txt
    std::vector<AddedToken> added;
};

class Tokenizer {
public:
    // Throws Failure (GENIN_E_BUNDLE).
    Tokenizer(const TokenizerFiles &files, const TextConstants &text);

    // A caption of max_length ids: begin, at most max_length - 2 tokens, end, padding. Throws Failure (GENIN_E_PROMPT) for bytes that
    // are not UTF-8.
    std::vector<int64_t> operator()(std::string_view prompt) const;

private:
    void append_text(std::string_view part, std::vector<int64_t> &ids) const;
    void append_word(const std::u32string &word, std::vector<int64_t> &ids) const;
    int64_t id_of(const std::string &piece) const;

    TextConstants text_;
    std::unordered_map<std::string, int64_t> ids_;
    std::unordered_map<std::string, size_t> ranks_;  // "left right" => its place among the merges
    AddedTokens added_;
    int64_t unknown_ = 0;
};

}  // namespace genin
