#include "bundle.h"

#include <algorithm>
#include <functional>
#include <set>

#include "failure.h"
#include "sha256.h"

namespace genin {
namespace {

constexpr int kFormat = 1;
constexpr uint64_t kManifestLimit = 64u << 20, kFileLimit = 1ull << 40, kPiece = 1 << 20;
constexpr long long kMaxImage = 8192, kMaxLatents = 1024, kMaxCount = (1LL << 31) - 1;
// The most exact first.
constexpr const char *kPrecisions[] = {"fp32", "fp16", "int8"};
constexpr const char *kNeeded[] = {"text_encoder", "unet", "vae_decoder"};

FileEntry file_of(const json::Value &entry) {
    FileEntry file{entry["path"].as_string("files.path"), entry["sha256"].as_string("files.sha256"), 0};
    file.bytes = static_cast<uint64_t>(entry["size_bytes"].as_whole("files.size_bytes", 0, static_cast<long long>(kFileLimit)));
    if (!is_inside(file.path)) throw Failure(GENIN_E_BUNDLE, "the bundle's path '" + file.path + "' would lie outside of it");
    return file;
}

// A dimension is a number, or a name where it is free.
std::vector<int64_t> shape_of(const json::Value &dimensions) {
    std::vector<int64_t> shape;
    for (const json::Value &size : dimensions.array) shape.push_back(size.is(json::Value::Type::string) ? -1 : size.as_whole("graphs.inputs.shape", 1, kMaxCount));
    return shape;
}

Graph graph_of(const json::Value &entry) {
    Graph graph{entry["component"].as_string("graphs.component"), entry["format"].as_string("graphs.format"),
                entry["precision"].as_string("graphs.precision"), entry["path"].as_string("graphs.path"), {}, {}, {}, 0, 1};
    for (const json::Value &file : entry["files"].array) graph.files.push_back(file_of(file));
    if (graph.files.empty()) throw Failure(GENIN_E_BUNDLE, "the bundle lists no files for its " + graph.component);
    const auto holds = [&graph](const FileEntry &file) { return file.path == graph.path || file.path.rfind(graph.path + "/", 0) == 0; };
    const bool is_file = std::any_of(graph.files.begin(), graph.files.end(), [&graph](const FileEntry &file) { return file.path == graph.path; });
    if (!is_inside(graph.path) || !(is_file || std::all_of(graph.files.begin(), graph.files.end(), holds))) {
        throw Failure(GENIN_E_BUNDLE, "the bundle's graph '" + graph.path + "' is not among its own files");
    }
    for (const json::Value &input : entry["inputs"].array) graph.inputs[input["name"].as_string("graphs.inputs.name")] = shape_of(input["shape"]);
    if (!entry["outputs"].array.empty()) graph.output = entry["outputs"].array[0]["name"].as_string("graphs.outputs.name");
    return graph;
}

}  // namespace

uint64_t Graph::bytes() const {
    uint64_t sum = 0;
    for (const FileEntry &file : files) sum += file.bytes;
    return sum;
}

size_t Graph::batch() const {
    for (const char *name : {"sample", "input_ids", "latent_sample"}) {
        const auto found = inputs.find(name);
        if (found != inputs.end() && !found->second.empty() && found->second[0] > 0) return static_cast<size_t>(found->second[0]);
    }
    return 0;
}

Bundle::Bundle(const Place &place, uint32_t check_hashes) : files_(open_files(place)), hashes_(check_hashes != 2) {
    const Bytes text_bytes = files_->read("manifest.json", kManifestLimit);
    const json::Value manifest = json::parse({reinterpret_cast<const char *>(text_bytes.data()), text_bytes.size()}, "manifest.json");
    if (!manifest.has("genin_bundle")) throw Failure(GENIN_E_BUNDLE, place.path + ": not a genin bundle");
    const long long format = manifest["genin_bundle"].as_whole("genin_bundle", 0, kMaxCount);
    if (format != kFormat) throw Failure(GENIN_E_BUNDLE, place.path + ": bundle format " + std::to_string(format) + " is not supported (this library reads 1); update genin");
    name = manifest["name"].as_string("name");
    read_constants(manifest);
    read_sampler(manifest["sampler"]);
    read_files(manifest);
    if (check_hashes == 1) check_all();
}

void Bundle::read_constants(const json::Value &manifest) {
    const json::Value &picture = manifest["image"], &latents_of = manifest["latents"], &caption = manifest["text"];
    image = {static_cast<uint32_t>(picture["width"].as_whole("image.width", 8, kMaxImage)), static_cast<uint32_t>(picture["height"].as_whole("image.height", 8, kMaxImage))};
    latent = {static_cast<uint32_t>(latents_of["width"].as_whole("latents.width", 1, kMaxLatents)), static_cast<uint32_t>(latents_of["height"].as_whole("latents.height", 1, kMaxLatents))};
    channels = static_cast<uint32_t>(latents_of["channels"].as_whole("latents.channels", 1, 64));
    const uint32_t pixels = image.height / latent.height;
    if (!pixels || image.height != latent.height * pixels || image.width != latent.width * pixels) {
        throw Failure(GENIN_E_BUNDLE, "the bundle's pictures are no whole multiple of its latents");
    }
    if (picture.has("multiple")) {
        multiple = static_cast<uint32_t>(picture["multiple"].as_whole("image.multiple", 1, kMaxImage));
        if (multiple % pixels) throw Failure(GENIN_E_BUNDLE, "pictures of any multiple of " + std::to_string(multiple) + " do not fit the bundle's latents");
    }
    const double factor = latents_of["scaling_factor"].as_number("latents.scaling_factor");
    if (factor <= 0) throw Failure(GENIN_E_BUNDLE, "the bundle's latents.scaling_factor is not positive");
    scaling = static_cast<float>(factor);
    to_decoder = static_cast<float>(1.0 / factor);
    text.max_length = static_cast<size_t>(caption["max_length"].as_whole("text.max_length", 3, 4096));
    text.hidden_size = static_cast<size_t>(caption["hidden_size"].as_whole("text.hidden_size", 1, 1 << 16));
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
        const bool falls = std::adjacent_find(list.begin(), list.end(), std::less_equal<long>()) == list.end();
        if (list.empty() || count != std::to_string(list.size()) || !falls) {
            throw Failure(GENIN_E_BUNDLE, "the bundle's few_step_timesteps of " + count + " steps are not as many, or do not fall");
        }
        few_step_[static_cast<long>(list.size())] = std::move(list);
    }
}

