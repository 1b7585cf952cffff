#include "worker.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>

#include "failure.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sched.h>
#include <sys/resource.h>
#endif

namespace genin {
namespace {

constexpr size_t kRemembered = 4096;  // results of finished tickets that genin_wait can still tell

template <size_t room>
void set_text(char (&to)[room], std::string_view text) {
    size_t length = std::min(text.size(), room - 1);
    while (length > 0 && (static_cast<uint8_t>(text[length]) & 0xC0) == 0x80) --length;  // no half of a character
    std::memcpy(to, text.data(), length);
    to[length] = 0;
}

// As much of a struct as its caller knows.
template <class Struct>
void give(const Struct &own, Struct &out) {
    const uint32_t size = out.size;
    std::memcpy(&out, &own, std::min<size_t>(size, sizeof own));
    out.size = size;
}

}  // namespace

const Worker::Outcome Worker::kCancelled{GENIN_E_CANCELLED, "cancelled"}, Worker::kSuperseded{GENIN_E_SUPERSEDED, "a newer request of its slot took its place"};

genin_ticket new_ticket() {
    static std::atomic<uint64_t> last{0};
    return ++last;
}

Worker::Outcome::Outcome(genin_result code, std::string_view text) : result(code) { set_text(message, text); }

Worker::Worker(OpenOptions options, genin_ticket loading) : options_(std::move(options)), loading_(loading) {
    running_ = loading_request_.ticket = loading_;
    loading_request_.queued_at = now_ns();
    thread_ = std::thread([this] { run(); });
}

Worker::~Worker() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        end_running(GENIN_E_CANCELLED);
    }
    work_.notify_all();
    thread_.join();
}

// --- the public side ---------------------------------------------------------------------------------------------------------------------

template <class Meant>
bool Worker::drop(Meant &&is_meant, const Outcome &outcome) {
    bool found = false;
    for (auto at = queue_.begin(); at != queue_.end();) {
        if (!is_meant(*at)) {
            ++at;
            continue;
        }
        finish(*at, outcome);
        at = queue_.erase(at);
        found = true;
    }
    return found;
}

genin_ticket Worker::submit(Drawing drawing, const genin_request &request) {
    std::list<Request> one(1);
    Request &own = one.front();
    own.drawing = std::move(drawing);
    own.slot = request.slot;
    own.priority = request.priority;
    own.tag = request.tag;
    own.queued_at = now_ns();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failed_ != GENIN_OK) throw Failure(failed_, std::string("the bundle could not be loaded: ") + failure_);
    if (own.slot) drop([&own](const Request &other) { return other.slot == own.slot; }, kSuperseded);
    if (queue_.size() >= options_.queue_capacity) throw Failure(GENIN_E_FULL, "the queue holds " + std::to_string(queue_.size()) + " requests; take pictures or cancel some");
    own.ticket = new_ticket();
    if (own.slot && running_ && running_slot_ == own.slot) end_running(GENIN_E_SUPERSEDED);
    const genin_ticket ticket = own.ticket;
    const auto place = std::find_if(queue_.begin(), queue_.end(), [&own](const Request &other) { return other.priority < own.priority; });
    queue_.splice(place, one);
    work_.notify_one();
    return ticket;
}

void Worker::cancel(genin_ticket ticket) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool found = drop([ticket](const Request &request) { return ticket == 0 || request.ticket == ticket; }, kCancelled) || ticket == 0;
    if (running_ && (ticket == 0 ? running_ != loading_ : running_ == ticket)) {
        end_running(GENIN_E_CANCELLED);
        found = true;
    }
    if (!found) throw Failure(GENIN_E_GONE, "the ticket is unknown or finished");
}

uint32_t Worker::poll(genin_event *events, uint32_t room, uint32_t event_size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    uint32_t count = 0;
    const size_t bytes = std::min<size_t>(event_size, sizeof(genin_event));
    for (; count < room && !events_.empty(); ++count) {
        auto *to = reinterpret_cast<uint8_t *>(events) + static_cast<size_t>(count) * event_size;
        std::memset(to, 0, event_size);  // a newer caller's further fields
        events_.front().size = event_size;
        std::memcpy(to, &events_.front(), bytes);
        events_.pop_front();
    }
    return count;
}

