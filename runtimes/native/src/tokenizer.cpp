#include "tokenizer.h"

#include <algorithm>
#include <queue>

#include "failure.h"
#include "json.h"
#include "unicode.h"

namespace genin {
namespace {

using unicode::Kind;
using Text = unicode::Text;

constexpr size_t kMerges = 49152 - 256 - 2;  // CLIP's own number; further lines do not count
constexpr const char *kWordEnd = "</w>";
// Names that the original takes whole even where case hid them from the special tokens.
const Text kReserved[] = {U"<|startoftext|>", U"<|endoftext|>"};
const Text kContractions[] = {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"};
constexpr std::pair<char32_t, char32_t> kIdeographs[] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                                                        {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};

bool is_ideograph(char32_t code) {
    return std::any_of(std::begin(kIdeographs), std::end(kIdeographs), [code](auto block) { return code >= block.first && code <= block.second; });
}

void append_clean(Text &out, char32_t code) {
    if (code == U'\t' || code == U'\n' || code == U'\r') {
        out += U' ';
    } else if (code < 0x7F) {
        if (code > 0x1F) out += code;
    } else if (code == 0xFFFD || unicode::kind_of(code) == Kind::dropped) {
        return;
    } else if (unicode::kind_of(code) == Kind::separator) {
        out += U' ';
    } else if (is_ideograph(code)) {
        out += U' ';
        out += code;
        out += U' ';
    } else {
        out += code;
    }
}

bool is_space(char32_t code) { return code == U' ' || unicode::kind_of(code) == Kind::separator || unicode::kind_of(code) == Kind::white; }

// Words of lower-case text in NFC.
std::vector<Text> clean(const Text &text) {
    Text kept;
    for (char32_t code : text) append_clean(kept, code);
    std::vector<Text> words;
    Text word;
    for (char32_t code : unicode::nfc(kept) + U' ') {
        if (!is_space(code)) {
            word += code;
        } else if (!word.empty()) {
            words.push_back(unicode::lower(word));
            word.clear();
        }
    }
    return words;
}

enum class Run { letters, number, others };

Run run_of(char32_t code) {
    const Kind kind = unicode::kind_of(code);
    return kind == Kind::letter ? Run::letters : kind == Kind::number ? Run::number : Run::others;
}

char32_t without_case(char32_t code) { return code == 0x17F ? U's' : code; }  // the long s stands for an s in a contraction

// How many characters from `at` on are taken whole: a reserved name or a contraction; 0 for none.
size_t whole_at(const Text &word, size_t at) {
    for (const Text &name : kReserved) {
        if (word.compare(at, name.size(), name) == 0) return name.size();
    }
    for (const Text &name : kContractions) {
        bool same = at + name.size() <= word.size();
        for (size_t i = 0; same && i < name.size(); ++i) same = without_case(word[at + i]) == name[i];
        if (same) return name.size();
    }
    return 0;
}

// CLIP's pattern: reserved names and contractions, runs of letters, single numbers, runs of other characters.
std::vector<Text> split(const Text &word) {
    std::vector<Text> parts;
    for (size_t at = 0; at < word.size();) {
        size_t length = whole_at(word, at);
        if (length == 0) {
            const Run run = run_of(word[at]);
            length = 1;
            while (run != Run::number && at + length < word.size() && run_of(word[at + length]) == run) ++length;
        }
        parts.push_back(word.substr(at, length));
        at += length;
    }
    return parts;
}

// GPT-2's printable character for every byte: itself where it is printable Latin-1, else one from U+0100 on.
std::vector<std::string> byte_signs() {
    std::vector<std::string> signs(256);
    char32_t spare = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte < 0x7F) || (byte >= 0xA1 && byte < 0xAD) || byte >= 0xAE;
        unicode::append_utf8(signs[byte], printable ? byte : spare++);
    }
    return signs;
}

const std::vector<std::string> &signs_of_bytes() {
    static const std::vector<std::string> signs = byte_signs();
    return signs;
}

}  // namespace