void Bundle::read_files(const json::Value &manifest) {
    for (const json::Value &entry : manifest["graphs"].array) graphs_.push_back(graph_of(entry));
    for (const json::Value &entry : manifest["single_graphs"].array) {
        Graph graph = graph_of(entry);
        graph.steps = static_cast<uint32_t>(entry["steps"].as_whole("single_graphs.steps", 1, 1000));
        graph.guidance_scale = static_cast<float>(entry["guidance_scale"].as_number("single_graphs.guidance_scale"));
        graphs_.push_back(std::move(graph));
        const FileEntry golden = file_of(entry["golden"]);
        others_[golden.path] = golden;
    }
    for (const char *list : {"golden", "files"}) {
        for (const json::Value &file : manifest[list].array) {
            FileEntry entry = file_of(file);
            others_[entry.path] = entry;
        }
    }
}

std::vector<Selection> Bundle::complete_sets(const std::string &format) const {
    std::vector<Selection> found;
    for (const Graph &graph : graphs_) {
        if (graph.format != format) continue;
        auto at = std::find_if(found.begin(), found.end(), [&](const Selection &one) { return one.precision == graph.precision; });
        if (at == found.end()) at = found.insert(found.end(), Selection{format, graph.precision, {}, {}});
        if (graph.steps) at->single[graph.steps] = &graph;
        else at->components[graph.component] = &graph;
    }
    const auto lacks_one = [](const Selection &one) {
        return std::any_of(std::begin(kNeeded), std::end(kNeeded), [&](const char *component) { return !one.components.count(component); });
    };
    found.erase(std::remove_if(found.begin(), found.end(), lacks_one), found.end());
    return found;
}

Selection Bundle::select(const std::vector<std::string> &formats, const std::string &precision) const {
    std::vector<Selection> found;
    for (const std::string &format : formats) {
        for (Selection &one : complete_sets(format)) found.push_back(std::move(one));
    }
    if (found.empty()) throw Failure(GENIN_E_BUNDLE, name + ": no graphs in the format " + formats.back() + "; export with --format " + formats.back());
    if (precision.empty()) {  // the most exact of all formats; of equal ones the engine's first
        const auto place = [](const Selection &one) { return std::find(std::begin(kPrecisions), std::end(kPrecisions), one.precision); };
        return *std::min_element(found.begin(), found.end(), [&](const Selection &a, const Selection &b) { return place(a) < place(b); });
    }
    std::set<std::string> others;
    for (const Selection &one : found) {
        if (one.precision == precision) return one;
        others.insert(one.precision);
    }
    std::string listed;
    for (const std::string &other : others) listed += (listed.empty() ? "" : ", ") + other;
    throw Failure(GENIN_E_ARGUMENT, name + ": no precision '" + precision + "'; it has " + listed);
}

