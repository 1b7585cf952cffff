// A bundle (docs/bundle.md): its manifest, checked, and its files, hashed when they are read.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "files.h"
#include "schedule.h"
#include "tokenizer.h"

namespace genin {

struct FileEntry {
    std::string path, sha256;
    uint64_t bytes = 0;
};

struct Graph {
    std::string component, format, precision, path;
    std::vector<FileEntry> files;
    std::string output;  // the first one's name
};

class Bundle {
public:
    // Throws Failure (GENIN_E_BUNDLE) for anything that does not follow the format.
    Bundle(const std::string &path, const genin_io *io, uint32_t check_hashes);

    // The graph of a component in ONNX, of that precision or of the first that the bundle lists.
    const Graph &graph(const std::string &component, const std::string &precision) const;
    // A file's content, its length and hash checked.
    Bytes read(const FileEntry &file) const;
    // The path of a graph in the file system, its files checked; empty where they are not there.
    std::string checked_path(const Graph &graph) const;
    void check_all() const;

    Tokenizer tokenizer() const;
    // The timesteps of so many steps; 0: the bundle's own number.
    Schedule::Steps steps(uint32_t count) const;

    std::string name;
    uint32_t height = 0, width = 0;
    uint32_t channels = 0, latent_height = 0, latent_width = 0;
    float to_decoder = 1;  // latents are multiplied by it
    float guidance_scale = 1;
    bool guided = false;
    uint32_t default_steps = 1;
    TextConstants text;

    const Schedule &schedule() const { return *schedule_; }

private:
    void read_constants(const json::Value &manifest);
    void read_sampler(const json::Value &sampler);
    void read_graphs(const json::Value &manifest);

    std::unique_ptr<Files> files_;
    bool hashes_ = true;
    std::vector<Graph> graphs_;
    std::map<std::string, FileEntry> others_;
    std::map<long, std::vector<long>> few_step_;
    std::unique_ptr<Schedule> schedule_;
};

}  // namespace genin
