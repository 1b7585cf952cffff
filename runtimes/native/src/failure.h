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

}  // namespace genin
