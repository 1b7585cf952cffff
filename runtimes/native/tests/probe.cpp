// What the golden vectors are checked with: prompts on standard input (4-byte little-endian length, then UTF-8), ids or noise on standard
// output as raw little-endian numbers.
//
//     probe tokens VOCAB MERGES MAX_LENGTH BEGIN END PAD < prompts > int64 ids
//     probe words SEED STEP FIRST COUNT > uint32
//     probe normals SEED STEP COUNT > float32
//     probe strengths < "STRENGTH STEPS" a line > how many steps are taken, a line; 0 where the strength leaves none
//     probe schedule < {"scheduler": …, "steps": … or "timesteps": […], "x": […]} > the walk's int64 pairs, then its last state as float32
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "failure.h"
#include "json.h"
#include "noise.h"
#include "schedule.h"
#include "starts.h"
#include "tokenizer.h"

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif

namespace {

std::string contents(const char *path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
void write(const std::vector<T> &values) {
    std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

int tokens(char **argv) {
    genin::TextConstants text;
    text.max_length = std::strtoull(argv[4], nullptr, 10);
    text.begin = std::strtoll(argv[5], nullptr, 10);
    text.end = std::strtoll(argv[6], nullptr, 10);
    text.pad = std::strtoll(argv[7], nullptr, 10);
    const genin::Tokenizer tokenizer({contents(argv[2]), contents(argv[3]), {}}, text);
    unsigned char head[4];
    while (std::fread(head, 1, 4, stdin) == 4) {
        std::string prompt(head[0] | head[1] << 8 | head[2] << 16 | static_cast<size_t>(head[3]) << 24, '\0');
        if (std::fread(prompt.data(), 1, prompt.size(), stdin) != prompt.size()) return 1;
        write(tokenizer(prompt));
    }
    return 0;
}

// A state of normals of seed 0 through predictions of normals of seed 1, a step each: as tools/golden_vectors.py does.
int schedule() {
    std::string text;
    for (int c = std::getchar(); c != EOF; c = std::getchar()) text += static_cast<char>(c);
    const genin::json::Value asked = genin::json::parse(text, "standard input");
    const genin::Schedule schedule(asked["scheduler"]);
    genin::Schedule::Steps steps;
    if (asked.has("steps")) {
        steps = schedule.steps(static_cast<long>(asked["steps"].as_number("steps")));
    } else {
        std::vector<long> timesteps;
        for (const auto &value : asked["timesteps"].array) timesteps.push_back(static_cast<long>(value.number));
        steps = schedule.explicit_steps(timesteps);
    }
    std::vector<float> x(asked["x"].array.size()), x0(x.size()), prediction(x.size());
    std::vector<int64_t> pairs;
    genin::philox_normal(0, 0, x.size(), x.data());
    for (size_t i = 0; i < steps.size(); ++i) {
        pairs.push_back(steps[i].first), pairs.push_back(steps[i].second);
        genin::philox_normal(1, static_cast<uint32_t>(i), prediction.size(), prediction.data());
        schedule.step(prediction.data(), x.data(), x0.data(), x.size(), steps[i]);
    }
    write(pairs);
    write(x);
    return 0;
}

int strengths() {
    double strength;
    unsigned steps;
    while (std::scanf("%lf %u", &strength, &steps) == 2) {
        try {
            std::printf("%u\n", genin::steps_taken(strength, steps, false, false));
        } catch (const genin::Failure &) {
            std::printf("0\n");
        }
    }
    return 0;
}

}  // namespace

int main(int argc, char **argv) {
#if defined(_WIN32)
    _setmode(_fileno(stdin), _O_BINARY), _setmode(_fileno(stdout), _O_BINARY);
#endif
    const std::string command = argc > 1 ? argv[1] : "";
    try {
        if (command == "tokens" && argc == 8) return tokens(argv);
        if (command == "schedule" && argc == 2) return schedule();
        if (command == "strengths" && argc == 2) return strengths();
        if (command == "words" && argc == 6) {
            std::vector<uint32_t> words(std::strtoull(argv[5], nullptr, 10));
            genin::philox_words(std::strtoull(argv[2], nullptr, 10), static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)),
                                std::strtoull(argv[4], nullptr, 10), words.size(), words.data());
            write(words);
            return 0;
        }
        if (command == "normals" && argc == 5) {
            std::vector<float> normals(std::strtoull(argv[4], nullptr, 10));
            genin::philox_normal(std::strtoull(argv[2], nullptr, 10), static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)),
                                 normals.size(), normals.data());
            write(normals);
            return 0;
        }
    } catch (const genin::Failure &failure) {
        std::fprintf(stderr, "%s\n", failure.message.c_str());
        return 2;
    }
    std::fprintf(stderr, "see the head of probe.cpp\n");
    return 1;
}
