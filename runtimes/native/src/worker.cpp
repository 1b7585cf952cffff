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
void set_text(char (&to)[room], const std::string &text) {
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

genin_ticket new_ticket() {
    static std::atomic<uint64_t> last{0};
    return ++last;
}

Worker::Worker(OpenOptions options, genin_ticket loading) : options_(std::move(options)), loading_(loading) {
    running_ = loading_;
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

genin_ticket Worker::submit(Drawing drawing, const genin_request &request) {
    Request own;
    own.drawing = std::move(drawing);
    own.slot = request.slot;
    own.priority = request.priority;
    own.tag = request.tag;
    own.queued_at = now_ns();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failed_) throw Failure(GENIN_E_BUNDLE, "the bundle could not be loaded: " + failure_);
    if (own.slot) {
        for (size_t i = 0; i < queue_.size();) {
            if (queue_[i].slot != own.slot) {
                ++i;
                continue;
            }
            const Request old = std::move(queue_[i]);
            queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
            finish(old, {GENIN_E_SUPERSEDED, "a newer request of its slot took its place"});
        }
    }
    if (queue_.size() >= options_.queue_capacity) throw Failure(GENIN_E_FULL, "the queue holds " + std::to_string(queue_.size()) + " requests; take pictures or cancel some");
    own.ticket = new_ticket();
    if (own.slot && running_ && running_slot_ == own.slot) end_running(GENIN_E_SUPERSEDED);
    const genin_ticket ticket = own.ticket;
    const auto place = std::find_if(queue_.begin(), queue_.end(), [&own](const Request &other) { return other.priority < own.priority; });
    queue_.insert(place, std::move(own));
    work_.notify_one();
    return ticket;
}

void Worker::cancel(genin_ticket ticket) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool found = ticket == 0;
    for (size_t i = 0; i < queue_.size();) {
        if (ticket && queue_[i].ticket != ticket) {
            ++i;
            continue;
        }
        const Request old = std::move(queue_[i]);
        queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
        finish(old, {GENIN_E_CANCELLED, "cancelled"});
        found = true;
    }
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
    const auto finished = [&] { return results_.count(ticket) || !is_known(ticket); };
    // A wait without end is a year: adding to now must not overflow.
    const auto timeout = std::chrono::nanoseconds(std::min<uint64_t>(timeout_ns, 31536000000000000ull));
    if (!done_.wait_for(lock, timeout, finished)) return GENIN_E_TIMEOUT;
    const auto found = results_.find(ticket);
    return found == results_.end() ? GENIN_E_GONE : found->second;
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
    const std::lock_guard<std::mutex> lock(mutex_);
    auto &pictures = preview ? previews_ : pictures_;
    const auto found = pictures.find(ticket);
    if (found == pictures.end()) throw Failure(GENIN_E_GONE, "there is no picture of this ticket");
    const Picture &picture = found->second;
    const uint64_t row = uint64_t{picture.width} * 4, rows = picture.height;
    const uint64_t pitch = static_cast<uint64_t>(stride < 0 ? -stride : stride);
    if (pitch < row || pitch > (uint64_t{1} << 32) || room < pitch * (rows - 1) + row) {
        throw Failure(GENIN_E_ARGUMENT, "a picture of " + std::to_string(picture.width) + "x" + std::to_string(rows) + " needs rows of " + std::to_string(row) + " bytes");
    }
    for (uint64_t y = 0; y < rows; ++y) {
        auto *to = static_cast<uint8_t *>(rgba) + (stride < 0 ? rows - 1 - y : y) * pitch;
        const uint8_t *from = &picture.rgb[y * picture.width * 3];
        for (uint32_t i = 0; i < picture.width; ++i, to += 4, from += 3) {
            to[0] = from[0], to[1] = from[1], to[2] = from[2], to[3] = 255;
        }
    }
    if (!preview) {
        pictures_.erase(found);
        finished_.erase(std::find(finished_.begin(), finished_.end(), ticket));
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
    if (failed_) throw Failure(GENIN_E_BUNDLE, "the bundle could not be loaded: " + failure_);
    if (!info_.steps) throw Failure(GENIN_E_TIMEOUT, "the bundle is not loaded yet");
    give(info_, out);
}

// --- the drawing thread ------------------------------------------------------------------------------------------------------------------

void Worker::run() {
    set_priority();
    Request loading;
    loading.ticket = loading_;
    loading.queued_at = now_ns();
    Outcome outcome;
    try {
        load();
    } catch (const Cancelled &cancelled) {
        outcome = {cancelled.reason, "loading was cancelled"};
    } catch (const Failure &failure) {
        outcome = {failure.code, failure.message};
    } catch (const std::bad_alloc &) {
        outcome = {GENIN_E_MEMORY, "not enough memory to load the bundle"};
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        failed_ = outcome.result != GENIN_OK;
        failure_ = outcome.message;
        if (!failed_) fill_info();
        outcome.drawing_ns = now_ns() - loading.queued_at;
        outcome.width = info_.width, outcome.height = info_.height;
        finish(loading, outcome);
    }
    Request request;
    while (next(request)) draw_next(std::move(request));
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
}

void Worker::fill_info() {
    info_.width = bundle_->image.width, info_.height = bundle_->image.height;
    info_.multiple = bundle_->multiple;
    info_.steps = bundle_->default_steps;
    info_.takes_images = networks_->takes_images();
    info_.guidance_scale = bundle_->guidance_scale;
    set_text(info_.engine, engine_->version());
    set_text(info_.precision, networks_->precision());
}

bool Worker::next(Request &out) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        if (closing_ || failed_) {
            for (const Request &request : std::exchange(queue_, {})) {
                finish(request, closing_ ? Outcome{GENIN_E_CANCELLED, "the worker was closed"} : Outcome{GENIN_E_BUNDLE, failure_});
            }
            if (closing_) return false;
        }
        if (!queue_.empty() && !paused_) break;
        work_.wait(lock);
    }
    out = std::move(queue_.front());
    queue_.erase(queue_.begin());
    running_ = out.ticket;
    running_slot_ = out.slot;
    ending_ = GENIN_OK;
    if (interrupted_) {
        interrupted_ = false;
        engine_->proceed();
    }
    return true;
}

