// Tokens that were added to a vocabulary, as textual inversions do (docs/bundle.md, "Tokenizer", 1): their names in a prompt are taken whole.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace genin {

struct AddedToken {
    std::string name;
    int64_t id = 0;
    bool single_word = false;  // not looked for inside of words
};

// Of a tokenizer's files; `read` gives the content of one, or says that there is none. Throws Failure (GENIN_E_BUNDLE).
std::vector<AddedToken> read_added_tokens(const std::function<bool(const std::string &name, std::string &content)> &read);

class AddedTokens {
public:
    struct Piece {
        std::string text;
        const AddedToken *token = nullptr;  // null: text
    };

    AddedTokens() = default;
    AddedTokens(AddedTokens &&) = default;  // moved only: the list points into the map
    AddedTokens &operator=(AddedTokens &&) = default;
    // Of two with the same name, the later one counts.
    explicit AddedTokens(const std::vector<AddedToken> &tokens);

    // A prompt cut at the tokens, every NAME of several vectors written out as NAME NAME_1 NAME_2 before.
    std::vector<Piece> split(std::string_view prompt) const;

private:
    std::string with_vectors(std::string_view prompt) const;
    const AddedToken *starting(std::string_view text) const;

    std::map<std::string, AddedToken> tokens_;
    std::vector<const AddedToken *> longest_first_;
};

}  // namespace genin
