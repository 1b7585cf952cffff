#include "added_tokens.h"

#include <algorithm>
#include <unordered_map>

#include "failure.h"
#include "json.h"

namespace genin {
namespace {

// In the order in which transformers looks for them; the files after the first count only where it does not state any.
constexpr const char *kConfig = "tokenizer_config.json", *kPlain = "added_tokens.json", *kListed = "tokenizer.json";

[[noreturn]] void invalid(const std::string &file) {
    throw Failure(GENIN_E_BUNDLE, "the added tokens in tokenizer/" + file + " are not names with numbers");
}

AddedToken token_of(const std::string &file, const json::Value &entry, double number) {
    const json::Value &name = entry["content"], &single = entry["single_word"];
    if (!name.is(json::Value::Type::string) || name.string.empty() || number < 0 || number >= 2147483648.0 || number != static_cast<double>(static_cast<int64_t>(number))) invalid(file);
    return {name.string, static_cast<int64_t>(number), single.is(json::Value::Type::boolean) && single.boolean};
}

double number_of(const std::string &file, const std::string &text) {
    if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) invalid(file);
    return std::stod(text);
}

double number_of(const std::string &file, const json::Value &value) {
    if (!value.is(json::Value::Type::number)) invalid(file);
    return value.number;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const std::function<bool(const std::string &, std::string &)> &read) {
    const auto object = [&read](const char *name) {
        std::string content;
        return read(name, content) ? json::parse(content, std::string("tokenizer/") + name) : json::Value{};
    };
    std::map<int64_t, AddedToken> found;
    const auto add = [&found](const AddedToken &token) { found[token.id] = token; };
    const json::Value config = object(kConfig);
    if (config.has("added_tokens_decoder")) {
        for (const auto &[id, entry] : config["added_tokens_decoder"].object) add(token_of(kConfig, entry, number_of(kConfig, id)));
    } else {
        for (const auto &[name, id] : object(kPlain).object) {
            json::Value entry;
            entry.type = json::Value::Type::object;
            entry.object.emplace_back("content", json::Value{});
            entry.object[0].second.type = json::Value::Type::string;
            entry.object[0].second.string = name;
            add(token_of(kPlain, entry, number_of(kPlain, id)));
        }
        const json::Value listed = object(kListed);
        for (const json::Value &entry : listed["added_tokens"].array) add(token_of(kListed, entry, number_of(kListed, entry["id"])));
    }
    std::vector<AddedToken> tokens;
    for (const auto &[id, token] : found) tokens.push_back(token);
    return tokens;
}

AddedTokens::AddedTokens(const std::vector<AddedToken> &tokens) {
    for (const AddedToken &token : tokens) tokens_[token.name] = token;
    for (const auto &[name, token] : tokens_) longest_first_.push_back(&token);
    std::stable_sort(longest_first_.begin(), longest_first_.end(), [](const AddedToken *a, const AddedToken *b) { return a->name.size() > b->name.size(); });
}

// The longest token that `text` begins with, or null.
const AddedToken *AddedTokens::starting(std::string_view text) const {
    const auto found = std::find_if(longest_first_.begin(), longest_first_.end(), [&](const AddedToken *one) { return text.substr(0, one->name.size()) == one->name; });
    return found == longest_first_.end() ? nullptr : *found;
}

// Where a prompt names NAME_1 itself, NAME is left alone.
std::string AddedTokens::with_vectors(std::string_view prompt) const {
    std::string text;
    std::unordered_map<const AddedToken *, bool> has_vectors;  // of those that occur; asked once, since a search takes the whole prompt
    for (size_t at = 0; at < prompt.size();) {
        const AddedToken *token = starting(prompt.substr(at));
        if (!token) {
            text += prompt[at++];
            continue;
        }
        text += token->name;
        at += token->name.size();
        const auto [found, is_new] = has_vectors.emplace(token, false);
        if (is_new) {
            const std::string second = token->name + "_1";
            found->second = tokens_.count(second) && prompt.find(second) == std::string_view::npos;
        }
        if (!found->second) continue;
        for (size_t i = 1; tokens_.count(token->name + "_" + std::to_string(i)); ++i) text += " " + token->name + "_" + std::to_string(i);
    }
    return text;
}

std::vector<AddedTokens::Piece> AddedTokens::split(std::string_view prompt) const {
    const std::string text = with_vectors(prompt);
    std::vector<Piece> pieces;
    const auto add_text = [&pieces](std::string_view more) {
        if (more.empty()) return;
        if (pieces.empty() || pieces.back().token) pieces.push_back({});
        pieces.back().text += more;
    };
    for (size_t at = 0; at < text.size();) {
        const AddedToken *token = starting(std::string_view(text).substr(at));
        if (token) pieces.push_back({token->name, token});
        else add_text(std::string_view(text).substr(at, 1));
        at += token ? token->name.size() : 1;
    }
    // As transformers' slow tokenizers: a single word is no token where something other than a space touches it. It becomes part of the
    // text before it, or else of the text after it.
    for (size_t i = 0; i < pieces.size(); ++i) {
        if (!pieces[i].token || !pieces[i].token->single_word) continue;
        if (i > 0 && !pieces[i - 1].text.empty() && pieces[i - 1].text.back() != ' ') {
            pieces[i - 1] = {pieces[i - 1].text + pieces[i].text, nullptr};
            pieces[i] = {};
        } else if (i + 1 < pieces.size() && !pieces[i + 1].text.empty() && pieces[i + 1].text[0] != ' ') {
            pieces[i + 1] = {pieces[i].text + pieces[i + 1].text, nullptr};
            pieces[i] = {};
        }
    }
    pieces.erase(std::remove_if(pieces.begin(), pieces.end(), [](const Piece &piece) { return piece.text.empty(); }), pieces.end());
    return pieces;
}

}  // namespace genin
