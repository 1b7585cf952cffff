#include "bundle.h"

#include <algorithm>

#include "failure.h"
#include "sha256.h"

namespace genin {
namespace {

constexpr int kFormat = 1;
constexpr uint64_t kManifestLimit = 64u << 20, kFileLimit = 1ull << 40;
constexpr long long kMaxSide = 1 << 14, kMaxCount = 1LL << 31;

FileEntry file_of(const json::Value &entry) {
    FileEntry file{entry["path"].as_string("files.path"), entry["sha256"].as_string("files.sha256"), 0};
    file.bytes = static_cast<uint64_t>(entry["size_bytes"].as_whole("files.size_bytes", 0, static_cast<long long>(kFileLimit)));
    if (!is_inside(file.path)) throw Failure(GENIN_E_BUNDLE, "the bundle's path '" + file.path + "' would lie outside of it");
    return file;
}

uint32_t side(const json::Value &of, const char *what) { return static_cast<uint32_t>(of.as_whole(what, 1, kMaxSide)); }

}  // namespace

Bundle::Bundle(const std::string &path, const genin_io *io, uint32_t check_hashes) : files_(open_files(path, io)), hashes_(check_hashes != 2) {
    const Bytes text_bytes = files_->read("manifest.json", kManifestLimit);
    const json::Value manifest = json::parse({reinterpret_cast<const char *>(text_bytes.data()), text_bytes.size()}, "manifest.json");
    if (!manifest.has("genin_bundle")) throw Failure(GENIN_E_BUNDLE, path + ": not a genin bundle");
    const long long format = manifest["genin_bundle"].as_whole("genin_bundle", 0, kMaxCount);
    if (format != kFormat) throw Failure(GENIN_E_BUNDLE, path + ": bundle format " + std::to_string(format) + " is not supported (this library reads 1); update genin");
    name = manifest["name"].as_string("name");
    read_constants(manifest);
    read_sampler(manifest["sampler"]);
    read_graphs(manifest);
    if (check_hashes == 1) check_all();
}

void Bundle::read_constants(const json::Value &manifest) {
    const json::Value &image = manifest["image"], &latents = manifest["latents"], &caption = manifest["text"];
    height = side(image["height"], "image.height");
    width = side(image["width"], "image.width");
    channels = side(latents["channels"], "latents.channels");
    latent_height = side(latents["height"], "latents.height");
    latent_width = side(latents["width"], "latents.width");
    const double factor = latents["scaling_factor"].as_number("latents.scaling_factor");
    if (factor <= 0) throw Failure(GENIN_E_BUNDLE, "the bundle's latents.scaling_factor is not positive");
    to_decoder = static_cast<float>(1.0 / factor);
    text.max_length = static_cast<size_t>(caption["max_length"].as_whole("text.max_length", 3, 10000));
    text.hidden_size = static_cast<size_t>(caption["hidden_size"].as_whole("text.hidden_size", 1, 1 << 20));
    text.pad = caption["pad_token_id"].as_whole("text.pad_token_id", 0, kMaxCount);
    text.begin = caption["bos_token_id"].as_whole("text.bos_token_id", 0, kMaxCount);
    text.end = caption["eos_token_id"].as_whole("text.eos_token_id", 0, kMaxCount);
}

void Bundle::read_sampler(const json::Value &sampler) {
    schedule_ = std::make_unique<Schedule>(sampler["scheduler"]);
    default_steps = static_cast<uint32_t>(sampler["default_steps"].as_whole("sampler.default_steps", 1, 100000));
    const std::string &guidance = sampler["guidance"].as_string("sampler.guidance");
    if (guidance != "free" && guidance != "baked") throw Failure(GENIN_E_BUNDLE, "the bundle's sampler.guidance '" + guidance + "' is unknown");
    guided = guidance == "free";
    guidance_scale = guided ? static_cast<float>(sampler["guidance_scale"].as_number("sampler.guidance_scale")) : 1;
    for (const auto &[count, timesteps] : sampler["few_step_timesteps"].object) {
        std::vector<long> list;
        for (const json::Value &t : timesteps.array) list.push_back(static_cast<long>(t.as_whole("sampler.few_step_timesteps", 0, 100000)));
        few_step_[std::strtol(count.c_str(), nullptr, 10)] = std::move(list);
    }
}

void Bundle::read_graphs(const json::Value &manifest) {
    for (const json::Value &entry : manifest["graphs"].array) {
        Graph graph{entry["component"].as_string("graphs.component"), entry["format"].as_string("graphs.format"),
                    entry["precision"].as_string("graphs.precision"), entry["path"].as_string("graphs.path"), {}, {}};
        for (const json::Value &file : entry["files"].array) graph.files.push_back(file_of(file));
        if (graph.files.empty()) throw Failure(GENIN_E_BUNDLE, "the bundle lists no files for its " + graph.component);
        if (!entry["outputs"].array.empty()) graph.output = entry["outputs"].array[0]["name"].as_string("graphs.outputs");
        graphs_.push_back(std::move(graph));
    }
    for (const json::Value &file : manifest["files"].array) {
        FileEntry entry = file_of(file);
        others_[entry.path] = entry;
    }
}

const Graph &Bundle::graph(const std::string &component, const std::string &precision) const {
    std::string others;
    for (const Graph &graph : graphs_) {
        if (graph.format != "onnx" || graph.component != component) continue;
        if (precision.empty() || graph.precision == precision) return graph;
        others += (others.empty() ? "" : ", ") + graph.precision;
    }
    if (others.empty()) throw Failure(GENIN_E_BUNDLE, name + ": no ONNX graph of the " + component + "; export with --format onnx");
    throw Failure(GENIN_E_ARGUMENT, name + ": no precision '" + precision + "'; it has " + others);
}

Bytes Bundle::read(const FileEntry &file) const {
    Bytes bytes = files_->read(file.path, file.bytes);
    if (bytes.size() != file.bytes) throw Failure(GENIN_E_BUNDLE, file.path + ": " + std::to_string(bytes.size()) + " bytes, not " + std::to_string(file.bytes) + "; copy the bundle again");
    if (hashes_ && sha256(bytes.data(), bytes.size()) != file.sha256) throw Failure(GENIN_E_BUNDLE, file.path + ": its content is not what the manifest says; copy the bundle again");
    return bytes;
}

std::string Bundle::checked_path(const Graph &graph) const {
    const std::string path = files_->local_path(graph.path);
    if (!path.empty()) {
        for (const FileEntry &file : graph.files) read(file);
    }
    return path;
}

void Bundle::check_all() const {
    for (const Graph &graph : graphs_) {
        for (const FileEntry &file : graph.files) read(file);
    }
    for (const auto &[path, file] : others_) read(file);
}

Tokenizer Bundle::tokenizer() const {
    std::string contents[2];
    const char *paths[] = {"tokenizer/vocab.json", "tokenizer/merges.txt"};
    for (int i = 0; i < 2; ++i) {
        const auto found = others_.find(paths[i]);
        if (found == others_.end()) throw Failure(GENIN_E_BUNDLE, name + ": it lacks " + paths[i]);
        const Bytes bytes = read(found->second);
        contents[i].assign(bytes.begin(), bytes.end());
    }
    return Tokenizer(contents[0], contents[1], text);
}

Schedule::Steps Bundle::steps(uint32_t count) const {
    const long wanted = static_cast<long>(count ? count : default_steps);
    const auto few = few_step_.find(wanted);
    return few == few_step_.end() ? schedule_->steps(wanted) : schedule_->explicit_steps(few->second);
}

}  // namespace genin
