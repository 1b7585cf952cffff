// A seeded fuzzer for all that reads other people's bytes: JSON, archives, manifests, vocabularies, prompts. An input may be refused with a
// Failure; anything else ends the program. Meant for sanitizers (see stress.cpp).
//
//     genin_fuzz BUNDLE_FOLDER ARCHIVE SCRATCH_FILE INPUTS SEED
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "bundle.h"
#include "failure.h"
#include "files.h"
#include "json.h"
#include "schedule.h"
#include "tokenizer.h"
#include "unicode.h"

namespace {

using Random = std::mt19937_64;

std::string contents(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// A few bytes changed, taken out, put in, repeated or cut off.
std::string mutated(const std::string &good, Random &random) {
    static const char *const pieces[] = {"\"", "{", "}", "[", "]", ",", ":", "\\", "\\u", "-", "1e999", "99999999999999999999", "0", "null", "true", "..", "/", "\xff", "\xf0\x9f", "\xed\xa0\x80"};
    std::string bad = good;
    for (size_t changes = 1 + random() % 4; changes && !bad.empty(); --changes) {
        const size_t at = random() % bad.size();
        switch (random() % 7) {
            case 0: bad[at] = static_cast<char>(random()); break;
            case 1: bad.erase(at, random() % 8); break;
            case 2: bad.insert(at, pieces[random() % (sizeof pieces / sizeof *pieces)]); break;
            case 3: bad.insert(at, bad.substr(at, random() % 64)); break;
            case 4: bad.resize(at); break;
            case 5: bad[at] ^= static_cast<char>(1 << random() % 8); break;
            default: for (size_t i = at; i < std::min(bad.size(), at + 4); ++i) bad[i] = static_cast<char>(random() % 2 ? 0xff : 0);
        }
    }
    return bad;
}

// Text of any characters; one in four is not UTF-8.
std::string noise(size_t length, Random &random) {
    std::string text;
    while (text.size() < length) {
        char32_t code = static_cast<char32_t>(random() % (random() % 2 ? 0x110000 : 0x500));
        if (code >= 0xD800 && code < 0xE000) code = ' ';
        genin::unicode::append_utf8(text, code);
    }
    return random() % 4 ? text : mutated(text, random);
}

struct Fuzzer {
    Random random;
    std::string folder, archive, scratch, manifest, vocabulary, merges;
    std::map<std::string, std::string> files, cache;  // of the host: what was given, what is in the folder
    genin::TextConstants text;
    long refused = 0, taken = 0;

    template <class Work>
    void attempt(Work &&work) {
        try {
            work();
            ++taken;
        } catch (const genin::Failure &failure) {
            if (failure.code == GENIN_OK || failure.message.empty()) std::abort();
            ++refused;
        }
    }

    void json() {
        attempt([&] { genin::json::parse(mutated(manifest.substr(random() % 2 ? 0 : manifest.size() / 2), random), "fuzz"); });
    }

    void prompts(const genin::Tokenizer &tokenizer) {
        attempt([&] {
            const auto ids = tokenizer(noise(random() % 64, random));
            if (ids.size() != text.max_length) std::abort();
        });
    }

    void added_tokens() {
        static const std::string good = R"({"added_tokens_decoder": {"300": {"content": "<cat>"}, "301": {"content": "<cat>_1", "single_word": true}},
            "added_tokens": [{"id": 7, "content": "dog"}], "ninja": 4})";
        attempt([&] {
            const auto read = [&](const std::string &, std::string &content) { return content = mutated(good, random), random() % 4 != 0; };
            const genin::AddedTokens tokens(genin::read_added_tokens(read));
            size_t length = 0;
            for (const auto &piece : tokens.split("a <cat>, " + noise(random() % 32, random) + "dog<cat>_1")) length += piece.text.size();
            if (length > 1 << 20) std::abort();
        });
    }

    void vocabularies() {
        attempt([&] {
            const genin::Tokenizer tokenizer({mutated(vocabulary, random), mutated(merges, random), {}}, text);
            tokenizer("a ninja's hat, \xe5\xbf\x8d");
        });
    }

    void archives() {
        std::string bytes = mutated(archive, random);
        if (random() % 2 && bytes.size() > 64) {  // near the end is the directory
            for (int i = 0; i < 3; ++i) bytes[bytes.size() - 1 - random() % 64] = static_cast<char>(random());
        }
        attempt([&] { open_archive(bytes, random() % 3); });
    }