Tokenizer::Tokenizer(const TokenizerFiles &files, const TextConstants &text) : text_(text) {
    const std::string_view merges = files.merges;
    const json::Value names = json::parse(files.vocabulary, "tokenizer/vocab.json");
    if (!names.is(json::Value::Type::object)) throw Failure(GENIN_E_BUNDLE, "tokenizer/vocab.json does not map pieces to ids");
    std::unordered_map<int64_t, std::string> pieces;
    for (const auto &[piece, id] : names.object) {
        ids_[piece] = id.as_whole("tokenizer/vocab.json", 0, (1LL << 31) - 1);
        pieces[ids_[piece]] = piece;
    }
    size_t start = merges.find('\n'), count = 0;  // the first line is a comment
    while (start != std::string_view::npos && count < kMerges) {
        const size_t end = merges.find('\n', ++start);
        std::string_view line = merges.substr(start, end == std::string_view::npos ? end : end - start);
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        if (!line.empty()) {
            if (std::count(line.begin(), line.end(), ' ') != 1) throw Failure(GENIN_E_BUNDLE, "tokenizer/merges.txt does not list pairs");
            ranks_.emplace(std::string(line), count++);
        }
        start = end;
    }
    for (const AddedToken &token : files.added) pieces[token.id] = token.name;
    std::vector<AddedToken> added;
    for (int64_t id : {text.begin, text.end, text.pad}) {
        if (pieces[id].empty()) throw Failure(GENIN_E_BUNDLE, "the tokenizer's vocabulary lacks a special token");
        added.push_back({pieces[id], id, false});
    }
    added.insert(added.end(), files.added.begin(), files.added.end());
    added_ = AddedTokens(added);
    unknown_ = text.end;
}

std::vector<int64_t> Tokenizer::operator()(std::string_view prompt) const {
    std::vector<int64_t> ids;
    for (const AddedTokens::Piece &piece : added_.split(prompt)) {
        if (piece.token) ids.push_back(piece.token->id);
        else append_text(piece.text, ids);
    }
    ids.resize(std::min(ids.size(), text_.max_length - 2));
    ids.insert(ids.begin(), text_.begin);
    ids.push_back(text_.end);
    ids.resize(text_.max_length, text_.pad);
    return ids;
}

void Tokenizer::append_text(std::string_view part, std::vector<int64_t> &ids) const {
    Text text;
    if (!unicode::decode(part, text)) throw Failure(GENIN_E_PROMPT, "the prompt is not valid UTF-8");
    for (const Text &word : clean(text)) {
        for (const Text &piece : split(word)) append_word(piece, ids);
    }
}

int64_t Tokenizer::id_of(const std::string &piece) const {
    const auto found = ids_.find(piece);
    return found == ids_.end() ? unknown_ : found->second;
}

// Byte-pair encoding (Sennrich et al. 2016): join the pair learnt first before all others, the leftmost first.
void Tokenizer::append_word(const Text &word, std::vector<int64_t> &ids) const {
    std::string bytes;
    for (char32_t code : word) unicode::append_utf8(bytes, code);
    if (std::find(std::begin(kReserved), std::end(kReserved), word) != std::end(kReserved)) {
        ids.push_back(id_of(bytes));
        return;
    }
    std::vector<std::string> pieces;
    for (char byte : bytes) pieces.push_back(signs_of_bytes()[static_cast<uint8_t>(byte)]);
    pieces.back() += kWordEnd;

    // A list linked both ways; a piece joined to its left neighbour becomes empty. The queue may hold stale pairs.
    const auto none = static_cast<size_t>(-1);
    std::vector<size_t> after(pieces.size()), before(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) after[i] = i + 1 < pieces.size() ? i + 1 : none, before[i] = i ? i - 1 : none;
    struct Candidate {
        size_t rank, at;
        std::string pair;
        bool operator<(const Candidate &other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
    };
    std::priority_queue<Candidate> queue;
    const auto consider = [&](size_t at) {
        if (at == none || after[at] == none) return;
        std::string pair = pieces[at] + " " + pieces[after[at]];
        if (const auto rank = ranks_.find(pair); rank != ranks_.end()) queue.push({rank->second, at, std::move(pair)});
    };
    for (size_t i = 0; i < pieces.size(); ++i) consider(i);
    while (!queue.empty()) {
        const Candidate next = queue.top();
        queue.pop();
        const size_t other = after[next.at];
        if (other == none || pieces[next.at].empty() || pieces[next.at] + " " + pieces[other] != next.pair) continue;
        pieces[next.at] += pieces[other];
        pieces[other].clear();
        after[next.at] = after[other];
        if (after[next.at] != none) before[after[next.at]] = next.at;
        consider(before[next.at]);
        consider(next.at);
    }
    for (const std::string &piece : pieces) {
        if (!piece.empty()) ids.push_back(id_of(piece));
    }
}

}  // namespace genin
