#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "failure.h"
#include "unicode.h"

namespace genin::json {
namespace {

constexpr int kDepth = 64;

class Reader {
public:
    Reader(std::string_view text, std::string_view where) : text_(text), where_(where) {}

    Value document() {
        Value value = read(0);
        space();
        if (at_ != text_.size()) fail("something follows the value");
        return value;
    }

private:
    [[noreturn]] void fail(const char *what) const {
        throw Failure(GENIN_E_BUNDLE, std::string(where_) + ": not valid JSON at byte " + std::to_string(at_) + ": " + what);
    }

    void space() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
    }

    bool take(char wanted) {
        space();
        if (at_ >= text_.size() || text_[at_] != wanted) return false;
        ++at_;
        return true;
    }

    void take_word(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) fail("unknown word");
        at_ += word.size();
    }

    Value read(int depth) {
        if (depth > kDepth) fail("nested too deep");
        space();
        if (at_ >= text_.size()) fail("it ends too soon");
        Value value;
        switch (text_[at_]) {
            case '{': return read_object(depth);
            case '[': return read_array(depth);
            case '"':
                value.type = Value::Type::string;
                value.string = read_string();
                return value;
            case 't':
            case 'f':
                value.type = Value::Type::boolean;
                value.boolean = text_[at_] == 't';
                take_word(value.boolean ? "true" : "false");
                return value;
            case 'n': take_word("null"); return value;
            default: return read_number();
        }
    }

    Value read_object(int depth) {
        Value value;
        value.type = Value::Type::object;
        ++at_;
        if (take('}')) return value;
        do {
            space();
            if (at_ >= text_.size() || text_[at_] != '"') fail("a name is expected");
            std::string name = read_string();
            if (!take(':')) fail("':' is expected");
            value.object.emplace_back(std::move(name), read(depth + 1));
        } while (take(','));
        if (!take('}')) fail("',' or '}' is expected");
        return value;
    }

    Value read_array(int depth) {
        Value value;
        value.type = Value::Type::array;
        ++at_;
        if (take(']')) return value;
        do value.array.push_back(read(depth + 1));
        while (take(','));
        if (!take(']')) fail("',' or ']' is expected");
        return value;
    }

    // Digits are read by hand: strtod would listen to the host's locale.
    Value read_number() {
        Value value;
        value.type = Value::Type::number;
        const bool negative = text_[at_] == '-';
        if (negative) ++at_;
        if (at_ >= text_.size() || !is_digit(text_[at_])) fail("a value is expected");
        uint64_t digits = 0;
        int exponent = 0;
        const auto digit = [&](bool fraction) {
            if (digits < (UINT64_MAX - 9) / 10) {
                digits = digits * 10 + static_cast<uint64_t>(text_[at_] - '0');
                exponent -= fraction;
            } else {
                exponent += !fraction;
            }
            ++at_;
        };
        while (at_ < text_.size() && is_digit(text_[at_])) digit(false);
        if (at_ < text_.size() && text_[at_] == '.') {
            ++at_;
            if (at_ >= text_.size() || !is_digit(text_[at_])) fail("a digit is expected");
            while (at_ < text_.size() && is_digit(text_[at_])) digit(true);
        }
        if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
            ++at_;
            const bool down = at_ < text_.size() && text_[at_] == '-';
            if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
            if (at_ >= text_.size() || !is_digit(text_[at_])) fail("a digit is expected");
            int written = 0;
            while (at_ < text_.size() && is_digit(text_[at_])) written = written < 10000 ? written * 10 + (text_[at_++] - '0') : (++at_, written);
            exponent += down ? -written : written;
        }
        // Exact where digits and power of ten are: as for every constant of a bundle up to 15 digits and 10^22.
        const double magnitude = static_cast<double>(digits);
        value.number = exponent < 0 ? magnitude / std::pow(10.0, -exponent) : magnitude * std::pow(10.0, exponent);
        if (negative) value.number = -value.number;
        return value;
    }

    static bool is_digit(char sign) { return sign >= '0' && sign <= '9'; }

    std::string read_string() {
        std::string out;
        ++at_;
        while (at_ < text_.size() && text_[at_] != '"') {
            const char sign = text_[at_++];
            if (static_cast<unsigned char>(sign) < 0x20) fail("a control character in a string");
            if (sign != '\\') {
                out += sign;
                continue;
            }
            if (at_ >= text_.size()) break;
            read_escape(out);
        }
        if (at_ >= text_.size()) fail("a string is not closed");
        ++at_;
        return out;
    }

    void read_escape(std::string &out) {
        switch (text_[at_++]) {
            case '"': out += '"'; return;
            case '\\': out += '\\'; return;
            case '/': out += '/'; return;
            case 'b': out += '\b'; return;
            case 'f': out += '\f'; return;
            case 'n': out += '\n'; return;
            case 'r': out += '\r'; return;
            case 't': out += '\t'; return;
            case 'u': break;
            default: fail("an unknown escape");
        }
        char32_t code = read_unit();
        if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
            at_ += 2;
            const char32_t low = read_unit();
            if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        if (code >= 0xD800 && code < 0xE000) fail("half a surrogate pair");
        unicode::append_utf8(out, code);
    }

    char32_t read_unit() {
        char32_t unit = 0;
        for (int i = 0; i < 4; ++i) {
            const char sign = at_ < text_.size() ? text_[at_++] : '\0';
            const int digit = is_digit(sign) ? sign - '0' : sign >= 'a' && sign <= 'f' ? sign - 'a' + 10 : sign >= 'A' && sign <= 'F' ? sign - 'A' + 10 : -1;
            if (digit < 0) fail("four hexadecimal digits are expected");
            unit = unit << 4 | static_cast<char32_t>(digit);
        }
        return unit;
    }

    std::string_view text_, where_;
    size_t at_ = 0;
};

[[noreturn]] void wrong(std::string_view what, const char *kind) {
    throw Failure(GENIN_E_BUNDLE, "the bundle's " + std::string(what) + " is not " + kind + "; export it again");
}

}  // namespace

const Value &Value::operator[](std::string_view name) const & {
    static const Value nothing;
    const auto at = std::find_if(object.rbegin(), object.rend(), [&](const auto &member) { return member.first == name; });
    return at == object.rend() ? nothing : at->second;
}

double Value::as_number(std::string_view what) const {
    if (type != Type::number || !std::isfinite(number)) wrong(what, "a number");
    return number;
}

long long Value::as_whole(std::string_view what, long long least, long long most) const {
    const double found = as_number(what);
    if (found != std::floor(found) || found < static_cast<double>(least) || found > static_cast<double>(most)) wrong(what, "a whole number in range");
    return static_cast<long long>(found);
}

const std::string &Value::as_string(std::string_view what) const & {
    if (type != Type::string) wrong(what, "text");
    return string;
}

Value parse(std::string_view text, std::string_view where) { return Reader(text, where).document(); }

}  // namespace genin::json
