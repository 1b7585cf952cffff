// A worker: one drawing thread, a queue of requests, and what has become of them. The public functions never touch the engine
// (docs/embedding.md has the states of a ticket). Both sides hold the lock only to change state: a request's memory is allocated before
// it and freed after it, and who waits for events is woken after it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "drawing.h"
#include "genin.h"

namespace genin {

struct OpenOptions {
    Place place;
    std::string precision;
    EngineOptions engine;
    int32_t thread_priority = 0;
    uint32_t queue_capacity = 64, check_hashes = 0;
    void (*wake)(void *) = nullptr;
    void *wake_user = nullptr;
};

class Worker {
public:
    Worker(OpenOptions options, genin_ticket loading);
    ~Worker();

    genin_ticket submit(Drawing drawing, const genin_request &request);
    void cancel(genin_ticket ticket);
    uint32_t poll(genin_event *events, uint32_t room, uint32_t event_size);
    genin_result wait(genin_ticket ticket, uint64_t timeout_ns);
    void pause(bool paused);
    void set_share(uint32_t percent);
    // Copies the pixels; a finished picture is given away once.
    genin_result take(genin_ticket ticket, bool preview, void *rgba, int64_t stride, uint64_t room);
    void stats(genin_stats &out);
    // Throws Failure (GENIN_E_TIMEOUT) while the bundle is not loaded.
    void info(genin_info &out);

private:
    struct Result {
        genin_ticket ticket = 0;
        genin_result result = GENIN_OK;
    };
    struct Finished {
        genin_ticket ticket = 0;
        Picture picture;
    };
    struct Preview {
        genin_ticket ticket = 0;           // 0: there is none
        std::shared_ptr<Picture> picture;  // who copies it shares it
    };
    // All that its end needs is allocated when it comes, in lists of one: to finish a request takes no memory, so that none is lost.
    struct Request {
        genin_ticket ticket = 0;
        Drawing drawing;
        uint32_t slot = 0;
        int32_t priority = 0;
        uint64_t tag = 0, queued_at = 0;
        std::list<genin_event> event{1};
        std::list<Finished> finished{1};
    };
    struct Outcome {
        genin_result result = GENIN_OK;
        char message[sizeof(genin_event::message)] = {};
        uint64_t drawing_ns = 0;
        uint32_t width = 0, height = 0;

        Outcome() = default;
        Outcome(genin_result code, std::string_view text);
    };
    static const Outcome kCancelled, kSuperseded;
    struct Cancelled {
        genin_result reason;
    };

    void run();
    void load();
    void draw_next(Request &request);
    // The next request, in a list of one; an empty list when the worker is closed.
    std::list<Request> next();
    template <class Work>
    static Outcome outcome_of(Work &&work, const char *no_memory);
    void preview(const Request &request, uint32_t step, uint32_t steps, Picture &picture);
    // With the lock: record a request's result. `tell` follows without it.
    void finish(Request &request, const Outcome &outcome);
    // With the lock: finish requests that wait, those of which `is_meant` says so. Returns them, to be freed without it.
    template <class Meant>
    std::list<Request> drop(Meant &&is_meant, const Outcome &outcome);
    void add_event(std::list<genin_event> &event);
    void end_running(genin_result reason);
    // Without the lock: wake who waits for events.
    void tell();
    void rest();
    void set_priority() const;
    bool is_unfinished(genin_ticket ticket) const;

    const OpenOptions options_;
    const genin_ticket loading_;
    Request loading_request_;
    std::unique_ptr<Bundle> bundle_;  // these five belong to the drawing thread
    std::unique_ptr<Tokenizer> tokenizer_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Networks> networks_;
    uint64_t network_ns_ = 0, network_end_ = 0;  // how long the last network took, and when it ended

    std::mutex mutex_;
    std::condition_variable work_, done_, ended_;
    std::list<Request> queue_;
    std::list<genin_event> events_;
    std::vector<Result> results_;    // of finished tickets: a ring, in which newer ones overwrite the oldest
    uint64_t finished_ = 0;          // how many tickets have finished
    std::list<Finished> pictures_;   // in the order in which they were finished
    Preview preview_;                // of the running ticket
    std::vector<uint8_t> spare_;     // pixels of a picture that was taken, for the next one
    genin_ticket running_ = 0;
    uint32_t running_slot_ = 0;
    std::atomic<genin_result> ending_{GENIN_OK};  // why the running drawing ends early; changes with the lock only
    std::atomic<uint32_t> share_{100};            // percent of the time that networks may run
    bool interrupted_ = false, closing_ = false, paused_ = false;
    genin_result failed_ = GENIN_OK;  // how loading ended, and why
    char failure_[sizeof(genin_event::message)] = {};
    genin_stats stats_{};
    genin_info info_{};  // steps is 0 until the bundle is loaded
    std::thread thread_;
};

genin_ticket new_ticket();

}  // namespace genin
