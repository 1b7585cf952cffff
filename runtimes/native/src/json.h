// A small JSON reader (RFC 8259) for manifests and vocabularies: values in memory, errors with the byte where they are.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace genin::json {

struct Value {
    enum class Type { null, boolean, number, string, array, object };

    Type type = Type::null;
    bool boolean = false;
    double number = 0;
    std::string string;
    std::vector<Value> array;
    std::vector<std::pair<std::string, Value>> object;

    bool is(Type wanted) const { return type == wanted; }
    // The member of that name (of several the last, as in Python), or a null; not of a temporary, whose members would be gone.
    const Value &operator[](std::string_view name) const &;
    const Value &operator[](std::string_view name) const && = delete;
    bool has(std::string_view name) const { return !(*this)[name].is(Type::null); }

    // The value as what it must be; `what` names it in the error. Throws Failure (GENIN_E_BUNDLE).
    double as_number(std::string_view what) const;
    long long as_whole(std::string_view what, long long least, long long most) const;
    const std::string &as_string(std::string_view what) const &;
    const std::string &as_string(std::string_view what) const && = delete;
};

// Throws Failure (GENIN_E_BUNDLE) for text that is not JSON, or nested more than 64 deep. `where` names the file.
Value parse(std::string_view text, std::string_view where);

}  // namespace genin::json
