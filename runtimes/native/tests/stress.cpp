// Requests, cancels, slots, pauses and closing at random, from three threads, on a real engine: every ticket ends exactly once and nothing
// hangs. Meant for sanitizers: cmake -DGENIN_SANITIZE=address,undefined or -DGENIN_SANITIZE=thread.
//
//     genin_stress BUNDLE ENGINE REQUESTS SEED
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "genin.h"

namespace {

constexpr uint64_t kPatience = 120ull * 1000000000ull;

struct Worker {
    genin_worker *handle = nullptr;
    std::mutex mutex;                              // of what follows
    std::unordered_map<genin_ticket, int> ended;   // how often
    std::vector<genin_ticket> tickets;
    std::vector<unsigned char> pixels;

    // The events that have come; previews and pictures are looked at.
    void poll() {
        genin_event events[8];
        uint32_t count;
        do {
            count = genin_poll(handle, events, 8, sizeof events[0]);
            for (uint32_t i = 0; i < count; ++i) {
                const genin_event &event = events[i];
                const std::lock_guard<std::mutex> lock(mutex);
                const uint64_t room = uint64_t{event.width} * event.height * 4;
                if (pixels.size() < room) pixels.resize(room);
                if (event.kind == GENIN_PREVIEW) {
                    genin_preview(handle, event.ticket, pixels.data(), event.width * 4, room);
                    continue;
                }
                ++ended[event.ticket];
                if (event.kind == GENIN_DONE) genin_take(handle, event.ticket, pixels.data(), -static_cast<int64_t>(event.width) * 4, room);
            }
        } while (count == 8);
    }

    genin_ticket any(std::mt19937 &random) {
        const std::lock_guard<std::mutex> lock(mutex);
        return tickets.empty() ? 0 : tickets[random() % tickets.size()];
    }
};

void ask(Worker &worker, long requests, unsigned seed, std::atomic<long> &submitted) {
    std::mt19937 random(seed);
    for (long i = 0; i < requests; ++i) {
        genin_request request;
        genin_ticket ticket;
        genin_request_init(&request, sizeof request);
        request.prompt = "a ninja \xe5\xbf\x8d";
        request.prompt_bytes = 11;
        request.seed = random();
        request.slot = random() % 4;
        request.priority = static_cast<int32_t>(random() % 3) - 1;
        request.previews = random() % 2;
        request.steps = random() % 20 == 0 ? 40 : 0;
        if (genin_submit(worker.handle, &request, &ticket) == GENIN_OK) {
            const std::lock_guard<std::mutex> lock(worker.mutex);
            worker.tickets.push_back(ticket);
            ++submitted;
        }
        switch (random() % 12) {
            case 0: genin_cancel(worker.handle, worker.any(random)); break;
            case 1: genin_cancel(worker.handle, 0); break;
            case 2: genin_pause(worker.handle, 1); genin_pause(worker.handle, 0); break;
            case 3: genin_wait(worker.handle, worker.any(random), random() % 3000000); break;
            case 4: genin_set_share(worker.handle, 50 + random() % 51); break;
            case 5: std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000)); break;
            default: worker.poll();
        }
    }
}

// A worker's life; how many of its tickets did not end exactly once. One that is closed while it is busy drops its last events.
long live(const char *bundle, const char *engine, long requests, unsigned seed, bool to_the_end, long &total) {
    Worker worker;
    genin_open_options options;
    genin_ticket loading;
    std::atomic<long> submitted{0};
    genin_open_options_init(&options, sizeof options);
    options.engine_path = engine;
    options.queue_capacity = 16;
    if (genin_open(bundle, &options, &worker.handle, &loading) != GENIN_OK) return 1;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; ++i) threads.emplace_back([&, i] { ask(worker, requests / 3, seed * 3 + i, submitted); });
    for (std::thread &thread : threads) thread.join();
    total += submitted;
    long wrong = 0;
    if (to_the_end) {
        for (const genin_ticket ticket : worker.tickets) {
            if (genin_wait(worker.handle, ticket, kPatience) == GENIN_E_TIMEOUT) ++wrong;
        }
        worker.poll();
        for (const genin_ticket ticket : worker.tickets) wrong += worker.ended[ticket] != 1;
    }
    for (const auto &[ticket, times] : worker.ended) wrong += times > 1;
    genin_close(worker.handle);
    return wrong;
}

// Bytes of the heap that are in use, the engine's too; 0 where the C library does not say. With MALLOC_ARENA_MAX=1 it is all of them.
size_t in_use() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#else
    return 0;
#endif
}

// Memory of the process; 0 where /proc does not say.
long resident_kib() {
    long all = 0, pages = 0;
    std::FILE *file = std::fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (std::fscanf(file, "%ld %ld", &all, &pages) != 2) pages = 0;
    std::fclose(file);
    return pages * 4;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 5) return std::fprintf(stderr, "genin_stress BUNDLE ENGINE REQUESTS SEED\n"), 2;
    const long requests = std::strtol(argv[3], nullptr, 10);
    const unsigned seed = static_cast<unsigned>(std::strtoul(argv[4], nullptr, 10));
    long wrong = 0, total = 0;
    size_t early = 0;
    long early_kib = 0;
    for (unsigned life = 0; life < 20; ++life) {
        wrong += live(argv[1], argv[2], requests / 20, seed + life, life % 2 == 0, total);
        if (life == 3) early = in_use(), early_kib = resident_kib();
    }
    std::printf("%ld requests taken, %ld wrong\n", total, wrong);
    std::printf("KiB resident: %ld after a fifth of them, %ld at the end\n", early_kib, resident_kib());
    std::printf("bytes in use: %zu after a fifth of them, %zu at the end\n", early, in_use());
    return wrong != 0;
}
