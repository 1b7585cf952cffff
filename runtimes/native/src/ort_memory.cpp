#include "ort_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace genin::ort {
namespace {

constexpr size_t kAlignment = 64;  // of a cache line and of the widest vector

thread_local Account *charged = nullptr;

// Before every block.
struct Head {
    Account *account;
    void *whole;
    uint64_t bytes, covered;
};
static_assert(sizeof(Head) <= kAlignment);

void *GENIN_ORT_CALL allocate(Allocator *, size_t size) {
    if (size == 0 || size > SIZE_MAX - 2 * kAlignment) return nullptr;
    Head head{charged, nullptr, size, 0};
    if (charged && !charged->add(size, head.covered)) return nullptr;
    head.whole = std::malloc(size + 2 * kAlignment);
    if (!head.whole) {
        if (charged) charged->exhaust(size, head.covered);
        return nullptr;
    }
    const auto start = (reinterpret_cast<uintptr_t>(head.whole) + 2 * kAlignment - 1) / kAlignment * kAlignment;
    auto *block = reinterpret_cast<uint8_t *>(start);
    std::memcpy(block - sizeof head, &head, sizeof head);
    return block;
}

void GENIN_ORT_CALL release(Allocator *, void *block) {
    if (!block) return;
    Head head;
    std::memcpy(&head, static_cast<uint8_t *>(block) - sizeof head, sizeof head);
    if (head.account) head.account->subtract(head.bytes, head.covered);
    std::free(head.whole);
}

const Handle *memory_info = nullptr;

const Handle *GENIN_ORT_CALL info_of(const Allocator *) { return memory_info; }

}  // namespace

bool Account::fits(uint64_t more) {
    if (limit_ && now_ + more > limit_) {
        refused_ = true;
        return false;
    }
    peak_ = std::max(peak_, now_ + more);
    return true;
}

bool Account::begin_loading(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!fits(bytes)) return false;
    now_ += bytes;
    reserved_ = unused_ = bytes;
    return true;
}

uint64_t Account::end_loading(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t kept = std::max(bytes, reserved_ - unused_);
    now_ = now_ - reserved_ + kept;
    reserved_ = unused_ = 0;
    return kept;
}

void Account::give_back(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    now_ -= bytes;
}

// What a packed weight replaces is still there while it is packed, so that the whole block has to fit beside the reservation.
bool Account::add(uint64_t bytes, uint64_t &covered) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!fits(bytes)) return false;
    covered = std::min(bytes, unused_);
    unused_ -= covered;
    now_ += bytes - covered;
    return true;
}

void Account::subtract(uint64_t bytes, uint64_t covered) {
    const std::lock_guard<std::mutex> lock(mutex_);
    now_ -= bytes - covered;
    unused_ = std::min(reserved_, unused_ + covered);
}

uint64_t Account::now() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return now_;
}

uint64_t Account::peak() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return peak_;
}

void Account::exhaust(uint64_t bytes, uint64_t covered) {
    subtract(bytes, covered);
    const std::lock_guard<std::mutex> lock(mutex_);
    exhausted_ = true;
}

bool Account::was_exhausted() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(exhausted_, false);
}

bool Account::was_refused() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(refused_, false);
}

Charged::Charged(Account *account) : before_(charged) { charged = account; }

Charged::~Charged() { charged = before_; }

Allocator *counting_allocator(const Handle *info) {
    static Allocator allocator{kApiVersion, allocate, release, info_of, allocate, {}};
    memory_info = info;
    return &allocator;
}

}  // namespace genin::ort
