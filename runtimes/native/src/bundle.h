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

constexpr uint32_t kMaxSide = 2048;  // of a picture in pixels

struct FileEntry {
    std::string path, sha256;
    uint64_t bytes = 0;
};

// One network. A single graph, which does all of a drawing, has a number of steps and a guidance scale of its own.
struct Graph {
    std::string component, format, precision, path;
    std::vector<FileEntry> files;
    std::string output;                                  // the one that drawing uses
    std::map<std::string, std::vector<int64_t>> inputs;  // name => shape, where -1 is free
    uint32_t steps = 0;
    float guidance_scale = 1;

    uint64_t bytes() const;
    // The rows that it takes at once; 0: any number.
    size_t batch() const;
};

// The graphs of one format and precision.
struct Selection {
    std::string format, precision;
    std::map<std::string, const Graph *> components;
    std::map<uint32_t, const Graph *> single;  // by their steps
};

struct Size {
    uint32_t width = 0, height = 0;

    bool operator==(const Size &other) const { return width == other.width && height == other.height; }
};

class Bundle {
public:
    // Throws Failure (GENIN_E_BUNDLE) for anything that does not follow the format.
    Bundle(const Place &place, uint32_t check_hashes);

    // What is drawn with, of these formats the first that has the precision; "": the most exact of all. Throws Failure.
    Selection select(const std::vector<std::string> &formats, const std::string &precision) const;
    // A file's content, its length and hash checked.
    Bytes read(const FileEntry &file) const;
    // The path of a graph in the file system, its files checked; empty where it has none.
    std::string checked_path(const Graph &graph) const;
    void check_all() const;

    Tokenizer tokenizer() const;
    // The timesteps of so many steps.
    Schedule::Steps steps(uint32_t count) const;
    // Whether the student was trained for this number of steps, so that no others of its timesteps exist.
    bool is_few(uint32_t count) const { return few_step_.count(static_cast<long>(count)) > 0; }
    // The size of a picture that is asked for (0: the bundle's own). Throws Failure for one that cannot be drawn.
    Size size(uint32_t width, uint32_t height) const;
    // Latents of a picture of that size.
    Size latents(const Size &picture) const;

    std::string name;
    Size image, latent;    // in pixels, in latents
    uint32_t multiple = 0;  // sides of other pictures are multiples of it; 0: there are no others
    uint32_t channels = 0;  // of latents
    float scaling = 1, to_decoder = 1;  // latents are multiplied by these after the encoder and before the decoder
    float guidance_scale = 1;
    bool guided = false;
    uint32_t default_steps = 1;
    TextConstants text;

    const Schedule &schedule() const { return *schedule_; }

private:
    void read_constants(const json::Value &manifest);
    void read_sampler(const json::Value &sampler);
    void read_files(const json::Value &manifest);
    void check(const FileEntry &file) const;
    // A format's graphs by precision, where all that drawing needs are there.
    std::vector<Selection> complete_sets(const std::string &format) const;

    std::unique_ptr<Files> files_;
    bool hashes_ = true;
    std::vector<Graph> graphs_;
    std::map<std::string, FileEntry> others_;
    std::map<long, std::vector<long>> few_step_;
    std::unique_ptr<Schedule> schedule_;
};

}  // namespace genin