    // From disk, from memory, through the host's functions.
    void open_archive(const std::string &bytes, uint64_t way) {
        genin::Place place{scratch};
        switch (way) {
            case 0: {
                std::FILE *file = std::fopen(scratch.c_str(), "wb");
                std::fwrite(bytes.data(), 1, bytes.size(), file);
                std::fclose(file);
                break;
            }
            case 1: place.data = bytes.data(), place.bytes = bytes.size(); break;
            default: place = host({{"a.genin", bytes}}), place.path = "a.genin";
        }
        genin::Bundle(place, 1);
    }

    // A manifest with faults over good files, through the host's read functions.
    void manifests() {
        const std::string bad = mutated(manifest, random);
        attempt([&] { open_manifest(bad, static_cast<uint32_t>(random() % 1200)); });
    }

    void open_manifest(const std::string &content, uint32_t steps) {
        const genin::Bundle bundle(host({{"manifest.json", content}}), 2);
        bundle.select({"onnx"}, "");
        bundle.steps(steps);
    }

    // The host's functions, which have these files, and of others those of the folder.
    genin::Place host(std::map<std::string, std::string> given) {
        files = std::move(given);
        genin::Place place{"", true};
        place.io.size = sizeof place.io;
        place.io.user = this;
        place.io.length = [](void *user, const char *path) { return static_cast<Fuzzer *>(user)->length(path); };
        place.io.read = [](void *user, const char *path, uint64_t offset, void *to, uint64_t bytes) {
            const std::string &file = static_cast<Fuzzer *>(user)->file(path);
            const uint64_t count = offset < file.size() ? std::min<uint64_t>(bytes, file.size() - offset) : 0;
            std::memcpy(to, file.data() + offset, count);
            return static_cast<int64_t>(count);
        };
        return place;
    }

    int64_t length(const std::string &path) {
        const bool is_absent = files.find(path) == files.end() && !std::ifstream(folder + "/" + path).good();
        return is_absent ? -1 : static_cast<int64_t>(file(path).size());
    }

    const std::string &file(const std::string &path) {
        if (const auto found = files.find(path); found != files.end()) return found->second;
        const auto found = cache.find(path);
        return found != cache.end() ? found->second : cache[path] = contents(folder + "/" + path);
    }
};

}  // namespace

int main(int argc, char **argv) {
    if (argc != 6) return std::fprintf(stderr, "genin_fuzz BUNDLE_FOLDER ARCHIVE SCRATCH_FILE INPUTS SEED\n"), 2;
    Fuzzer fuzzer;
    fuzzer.random.seed(std::strtoull(argv[5], nullptr, 10));
    fuzzer.folder = argv[1];
    fuzzer.archive = contents(argv[2]);
    fuzzer.scratch = argv[3];
    fuzzer.manifest = contents(fuzzer.folder + "/manifest.json");
    fuzzer.vocabulary = contents(fuzzer.folder + "/tokenizer/vocab.json");
    fuzzer.merges = contents(fuzzer.folder + "/tokenizer/merges.txt");
    const genin::Bundle bundle({fuzzer.folder}, 2);
    fuzzer.text = bundle.text;
    const genin::Tokenizer tokenizer = bundle.tokenizer();
    // Good ones open, or bad ones would be refused for another reason.
    fuzzer.open_manifest(fuzzer.manifest, 1);
    for (uint64_t way = 0; way < 3; ++way) fuzzer.open_archive(fuzzer.archive, way);
    const long inputs = std::strtol(argv[4], nullptr, 10);
    for (long i = 0; i < inputs; ++i) {
        const unsigned kind = static_cast<unsigned>(fuzzer.random() % 20);
        if (kind < 12) fuzzer.prompts(tokenizer);
        else if (kind < 14) fuzzer.added_tokens();
        else if (kind < 17) fuzzer.json();
        else if (kind == 17) fuzzer.archives();
        else if (kind == 18) fuzzer.manifests();
        else fuzzer.vocabularies();
    }
    std::printf("%ld inputs, %ld refused, %ld taken\n", inputs, fuzzer.refused, fuzzer.taken);
    return fuzzer.refused == 0 || fuzzer.taken == 0;
}
