#include "worker.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>

#include "failure.h"

#if defined(_WIN32)
#include "windows_text.h"
#elif defined(__APPLE__)
#include <pthread/qos.h>
#else
#include <sched.h>
#include <sys/resource.h>
#endif

namespace genin {
namespace {

constexpr size_t kRemembered = 4096;  // results of finished tickets that genin_wait can still tell, at least
#if defined(__linux__)
constexpr int kNicer = 5, kNicest = 19;
#endif

template <size_t room>
void set_text(char (&to)[room], std::string_view text) {
    size_t length = std::min(text.size(), room - 1);
    while (length > 0 && length < text.size() && (static_cast<uint8_t>(text[length]) & 0xC0) == 0x80) --length;  // no half of a character
    std::memcpy(to, text.data(), length);
    to[length] = 0;
}

// As much of a struct as its caller knows; what only the caller knows is zero.
template <class Struct>
void give(const Struct &own, Struct &out) {
    const uint32_t size = out.size;
    std::memset(static_cast<void *>(&out), 0, size);
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

Worker::Worker(OpenOptions options, genin_ticket loading) : options_(std::move(options)), loading_(loading), results_(std::max<size_t>(kRemembered, 2 * size_t{options_.queue_capacity})) {
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
std::list<Worker::Request> Worker::drop(Meant &&is_meant, const Outcome &outcome) {
    std::list<Request> dropped;
    for (auto at = queue_.begin(); at != queue_.end();) {
        const auto each = at++;
        if (!is_meant(*each)) continue;
        finish(*each, outcome);
        dropped.splice(dropped.end(), queue_, each);
    }
    return dropped;
}

genin_ticket Worker::submit(Drawing drawing, const genin_request &request) {
    std::list<Request> one(1);
    Request &own = one.front();
    own.drawing = std::move(drawing);
    own.slot = request.slot;
    own.priority = request.priority;
    own.tag = request.tag;
    own.queued_at = now_ns();
    own.ticket = new_ticket();
    const genin_ticket ticket = own.ticket;
    std::list<Request> dropped;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (failed_ != GENIN_OK) throw Failure(failed_, std::string("the bundle could not be loaded: ") + failure_);
        if (own.slot) dropped = drop([&own](const Request &other) { return other.slot == own.slot; }, kSuperseded);
        if (queue_.size() >= options_.queue_capacity) throw Failure(GENIN_E_FULL, "the queue holds " + std::to_string(queue_.size()) + " requests; take pictures or cancel some");
        if (own.slot && running_ && running_slot_ == own.slot) end_running(GENIN_E_SUPERSEDED);
        const auto before = std::find_if(queue_.rbegin(), queue_.rend(), [&own](const Request &other) { return other.priority >= own.priority; });
        queue_.splice(before.base(), one);
    }
    work_.notify_one();
    if (!dropped.empty()) tell();
    return ticket;
}

void Worker::cancel(genin_ticket ticket) {
    std::list<Request> dropped;
    bool found = ticket == 0;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        dropped = drop([ticket](const Request &request) { return ticket == 0 || request.ticket == ticket; }, kCancelled);
        if (running_ && (ticket == 0 ? running_ != loading_ : running_ == ticket)) {
            end_running(GENIN_E_CANCELLED);
            found = true;
        }
    }
    if (!dropped.empty()) tell();
    else if (!found) throw Failure(GENIN_E_GONE, "the ticket is unknown or finished");
}

uint32_t Worker::poll(genin_event *events, uint32_t room, uint32_t event_size) {
    std::list<genin_event> polled;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        while (polled.size() < room && !events_.empty()) polled.splice(polled.end(), events_, events_.begin());
    }
    auto *to = reinterpret_cast<uint8_t *>(events);
    for (genin_event &event : polled) {
        std::memset(to, 0, event_size);  // a newer caller's further fields
        event.size = event_size;
        std::memcpy(to, &event, std::min<size_t>(event_size, sizeof event));
        to += event_size;
    }
    return static_cast<uint32_t>(polled.size());
}

genin_result Worker::wait(genin_ticket ticket, uint64_t timeout_ns) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto finished = [&] { return !is_unfinished(ticket); };
    // A wait without end is a year: adding to now must not overflow. One of no time would sleep all the same.
    const auto timeout = std::chrono::nanoseconds(std::min<uint64_t>(timeout_ns, 31536000000000000ull));
    if (timeout_ns == 0 ? !finished() : !done_.wait_for(lock, timeout, finished)) return GENIN_E_TIMEOUT;
    for (uint64_t i = finished_; i > 0 && finished_ - i < results_.size(); --i) {
        const Result &one = results_[(i - 1) % results_.size()];
        if (one.ticket == ticket) return one.result;
    }
    return GENIN_E_GONE;
}

