// What ends a piece of work: a result code and one line that says what, where and what to do. Thrown inside the library only; the C
// interface and the drawing thread turn it into values.
#pragma once

#include <string>
#include <utility>

#include "genin.h"

namespace genin {

struct Failure {
    genin_result code;
    std::string message;

    Failure(genin_result result, std::string text) : code(result), message(std::move(text)) {}
};

// Whether an engine's message is that the system refused it memory: there is no code of its own for that.
inline bool says_no_memory(const std::string &message) {
    for (const char *said : {"bad_alloc", "bad allocation", "Failed to allocate memory", "Cannot allocate memory"}) {
        if (message.find(said) != std::string::npos) return true;
    }
    return false;
}

}  // namespace genin
