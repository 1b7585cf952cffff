#include "ort_memory.h"

#include <cstdlib>
#include <cstring>

namespace genin::ort {
namespace {

constexpr size_t kAlignment = 64;  // of a cache line and of the widest vector

thread_local Account *charged = nullptr;

// Before every block.
struct Head {
    Account *account;
    uint64_t bytes;
    void *whole;
};

void *GENIN_ORT_CALL allocate(Allocator *, size_t size) {
    if (size == 0) return nullptr;
    if (charged && !charged->add(size)) return nullptr;
    void *whole = size > SIZE_MAX - 2 * kAlignment ? nullptr : std::malloc(size + 2 * kAlignment);
    if (!whole) {
        if (charged) charged->subtract(size);
        return nullptr;
    }
    const auto start = (reinterpret_cast<uintptr_t>(whole) + 2 * kAlignment - 1) / kAlignment * kAlignment;
    const Head head{charged, size, whole};
    auto *block = reinterpret_cast<uint8_t *>(start);
    std::memcpy(block - sizeof head, &head, sizeof head);
    return block;
}

void GENIN_ORT_CALL release(Allocator *, void *block) {
    if (!block) return;
    Head head;
    std::memcpy(&head, static_cast<uint8_t *>(block) - sizeof head, sizeof head);
    if (head.account) head.account->subtract(head.bytes);
    std::free(head.whole);
}

const Handle *memory_info = nullptr;

const Handle *GENIN_ORT_CALL info_of(const Allocator *) { return memory_info; }

}  // namespace

bool Account::add(uint64_t bytes) {
    const uint64_t sum = now_ += bytes;
    if (limit_ && sum > limit_) {
        now_ -= bytes;
        refused_ = true;
        return false;
    }
    for (uint64_t peak = peak_; sum > peak && !peak_.compare_exchange_weak(peak, sum);) {
    }
    return true;
}

Charged::Charged(Account *account) : before_(charged) { charged = account; }

Charged::~Charged() { charged = before_; }

Allocator *counting_allocator(const Handle *info) {
    static Allocator allocator{kApiVersion, allocate, release, info_of, allocate, {}};
    memory_info = info;
    return &allocator;
}

}  // namespace genin::ort
