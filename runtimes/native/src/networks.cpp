#include "networks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "failure.h"

namespace genin {
namespace {

constexpr const char *kNeeded[] = {"text_encoder", "unet", "vae_decoder"};

size_t size_of(Type type) { return type == Type::int64 ? 8 : type == Type::float32 ? 4 : 1; }

}  // namespace

size_t Tensor::bytes() const {
    size_t count = size_of(type);
    for (int64_t side : shape) count *= static_cast<size_t>(side);
    return count;
}

Networks::Networks(const Bundle &bundle, Engine &engine, const std::string &precision)
    : bundle_(bundle), engine_(engine), selection_(bundle.select(engine.formats(), precision)) {}

void Networks::load(const std::function<void()> &check) {
    const auto single = selection_.single.find(bundle_.default_steps);
    if (single != selection_.single.end()) {
        load_one(*single->second);
        return;
    }
    for (const char *name : kNeeded) {
        check();
        load_one(*component(name));
    }
}

template <class Work>
void Networks::with_room(const Graph &graph, Work &&work) {
    try {
        work();
    } catch (const Failure &failure) {
        const size_t others = loaded_.size() - loaded_.count(&graph);
        if (failure.code != GENIN_E_MEMORY || others == 0) throw;
        for (auto other = loaded_.begin(); other != loaded_.end();) {
            if (*other == &graph) {
                ++other;
                continue;
            }
            engine_.unload(**other);
            other = loaded_.erase(other);
        }
        work();
    }
}

void Networks::load_one(const Graph &graph) {
    if (loaded_.count(&graph)) return;
    loaded_.insert(&graph);  // before it is loaded: whatever fails, none is loaded that is not known
    try {
        with_room(graph, [&] { engine_.load(bundle_, graph); });
    } catch (...) {
        loaded_.erase(&graph);
        throw;
    }
}

// A graph of a fixed batch takes the rows in parts; the last part is filled up with copies of the last row.
template <class T>
std::vector<T> Networks::run(const Graph *wanted, const std::vector<Input> &inputs, size_t rows, size_t values_a_row) {
    const Graph &graph = *wanted;
    load_one(graph);
    const size_t batch = graph.batch() ? graph.batch() : rows;
    std::vector<T> out((rows + batch - 1) / batch * batch * values_a_row);
    for (size_t start = 0; start < rows; start += batch) {
        std::vector<Tensor> tensors;
        std::vector<std::vector<uint8_t>> copies(inputs.size());
        for (size_t i = 0; i < inputs.size(); ++i) {
            const Input &input = inputs[i];
            Tensor tensor{input.name, input.type, {}, input.data};
            const auto declared = graph.inputs.find(input.name);
            const bool one = input.shared && (declared == graph.inputs.end() || declared->second == std::vector<int64_t>{1});
            const bool scalar = input.shared && declared != graph.inputs.end() && declared->second.empty();
            if (!scalar) tensor.shape.push_back(one ? 1 : static_cast<int64_t>(batch));
            tensor.shape.insert(tensor.shape.end(), input.row.begin(), input.row.end());
            if (!one && !scalar && (input.shared || batch != rows)) {
                const size_t bytes = tensor.bytes() / batch;
                copies[i].resize(tensor.bytes());
                for (size_t row = 0; row < batch; ++row) {
                    const size_t from = input.shared ? 0 : std::min(start + row, rows - 1);
                    std::memcpy(&copies[i][row * bytes], static_cast<const uint8_t *>(input.data) + from * bytes, bytes);
                }
                tensor.data = copies[i].data();
            }
            tensors.push_back(std::move(tensor));
        }
        with_room(graph, [&] { engine_.run(graph, tensors, &out[start * values_a_row], batch * values_a_row * sizeof(T)); });
    }
    out.resize(rows * values_a_row);
    return out;
}

std::vector<float> Networks::encode(const std::vector<int64_t> &ids) {
    const size_t length = bundle_.text.max_length;
    return run<float>(component("text_encoder"), {{"input_ids", Type::int64, {static_cast<int64_t>(length)}, ids.data()}}, ids.size() / length, length * bundle_.text.hidden_size);
}

std::vector<float> Networks::predict(const std::vector<float> &latents, const Size &size, long timestep, const std::vector<float> &states) {
    const int64_t time = timestep, length = static_cast<int64_t>(bundle_.text.max_length), hidden = static_cast<int64_t>(bundle_.text.hidden_size);
    const size_t values = size_t{bundle_.channels} * size.height * size.width;
    return run<float>(component("unet"),
                      {{"sample", Type::float32, {bundle_.channels, size.height, size.width}, latents.data()},
                       {"timestep", Type::int64, {}, &time, true},
                       {"encoder_hidden_states", Type::float32, {length, hidden}, states.data()}},
                      latents.size() / values, values);
}

std::vector<float> Networks::decode(const std::vector<float> &latents, const Size &picture) {
    const Size size = bundle_.latents(picture);
    return run<float>(component("vae_decoder"), {{"latent_sample", Type::float32, {bundle_.channels, size.height, size.width}, latents.data()}}, 1, size_t{3} * picture.height * picture.width);
}

std::vector<float> Networks::encode_picture(const std::vector<float> &image, const Size &picture) {
    if (!takes_images()) throw Failure(GENIN_E_ARGUMENT, bundle_.name + ": it has no vae_encoder graph, which an image needs; export it with one");
    const Size size = bundle_.latents(picture);
    return run<float>(component("vae_encoder"), {{"sample", Type::float32, {3, picture.height, picture.width}, image.data()}}, 1, size_t{bundle_.channels} * size.height * size.width);
}

std::vector<uint8_t> Networks::draw(uint32_t steps, const std::vector<int64_t> &ids, const std::vector<float> &noise) {
    const Bundle &b = bundle_;
    return run<uint8_t>(selection_.single.at(steps),
                        {{"input_ids", Type::int64, {static_cast<int64_t>(b.text.max_length)}, ids.data()},
                         {"noise", Type::float32, {b.channels, b.latent.height, b.latent.width}, noise.data()}},
                        1, size_t{3} * b.image.height * b.image.width);
}

bool Networks::has_single(uint32_t steps, float guidance_scale) const {
    const auto found = selection_.single.find(steps);
    return found != selection_.single.end() && found->second->guidance_scale == guidance_scale;
}

}  // namespace genin
