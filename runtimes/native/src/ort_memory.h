// What ONNX Runtime takes for one worker: counted, and refused beyond a limit. ONNX Runtime knows one allocator in a process; whose an
// allocation is follows from the thread that asks, since a worker's networks run on its drawing thread.
//
// The allocator sees activations and packed weights, but not the graph and its weights as they are read. So room for these is reserved
// before a network is loaded; what is allocated while it is loaded replaces weights of the reservation, one after the other.
#pragma once

#include <cstdint>
#include <mutex>

#include "ort_abi.h"

namespace genin::ort {

class Account {
public:
    explicit Account(uint64_t limit) : limit_(limit) {}

    // Of a network: what it takes while it is loaded. Returns whether it fits.
    bool begin_loading(uint64_t bytes);
    // What it goes on to take, at least `bytes`; to be given back when it is unloaded.
    uint64_t end_loading(uint64_t bytes);
    void give_back(uint64_t bytes);

    // Of a block. How much of it the reservation covers goes to `covered`; returns whether the block fits.
    bool add(uint64_t bytes, uint64_t &covered);
    void subtract(uint64_t bytes, uint64_t covered);
    // Of a block that was added and that the system then refused.
    void exhaust(uint64_t bytes, uint64_t covered);

    uint64_t now() const;
    uint64_t peak() const;
    uint64_t limit() const { return limit_; }
    // Whether anything was refused since this was last asked: for the limit, by the system.
    bool was_refused();
    bool was_exhausted();

private:
    bool fits(uint64_t more);

    const uint64_t limit_;
    mutable std::mutex mutex_;
    uint64_t now_ = 0, peak_ = 0;
    uint64_t reserved_ = 0, unused_ = 0;  // of the network that is being loaded
    bool refused_ = false, exhausted_ = false;
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