genin_result Worker::wait(genin_ticket ticket, uint64_t timeout_ns) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto result_of = [&] { return std::find_if(results_.begin(), results_.end(), [ticket](const Result &one) { return one.ticket == ticket; }); };
    const auto finished = [&] { return !is_unfinished(ticket); };
    // A wait without end is a year: adding to now must not overflow.
    const auto timeout = std::chrono::nanoseconds(std::min<uint64_t>(timeout_ns, 31536000000000000ull));
    if (!done_.wait_for(lock, timeout, finished)) return GENIN_E_TIMEOUT;
    const auto found = result_of();
    return found == results_.end() ? GENIN_E_GONE : found->result;
}

void Worker::pause(bool paused) {
    const std::lock_guard<std::mutex> lock(mutex_);
    paused_ = paused;
    work_.notify_all();
}

void Worker::set_share(uint32_t percent) {
    const std::lock_guard<std::mutex> lock(mutex_);
    share_ = percent;
}

genin_result Worker::take(genin_ticket ticket, bool preview, void *rgba, int64_t stride, uint64_t room) {
    std::list<Finished> taken;  // freed without the lock
    std::unique_lock<std::mutex> lock(mutex_);
    const auto finished = std::find_if(pictures_.begin(), pictures_.end(), [ticket](const Finished &one) { return one.ticket == ticket; });
    const auto previewed = previews_.find(ticket);
    if (preview ? previewed == previews_.end() : finished == pictures_.end()) throw Failure(GENIN_E_GONE, "there is no picture of this ticket");
    const Picture &picture = preview ? previewed->second : finished->picture;
    const uint64_t row = uint64_t{picture.width} * 4, rows = picture.height;
    const uint64_t pitch = static_cast<uint64_t>(stride < 0 ? -stride : stride);
    if (pitch < row || pitch > (uint64_t{1} << 32) || room < pitch * (rows - 1) + row) {
        throw Failure(GENIN_E_ARGUMENT, "a picture of " + std::to_string(picture.width) + "x" + std::to_string(rows) + " needs rows of " + std::to_string(row) + " bytes");
    }
    if (!preview) {  // nobody else has it now
        taken.splice(taken.begin(), pictures_, finished);
        lock.unlock();
    }
    for (uint64_t y = 0; y < rows; ++y) {
        auto *to = static_cast<uint8_t *>(rgba) + (stride < 0 ? rows - 1 - y : y) * pitch;
        const uint8_t *from = &picture.rgb[y * picture.width * 3];
        for (uint32_t i = 0; i < picture.width; ++i, to += 4, from += 3) {
            to[0] = from[0], to[1] = from[1], to[2] = from[2], to[3] = 255;
        }
    }
    return GENIN_OK;
}

void Worker::stats(genin_stats &out) {
    const std::lock_guard<std::mutex> lock(mutex_);
    genin_stats now = stats_;
    now.waiting = static_cast<uint32_t>(queue_.size());
    if (engine_) {
        const Memory memory = engine_->memory();
        now.memory_now = memory.now, now.memory_peak = memory.peak;
    }
    give(now, out);
}

void Worker::info(genin_info &out) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failed_ != GENIN_OK) throw Failure(failed_, std::string("the bundle could not be loaded: ") + failure_);
    if (!info_.steps) throw Failure(GENIN_E_TIMEOUT, "the bundle is not loaded yet");
    give(info_, out);
}

// --- the drawing thread ------------------------------------------------------------------------------------------------------------------

// How work ends, whatever it throws.
template <class Work>
Worker::Outcome Worker::outcome_of(Work &&work, const char *no_memory) {
    try {
        work();
        return {};
    } catch (const Cancelled &cancelled) {
        return {cancelled.reason, "cancelled"};
    } catch (const Failure &failure) {
        return {failure.code, failure.message};
    } catch (const std::bad_alloc &) {
        return {GENIN_E_MEMORY, no_memory};
    } catch (const std::exception &failure) {
        return {GENIN_E_ENGINE, failure.what()};
    }
}

