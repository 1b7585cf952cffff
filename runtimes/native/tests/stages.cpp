// What a picture costs outside of the engine, stage by stage: the shortest and the median time of many rounds, in microseconds, as JSON.
// `drawing` is all of it: a picture on an engine that does nothing, less the time inside that engine.
//
//     genin_stages BUNDLE [ROUNDS]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "drawing.h"
#include "failure.h"
#include "noise.h"

namespace {

using namespace genin;

constexpr const char *kPrompt = "a ninja in the rain";

class Nothing : public Engine {
public:
    std::vector<std::string> formats() const override { return {"onnx"}; }
    void load(const Bundle &, const Graph &) override {}
    void unload(const Graph &) override {}
    void run(const Graph &, const std::vector<Tensor> &, void *output, size_t bytes) override { std::memset(output, 0, bytes); }
    void interrupt() override {}
    void proceed() override {}
    std::string version() const override { return "none"; }
};

// `work` returns the nanoseconds that count.
template <class Work>
void measure(const char *name, long rounds, const char *end, Work &&work) {
    std::vector<uint64_t> times;
    for (long i = 0; i < rounds; ++i) times.push_back(work());
    std::sort(times.begin(), times.end());
    std::printf("\"%s\": {\"min\": %.1f, \"p50\": %.1f}%s\n", name, static_cast<double>(times[0]) / 1e3, static_cast<double>(times[times.size() / 2]) / 1e3, end);
}

template <class Work>
uint64_t time_of(Work &&work) {
    const uint64_t start = now_ns();
    work();
    return now_ns() - start;
}

void stages(const Bundle &bundle, long rounds) {
    const Tokenizer tokenizer = bundle.tokenizer();
    Nothing engine;
    Networks networks(bundle, engine, "");
    networks.load([] {});
    std::vector<float> x(size_t{bundle.channels} * bundle.latent.height * bundle.latent.width), prediction(x.size()), x0(x.size());
    std::vector<float> image(size_t{3} * bundle.image.height * bundle.image.width);
    philox_normal(0, 0, image.size(), image.data());
    const auto step = bundle.steps(bundle.default_steps)[0];
    Picture picture;
    uint64_t seed = 0;
    std::printf("{\n");
    measure("tokens", rounds, ",", [&] { return time_of([&] { tokenizer(kPrompt); }); });
    measure("noise", rounds, ",", [&] { return time_of([&] { philox_normal(++seed, 0, x.size(), x.data()); }); });
    measure("step", rounds, ",", [&] { return time_of([&] { bundle.schedule().step(prediction.data(), x.data(), x0.data(), x.size(), step); }); });
    measure("pixels", rounds, ",", [&] { return time_of([&] { to_pixels(image, bundle.image, picture); }); });
    measure("drawing", rounds, "", [&] {
        Drawing drawing;
        Progress progress;
        drawing.prompt = kPrompt;
        drawing.seed = ++seed;
        progress.before = [] {};
        progress.after = [](uint64_t) {};
        const uint64_t all = time_of([&] { draw(bundle, tokenizer, networks, drawing, progress, picture); });
        return all - progress.engine_ns;
    });
    std::printf("}\n");
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 2) return std::fprintf(stderr, "genin_stages BUNDLE [ROUNDS]\n"), 2;
    try {
        stages(Bundle({argv[1]}, 0), std::max(1L, argc > 2 ? std::strtol(argv[2], nullptr, 10) : 2000));
    } catch (const Failure &failure) {
        return std::fprintf(stderr, "%s\n", failure.message.c_str()), 1;
    }
    return 0;
}