void Worker::pause(bool paused) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        paused_ = paused;
    }
    work_.notify_all();
}

void Worker::set_share(uint32_t percent) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        share_ = percent;
    }
    ended_.notify_all();  // who sleeps for the share before
}

genin_result Worker::take(genin_ticket ticket, bool preview, void *rgba, int64_t stride, uint64_t room) {
    std::list<Finished> taken;
    std::shared_ptr<Picture> shown;
    std::unique_lock<std::mutex> lock(mutex_);
    const auto finished = std::find_if(pictures_.begin(), pictures_.end(), [ticket](const Finished &one) { return one.ticket == ticket; });
    if (preview ? preview_.ticket != ticket || ticket == 0 : finished == pictures_.end()) throw Failure(GENIN_E_GONE, "there is no picture of this ticket");
    if (preview) shown = preview_.picture;
    Picture &picture = preview ? *shown : finished->picture;
    const uint64_t row = uint64_t{picture.width} * 4, rows = picture.height;
    const uint64_t pitch = stride < 0 ? 0 - static_cast<uint64_t>(stride) : static_cast<uint64_t>(stride);
    if (pitch < row || pitch > (uint64_t{1} << 32) || room < pitch * (rows - 1) + row) {
        throw Failure(GENIN_E_ARGUMENT, "a picture of " + std::to_string(picture.width) + "x" + std::to_string(rows) + " needs rows of " + std::to_string(row) + " bytes");
    }
    if (!preview) taken.splice(taken.begin(), pictures_, finished);
    lock.unlock();  // nobody changes it now
    for (uint64_t y = 0; y < rows; ++y) {
        std::memcpy(static_cast<uint8_t *>(rgba) + (stride < 0 ? rows - 1 - y : y) * pitch, &picture.rgba[y * row], row);
    }
    // To free pixels here could wait for the drawing thread, which allocates from the same heap.
    lock.lock();
    if (!preview || (shown.use_count() == 1 && spare_.empty())) spare_.swap(picture.rgba);
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
    tell();
    for (std::list<Request> one = next(); !one.empty(); one = next()) draw_next(one.front());
    networks_.reset();
    engine_.reset();
}

void Worker::load() {
    const auto check = [this] {
        if (const genin_result reason = ending_; reason != GENIN_OK) throw Cancelled{reason};
    };
    bundle_ = std::make_unique<Bundle>(options_.place, options_.check_hashes);
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
    const auto all = [](const Request &) { return true; };
    std::list<Request> one, dropped;
    std::unique_lock<std::mutex> lock(mutex_);
    work_.wait(lock, [this] { return closing_ || (!queue_.empty() && (!paused_ || failed_ != GENIN_OK)); });
    if (failed_ != GENIN_OK && !closing_) {
        dropped = drop(all, {failed_, failure_});
        lock.unlock();
        tell();
        lock.lock();
        work_.wait(lock, [this] { return closing_; });  // no request is taken any more
    }
    if (closing_) {
        dropped = drop(all, {GENIN_E_CANCELLED, "the worker was closed"});
        lock.unlock();
        tell();
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
            progress.after = [this](uint64_t network_ns) { network_ns_ = network_ns, network_end_ = now_ns(); };
            progress.preview = [this, &request](uint32_t step, uint32_t steps, Picture &shown) { preview(request, step, steps, shown); };
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (std::exchange(interrupted_, false)) engine_->proceed();
                picture.rgba.swap(spare_);
            }
            draw(*bundle_, *tokenizer_, *networks_, request.drawing, progress, picture);
        },
        "not enough memory for this picture");
    std::list<Finished> forgotten;
    std::unique_lock<std::mutex> lock(mutex_);
    // An engine that was interrupted says so in words of its own.
    if (ending_ != GENIN_OK && outcome.result != GENIN_OK) outcome = ending_ == GENIN_E_SUPERSEDED ? kSuperseded : kCancelled;
    outcome.drawing_ns = now_ns() - start;
    if (outcome.result == GENIN_OK) {
        stats_.engine_ns += progress.engine_ns;
        stats_.other_ns += outcome.drawing_ns - progress.engine_ns;
        outcome.width = picture.width, outcome.height = picture.height;
        request.finished.front().ticket = request.ticket;
        pictures_.splice(pictures_.end(), request.finished);
        if (pictures_.size() > options_.queue_capacity) forgotten.splice(forgotten.end(), pictures_, pictures_.begin());  // the oldest that nobody fetched
    }
    finish(request, outcome);
    lock.unlock();
    tell();
}