void Worker::run() {
    set_priority();
    Outcome outcome = outcome_of([this] { load(); }, "not enough memory to load the bundle");
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        failed_ = outcome.result;
        std::memcpy(failure_, outcome.message, sizeof failure_);
        outcome.drawing_ns = now_ns() - loading_request_.queued_at;
        outcome.width = info_.width, outcome.height = info_.height;
        finish(loading_request_, outcome);
    }
    for (std::list<Request> one = next(); !one.empty(); one = next()) draw_next(one.front());
    networks_.reset();
    engine_.reset();
}

void Worker::load() {
    const auto check = [this] {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (ending_ != GENIN_OK) throw Cancelled{ending_};
    };
    bundle_ = std::make_unique<Bundle>(options_.bundle, options_.has_io ? &options_.io : nullptr, options_.check_hashes);
    check();
    tokenizer_ = std::make_unique<Tokenizer>(bundle_->tokenizer());
    auto engine = open_engine(options_.engine);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        engine_ = std::move(engine);
    }
    networks_ = std::make_unique<Networks>(*bundle_, *engine_, options_.precision);
    networks_->load(check);
    check();
    const std::string version = engine_->version();
    const std::lock_guard<std::mutex> lock(mutex_);
    info_.width = bundle_->image.width, info_.height = bundle_->image.height;
    info_.multiple = bundle_->multiple;
    info_.steps = bundle_->default_steps;
    info_.takes_images = networks_->takes_images();
    info_.guidance_scale = bundle_->guidance_scale;
    set_text(info_.engine, version);
    set_text(info_.precision, networks_->precision());
}

std::list<Worker::Request> Worker::next() {
    std::unique_lock<std::mutex> lock(mutex_);
    work_.wait(lock, [this] { return closing_ || (!queue_.empty() && (!paused_ || failed_ != GENIN_OK)); });
    const auto all = [](const Request &) { return true; };
    if (failed_ != GENIN_OK && !closing_) {
        drop(all, {failed_, failure_});
        work_.wait(lock, [this] { return closing_; });  // no request is taken any more
    }
    std::list<Request> one;
    if (closing_) {
        drop(all, {GENIN_E_CANCELLED, "the worker was closed"});
        return one;
    }
    one.splice(one.begin(), queue_, queue_.begin());
    running_ = one.front().ticket;
    running_slot_ = one.front().slot;
    ending_ = GENIN_OK;
    return one;
}

void Worker::draw_next(Request &request) {
    const uint64_t start = now_ns();
    Progress progress;
    Picture &picture = request.finished.front().picture;
    Outcome outcome = outcome_of(
        [&] {
            progress.before = [this] { rest(); };
            progress.after = [this](uint64_t network_ns) {
                const std::lock_guard<std::mutex> lock(mutex_);
                owed_ns_ = network_ns * 100 / share_ - network_ns;
            };
            progress.preview = [this, &request](uint32_t step, uint32_t steps, Picture shown) { preview(request, step, steps, std::move(shown)); };
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (std::exchange(interrupted_, false)) engine_->proceed();
            }
            picture = draw(*bundle_, *tokenizer_, *networks_, request.drawing, progress);
        },
        "not enough memory for this picture");
    const std::lock_guard<std::mutex> lock(mutex_);
    // An engine that was interrupted says so in words of its own.
    if (ending_ != GENIN_OK && outcome.result != GENIN_OK) outcome = ending_ == GENIN_E_SUPERSEDED ? kSuperseded : kCancelled;
    outcome.drawing_ns = now_ns() - start;
    if (outcome.result == GENIN_OK) {
        stats_.engine_ns += progress.engine_ns;
        stats_.other_ns += outcome.drawing_ns - progress.engine_ns;
        outcome.width = picture.width, outcome.height = picture.height;
        request.finished.front().ticket = request.ticket;
        pictures_.splice(pictures_.end(), request.finished);
        if (pictures_.size() > options_.queue_capacity) pictures_.pop_front();  // the oldest that nobody fetched
    }
    finish(request, outcome);
}

