// What needs no engine: published vectors, refusals, the interface's rules about sizes and nulls; with a bundle, what is told of networks.
//
//     genin_tests [BUNDLE]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "drawing.h"
#include "failure.h"
#include "files.h"
#include "genin.h"
#include "json.h"
#include "noise.h"
#include "schedule.h"
#include "sha256.h"
#include "unicode.h"

namespace {

int failures = 0;

void check(bool good, const char *what, int line) {
    if (good) return;
    ++failures;
    std::fprintf(stderr, "line %d: %s\n", line, what);
}
#define CHECK(condition) check((condition), #condition, __LINE__)

template <class Work>
genin_result code_of(Work &&work) {
    try {
        work();
    } catch (const genin::Failure &failure) {
        return failure.code;
    }
    return GENIN_OK;
}

void noise() {
    // Random123's known answers, key and counter zero: docs/noise.md.
    uint32_t words[8];
    genin::philox_words(0, 0, 0, 8, words);
    const uint32_t known[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    CHECK(std::memcmp(words, known, sizeof known) == 0);
    uint32_t later[3];
    genin::philox_words(0, 0, 5, 3, later);
    CHECK(std::memcmp(later, words + 5, sizeof later) == 0);
}

void hashes() {
    CHECK(genin::sha256("", 0) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(genin::sha256("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const std::string long_one(1000, 'a');
    CHECK(genin::sha256(long_one.data(), long_one.size()) == "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
    // The processor's own instructions give what the portable rounds give, however the bytes come.
    std::vector<uint32_t> words(250);
    genin::philox_words(7, 0, 0, words.size(), words.data());
    const auto *bytes = reinterpret_cast<const uint8_t *>(words.data());
    for (size_t length = 0; length <= words.size() * sizeof(uint32_t); ++length) {
        genin::Sha256 portable(genin::portable_rounds), own;
        portable.add(bytes, length);
        for (size_t at = 0; at < length; at += 100) own.add(bytes + at, std::min<size_t>(100, length - at));
        CHECK(own.digest() == portable.digest());
    }
}

void json() {
    const genin::json::Value value = genin::json::parse(R"( {"a": [1, -2.5e-3, true, null], "b": "\u00e9\ud83d\ude00\n"} )", "x");
    CHECK(value["a"].array.size() == 4 && value["a"].array[1].number == -2.5e-3 && value["a"].array[2].boolean);
    CHECK(value["b"].string == "\xc3\xa9\xf0\x9f\x98\x80\n" && !value.has("c"));
    CHECK(genin::json::parse("0.98865", "x").number == 0.98865 && genin::json::parse("0.00085", "x").number == 0.00085);
    const genin::json::Value twice = genin::json::parse(R"({"a": 1, "a": 2})", "x");
    CHECK(twice["a"].number == 2);  // as in Python
    const std::vector<std::string> wrong = {"", "{", "[1,]", "{\"a\":}", "nul", "01x", "\"\\ud800\"", "\"a", "1.", "-", "[1] 2", std::string(100, '['), "\"\x01\""};
    for (const std::string &text : wrong) CHECK(code_of([&] { genin::json::parse(text, "x"); }) == GENIN_E_BUNDLE);
}

void unicode() {
    using genin::unicode::Text;
    CHECK(genin::unicode::nfc(U"e\u0301") == U"\u00e9" && genin::unicode::nfc(U"\u1100\u1161\u11a8") == U"\uac01");
    CHECK(genin::unicode::nfc(U"a\u0323\u0307") == genin::unicode::nfc(U"a\u0307\u0323"));
    CHECK(genin::unicode::lower(U"\u039f\u0394\u039f\u03a3") == U"\u03bf\u03b4\u03bf\u03c2" && genin::unicode::lower(U"\u03a3") == U"\u03c3");
    CHECK(genin::unicode::lower(U"\u0130") == U"i\u0307");
    Text text;
    for (const char *bad : {"\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xff"}) CHECK(!genin::unicode::decode(bad, text));
    CHECK(genin::unicode::decode("\xf4\x8f\xbf\xbf", text) && text == Text(1, 0x10FFFF));
}

void schedule() {
    const genin::Schedule schedule(genin::json::parse(
        R"({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": true,
            "timestep_spacing": "trailing", "clip_sample": false, "prediction_type": "v_prediction"})", "x"));
    const auto steps = schedule.steps(4);
    CHECK(steps.size() == 4 && steps[0].first == 999 && steps[1].first == 749 && steps[3] == std::make_pair(249L, -1L));
    CHECK(code_of([&] { schedule.steps(0); }) == GENIN_E_ARGUMENT && code_of([&] { schedule.steps(1001); }) == GENIN_E_ARGUMENT);
    CHECK(code_of([&] { schedule.explicit_steps({1000}); }) == GENIN_E_BUNDLE);
    CHECK(code_of([] { genin::Schedule(genin::json::parse(R"({"beta_schedule": "sigmoid"})", "x")); }) == GENIN_E_BUNDLE);
    CHECK(code_of([] { genin::Schedule(genin::json::parse(R"({"thresholding": true})", "x")); }) == GENIN_E_BUNDLE);
}

// Against numpy's rule: clip(value * 127.5 + 127.5, 0, 255), halves to even.
void pixels() {
    std::vector<float> planes(3 * 4096);
    for (size_t i = 0; i < planes.size(); ++i) planes[i] = static_cast<float>(i) / 4096.0f - 1.5f;  // halves, and beyond both ends
    const float ends[] = {-1.0f, 1.0f, 0.0f, -0.0f, 1e30f, -1e30f, 5e6f, -5e6f, 1e-40f, 0.00392156863f};
    std::memcpy(planes.data(), ends, sizeof ends);
    genin::Picture picture{1, 1, {9, 9, 9, 9, 9, 9, 9, 9}};  // of an earlier picture
    CHECK(genin::to_pixels(planes, {64, 64}, picture) && picture.width == 64 && picture.height == 64 && picture.rgba.size() == 4 * 4096);
    bool same = true;
    for (size_t i = 0; i < planes.size(); ++i) {
        const float level = std::nearbyint(std::min(std::max(planes[i] * 127.5f + 127.5f, 0.0f), 255.0f));
        same &= picture.rgba[i % 4096 * 4 + i / 4096] == static_cast<uint8_t>(level) && picture.rgba[i % 4096 * 4 + 3] == 255;
    }
    CHECK(same);
    for (const float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
        planes[7777] = bad;
        CHECK(!genin::to_pixels(planes, {64, 64}, picture));
    }
}

void paths() {
    for (const char *good : {"a", "a/b.onnx", "tokenizer/vocab.json", "..a/b", "com/contact", "COM10"}) CHECK(genin::is_inside(good));
    for (const char *bad : {"", "/a", "a//b", "../a", "a/../b", "a/..", "./a", "a\\b", "c:a", "a/", "a./b", "a ", "a\nb", "what?", "nul.txt", "a/Com1", "CON", "conin$", "LPT\xc2\xb2.txt"}) CHECK(!genin::is_inside(bad));
}

void interface() {
    genin_worker *worker = nullptr;
    genin_ticket ticket = 0;
    CHECK(genin_abi() == GENIN_ABI && std::strstr(genin_version(), "Unicode"));
    CHECK(genin_open(nullptr, nullptr, &worker, &ticket) == GENIN_E_ARGUMENT && genin_close(nullptr) == GENIN_OK);
    CHECK(genin_submit(nullptr, nullptr, &ticket) == GENIN_E_ARGUMENT && genin_poll(nullptr, nullptr, 0, 0) == 0);
    char message[64];
    CHECK(genin_last_error(message, sizeof message) > 1 && genin_last_error(message, 4) > 4 && std::strlen(message) == 3);

    genin_open_options options;
    genin_open_options_init(&options, sizeof options);
    options.size = 2;
    CHECK(genin_open("x", &options, &worker, &ticket) == GENIN_E_ARGUMENT);
    options.size = sizeof options;
    options.check_hashes = 9;
    CHECK(genin_open("x", &options, &worker, &ticket) == GENIN_E_ARGUMENT);

    // A newer caller's larger struct: good as long as it asks for nothing new.
    struct {
        genin_open_options known;
        uint64_t newer;
    } larger{};
    genin_open_options_init(&larger.known, sizeof larger);
    larger.newer = 1;
    CHECK(genin_open("/nowhere/x.genin", &larger.known, &worker, &ticket) == GENIN_E_ARGUMENT);
    larger.newer = 0;
    CHECK(genin_open("/nowhere/x.genin", &larger.known, &worker, &ticket) == GENIN_OK);
    CHECK(genin_wait(worker, ticket, UINT64_MAX) == GENIN_E_BUNDLE);
    genin_event event;
    CHECK(genin_poll(worker, &event, 1, sizeof event) == 1 && event.kind == GENIN_FAILED && std::strstr(event.message, "no such file"));
    genin_request request;
    genin_request_init(&request, sizeof request);
    CHECK(genin_submit(worker, &request, &ticket) == GENIN_E_BUNDLE);
    request.prompt = "\xff";
    request.prompt_bytes = 1;
    CHECK(genin_submit(worker, &request, &ticket) == GENIN_E_PROMPT);
    CHECK(genin_cancel(worker, 12345) == GENIN_E_GONE && genin_wait(worker, 12345, 0) == GENIN_E_GONE);
    CHECK(genin_wait(worker, 0, UINT64_MAX) == GENIN_E_GONE);  // no ticket: what a refused submission leaves
    CHECK(genin_take(worker, 12345, message, 4, sizeof message) == GENIN_E_GONE);
    CHECK(genin_close(worker) == GENIN_OK);
}

// Its third network, the decoder of a picture of one step, is ended early.
class Ended : public genin::Engine {
public:
    std::vector<std::string> formats() const override { return {"onnx"}; }
    void load(const genin::Bundle &, const genin::Graph &) override {}
    void unload(const genin::Graph &) override {}
    void run(const genin::Graph &, const std::vector<genin::Tensor> &, void *output, size_t bytes) override {
        if (++runs == 3) throw genin::Failure(GENIN_E_CANCELLED, "ended");
        std::memset(output, 0, bytes);
    }
    void interrupt() override {}
    void proceed() override {}
    std::string version() const override { return "none"; }
    int runs = 0;
};

void progress(const char *path) {
    const genin::Bundle bundle({path}, 0);
    Ended engine;
    genin::Networks networks(bundle, engine, "");
    networks.load([] {});
    genin::Drawing drawing;
    genin::Progress progress;
    genin::Picture picture;
    int before = 0, after = 0;
    drawing.prompt = "a ninja";
    drawing.steps = 1;
    progress.before = [&] { ++before; };
    progress.after = [&](uint64_t) { ++after; };
    CHECK(code_of([&] { draw(bundle, bundle.tokenizer(), networks, drawing, progress, picture); }) == GENIN_E_CANCELLED);
    CHECK(engine.runs == 3 && before == 3 && after == 3);
}

}  // namespace

int main(int argc, char **argv) {
    noise();
    hashes();
    json();
    unicode();
    schedule();
    pixels();
    paths();
    interface();
    if (argc > 1) progress(argv[1]);
    if (!failures) std::puts("ok");
    return failures != 0;
}