Bytes Bundle::read(const FileEntry &file) const {
    Bytes bytes = files_->read(file.path, file.bytes);
    if (bytes.size() != file.bytes) throw Failure(GENIN_E_BUNDLE, file.path + ": " + std::to_string(bytes.size()) + " bytes, not " + std::to_string(file.bytes) + "; copy the bundle again");
    if (hashes_ && sha256(bytes.data(), bytes.size()) != file.sha256) throw Failure(GENIN_E_BUNDLE, file.path + ": its content is not what the manifest says; copy the bundle again");
    return bytes;
}

// Piece by piece: files of weights may be larger than memory.
void Bundle::check(const FileEntry &file) const {
    const uint64_t bytes = files_->size(file.path);
    if (bytes != file.bytes) throw Failure(GENIN_E_BUNDLE, file.path + ": " + std::to_string(bytes) + " bytes, not " + std::to_string(file.bytes) + "; copy the bundle again");
    if (!hashes_) return;
    Sha256 hash;
    Bytes piece(static_cast<size_t>(std::min<uint64_t>(bytes, kPiece)));
    for (uint64_t at = 0; at < bytes; at += piece.size()) {
        const auto count = static_cast<size_t>(std::min<uint64_t>(piece.size(), bytes - at));
        files_->read_at(file.path, at, piece.data(), count);
        hash.add(piece.data(), count);
    }
    if (hash.digest() != file.sha256) throw Failure(GENIN_E_BUNDLE, file.path + ": its content is not what the manifest says; copy the bundle again");
}

std::string Bundle::checked_path(const Graph &graph) const {
    const std::string path = files_->local_path(graph.path);
    if (!path.empty()) {
        for (const FileEntry &file : graph.files) check(file);
    }
    return path;
}

void Bundle::check_all() const {
    for (const Graph &graph : graphs_) {
        for (const FileEntry &file : graph.files) check(file);
    }
    for (const auto &[path, file] : others_) check(file);
}

Tokenizer Bundle::tokenizer() const {
    const auto content_of = [this](const std::string &file, std::string &content) {
        const auto found = others_.find("tokenizer/" + file);
        if (found == others_.end()) return false;
        const Bytes bytes = read(found->second);
        content.assign(bytes.begin(), bytes.end());
        return true;
    };
    TokenizerFiles files;
    if (!content_of("vocab.json", files.vocabulary)) throw Failure(GENIN_E_BUNDLE, name + ": it lacks tokenizer/vocab.json");
    if (!content_of("merges.txt", files.merges)) throw Failure(GENIN_E_BUNDLE, name + ": it lacks tokenizer/merges.txt");
    files.added = read_added_tokens(content_of);
    return Tokenizer(files, text);
}

Schedule::Steps Bundle::steps(uint32_t count) const {
    const auto few = few_step_.find(static_cast<long>(count));
    return few == few_step_.end() ? schedule_->steps(static_cast<long>(count)) : schedule_->explicit_steps(few->second);
}

Size Bundle::size(uint32_t width, uint32_t height) const {
    const Size asked{width ? width : image.width, height ? height : image.height};
    if (asked == image) return image;
    const std::string shown = std::to_string(asked.width) + "x" + std::to_string(asked.height);
    if (!multiple) throw Failure(GENIN_E_ARGUMENT, name + ": it draws " + std::to_string(image.width) + "x" + std::to_string(image.height) + " only, not " + shown + "; export it with --any-size");
    const auto fits = [this](uint32_t side) { return side >= multiple && side <= kMaxSide && side % multiple == 0; };
    if (!fits(asked.width) || !fits(asked.height)) throw Failure(GENIN_E_ARGUMENT, shown + " cannot be drawn; name multiples of " + std::to_string(multiple) + " up to " + std::to_string(kMaxSide));
    return asked;
}

Size Bundle::latents(const Size &picture) const {
    if (picture == image) return latent;
    const uint32_t pixels = image.height / latent.height;
    return {picture.width / pixels, picture.height / pixels};
}

}  // namespace genin