void Worker::preview(const Request &request, uint32_t step, uint32_t steps, Picture picture) {
    std::list<genin_event> one(1);
    genin_event &event = one.front();
    event.kind = GENIN_PREVIEW;
    event.ticket = request.ticket;
    event.tag = request.tag;
    event.step = step, event.steps = steps;
    event.width = picture.width, event.height = picture.height;
    const std::lock_guard<std::mutex> lock(mutex_);
    previews_[request.ticket] = std::move(picture);
    events_.remove_if([&](const genin_event &old) { return old.kind == GENIN_PREVIEW && old.ticket == request.ticket; });  // nobody has looked at it
    add_event(one);
}

// Sleep for as long as the share of the time asks for, unless the drawing ends.
void Worker::rest() {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t owed_ns = std::exchange(owed_ns_, 0);
    // To wait for no time is to sleep all the same: until the system's timer has come round, and while others want the processor.
    if (owed_ns) ended_.wait_for(lock, std::chrono::nanoseconds(owed_ns), [this] { return ending_ != GENIN_OK; });
    if (ending_ != GENIN_OK) throw Cancelled{ending_};
}

// With the lock: record a request's result, and tell it.
void Worker::finish(Request &request, const Outcome &outcome) {
    const genin_result result = outcome.result;
    genin_event &event = request.event.front();
    event.kind = result != GENIN_OK ? GENIN_FAILED : request.ticket == loading_ ? GENIN_READY : GENIN_DONE;
    event.ticket = request.ticket;
    event.tag = request.tag;
    event.result = result;
    event.drawing_ns = outcome.drawing_ns;
    event.queued_ns = now_ns() - request.queued_at - outcome.drawing_ns;
    event.width = outcome.width, event.height = outcome.height;
    std::memcpy(event.message, outcome.message, sizeof event.message);
    if (request.ticket != loading_) {
        if (result == GENIN_OK) ++stats_.done;
        else if (result == GENIN_E_CANCELLED || result == GENIN_E_SUPERSEDED) ++stats_.cancelled;
        else ++stats_.failed;
    }
    previews_.erase(request.ticket);
    request.result.front() = {request.ticket, result};
    results_.splice(results_.end(), request.result);
    if (results_.size() > kRemembered) results_.pop_front();
    if (running_ == request.ticket) {
        running_ = 0;
        running_slot_ = 0;
        ending_ = GENIN_OK;
    }
    add_event(request.event);
    done_.notify_all();
}

void Worker::add_event(std::list<genin_event> &event) {
    event.front().size = sizeof(genin_event);
    events_.splice(events_.end(), event);
    if (events_.size() > 2 * kRemembered) events_.pop_front();  // nobody polls
    if (options_.wake) options_.wake(options_.wake_user);
}

// With the lock.
void Worker::end_running(genin_result reason) {
    if (!running_ || ending_ != GENIN_OK) return;
    ending_ = reason;
    ended_.notify_all();
    if (engine_) {
        interrupted_ = true;
        engine_->interrupt();
    }
}

// Whether a ticket waits or is being drawn.
bool Worker::is_unfinished(genin_ticket ticket) const {
    return ticket == running_ || std::any_of(queue_.begin(), queue_.end(), [ticket](const Request &request) { return request.ticket == ticket; });
}

// Of this thread; the engine's own threads are started by it and inherit it.
void Worker::set_priority() const {
    if (options_.thread_priority >= 0) return;
#if defined(_WIN32)
    SetThreadPriority(GetCurrentThread(), options_.thread_priority == -1 ? THREAD_PRIORITY_BELOW_NORMAL : THREAD_PRIORITY_IDLE);
#elif defined(__linux__)
    if (options_.thread_priority <= -2) {
        const sched_param none{};
        sched_setscheduler(0, SCHED_IDLE, &none);
    } else {
        setpriority(PRIO_PROCESS, 0, 5);
    }
#endif
}

}  // namespace genin
