// What ONNX Runtime allocates for one worker: counted, and refused beyond a limit. ONNX Runtime knows one allocator in a process; whose
// an allocation is follows from the thread that asks, since a worker's networks run on its drawing thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "ort_abi.h"

namespace genin::ort {

class Account {
public:
    explicit Account(uint64_t limit) : limit_(limit) {}

    bool add(uint64_t bytes);  // whether they fit under the limit
    void subtract(uint64_t bytes) { now_ -= bytes; }
    uint64_t now() const { return now_; }
    uint64_t peak() const { return peak_; }
    uint64_t limit() const { return limit_; }
    // Whether anything was refused since this was last asked.
    bool was_refused() { return refused_.exchange(false); }

private:
    const uint64_t limit_;
    std::atomic<uint64_t> now_{0}, peak_{0};
    std::atomic<bool> refused_{false};
};

// While it lives, what this thread lets ONNX Runtime allocate is on the account; null: on nobody's.
class Charged {
public:
    explicit Charged(Account *account);
    ~Charged();
    Charged(const Charged &) = delete;
    Charged &operator=(const Charged &) = delete;

private:
    Account *before_;
};

// For kRegisterAllocator; `info` is of the processor's memory. One in a process, which is never freed.
Allocator *counting_allocator(const Handle *info);

}  // namespace genin::ort