void Worker::preview(const Request &request, uint32_t step, uint32_t steps, Picture &picture) {
    std::list<genin_event> one(1);
    genin_event &event = one.front();
    event.kind = GENIN_PREVIEW;
    event.ticket = request.ticket;
    event.tag = request.tag;
    event.step = step, event.steps = steps;
    event.width = picture.width, event.height = picture.height;
    std::list<genin_event> unseen;  // the one before, if nobody has looked at it
    auto own = std::make_shared<Picture>();  // for the one before is being copied, or there is none
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (preview_.ticket == request.ticket) {
            const auto old = std::find_if(events_.rbegin(), events_.rend(), [&](const genin_event &other) { return other.kind == GENIN_PREVIEW && other.ticket == request.ticket; });
            if (old != events_.rend()) unseen.splice(unseen.end(), events_, std::prev(old.base()));
        }
        preview_.ticket = request.ticket;
        if (preview_.picture.use_count() != 1) preview_.picture.swap(own);
        std::swap(*preview_.picture, picture);
        add_event(one);
    }
    tell();
}

// Sleep after the last network for as long as the share of the time asks for, unless the drawing ends. To wait for no time would be to
// sleep all the same: until the system's timer has come round, and while others want the processor.
void Worker::rest() {
    const auto owed_ns = [this] {
        const uint64_t owed = network_ns_ * 100 / share_ - network_ns_, passed = now_ns() - network_end_;
        return owed > passed ? owed - passed : 0;
    };
    if (owed_ns()) {
        std::unique_lock<std::mutex> lock(mutex_);  // before the share is read: a new one wakes only who waits
        for (uint64_t left = owed_ns(); left && ending_ == GENIN_OK; left = owed_ns()) {
            const uint32_t share = share_;
            ended_.wait_for(lock, std::chrono::nanoseconds(left), [this, share] { return ending_ != GENIN_OK || share_ != share; });
        }
    }
    if (const genin_result reason = ending_; reason != GENIN_OK) throw Cancelled{reason};
}

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
    results_[finished_++ % results_.size()] = {request.ticket, result};
    if (preview_.ticket == request.ticket) preview_.ticket = 0;
    if (running_ == request.ticket) {
        running_ = 0;
        running_slot_ = 0;
        ending_ = GENIN_OK;
    }
    add_event(request.event);
}

void Worker::add_event(std::list<genin_event> &event) {
    event.front().size = sizeof(genin_event);
    events_.splice(events_.end(), event);
    if (events_.size() > 2 * results_.size()) events_.pop_front();  // nobody polls
}

void Worker::tell() {
    done_.notify_all();
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
    return (ticket != 0 && ticket == running_) || std::any_of(queue_.begin(), queue_.end(), [ticket](const Request &request) { return request.ticket == ticket; });
}

// Of this thread. The engine's own threads are started by it and inherit it; on Windows they have the usual one.
void Worker::set_priority() const {
    if (options_.thread_priority >= 0) return;
#if defined(_WIN32)
    SetThreadPriority(GetCurrentThread(), options_.thread_priority == -1 ? THREAD_PRIORITY_BELOW_NORMAL : THREAD_PRIORITY_IDLE);
#elif defined(__linux__)
    if (options_.thread_priority <= -2) {
        const sched_param none{};
        sched_setscheduler(0, SCHED_IDLE, &none);
    } else {
        errno = 0;
        const int own = getpriority(PRIO_PROCESS, 0);
        if (errno == 0) setpriority(PRIO_PROCESS, 0, std::min(own + kNicer, kNicest));
    }
#elif defined(__APPLE__)
    pthread_set_qos_class_self_np(options_.thread_priority == -1 ? QOS_CLASS_UTILITY : QOS_CLASS_BACKGROUND, 0);
#endif
}

}  // namespace genin
