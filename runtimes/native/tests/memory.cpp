// Allocations that fail, one after the other: whatever the library was doing ends in a result code, nothing leaks, and it works again
// afterwards. `operator new` of this program is the library's, too, since its objects are linked into it.
//
//     genin_memory BUNDLE ENGINE [EVERY]     EVERY n-th allocation, 1 by default
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "genin.h"

namespace {

std::atomic<long> left{-1};      // allocations that succeed before one fails; below 0: none fails
std::atomic<long> asked{0};      // since the start
std::atomic<long> living{0};     // blocks that were not freed

void *allocate(size_t size) noexcept {
    ++asked;
    if (left >= 0 && left-- == 0) return nullptr;
    void *block = std::malloc(size ? size : 1);
    if (block) ++living;
    return block;
}

void release(void *block) noexcept {
    if (block) --living;
    std::free(block);
}

}  // namespace

void *operator new(size_t size) {
    if (void *block = allocate(size)) return block;
    throw std::bad_alloc();
}
void *operator new(size_t size, const std::nothrow_t &) noexcept { return allocate(size); }
void operator delete(void *block) noexcept { release(block); }
void operator delete(void *block, size_t) noexcept { release(block); }
void operator delete(void *block, const std::nothrow_t &) noexcept { release(block); }

namespace {

constexpr uint64_t kPatience = 60ull * 1000000000ull;

// A worker's life: open, draw with a preview, draw from an image, cancel, close. How it ended.
genin_result live(const char *bundle, const char *engine, bool &hung) {
    genin_worker *worker = nullptr;
    genin_ticket loading = 0, ticket = 0;
    genin_open_options options;
    genin_open_options_init(&options, sizeof options);
    options.engine_path = engine;
    genin_result result = genin_open(bundle, &options, &worker, &loading);
    if (result != GENIN_OK) return result;
    genin_request request;
    genin_request_init(&request, sizeof request);
    request.prompt = "a ninja \xe5\xbf\x8d";
    request.prompt_bytes = 11;
    request.previews = 1;
    request.steps = 2;
    static unsigned char image[32 * 32 * 4], pixels[128 * 128 * 4];
    std::memset(image, 200, sizeof image);
    for (int i = 0; i < 3 && result == GENIN_OK; ++i) {
        if (i == 1) request.image = image, request.image_width = request.image_height = 32;
        result = genin_submit(worker, &request, &ticket);
        if (result != GENIN_OK) break;
        if (i == 2) genin_cancel(worker, ticket);
        result = genin_wait(worker, ticket, kPatience);
        if (result == GENIN_E_TIMEOUT) hung = true;
        if (i >= 1 && result == GENIN_E_ARGUMENT) result = GENIN_OK;  // a bundle without an encoder
        if (i == 2 && result == GENIN_E_CANCELLED) result = GENIN_OK;
        genin_event event;
        while (genin_poll(worker, &event, 1, sizeof event)) {
        }
        if (i == 0 && result == GENIN_OK) result = genin_take(worker, ticket, pixels, 128 * 4, sizeof pixels);
    }
    genin_close(worker);
    return result;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 3) return std::fprintf(stderr, "genin_memory BUNDLE ENGINE [EVERY]\n"), 2;
    const long every = argc > 3 ? std::strtol(argv[3], nullptr, 10) : 1;
    bool hung = false;
    for (int i = 0; i < 2; ++i) {  // what is kept for the process is made at the first life
        if (live(argv[1], argv[2], hung) != GENIN_OK) return std::fprintf(stderr, "it does not draw\n"), 1;
    }
    const long before = living, first = asked;
    if (live(argv[1], argv[2], hung) != GENIN_OK) return 1;
    const long count = asked - first;
    long refused = 0, wrong = 0;
    for (long i = 0; i < count && !hung; i += every) {
        left = i;
        const genin_result result = live(argv[1], argv[2], hung);
        left = -1;
        if (result == GENIN_E_MEMORY) ++refused;
        else if (result != GENIN_OK) std::fprintf(stderr, "allocation %ld: result %d\n", i, result), ++wrong;
        if (living != before) return std::fprintf(stderr, "allocation %ld: %ld blocks leak\n", i, living - before), 1;
    }
    if (hung || live(argv[1], argv[2], hung) != GENIN_OK) return std::fprintf(stderr, "it does not draw any more\n"), 1;
    std::printf("%ld allocations, %ld of the failures refused a picture, %ld ended otherwise\n", count, refused, wrong);
    return wrong != 0 || refused == 0;
}
