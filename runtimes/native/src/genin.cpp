// The C interface: arguments checked, C++ failures turned into result codes and this thread's message.
#include "genin.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <new>

#include "failure.h"
#include "unicode.h"
#include "worker.h"

#ifndef GENIN_VERSION
#define GENIN_VERSION "0.1.0"
#endif

struct genin_worker {
    genin::Worker worker;

    genin_worker(genin::OpenOptions options, genin_ticket loading) : worker(std::move(options), loading) {}
};

namespace {

using genin::Failure;

constexpr uint64_t kPromptLimit = 1 << 20;
constexpr uint32_t kImageSide = 1 << 14;

thread_local char last_error[512];

void remember(const std::string &message) {
    const size_t length = std::min(message.size(), sizeof last_error - 1);
    std::memcpy(last_error, message.data(), length);
    last_error[length] = 0;
}

template <class Work>
genin_result guarded(Work &&work) {
    try {
        return work();
    } catch (const Failure &failure) {
        remember(failure.message);
        return failure.code;
    } catch (const std::bad_alloc &) {
        remember("not enough memory");
        return GENIN_E_MEMORY;
    } catch (...) {
        remember("an unexpected failure inside the library");
        return GENIN_E_ENGINE;
    }
}

[[noreturn]] void refuse(const char *what) { throw Failure(GENIN_E_ARGUMENT, what); }

// A caller's struct as this library knows it. One that is smaller gets zeros for what it lacks; one that is larger is newer, and must not
// ask for what this library does not have.
template <class Struct>
Struct known(const Struct *given, const char *name) {
    Struct own{};
    if (given->size < sizeof given->size) throw Failure(GENIN_E_ARGUMENT, std::string(name) + ".size is not set; call its init function");
    const auto *bytes = reinterpret_cast<const uint8_t *>(given);
    for (size_t i = sizeof own; i < given->size; ++i) {
        if (bytes[i]) throw Failure(GENIN_E_ARGUMENT, std::string(name) + " uses fields of a newer version of genin than this library");
    }
    std::memcpy(&own, given, std::min<size_t>(given->size, sizeof own));
    return own;
}

genin::OpenOptions options_of(const char *bundle, const genin_open_options *given) {
    genin::OpenOptions options;
    genin::Place &place = options.place;
    place.path = genin::absolute_path(bundle);
    if (!given) return options;
    const genin_open_options own = known(given, "genin_open_options");
    if (own.threads > 1024) refuse("threads is more than 1,024");
    if (own.queue_capacity > 1 << 20) refuse("queue_capacity is more than 1,048,576");
    if (own.check_hashes > 2) refuse("check_hashes is not 0, 1 or 2");
    if (own.thread_priority > 0) refuse("thread_priority is above the caller's");
    const std::string engine = own.engine ? own.engine : "";
    if (!engine.empty() && engine != "onnxruntime" && engine != "openvino") refuse("engine is not onnxruntime or openvino");
    options.engine = {engine, own.engine_path ? own.engine_path : "", own.threads ? own.threads : 1, own.max_memory};
    if (own.precision) options.precision = own.precision;
    options.thread_priority = own.thread_priority;
    if (own.queue_capacity) options.queue_capacity = own.queue_capacity;
    options.check_hashes = own.check_hashes;
    options.wake = own.wake;
    options.wake_user = own.wake_user;
    if (own.io) {
        place.io = known(own.io, "genin_io");
        place.has_io = true;
        if (!place.io.length || !place.io.read) refuse("genin_io lacks a function");
    }
    if (own.bundle_bytes && !own.bundle_data) refuse("bundle_data is NULL");
    if (own.bundle_data && own.io) refuse("bundle_data and io are both set");
    place.data = own.bundle_data;
    place.bytes = own.bundle_bytes;
    if (place.data || place.has_io) place.path = bundle;
    if (options.engine.library.find_first_of("/\\") != std::string::npos) options.engine.library = genin::absolute_path(options.engine.library);
    return options;
}

// 8-bit samples of the caller's, rows `stride` bytes apart (0: without gaps; negative: the bottom row first).
genin::Raster raster_of(const void *samples, uint32_t width, uint32_t height, uint32_t channels, int64_t stride) {
    const size_t row = size_t{width} * channels;
    if (stride == 0) stride = static_cast<int64_t>(row);
    const uint64_t pitch = stride < 0 ? 0 - static_cast<uint64_t>(stride) : static_cast<uint64_t>(stride);
    if (pitch < row || pitch > (uint64_t{1} << 32)) refuse("image_stride or mask_stride is shorter than a row");
    genin::Raster raster{width, height, channels, std::vector<uint8_t>(row * height)};
    for (uint32_t y = 0; y < height; ++y) {
        const auto *from = static_cast<const uint8_t *>(samples) + (stride < 0 ? height - 1 - y : y) * pitch;
        std::memcpy(&raster.samples[y * row], from, row);
    }
    return raster;
}

genin::Drawing drawing_of(const genin_request &request) {
    if (!request.prompt && request.prompt_bytes) refuse("prompt is NULL");
    if (request.prompt_bytes > kPromptLimit) refuse("the prompt is longer than 1 MiB");
    if (!(request.guidance_scale >= 0 && request.guidance_scale <= 1000)) refuse("guidance_scale is not from 0 to 1,000");
    if (request.steps > 100000) refuse("steps is more than 100,000");
    if (!(request.strength >= 0 && request.strength <= 1)) refuse("strength is not above 0 and at most 1");
    if (!request.image && (request.mask || request.strength != 0)) refuse("a mask or a strength needs an image");
    if (request.image && (request.image_width < 1 || request.image_width > kImageSide || request.image_height < 1 || request.image_height > kImageSide)) refuse("image_width or image_height is not from 1 to 16,384");
    genin::Drawing drawing;
    if (request.prompt) drawing.prompt.assign(request.prompt, static_cast<size_t>(request.prompt_bytes));
    genin::unicode::Text text;
    if (!genin::unicode::decode(drawing.prompt, text)) throw Failure(GENIN_E_PROMPT, "the prompt is not valid UTF-8");
    drawing.seed = request.seed;
    drawing.steps = request.steps;
    drawing.guidance_scale = request.guidance_scale;
    drawing.previews = request.previews;
    drawing.width = request.width;
    drawing.height = request.height;
    if (request.image) {
        genin::StartImage start;
        start.strength = request.strength;
        start.rgba = raster_of(request.image, request.image_width, request.image_height, 4, request.image_stride);
        if (request.mask) start.mask = raster_of(request.mask, request.image_width, request.image_height, 1, request.mask_stride);
        drawing.image = std::move(start);
    }
    return drawing;
}

}  // namespace