void Worker::draw_next(Request request) {
    const uint64_t start = now_ns();
    Progress progress;
    progress.before = [this] { rest(); };
    progress.after = [this](uint64_t network_ns) {
        const std::lock_guard<std::mutex> lock(mutex_);
        owed_ns_ = network_ns * 100 / share_ - network_ns;
    };
    progress.preview = [&](uint32_t step, uint32_t steps, Picture preview) {
        const std::lock_guard<std::mutex> lock(mutex_);
        genin_event event{};
        event.kind = GENIN_PREVIEW;
        event.ticket = request.ticket;
        event.tag = request.tag;
        event.step = step, event.steps = steps;
        event.width = preview.width, event.height = preview.height;
        const auto old = std::find_if(events_.begin(), events_.end(), [&](const genin_event &other) { return other.kind == GENIN_PREVIEW && other.ticket == request.ticket; });
        if (old != events_.end()) events_.erase(old);  // nobody has looked at it
        previews_[request.ticket] = std::move(preview);
        add_event(event);
    };
    Outcome outcome;
    Picture picture;
    try {
        picture = draw(*bundle_, *tokenizer_, *networks_, request.drawing, progress);
    } catch (const Cancelled &cancelled) {
        outcome.result = cancelled.reason;
    } catch (const Failure &failure) {
        outcome = {failure.code, failure.message};
    } catch (const std::bad_alloc &) {
        outcome = {GENIN_E_MEMORY, "not enough memory for this picture"};
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    // An engine that was interrupted says so in words of its own.
    if (ending_ != GENIN_OK && outcome.result != GENIN_OK) outcome.result = ending_;
    if (outcome.result == GENIN_E_CANCELLED) outcome.message = "cancelled";
    if (outcome.result == GENIN_E_SUPERSEDED) outcome.message = "a newer request of its slot took its place";
    outcome.drawing_ns = now_ns() - start;
    if (outcome.result == GENIN_OK) {
        stats_.engine_ns += progress.engine_ns;
        stats_.other_ns += outcome.drawing_ns - progress.engine_ns;
        outcome.width = picture.width, outcome.height = picture.height;
        pictures_[request.ticket] = std::move(picture);
        finished_.push_back(request.ticket);
        if (finished_.size() > options_.queue_capacity) {  // the oldest that nobody fetched
            pictures_.erase(finished_.front());
            finished_.pop_front();
        }
    }
    finish(request, outcome);
}

// Sleep for as long as the share of the time asks for, unless the drawing ends.
void Worker::rest() {
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait_for(lock, std::chrono::nanoseconds(std::exchange(owed_ns_, 0)), [this] { return ending_ != GENIN_OK; });
    if (ending_ != GENIN_OK) throw Cancelled{ending_};
}

// With the lock: record a request's result, and tell it.
void Worker::finish(const Request &request, const Outcome &outcome) {
    const genin_result result = outcome.result;
    genin_event event{};
    event.kind = result != GENIN_OK ? GENIN_FAILED : request.ticket == loading_ ? GENIN_READY : GENIN_DONE;
    event.ticket = request.ticket;
    event.tag = request.tag;
    event.result = result;
    event.drawing_ns = outcome.drawing_ns;
    event.queued_ns = now_ns() - request.queued_at - outcome.drawing_ns;
    event.width = outcome.width, event.height = outcome.height;
    set_text(event.message, outcome.message);
    if (request.ticket != loading_) {
        if (result == GENIN_OK) ++stats_.done;
        else if (result == GENIN_E_CANCELLED || result == GENIN_E_SUPERSEDED) ++stats_.cancelled;
        else ++stats_.failed;
    }
    previews_.erase(request.ticket);
    results_[request.ticket] = result;
    remembered_.push_back(request.ticket);
    if (remembered_.size() > kRemembered) {
        results_.erase(remembered_.front());
        remembered_.pop_front();
    }
    if (running_ == request.ticket) {
        running_ = 0;
        running_slot_ = 0;
        ending_ = GENIN_OK;
    }
    add_event(event);
    done_.notify_all();
}

void Worker::add_event(genin_event event) {
    event.size = sizeof event;
    events_.push_back(event);
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

bool Worker::is_known(genin_ticket ticket) const {
    return ticket == running_ || results_.count(ticket) ||
           std::any_of(queue_.begin(), queue_.end(), [ticket](const Request &request) { return request.ticket == ticket; });
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