extern "C" {

uint32_t genin_abi(void) { return GENIN_ABI; }

const char *genin_version(void) {
    static const std::array<char, 64> text = [] {  // takes no memory, and is never freed
        std::array<char, 64> said{};
        std::snprintf(said.data(), said.size(), "%s, Unicode %s", GENIN_VERSION, genin::unicode::version());
        return said;
    }();
    return text.data();
}

void genin_open_options_init(genin_open_options *options, uint32_t size) {
    if (!options || size < sizeof size) return;
    std::memset(options, 0, size);
    options->size = size;
}

void genin_request_init(genin_request *request, uint32_t size) {
    if (!request || size < sizeof size) return;
    std::memset(request, 0, size);
    request->size = size;
}

genin_result genin_open(const char *bundle, const genin_open_options *options, genin_worker **out, genin_ticket *loading) {
    return guarded([&] {
        if (!bundle || !out || !loading) refuse("bundle, out or loading is NULL");
        *out = nullptr;
        const genin_ticket ticket = genin::new_ticket();
        *out = new genin_worker(options_of(bundle, options), ticket);
        *loading = ticket;
        return GENIN_OK;
    });
}

genin_result genin_submit(genin_worker *worker, const genin_request *request, genin_ticket *out) {
    return guarded([&] {
        if (!worker || !request || !out) refuse("worker, request or out is NULL");
        *out = 0;
        const genin_request own = known(request, "genin_request");
        *out = worker->worker.submit(drawing_of(own), own);
        return GENIN_OK;
    });
}

genin_result genin_cancel(genin_worker *worker, genin_ticket ticket) {
    return guarded([&] {
        if (!worker) refuse("worker is NULL");
        worker->worker.cancel(ticket);
        return GENIN_OK;
    });
}

uint32_t genin_poll(genin_worker *worker, genin_event *events, uint32_t room, uint32_t event_size) {
    uint32_t count = 0;
    guarded([&] {
        if (!worker || (!events && room) || event_size < sizeof(uint32_t)) refuse("worker or events is NULL, or event_size is too small");
        count = worker->worker.poll(events, room, event_size);
        return GENIN_OK;
    });
    return count;
}

genin_result genin_wait(genin_worker *worker, genin_ticket ticket, uint64_t timeout_ns) {
    return guarded([&] {
        if (!worker) refuse("worker is NULL");
        return worker->worker.wait(ticket, timeout_ns);
    });
}

genin_result genin_pause(genin_worker *worker, uint32_t paused) {
    return guarded([&] {
        if (!worker) refuse("worker is NULL");
        worker->worker.pause(paused != 0);
        return GENIN_OK;
    });
}

genin_result genin_set_share(genin_worker *worker, uint32_t percent) {
    return guarded([&] {
        if (!worker) refuse("worker is NULL");
        if (percent < 1 || percent > 100) refuse("percent is not from 1 to 100");
        worker->worker.set_share(percent);
        return GENIN_OK;
    });
}

genin_result genin_take(genin_worker *worker, genin_ticket ticket, void *rgba, int64_t stride, uint64_t room) {
    return guarded([&] {
        if (!worker || !rgba) refuse("worker or rgba is NULL");
        return worker->worker.take(ticket, false, rgba, stride, room);
    });
}

genin_result genin_preview(genin_worker *worker, genin_ticket ticket, void *rgba, int64_t stride, uint64_t room) {
    return guarded([&] {
        if (!worker || !rgba) refuse("worker or rgba is NULL");
        return worker->worker.take(ticket, true, rgba, stride, room);
    });
}

genin_result genin_get_stats(genin_worker *worker, genin_stats *out) {
    return guarded([&] {
        if (!worker || !out || out->size < sizeof out->size) refuse("worker or out is NULL, or out->size is not set");
        worker->worker.stats(*out);
        return GENIN_OK;
    });
}

genin_result genin_get_info(genin_worker *worker, genin_info *out) {
    return guarded([&] {
        if (!worker || !out || out->size < sizeof out->size) refuse("worker or out is NULL, or out->size is not set");
        worker->worker.info(*out);
        return GENIN_OK;
    });
}

uint64_t genin_last_error(char *text, uint64_t room) {
    const uint64_t needed = std::strlen(last_error) + 1;
    if (text && room) {
        const size_t length = static_cast<size_t>(std::min(needed, room)) - 1;
        std::memcpy(text, last_error, length);
        text[length] = 0;
    }
    return needed;
}

genin_result genin_close(genin_worker *worker) {
    delete worker;
    return GENIN_OK;
}

}  // extern "C"
